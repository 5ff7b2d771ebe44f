"""Which logical nodes a group's roles would ask for if they were as somebody is about to write them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from weft.api import InferenceGroup, InferenceRole, RebalanceMode
from weft.balancing.balancer import Balancer, Config, Observation
from weft.balancing.bodies import node_body
from weft.balancing.domain import no_domain
from weft.balancing.replicas import ANNOTATION_SHAPE, shape_of
from weft.balancing.state import RoleState, Split
from weft.cluster import Object
from weft.domains import DomainAnswer, DomainQuestion, in_domain


@dataclass(frozen=True)
class RoleForecast:
    """What would become of one role."""

    namespace: str
    name: str
    replicas: int
    """That it would have, before the traffic says otherwise."""
    there: int
    """That have a logical node now."""
    remade: tuple[str, ...] = ()
    """Logical nodes that are of another shape than the role's node would be: they are replaced one after the other."""
    message: str = ""
    """What the group says that it lacks for what its roles ask for."""


def nodes_of(
    group: InferenceGroup, roles: Sequence[InferenceRole], nodes: Mapping[str, Sequence[Object]]
) -> tuple[list[RoleForecast], list[Object]]:
    """What becomes of each role, and the LogicalNodes that would be created. `nodes`: by role, those that are there."""
    decision = Balancer(_config(group, roles)).step(Observation(at_seconds=0.0, replicas=_decided(group)))
    told: list[RoleForecast] = []
    made: list[Object] = []
    numbers = _free_numbers(group, nodes)
    for role in roles:
        name = role.metadata.name
        here = nodes.get(name, ())
        wanted = decision.replicas.get(name, 0)
        other: tuple[str, ...] = ()
        if role.spec.node is not None:
            shape = shape_of(role)
            other = tuple(
                each["metadata"]["name"]
                for each in here
                if each["metadata"].get("annotations", {}).get(ANNOTATION_SHAPE) != shape
            )
            made += [node_body(group, role, next(numbers)) for _ in range(max(0, wanted - len(here)))]
        said = RoleForecast(group.metadata.namespace, name, wanted, len(here), other, decision.obstacle)
        told.append(said)
    return told, made


def question_of(group: InferenceGroup, made: Sequence[Object]) -> DomainQuestion | None:
    """What a group that has none of its logical nodes yet would ask placement; None: it may have them anywhere, or has
    a domain already."""
    placement, meta = group.spec.placement, group.metadata
    if placement is None or group.domain or not made:
        return None
    nodes = {each["metadata"]["name"]: each["spec"] for each in made}
    return DomainQuestion(meta.namespace, meta.name, placement.same_domain, "", nodes)


def answered(
    said: Iterable[RoleForecast], made: Iterable[Object], question: DomainQuestion, answer: DomainAnswer
) -> tuple[list[RoleForecast], list[Object]]:
    """What `nodes_of` says, when placement has answered: all in the domain, or none at all."""
    if not answer.domain:
        message = no_domain(answer.message).message
        return [replace(each, message=message) for each in said], []
    attribute, domain = question.attribute, answer.domain
    return list(said), [{**each, "spec": in_domain(each["spec"], attribute, domain)} for each in made]


def _config(group: InferenceGroup, roles: Iterable[InferenceRole]) -> Config:
    spec = group.spec
    states = tuple(
        RoleState(
            name=role.metadata.name,
            stage=role.spec.stage,
            minimum=role.spec.min_replicas,
            maximum=role.spec.max_replicas,
            spec_replicas=role.spec.replicas_asked,
            accelerators_per_replica=role.spec.accelerators_counted,
            kind=role.metadata.name,
        )
        for role in roles
    )
    return Config(states, spec.objectives, spec.accelerators.maximum)


def _decided(group: InferenceGroup) -> Mapping[str, int]:
    # In Recommend and Paused the roles' own numbers hold.
    if group.spec.rebalance.mode is not RebalanceMode.AUTO:
        return {}
    return dict(Split.read(group.status.allocation).counts)


def _free_numbers(group: InferenceGroup, nodes: Mapping[str, Sequence[Object]]) -> Iterator[str]:
    taken = {each["metadata"]["name"] for here in nodes.values() for each in here}
    number = 0
    while True:
        if (name := f"{group.metadata.name}-{number}") not in taken:
            yield name
        number += 1

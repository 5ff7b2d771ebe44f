"""Which logical nodes a group's roles would ask for if they were as somebody is about to write them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from weft.api import FlipMethod, InferenceGroup, InferenceRole, RebalanceMode
from weft.balancing.bodies import node_body, with_template
from weft.balancing.domain import no_domain
from weft.balancing.edits import asks_anew
from weft.balancing.plan import SplitPlan, plan_split
from weft.balancing.replicas import ANNOTATION_SHAPE, revision_of, shape_of
from weft.balancing.state import RoleState, Split, SplitInputs
from weft.cluster import Object
from weft.domains import DomainAnswer, DomainQuestion, in_domain

ANY_TIME = datetime(1970, 1, 1, tzinfo=UTC)


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
    group: str = ""
    """Empty: there is no such group."""
    ended: int = 0
    """Replicas that would end, so that the group has as many as it is to have."""
    released: int = 0
    """Accelerators that these give back."""
    rolled: int = 0
    """Replicas that a changed template makes anew, one after the other."""
    refused: bool = False
    """Nothing of it would be carried out, as things are."""


def nodes_of(
    group: InferenceGroup,
    roles: Sequence[InferenceRole],
    nodes: Mapping[str, Sequence[Object]],
    before: Sequence[InferenceRole] = (),
) -> tuple[list[RoleForecast], list[Object]]:
    """What becomes of each role, and the LogicalNodes that would be created.

    `nodes`: by role, those that are there. `before`: the roles as they are, with the template that their pods have.
    """
    plan = _planned(group, roles)
    wanted = {role.metadata.name: plan.allocation[role.metadata.name] for role in roles}
    present = {role.metadata.name: _present(role, nodes) for role in roles}
    too_many = sum(present.values()) - sum(wanted.values())
    revisions = {role.metadata.name: revision_of(role) for role in before}
    told: list[RoleForecast] = []
    made: list[Object] = []
    numbers = _free_numbers(group, nodes)
    for role in roles:
        name = role.metadata.name
        here = nodes.get(name, ())
        other: tuple[str, ...] = ()
        if role.spec.node is not None:
            shape = shape_of(role)
            other = tuple(
                each["metadata"]["name"]
                for each in here
                if each["metadata"].get("annotations", {}).get(ANNOTATION_SHAPE) != shape
            )
            made += [node_body(group, role, next(numbers)) for _ in range(max(0, wanted[name] - len(here)))]
        # Others change their role.
        ended = max(0, min(present[name] - wanted[name], too_many))
        too_many -= ended
        whole = with_template(group, role)
        is_rolled = not other and whole is not None and revisions.get(name) not in (None, revision_of(whole))
        told.append(
            RoleForecast(
                group.metadata.namespace,
                name,
                wanted[name],
                len(here),
                other,
                plan.obstacle.message if plan.obstacle is not None else "",
                group.metadata.name,
                ended,
                ended * role.spec.accelerators_counted,
                present[name] - ended if is_rolled else 0,
                plan.held,
            )
        )
    return told, made


def _present(role: InferenceRole, nodes: Mapping[str, Sequence[Object]]) -> int:
    if role.spec.scale_target_ref is not None:
        return 0
    return len(nodes.get(role.metadata.name, ())) if role.spec.node is not None else role.status.replicas


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


def _planned(group: InferenceGroup, roles: Iterable[InferenceRole]) -> SplitPlan:
    """The split that the group would begin with: what the traffic asks for, and how replicas flip, is not looked at."""
    spec, allocation = group.spec, Split.read(group.status.allocation)
    auto = spec.rebalance.mode is RebalanceMode.AUTO
    states = tuple(
        RoleState(
            name=role.metadata.name,
            stage=role.spec.stage,
            minimum=max(1, role.spec.min_replicas) if auto else role.spec.min_replicas,
            maximum=role.spec.max_replicas,
            spec_replicas=role.spec.replicas_asked,
            accelerators_per_replica=role.spec.accelerators_counted,
            kind=role.metadata.name,
            asks_anew=asks_anew(group, role),
        )
        for role in roles
    )
    inputs = SplitInputs(
        mode=spec.rebalance.mode,
        flip=FlipMethod.NONE,
        objectives=spec.objectives,
        budget_accelerators=spec.accelerators.maximum,
        cooldown_seconds=spec.rebalance.cooldown_seconds,
        roles=states,
        now=ANY_TIME,
        allocation=allocation,
        left_out=group.status.left_out_replicas or 0,
        asleep=auto and bool(allocation) and not allocation.total,
    )
    return plan_split(inputs)


def _free_numbers(group: InferenceGroup, nodes: Mapping[str, Sequence[Object]]) -> Iterator[str]:
    taken = {each["metadata"]["name"] for here in nodes.values() for each in here}
    number = 0
    while True:
        if (name := f"{group.metadata.name}-{number}") not in taken:
            yield name
        number += 1

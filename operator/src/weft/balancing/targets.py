"""Existing workloads whose replicas are a role's: what is read of them, through /scale and of their pods."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from weft.api import InferenceRole
from weft.api.meta import LabelOperator, LabelRequirement, LabelSelector
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, PODS, SCALE, ResourceType
from weft.balancing.replicas import Replica, replica, revision_of
from weft.balancing.state import Finding
from weft.balancing.steps import GateReason
from weft.cluster import Cluster, ClusterError, Object, UnknownAddressError

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation by which a ReplicaSet takes the pods with the lowest cost first; those that are not Ready go before."""
VICTIM_COST = "-1000000"
"""Weft's value of it."""
VICTIM_RESOURCES = (("apps", "deployments"), ("apps", "replicasets"))
"""Those that heed the deletion cost."""


class ScaleTargetKind(BaseModel):
    """A kind of workload that roles may name in `spec.scaleTargetRef`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
    version: Annotated[str, Field(pattern=r"^v[0-9][a-z0-9]*$", max_length=63)]
    kind: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=63)]
    resource: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*$", max_length=63)]
    """The plural name, as in its URL; the operator may get and patch its `scale` subresource."""

    @property
    def type(self) -> ResourceType:
        """As the API server addresses it."""
        return ResourceType(self.group, self.version, self.resource, self.kind, True)


Kinds = Mapping[tuple[str, str], ResourceType]
"""By group and kind."""


@dataclass(frozen=True)
class Target:
    """A workload as it was read."""

    resource: ResourceType
    name: str
    version: str
    """The resourceVersion: guards the next write."""
    replicas: int
    """That it is to have."""
    present: int
    """That it says it has; a Deployment leaves out those that are ending."""
    selector: str
    pods: tuple[Replica, ...]
    """One for each of its pods that has not finished, also those that are ending."""

    def __str__(self) -> str:
        return f"{self.resource.kind} {self.name}"

    @property
    def held(self) -> int:
        """Replicas that hold hardware, or are about to."""
        return max(self.replicas, self.present, len(self.pods))

    @property
    def serving(self) -> int:
        """Replicas that take requests."""
        return sum(one.serving for one in self.pods)

    @property
    def takes_victims(self) -> bool:
        """Whether the pods with the lowest deletion cost go first when it has fewer."""
        return (self.resource.group, self.resource.plural) in VICTIM_RESOURCES


def marked(one: Replica) -> bool:
    """Whether Weft has said of this pod that it is the one to go."""
    annotations = (one.pod or {}).get("metadata", {}).get("annotations") or {}
    return bool(annotations.get(DELETION_COST) == VICTIM_COST)


async def read_target(cluster: Cluster, role: InferenceRole, kinds: Kinds) -> Target | Finding:
    """The workload of a role with a `scaleTargetRef`, or what keeps Weft from scaling it.

    Raises ClusterError where the API server does not answer, or not now.
    """
    ref, namespace = role.spec.scale_target_ref, role.metadata.namespace
    assert ref is not None
    group = ref.api_version.rpartition("/")[0]
    resource = kinds.get((group, ref.kind))
    what = f"{ref.kind} {ref.name}"
    if resource is None:
        listed = ", ".join(sorted(f"{each.kind} ({each.group})" for each in kinds.values())) or "none"
        text = f"{ref.kind} ({group or 'core'}) is not among the kinds that may be scaled ({listed})"
        return Finding(
            False, "KindNotListed", f"{text}: have it added to the operator's setting scale_targets"
        )
    if (other := _older_owner(cluster, role)) is not None:
        text = f"{what} is the workload of role {other} already: one of the two has to go"
        return Finding(False, "TargetShared", text)
    try:
        scale = await cluster.read(resource, ref.name, namespace, subresource=SCALE)
    except UnknownAddressError:
        scale = None
    except ClusterError as error:
        if error.status in (0, 429) or error.status >= 500:
            raise
        text = f"{what} cannot be read: {error.message or error.reason}: the operator needs get and patch of"
        return Finding(False, "TargetForbidden", f"{text} {resource.plural}/{SCALE}")
    if scale is None:
        text = f"there is no {what} in this namespace, or its kind is not installed: create it, or delete the role"
        return Finding(False, "TargetNotFound", text)
    spec, status = scale.get("spec") or {}, scale.get("status") or {}
    selects = selector_of(status.get("selector") or "")
    if selects is None:
        text = f"{what} does not say which pods are its own (status.selector of its scale)"
        return Finding(False, "SelectorMissing", f"{text}: nobody can tell whether they serve")
    return Target(
        resource=resource,
        name=ref.name,
        version=scale["metadata"]["resourceVersion"],
        replicas=int(spec.get("replicas") or 0),
        present=int(status.get("replicas") or 0),
        selector=status["selector"],
        pods=tuple(
            _served_by(role, pod)
            for pod in cluster.list(PODS, namespace)
            if selects.matches(pod["metadata"].get("labels") or {}) and _counts(pod)
        ),
    )


def _older_owner(cluster: Cluster, role: InferenceRole) -> str | None:
    """Another role that had the same workload before this one."""
    ref = role.spec.scale_target_ref
    assert ref is not None
    own = (str(role.metadata.creation_timestamp), role.metadata.name)
    for raw in cluster.list(INFERENCE_ROLES, role.metadata.namespace):
        metadata, theirs = raw["metadata"], raw["spec"].get("scaleTargetRef")
        if theirs is None or (theirs["kind"], theirs["name"]) != (ref.kind, ref.name):
            continue
        other = InferenceRole.model_validate(raw)
        if (str(other.metadata.creation_timestamp), metadata["name"]) < own:
            return str(metadata["name"])
    return None


def _served_by(role: InferenceRole, pod: Object) -> Replica:
    """A pod of a workload as a replica: nothing keeps it out of the router but its own readiness."""
    found = replica(pod["metadata"]["name"], pod, None)
    return replace(
        found,
        role=role.metadata.name,
        stage=role.spec.stage.label,
        accelerators=role.spec.accelerators_counted,
        gate=True,
        gate_reason=GateReason.SERVING.value,
        gate_changed_at=found.ready_changed_at if found.ready else None,
        role_since=found.created_at,
        revision=revision_of(role),
    )


def _counts(pod: Object) -> bool:
    """Whether a pod is one of a workload that holds hardware: not one that has finished, nor a replica of Weft's."""
    finished = (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")
    owners = pod["metadata"].get("ownerReferences") or ()
    return not finished and all(owner.get("kind") != INFERENCE_GROUPS.kind for owner in owners)


_KEY = r"[A-Za-z0-9][-A-Za-z0-9_./]*"
_REQUIREMENT = re.compile(
    rf"(?P<absent>!)?\s*(?P<key>{_KEY})"
    r"(\s*(?P<sign>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)|\s+(?P<word>in|notin)\s*\((?P<values>[^()]*)\))?"
)


def selector_of(text: str) -> LabelSelector | None:
    """A label selector from its text form (`app=a,tier in (b,c),!canary`); None where it selects everything or
    cannot be read."""
    requirements = []
    for part in re.split(r",(?![^(]*\))", text.strip()):
        found = _REQUIREMENT.fullmatch(part.strip())
        if found is None or (found["absent"] and (found["sign"] or found["word"])):
            return None
        if found["sign"]:
            operator = LabelOperator.NOT_IN if found["sign"] == "!=" else LabelOperator.IN
            values: tuple[str, ...] = (found["value"],)
        elif found["word"]:
            operator = LabelOperator.IN if found["word"] == "in" else LabelOperator.NOT_IN
            values = tuple(each.strip() for each in found["values"].split(","))
        else:
            operator = LabelOperator.DOES_NOT_EXIST if found["absent"] else LabelOperator.EXISTS
            values = ()
        requirements.append(
            LabelRequirement.model_construct(key=found["key"], operator=operator, values=values)
        )
    return LabelSelector.model_construct(match_labels={}, match_expressions=tuple(requirements))

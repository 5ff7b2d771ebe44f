"""A replica as it was observed: a pod, the logical node under it, or both. Named predicates; pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, datetime, timedelta
from statistics import median
from typing import Any

from weft.api import FlipMethod, InferenceRole, LogicalNode, Stage
from weft.api.conditions import find, is_false, is_true
from weft.api.names import GATE_SERVING, LABEL_ROLE, LABEL_STAGE
from weft.api.resources import GROUP
from weft.balancing.stages import is_planned
from weft.balancing.state import COLD_START_SECONDS
from weft.balancing.steps import GateReason

ANNOTATION_REVISION = f"{GROUP}/revision"
"""On a pod: hash of the template it was made from, without labels: a flip does not change it."""
ANNOTATION_NODE = f"{GROUP}/node"
"""On a pod: the Node of its logical node, which it is tied to."""
ANNOTATION_DRAIN = f"{GROUP}/drain-timeout-seconds"
"""On a pod: its role's drain.timeoutSeconds, which holds when the role is deleted before the pod."""
ANNOTATION_SHAPE = f"{GROUP}/shape"
"""On a replica's LogicalNode: hash of the node shape it was made from."""
ANNOTATION_DOMAIN = f"{GROUP}/domain"
"""On a replica's LogicalNode: the domain that it was made for, where its group has all replicas in one."""
ANNOTATION_ROLE_SINCE = f"{GROUP}/role-since"
"""On a pod: when it got its present role; metrics from before belong to the other one."""

_NOT_SCHEDULED = frozenset({"Unschedulable", "SchedulingGated"})
"""Why a pod has no Node, in the scheduler's words: none has room, or a queue has not admitted it (Kueue)."""

FIRST_POD_WITHIN = timedelta(seconds=30)
"""A logical node gets its first pod as soon as it is Bound."""
FIRST_ROLE_WITHIN = timedelta(seconds=1)


@dataclass(frozen=True)
class Replica:
    """One replica. What is None or empty is not there."""

    name: str
    role: str
    """The role it serves now, or the one its logical node was made for."""
    accelerators: int = 0
    has_pod: bool = False
    pod_uid: str = ""
    pod_deleting: bool = False
    pod_ends_at: datetime | None = None
    """When its grace is over, if it is being deleted."""
    waits_for: str = ""
    """Why it does not run or is not ready, in the kubelet's word: ImagePullBackOff."""
    pod_finished: bool = False
    """Failed or Succeeded: it will not serve again."""
    pods_ended: int = 0
    """How many of its pods have ended by themselves, one after the other, since one last ran."""
    ended_for: str = ""
    """Why the last of these did, in the kubelet's word: Evicted, UnexpectedAdmissionError."""
    waits_for_node: str = ""
    """The Node that its pod is tied to, while the scheduler has not placed it there."""
    pod_running: bool = False
    containers_ready: bool = False
    ready: bool = False
    ready_changed_at: datetime | None = None
    gate: bool | None = None
    gate_reason: str = ""
    gate_changed_at: datetime | None = None
    idle_since: datetime | None = None
    """Since when this leader has seen it out of the router with nothing to do."""
    stage: str = ""
    """The value of the pod's stage label."""
    revision: str = ""
    role_since: datetime | None = None
    drain_timeout_seconds: int | None = None
    """What its role promised when it got it; None where the pod does not say."""
    created_at: datetime | None = None
    containers_changed_at: datetime | None = None
    """When its containers became ready, or ceased to be."""
    has_node: bool = False
    node_uid: str = ""
    node_deleting: bool = False
    node_bound: bool = False
    node_draining: bool = False
    """Its host, or any of its devices, is taken out of service, or they go to a greater priority."""
    node_draining_since: datetime | None = None
    node_drain_seconds: int | None = None
    """How long after that its pod is evicted; None: it is to leave at once."""
    node_name: str = ""
    node_created_at: datetime | None = None
    waits_for_hardware: bool = False
    """No device is reserved for its logical node, or no Node takes its pod."""
    start_seconds: float | None = None
    """From its making, with the attaching for its logical node where it has one, to its containers being ready."""
    restart_seconds: float | None = None
    """From the making of its pod to its containers being ready."""
    engine_seconds: float | None = None
    """From the start of its pod's first container to its containers being ready: without the fetching of images."""
    restarted: bool = False
    """Its logical node had another pod before this one."""
    node_role: str = ""
    """The role on its logical node's label: follows the pod's."""
    shape: str = ""
    domain: str = ""
    """The one that its logical node was made for; empty: any."""
    misplaced: bool = False
    """Whether that is not the one that was chosen for the group."""
    pod: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """The pod as it was read, for guarded patches."""

    @property
    def serving(self) -> bool:
        """Whether it takes requests."""
        return self.has_pod and self.ready and self.gate is True and not self.pod_deleting

    @property
    def removing(self) -> bool:
        """Whether its removal has begun."""
        return self.node_deleting or (
            self.has_pod and self.gate is False and self.gate_reason == GateReason.REMOVING
        )

    def had_one_role(self, since: datetime) -> bool:
        """Whether nothing that its engine counted since then was of another role."""
        if self.role_since is None or self.role_since <= since:
            return True
        # Its first one: before it there was no engine. Times are whole seconds, the annotation's is the operator's.
        return self.created_at is not None and self.role_since <= self.created_at + FIRST_ROLE_WITHIN

    @property
    def astray(self) -> bool:
        """Whether its pod waits for a Node that its logical node does not have any more."""
        return self.node_bound and bool(self.waits_for_node) and self.waits_for_node != self.node_name

    @property
    def number(self) -> int:
        """The number at the end of its name."""
        tail = self.name.rsplit("-", 1)[-1]
        return int(tail) if tail.isdecimal() else -1


def replica(name: str, pod: Mapping[str, Any] | None, node: Mapping[str, Any] | None) -> Replica:
    """A replica from its objects; at least one of them is there. Accelerators are its logical node's."""
    values: dict[str, Any] = {"name": name, "role": ""}
    if node is not None:
        logical = LogicalNode.model_validate(node)
        values |= {
            "role": logical.metadata.labels.get(LABEL_ROLE, ""),
            "accelerators": logical.spec.accelerator_count,
            "has_node": True,
            "node_uid": logical.metadata.uid,
            "node_deleting": logical.metadata.deletion_timestamp is not None,
            "node_bound": is_true(logical.status.conditions, "Bound"),
            "node_draining": _is_taken_away(logical),
            "node_draining_since": _draining_since(logical),
            "node_drain_seconds": logical.status.drain_timeout_seconds,
            "node_name": logical.status.node_name or "",
            "node_role": logical.metadata.labels.get(LABEL_ROLE, ""),
            "shape": logical.metadata.annotations.get(ANNOTATION_SHAPE, ""),
            "domain": logical.metadata.annotations.get(ANNOTATION_DOMAIN, ""),
            "node_created_at": logical.metadata.creation_timestamp,
            "waits_for_hardware": is_false(logical.status.conditions, "Reserved"),
        }
    if pod is not None:
        values |= _of_pod(pod)
        attached = timedelta()
        if node is not None and values["created_at"] is not None:
            attached, values["restarted"] = _before_pod(logical, values["created_at"])
        values["restart_seconds"] = seconds = _ready_after(pod, values["created_at"])
        values["engine_seconds"] = _ready_after(pod, _first_started(pod))
        values["start_seconds"] = None if seconds is None else attached.total_seconds() + seconds
    return Replica(**values)


def _before_pod(node: LogicalNode, pod_created_at: datetime) -> tuple[timedelta, bool]:
    """How long its devices took to be there, nothing where that is not known; and whether the pod is not its first."""
    bound, created_at = find(node.status.conditions, "Bound"), node.metadata.creation_timestamp
    if bound is None or created_at is None or not created_at <= bound.last_transition_time <= pod_created_at:
        return timedelta(), False
    bound_at = bound.last_transition_time
    return bound_at - created_at, pod_created_at - bound_at > FIRST_POD_WITHIN


def _is_taken_away(node: LogicalNode) -> bool:
    said = find(node.status.conditions, "Draining")
    return said is not None and said.status == "True" and said.reason in ("Maintenance", "Preempted")


def _draining_since(node: LogicalNode) -> datetime | None:
    said = find(node.status.conditions, "Draining")
    return said.last_transition_time if said is not None and said.status == "True" else None


def _ready_after(pod: Mapping[str, Any], made_at: datetime | None) -> float | None:
    """Seconds; all times are the cluster's: the operator's clock has no part in it."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    ready: Mapping[str, Any] = next((one for one in conditions if one["type"] == "ContainersReady"), {})
    ready_at = _time(ready.get("lastTransitionTime"))
    if ready.get("status") != "True" or ready_at is None or made_at is None:
        return None
    return max(0.0, (ready_at - made_at).total_seconds())


def _first_started(pod: Mapping[str, Any]) -> datetime | None:
    status = pod.get("status") or {}
    containers = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    states = (state or {} for one in containers for state in (one.get("state") or {}).values())
    return min((at for one in states if (at := _time(one.get("startedAt"))) is not None), default=None)


def _of_pod(pod: Mapping[str, Any]) -> dict[str, Any]:
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    gate, ready = conditions.get(GATE_SERVING, {}), conditions.get("Ready", {})
    scheduled = bool((pod.get("spec") or {}).get("nodeName"))
    return {
        "role": labels.get(LABEL_ROLE, ""),
        "stage": labels.get(LABEL_STAGE, ""),
        "has_pod": True,
        "pod_uid": metadata.get("uid", ""),
        "pod_deleting": "deletionTimestamp" in metadata,
        "pod_ends_at": _time(metadata.get("deletionTimestamp")),
        "waits_for": _waits_for(status),
        "pod_finished": status.get("phase") in ("Failed", "Succeeded"),
        "waits_for_node": "" if scheduled else annotations.get(ANNOTATION_NODE, ""),
        "pod_running": status.get("phase") == "Running",
        "waits_for_hardware": conditions.get("PodScheduled", {}).get("reason") in _NOT_SCHEDULED,
        "containers_ready": conditions.get("ContainersReady", {}).get("status") == "True",
        "ready": ready.get("status") == "True",
        "ready_changed_at": _time(ready.get("lastTransitionTime")),
        "gate": {"True": True, "False": False}.get(gate.get("status", "")),
        "gate_reason": gate.get("reason", ""),
        "gate_changed_at": _time(gate.get("lastTransitionTime")),
        "revision": annotations.get(ANNOTATION_REVISION, ""),
        "role_since": _time(annotations.get(ANNOTATION_ROLE_SINCE)),
        "drain_timeout_seconds": _seconds(annotations.get(ANNOTATION_DRAIN)),
        "containers_changed_at": _time(conditions.get("ContainersReady", {}).get("lastTransitionTime")),
        "created_at": _time(metadata.get("creationTimestamp")),
        "pod": pod,
    }


def revision_of(role: InferenceRole) -> str:
    """Hash of what a role's pods are made from, without labels: equal ones can exchange roles by labels."""
    # Asked for once for each of its replicas and more in a pass, of a template that may have a megabyte.
    made_from = role.spec.template, role.spec.node
    known = role.__dict__.get("_revision")
    if known is None or any(one is not other for one, other in zip(known[0], made_from, strict=True)):
        known = role.__dict__["_revision"] = made_from, _revision(role)
    revision: str = known[1]
    return revision


def _revision(role: InferenceRole) -> str:
    template = role.spec.template or {}
    metadata = {key: value for key, value in (template.get("metadata") or {}).items() if key != "labels"}
    return digest({"metadata": metadata, "spec": template.get("spec"), "node": shape_of(role)})


def shape_of(role: InferenceRole) -> str:
    """Hash of the node that a role's replicas get; empty for plain pods."""
    return digest(role.spec.node.dump()) if role.spec.node is not None else ""


def kind_of(role: InferenceRole, flip: FlipMethod) -> str:
    """Roles of one kind can exchange replicas. Without flips, where another is composed, or where the planner does not
    know what its stage needs, each role is its own.

    By label: equal but for labels. By a restart: on equal logical nodes. By an HTTP call:
    of prefill and decode, on equal hardware. Two existing workloads: by one having
    fewer and the other more.
    """
    if not is_planned(role.spec.stage) or flip is FlipMethod.NONE:
        return role.metadata.name
    if flip is FlipMethod.RECOMPOSE and role.spec.scale_target_ref is None:
        return role.metadata.name
    if role.spec.scale_target_ref is not None:
        return f"scale-{role.spec.accelerators_counted}"
    if flip is FlipMethod.HTTP:
        # Their arguments differ by the stage; what else does the engine has to bear.
        if role.spec.stage is Stage.AGGREGATED:
            return role.metadata.name
        return f"http-{shape_of(role)}-{role.spec.accelerators_counted}"
    if flip is FlipMethod.RESTART:
        return f"restart-{shape_of(role)}" if role.spec.node is not None else role.metadata.name
    return f"{revision_of(role)}-{role.spec.accelerators_counted}"


def cold_start_seconds(replicas: Iterable[Replica]) -> float:
    """As long as these replicas took: the middle one, since one may have had to fetch images."""
    seen = [one.start_seconds for one in replicas if one.start_seconds is not None]
    return max(1.0, median(seen)) if seen else COLD_START_SECONDS


def restart_seconds(replicas: Iterable[Replica]) -> float:
    """As long as a pod takes that replaces another one on its logical node.

    The middle one of those that did; while there is none what the quickest of the first pods took from the start of
    its containers on: before that images were fetched, and the others shared a machine with more that started.
    """
    seen = [one for one in replicas if one.restart_seconds is not None]
    again = [one.restart_seconds for one in seen if one.restarted and one.restart_seconds is not None]
    if again:
        return max(1.0, median(again))
    first = [one.restart_seconds if one.engine_seconds is None else one.engine_seconds for one in seen]
    return max(1.0, min(each for each in first if each is not None)) if first else COLD_START_SECONDS


def digest(value: Any) -> str:
    """A short hash of JSON, the same for the same value in any order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def serving_in(replicas: Iterable[Replica], role: str) -> list[Replica]:
    """The replicas of a role that take requests."""
    return [one for one in replicas if one.role == role and one.serving]


def _waits_for(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses") or ():
        if word := ((container.get("state") or {}).get("waiting") or {}).get("reason"):
            return str(word)
    # Of the whole pod: Evicted, UnexpectedAdmissionError.
    return str(status.get("reason") or "")


def _seconds(text: str | None) -> int | None:
    # An annotation may hold anything.
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) <= 5 else None


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None  # an annotation may hold anything
    # At an end of the calendar nothing can be counted from it.
    return moment if moment.tzinfo is not None and MINYEAR < moment.year < MAXYEAR else None

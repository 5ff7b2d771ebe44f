"""Weft's objects and what it writes on Nodes, as they stand in the cache."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import is_true
from weft.api.names import ANNOTATION_LOGICAL_NODE, FINALIZER, TAINT_DRAINING, TAINT_LOGICAL_NODE
from weft.api.resources import DEVICE_ATTACHMENTS, NODES
from weft.binding.keys import LogicalNodeKey
from weft.cluster import Cluster, Object

T = TypeVar("T")

KEPT = 128
"""Objects whose parsed form is kept: those that are worked on now, not all there are."""
LONGEST_VALUE = 63
"""Of a taint. One of this length ends with a hash and cannot be read back."""


class Recent(Generic[T]):
    """Parses objects, and one that was parsed a moment ago and is still the same not again. For one event loop."""

    def __init__(self, parse: Callable[[Object], T]) -> None:
        self._parse = parse
        self._known: OrderedDict[str, tuple[Object, T]] = OrderedDict()

    def __call__(self, raw: Object) -> T:
        uid = raw["metadata"].get("uid", "")
        known = self._known.get(uid)
        # Cached objects are never changed in place: another state is another object.
        if known is not None and known[0] is raw:
            return known[1]
        value = self._parse(raw)
        if uid:
            self._known[uid] = raw, value
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return value


@dataclass(frozen=True)
class NodeView:
    """What matters of a Kubernetes Node."""

    name: str
    exists: bool = False
    ready: bool = False
    taint: str = ""
    """Value of Weft's taint: which logical node it carries. Empty: none."""
    draining: bool = False
    """Whether the owner's pods are kept away, too."""
    ready_since: str = ""
    """When its readiness changed last, as it says itself."""


def is_quarantined(claim: DeviceAttachment) -> bool:
    """A device that failed: kept out of use until an administrator deletes its attachment."""
    return is_true(claim.status.conditions, "Quarantined")


def is_published(node: LogicalNode | None, claim: DeviceAttachment) -> bool:
    """Whether the status of the logical node says that it is bound with this attachment."""
    return (
        node is not None
        and node.metadata.uid == claim.spec.claim_ref.uid
        and is_true(node.status.conditions, "Bound")
        and any(device.attachment == claim.metadata.name for device in node.status.devices)
    )


def is_deleting(claim: DeviceAttachment | LogicalNode) -> bool:
    return claim.metadata.deletion_timestamp is not None


def is_given_up(claim: DeviceAttachment) -> bool:
    """A claim whose device was released, that somebody else's finalizer keeps from going."""
    return is_deleting(claim) and FINALIZER not in claim.metadata.finalizers


def keeps_owner(claim: DeviceAttachment) -> bool:
    """Whether the logical node of a claim wants no other place while the claim exists: it has the device, or has to
    release it first."""
    return not (is_given_up(claim) or (is_quarantined(claim) and not is_deleting(claim)))


def by_place(
    claims: Iterable[DeviceAttachment],
) -> list[tuple[tuple[str, str], tuple[DeviceAttachment, ...]]]:
    """Claims by fabric and host, in the one order in which hosts are worked on."""
    here: dict[tuple[str, str], list[DeviceAttachment]] = {}
    for claim in claims:
        here.setdefault((claim.spec.fabric, claim.spec.host), []).append(claim)
    return [(place, tuple(each)) for place, each in sorted(here.items())]


def parse_node(raw: Object) -> LogicalNode:
    """A LogicalNode; a status that cannot be read (its owner may write it) counts as none and is written anew."""
    try:
        return LogicalNode.model_validate(raw)
    except ValueError:
        return LogicalNode.model_validate({**raw, "status": {}})


def claims_of(cluster: Cluster, namespace: str, name: str) -> list[DeviceAttachment]:
    """The attachments claimed for a logical node of that name, also for an earlier namesake."""
    return [_recent_claim(raw) for raw in cluster.select(DEVICE_ATTACHMENTS, claimant, (namespace, name))]


recent_node = Recent(parse_node)
_recent_claim = Recent(DeviceAttachment.model_validate)


def claimant(claim: Object) -> Hashable:
    """Index of DeviceAttachments: namespace and name of the logical node that they are claimed for."""
    ref = claim["spec"]["claimRef"]
    return ref["namespace"], ref["name"]


def fabric_of(claim: Object) -> Hashable:
    """Index of DeviceAttachments: their fabric."""
    return str(claim["spec"]["fabric"])


def carried_by(node: Object) -> Hashable:
    """Index of Nodes: the value of Weft's taints."""
    return left_of(node) or None


def place_of(pod: Object) -> Hashable:
    """Index of pods: namespace and Node."""
    node = pod["spec"].get("nodeName")
    return (pod["metadata"]["namespace"], node) if node else None


def taint_value(namespace: str, name: str) -> str:
    """The value of the Node's taint: names the logical node within the 63 characters that a taint may have."""
    value = f"{namespace}.{name}"
    if len(value) < LONGEST_VALUE:
        return value
    return f"{value[:46]}-{hashlib.sha256(value.encode()).hexdigest()[:16]}"


def is_ready(node: Object) -> bool:
    """Whether a Node reports Ready."""
    return bool(_readiness(node).get("status") == "True")


def _readiness(node: Object) -> Object:
    conditions = node.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == "Ready"), {})


def logical_node_taint(node: Object) -> str:
    """Which logical node a Node carries: the value of Weft's taint, or empty."""
    return next((str(taint.get("value", "")) for taint in _taints(node, TAINT_LOGICAL_NODE)), "")


def left_of(node: Object) -> str:
    """The same, or of what is left where somebody took that taint alone off: the value of the draining one."""
    taints = (*_taints(node, TAINT_LOGICAL_NODE), *_taints(node, TAINT_DRAINING))
    return next((str(taint.get("value", "")) for taint in taints), "")


def _taints(node: Object, key: str) -> list[Object]:
    return [taint for taint in node.get("spec", {}).get("taints", []) if taint["key"] == key]


def is_cut(value: str) -> bool:
    """Whether the value of a taint does not hold the whole name of its logical node."""
    return len(value) >= LONGEST_VALUE


def tainted_by(node: Object) -> LogicalNodeKey | None:
    """The logical node that a Node's taint names; None without one, and where the name was too long and is not beside
    it."""
    value = left_of(node)
    if is_cut(value):
        whole = str(node["metadata"].get("annotations", {}).get(ANNOTATION_LOGICAL_NODE, ""))
        namespace, slash, name = whole.partition("/")
        # An annotation that others wrote must not lead to another one's taint.
        is_its = bool(slash) and taint_value(namespace, name) == value
        return LogicalNodeKey(namespace, name) if is_its else None
    namespace, dot, name = value.partition(".")
    return LogicalNodeKey(namespace, name) if dot else None


def view_node(cluster: Cluster, name: str) -> NodeView:
    """What matters of the Node of this name, which need not exist."""
    raw = cluster.get(NODES, name)
    if raw is None:
        return NodeView(name)
    return NodeView(
        name,
        True,
        is_ready(raw),
        logical_node_taint(raw),
        draining=bool(_taints(raw, TAINT_DRAINING)),
        ready_since=str(_readiness(raw).get("lastTransitionTime", "")),
    )

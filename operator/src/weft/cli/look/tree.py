"""`weft tree OBJECT`: what an object consists of, down to the devices and their fabric, and who uses it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.text import Text
from rich.tree import Tree

from weft.api import (
    DeviceAttachment,
    Fabric,
    GPUPool,
    InferenceGroup,
    InferenceRole,
    LogicalNode,
    MemoryPool,
    StoragePool,
)
from weft.api.conditions import find
from weft.api.names import LABEL_GROUP, LABEL_REPLICA, LABEL_ROLE
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    POOLS,
)
from weft.cli.look.reading import AskError, Reading, Ref
from weft.cli.look.words import UNREADABLE, a, by_number
from weft.cluster import Object


@dataclass(frozen=True)
class Branch:
    """One object, or one fact, with what hangs on it."""

    text: str
    state: str = ""
    """Why it is not as hoped; empty while it is."""
    children: tuple[Branch, ...] = field(default=())


def tree_of(reading: Reading, ref: Ref) -> Branch:
    """The tree below one object. Pure. Raises AskError where there is no such object, or nothing below its kind."""
    if reading.find(ref) is None:
        raise AskError(f"there is no {ref}, or no right to see it")
    if any(one.startswith(f"{ref} (") for one in reading.unreadable):
        raise AskError(f"{ref}: {UNREADABLE}")
    resource, name = ref.resource, (ref.namespace, ref.name)
    if resource == INFERENCE_GROUPS:
        return next(_group(reading, one) for one in reading.groups if _name(one) == name)
    if resource == INFERENCE_ROLES:
        return next(_role(reading, one) for one in reading.roles if _name(one) == name)
    if resource == LOGICAL_NODES:
        return next(_node(reading, one) for one in reading.nodes if _name(one) == name)
    if resource == FABRICS:
        return next(_fabric(reading, one) for one in reading.fabrics if one.metadata.name == ref.name)
    if resource in POOLS:
        return next(
            _pool(reading, one)
            for one in reading.pools
            if (one.kind, one.metadata.name) == (resource.kind, ref.name)
        )
    if resource == DEVICE_ATTACHMENTS:
        return next(_attachment(one) for one in reading.attachments if one.metadata.name == ref.name)
    raise AskError(f"{a(resource.kind)} has nothing below it: try `weft why`")


def _name(one: InferenceGroup | InferenceRole | LogicalNode) -> tuple[str, str]:
    return one.metadata.namespace, one.metadata.name


def _state(
    one: Fabric | GPUPool | MemoryPool | StoragePool | InferenceGroup | InferenceRole | LogicalNode,
) -> str:
    """Why an object is not ready; empty where it is."""
    type = "Connected" if isinstance(one, Fabric) else "Ready"
    condition = find(one.status.conditions, type)
    if condition is None:
        return "no status yet"
    return "" if condition.status == "True" else f"{condition.reason}: {condition.message}"


def _group(reading: Reading, group: InferenceGroup) -> Branch:
    roles = tuple(
        _role(reading, role)
        for role in reading.roles
        if role.metadata.namespace == group.metadata.namespace
        and role.spec.group_ref.name == group.metadata.name
    )
    return Branch(f"InferenceGroup {group.metadata.namespace}/{group.metadata.name}", _state(group), roles)


def _role(reading: Reading, role: InferenceRole) -> Branch:
    pods = [
        pod
        for pod in reading.pods
        if pod["metadata"].get("namespace", "") == role.metadata.namespace
        and pod["metadata"].get("labels", {}).get(LABEL_ROLE) == role.metadata.name
        and pod["metadata"]["labels"].get(LABEL_GROUP) == role.spec.group_ref.name
    ]
    with_pods = {pod["metadata"]["labels"].get(LABEL_REPLICA) for pod in pods}
    # A replica whose logical node waits has no pod yet, or one that is not scheduled.
    without = [
        node
        for node in reading.nodes
        if node.metadata.namespace == role.metadata.namespace
        and node.metadata.labels.get(LABEL_GROUP) == role.spec.group_ref.name
        and node.metadata.labels.get(LABEL_ROLE) == role.metadata.name
        and node.metadata.labels.get(LABEL_REPLICA) not in with_pods
    ]
    children = (*(_pod(reading, pod) for pod in pods), *(_node(reading, node) for node in without))
    what = f"{role.status.ready_replicas} of {role.status.desired_replicas} replicas serve"
    return Branch(f"{role.spec.stage.value} role {role.metadata.name}: {what}", _state(role), children)


def _pod(reading: Reading, pod: Object) -> Branch:
    metadata, status = pod["metadata"], pod.get("status", {})
    conditions = {one["type"]: one for one in status.get("conditions", ())}
    ready = conditions.get("Ready", {})
    state = "" if ready.get("status") == "True" else f"{status.get('phase', 'Unknown')}, not ready"
    if "deletionTimestamp" in metadata:
        state = "ends"
    replica = metadata.get("labels", {}).get(LABEL_REPLICA, "")
    nodes = tuple(
        _node(reading, node)
        for node in reading.nodes
        if node.metadata.namespace == metadata.get("namespace", "")
        and node.metadata.labels.get(LABEL_REPLICA) == replica
    )
    return Branch(f"Pod {metadata['name']}", state, nodes)


def _node(reading: Reading, node: LogicalNode) -> Branch:
    claimed = {one.metadata.name: one for one in reading.attachments}
    devices = tuple(
        Branch(
            f"{one.request}: {one.device} of {one.pool_ref.kind.value} {one.pool_ref.name}"
            + (f" at Fabric {claimed[one.attachment].spec.fabric}" if one.attachment in claimed else "")
        )
        for one in node.status.devices
    )
    at = f" on Node {node.status.node_name}" if node.status.node_name else ""
    return Branch(f"LogicalNode {node.metadata.namespace}/{node.metadata.name}{at}", _state(node), devices)


def _fabric(reading: Reading, fabric: Fabric) -> Branch:
    pools = tuple(
        _pool(reading, pool) for pool in reading.pools if pool.spec.fabric_ref.name == fabric.metadata.name
    )
    return Branch(f"Fabric {fabric.metadata.name}, {fabric.spec.mode.value}", _state(fabric), pools)


def _pool(reading: Reading, pool: GPUPool | MemoryPool | StoragePool) -> Branch:
    held = tuple(
        _attachment(one)
        for one in sorted(reading.attachments, key=lambda one: by_number(one.spec.device))
        if (one.spec.pool_ref.kind.value, one.spec.pool_ref.name) == (pool.kind, pool.metadata.name)
    )
    counts = pool.status.devices
    what = f"{counts.bound} of {counts.total} devices bound, {counts.free} free" if counts else "not read yet"
    return Branch(f"{pool.kind} {pool.metadata.name}: {what}", _state(pool), held)


def _attachment(one: DeviceAttachment) -> Branch:
    claim = one.spec.claim_ref
    quarantined = find(one.status.conditions, "Quarantined")
    bad = quarantined is not None and quarantined.status == "True"
    return Branch(
        f"{one.spec.device} at host {one.spec.host} (Node {one.spec.node_name})"
        f" for LogicalNode {claim.namespace}/{claim.name}",
        f"quarantined: {quarantined.message}" if bad and quarantined else "",
    )


def shown(branch: Branch) -> Tree:
    """The tree for a terminal."""
    return _grown(Tree(_label(branch)), branch)


def _grown(tree: Tree, branch: Branch) -> Tree:
    for child in branch.children:
        _grown(tree.add(_label(child)), child)
    return tree


def _label(branch: Branch) -> Text:
    text = Text(branch.text)
    return text.append(f"  {branch.state}", style="yellow") if branch.state else text

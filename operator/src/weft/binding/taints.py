"""Weft's taints of a Node: one keeps other pods away, and is a claim as exclusive as an attachment's name; the other
keeps the owner's pods away, too, while what they would use is leaving."""

from __future__ import annotations

from collections.abc import Iterable

from weft.api.names import ANNOTATION_LOGICAL_NODE, OWN_TAINTS, TAINT_DRAINING, TAINT_LOGICAL_NODE
from weft.api.resources import NODES
from weft.binding.objects import carried_by, is_cut, left_of, logical_node_taint, taint_value
from weft.cluster import Cluster, Object


def carrying(cluster: Cluster, namespace: str, name: str) -> tuple[str, ...]:
    """Names of the Nodes with the logical node's taint."""
    value = taint_value(namespace, name)
    return tuple(raw["metadata"]["name"] for raw in cluster.select(NODES, carried_by, value))


async def reserve(cluster: Cluster, node: str, namespace: str, name: str) -> None:
    """Taint a Node that exists and carries none. Raises ConflictError where somebody was faster."""
    raw = cluster.get(NODES, node)
    if raw is None or logical_node_taint(raw):
        return
    value = taint_value(namespace, name)
    taint = _taint(TAINT_LOGICAL_NODE, value)
    # Whoever comes after a crash has to be able to tell whose it is, when the object is gone, too.
    await _write(cluster, raw, [taint], f"{namespace}/{name}" if is_cut(value) else None)


async def set_draining(cluster: Cluster, node: str, namespace: str, name: str, draining: bool) -> None:
    """Close a Node that carries the logical node to new pods of its own, or open it. Raises ConflictError."""
    raw, value = cluster.get(NODES, node), taint_value(namespace, name)
    if raw is not None and logical_node_taint(raw) == value:
        keys = (TAINT_LOGICAL_NODE, TAINT_DRAINING) if draining else (TAINT_LOGICAL_NODE,)
        whole_name = f"{namespace}/{name}" if is_cut(value) else None
        await _write(cluster, raw, [_taint(key, value) for key in keys], whole_name)


async def clear(cluster: Cluster, nodes: Iterable[str], namespace: str, name: str) -> None:
    """Take the logical node's taints off these Nodes, and nobody else's."""
    value = taint_value(namespace, name)
    for node in nodes:
        raw = cluster.get(NODES, node)
        if raw is not None and left_of(raw) == value:
            await _write(cluster, raw, [], None)


def _taint(key: str, value: str) -> Object:
    return {"key": key, "value": value, "effect": "NoSchedule"}


async def _write(cluster: Cluster, node: Object, ours: list[Object], whole_name: str | None) -> None:
    """Replace Weft's taints of a Node and keep the others. `whole_name`: of the logical node, where the taint is cut.

    Weft writes the list as a whole, guarded by resourceVersion: a strategic merge patch of a Node replaces it.
    """
    others = [item for item in node["spec"].get("taints", []) if item["key"] not in OWN_TAINTS]
    metadata = node["metadata"]
    body: Object = {
        "metadata": {"resourceVersion": metadata["resourceVersion"]},
        "spec": {"taints": [*others, *ours]},
    }
    if whole_name or ANNOTATION_LOGICAL_NODE in metadata.get("annotations", {}):
        body["metadata"]["annotations"] = {ANNOTATION_LOGICAL_NODE: whole_name}
    await cluster.patch(NODES, metadata["name"], "", body)

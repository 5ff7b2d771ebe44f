"""Weft's taint of a Node: it keeps other pods away, and is a claim as exclusive as an attachment's name."""

from __future__ import annotations

from collections.abc import Iterable

from weft.api.names import ANNOTATION_LOGICAL_NODE, TAINT_LOGICAL_NODE
from weft.api.resources import NODES
from weft.binding.objects import carried_by, is_cut, logical_node_taint, taint_value
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
    taint = {"key": TAINT_LOGICAL_NODE, "value": value, "effect": "NoSchedule"}
    # Whoever comes after a crash has to be able to tell whose it is, when the object is gone, too.
    await _write(cluster, raw, [taint], f"{namespace}/{name}" if is_cut(value) else None)


async def clear(cluster: Cluster, nodes: Iterable[str], namespace: str, name: str) -> None:
    """Take the logical node's taint off these Nodes, and nobody else's."""
    value = taint_value(namespace, name)
    for node in nodes:
        raw = cluster.get(NODES, node)
        if raw is not None and logical_node_taint(raw) == value:
            await _write(cluster, raw, [], None)


async def _write(cluster: Cluster, node: Object, ours: list[Object], whole_name: str | None) -> None:
    """Replace Weft's taint of a Node and keep the others. `whole_name`: of the logical node, where the taint is cut.

    Weft writes the list as a whole, guarded by resourceVersion: a strategic merge patch of a Node replaces it.
    """
    others = [item for item in node["spec"].get("taints", []) if item["key"] != TAINT_LOGICAL_NODE]
    metadata = node["metadata"]
    body: Object = {
        "metadata": {"resourceVersion": metadata["resourceVersion"]},
        "spec": {"taints": [*others, *ours]},
    }
    if whole_name or ANNOTATION_LOGICAL_NODE in metadata.get("annotations", {}):
        body["metadata"]["annotations"] = {ANNOTATION_LOGICAL_NODE: whole_name}
    await cluster.patch(NODES, metadata["name"], "", body)

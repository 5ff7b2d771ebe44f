"""Weft's taint of a Node: it keeps other pods away, and is a claim as exclusive as an attachment's name."""

from __future__ import annotations

from collections.abc import Iterable

from weft.api.names import TAINT_LOGICAL_NODE
from weft.api.resources import NODES
from weft.binding.objects import carried_by, logical_node_taint, taint_value
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
    taint = {"key": TAINT_LOGICAL_NODE, "value": taint_value(namespace, name), "effect": "NoSchedule"}
    await _write(cluster, raw, [taint])


async def clear(cluster: Cluster, nodes: Iterable[str], namespace: str, name: str) -> None:
    """Take the logical node's taint off these Nodes, and nobody else's."""
    value = taint_value(namespace, name)
    for node in nodes:
        raw = cluster.get(NODES, node)
        if raw is not None and logical_node_taint(raw) == value:
            await _write(cluster, raw, [])


async def _write(cluster: Cluster, node: Object, ours: list[Object]) -> None:
    """Replace Weft's taint of a Node and keep the others.

    Weft writes the list as a whole, guarded by resourceVersion: a strategic merge patch of a Node replaces it.
    """
    others = [item for item in node["spec"].get("taints", []) if item["key"] != TAINT_LOGICAL_NODE]
    metadata = node["metadata"]
    body = {
        "metadata": {"resourceVersion": metadata["resourceVersion"]},
        "spec": {"taints": [*others, *ours]},
    }
    await cluster.patch(NODES, metadata["name"], "", body)

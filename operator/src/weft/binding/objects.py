"""Weft's objects and what it writes on Nodes, as they stand in the cache."""

from __future__ import annotations

import hashlib

from weft.api import DeviceAttachment, GPUPool, LogicalNode, MemoryPool, StoragePool
from weft.api.names import TAINT_LOGICAL_NODE
from weft.api.resources import DEVICE_ATTACHMENTS, GPU_POOLS, MEMORY_POOLS, STORAGE_POOLS
from weft.binding.membership import Pool
from weft.cluster import Cluster, Object


def all_pools(cluster: Cluster) -> list[Pool]:
    return [
        *(GPUPool.model_validate(raw) for raw in cluster.list(GPU_POOLS)),
        *(MemoryPool.model_validate(raw) for raw in cluster.list(MEMORY_POOLS)),
        *(StoragePool.model_validate(raw) for raw in cluster.list(STORAGE_POOLS)),
    ]


def all_claims(cluster: Cluster) -> list[DeviceAttachment]:
    return [DeviceAttachment.model_validate(raw) for raw in cluster.list(DEVICE_ATTACHMENTS)]


def parse_node(raw: Object) -> LogicalNode:
    """A LogicalNode; a status that cannot be read (its owner may write it) counts as none and is written anew."""
    try:
        return LogicalNode.model_validate(raw)
    except ValueError:
        return LogicalNode.model_validate({**raw, "status": {}})


def claims_of(cluster: Cluster, namespace: str, name: str) -> list[DeviceAttachment]:
    """The attachments claimed for a logical node of that name, also for an earlier namesake."""
    return [
        DeviceAttachment.model_validate(raw)
        for raw in cluster.list(DEVICE_ATTACHMENTS)
        if (ref := raw["spec"]["claimRef"])["name"] == name and ref["namespace"] == namespace
    ]


def taint_value(namespace: str, name: str) -> str:
    """The value of the Node's taint: names the logical node within the 63 characters that a taint may have."""
    value = f"{namespace}.{name}"
    if len(value) <= 63:
        return value
    return f"{value[:46]}-{hashlib.sha256(value.encode()).hexdigest()[:16]}"


def is_ready(node: Object) -> bool:
    """Whether a Node reports Ready."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def logical_node_taint(node: Object) -> str:
    """Which logical node a Node carries: the value of Weft's taint, or empty."""
    taints = node.get("spec", {}).get("taints", [])
    return next((str(taint.get("value", "")) for taint in taints if taint["key"] == TAINT_LOGICAL_NODE), "")

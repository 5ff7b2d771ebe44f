"""Binding's controllers: what each watches, and the entry point that works on its keys."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    DEVICE_QUOTAS,
    FABRICS,
    LOGICAL_NODES,
    NAMESPACES,
    NODES,
    POOLS,
)
from weft.binding.controller import Binding
from weft.binding.controller import Enqueue as EnqueueByName
from weft.binding.keys import FabricKey, LogicalNodeKey, PlacementKey, PoolsKey
from weft.cluster import Cluster, Object
from weft.controllers import Controller, Enqueue, Now, Watch


class FabricController:
    """Keeps the session with one fabric manager, and the Fabric's status."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._seen: dict[str, tuple[Any, ...]] = {}
        self.watches = (Watch(FABRICS, self._changed),)

    def _changed(self, cluster: Cluster, fabric: Object) -> Iterable[FabricKey]:
        """A Fabric that changed otherwise than by our own status: a manager is not read again for that."""
        metadata = fabric["metadata"]
        name = metadata["name"]
        if cluster.get(FABRICS, name) is None:
            self._seen.pop(name, None)
            return (FabricKey(name),)
        parts = ("uid", "generation", "annotations", "deletionTimestamp")
        meaning = tuple(metadata.get(part) for part in parts)
        before, self._seen[name] = self._seen.get(name), meaning
        return (FabricKey(name),) if before != meaning else ()

    async def reconcile(self, key: FabricKey, now: Now) -> float | None:
        return await self._binding.reconcile_fabric(key.name)


class PoolsController:
    """Keeps the counts of all pools."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self.watches = (
            *(Watch(resource, _pools) for resource in (*POOLS, DEVICE_QUOTAS)),
            Watch(DEVICE_ATTACHMENTS, _pools, after_seconds=0.5),
        )

    async def reconcile(self, key: PoolsKey, now: Now) -> float | None:
        await self._binding.reconcile_pools()
        return None


class PlacementController:
    """Finds places for the logical nodes that wait."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self.watches = tuple(
            Watch(each, _placement, after_seconds=1.0) for each in (NODES, NAMESPACES, DEVICE_QUOTAS)
        )

    async def reconcile(self, key: PlacementKey, now: Now) -> float | None:
        return await self._binding.place_waiting()


class LogicalNodeController:
    """Leads one logical node to its devices and back."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self.watches = (
            Watch(LOGICAL_NODES, _itself),
            Watch(DEVICE_ATTACHMENTS, _claimant),
            Watch(NODES, _bound_to),
        )

    async def reconcile(self, key: LogicalNodeKey, now: Now) -> float | None:
        return await self._binding.reconcile_node(key.namespace, key.name)


def controllers(binding: Binding) -> Mapping[type[Hashable], Controller[Any]]:
    """One controller per type of key."""
    return {
        FabricKey: FabricController(binding),
        PoolsKey: PoolsController(binding),
        PlacementKey: PlacementController(binding),
        LogicalNodeKey: LogicalNodeController(binding),
    }


def by_name(enqueue: Enqueue) -> EnqueueByName:
    """For reconcilers that ask for a key by its controller's name."""

    def ask(controller: str, namespace: str, name: str, after_seconds: float) -> None:
        keys: dict[str, Hashable] = {
            "fabric": FabricKey(name),
            "pool": PoolsKey(),
            "placement": PlacementKey(),
            "logicalnode": LogicalNodeKey(namespace, name),
        }
        enqueue(keys[controller], after_seconds)

    return ask


def _pools(cluster: Cluster, changed: Object) -> Iterable[PoolsKey]:
    return (PoolsKey(),)


def _placement(cluster: Cluster, changed: Object) -> Iterable[PlacementKey]:
    return (PlacementKey(),)


def _itself(cluster: Cluster, node: Object) -> Iterable[LogicalNodeKey]:
    return (LogicalNodeKey(node["metadata"]["namespace"], node["metadata"]["name"]),)


def _claimant(cluster: Cluster, claim: Object) -> Iterable[LogicalNodeKey]:
    ref = claim["spec"]["claimRef"]
    return (LogicalNodeKey(ref["namespace"], ref["name"]),)


def _bound_to(cluster: Cluster, node: Object) -> Iterable[LogicalNodeKey]:
    name = node["metadata"]["name"]
    return [
        LogicalNodeKey(raw["metadata"]["namespace"], raw["metadata"]["name"])
        for raw in cluster.list(LOGICAL_NODES)
        if raw.get("status", {}).get("nodeName") == name
    ]

"""Binding's controllers, by the key that each works on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from weft.api.resources import DEVICE_ATTACHMENTS, DEVICE_QUOTAS, FABRICS, NAMESPACES, NODES, POOLS
from weft.binding import offers
from weft.binding.assignments import Assignments
from weft.binding.controller import LogicalNodeController
from weft.binding.fabric_controller import FabricController
from weft.binding.fabrics import Fabrics
from weft.binding.keys import FabricKey, LogicalNodeKey, PlacementKey, PoolsKey
from weft.binding.plan import Refusal, place
from weft.binding.pools import reconcile_pools
from weft.cluster import Cluster, Object
from weft.controllers import Controller, Enqueue, Now, Watch

RETRY_SECONDS = 1.0


class PoolsController:
    """Keeps the counts of all pools."""

    def __init__(self, cluster: Cluster, fabrics: Fabrics) -> None:
        self._cluster = cluster
        self._fabrics = fabrics
        self.watches = (
            *(Watch(resource, _pools) for resource in (*POOLS, DEVICE_QUOTAS)),
            Watch(DEVICE_ATTACHMENTS, _pools, after_seconds=0.5),
        )

    async def reconcile(self, key: PoolsKey, now: Now) -> float | None:
        await reconcile_pools(self._cluster, self._fabrics, now.wall)
        return None


class PlacementController:
    """Finds places for the logical nodes that wait."""

    def __init__(self, cluster: Cluster, fabrics: Fabrics, assignments: Assignments) -> None:
        self._cluster = cluster
        self._fabrics = fabrics
        self._assignments = assignments
        self.watches = tuple(
            Watch(each, _placement, after_seconds=1.0) for each in (NODES, NAMESPACES, DEVICE_QUOTAS)
        )

    async def reconcile(self, key: PlacementKey, now: Now) -> float | None:
        if not self._fabrics.all_looked_at():
            return RETRY_SECONDS
        seen = offers.gather(self._cluster, self._fabrics.pictures(), self._assignments, now.wall)
        placement = place(seen.waiting, seen.offers, seen.hosts, seen.quota_left)
        observed = ", ".join(
            f"Fabric {raw['metadata']['name']}"
            for raw in self._cluster.list(FABRICS)
            if raw["spec"].get("mode", "Observe") == "Observe"
        )
        for assignment in placement.assignments:
            self._assignments.record(assignment)
        for refusal in placement.refusals:
            text = refusal.message
            if refusal.reason == "NoHost" and observed:
                text = f"{text}; {observed} is only observed: set spec.mode to Manage to let Weft bind there"
            self._assignments.record(Refusal(refusal.waiting, refusal.reason, text))
        # More may be placeable than one pass takes; the rest waits for something to become free.
        return 0.0 if placement.assignments and len(seen.waiting) > len(placement.assignments) else None


def controllers(
    cluster: Cluster, fabrics: Fabrics, poll_seconds: float, enqueue: Enqueue
) -> Mapping[type[Hashable], Controller[Any]]:
    """One controller per type of key; placement and the logical nodes share the assignments."""
    assignments = Assignments(enqueue)
    return {
        FabricKey: FabricController(cluster, fabrics, poll_seconds, enqueue),
        PoolsKey: PoolsController(cluster, fabrics),
        PlacementKey: PlacementController(cluster, fabrics, assignments),
        LogicalNodeKey: LogicalNodeController(cluster, fabrics, assignments, enqueue),
    }


def _pools(cluster: Cluster, changed: Object) -> Iterable[PoolsKey]:
    return (PoolsKey(),)


def _placement(cluster: Cluster, changed: Object) -> Iterable[PlacementKey]:
    return (PlacementKey(),)

"""Binding's controllers, by the key that each works on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from weft.binding.assignments import Assignments
from weft.binding.controller import LogicalNodeController
from weft.binding.fabric_controller import FabricController
from weft.binding.fabrics import Fabrics
from weft.binding.keys import FabricKey, LogicalNodeKey, PlacementKey, PoolsKey
from weft.binding.placement import PlacementController
from weft.binding.pools import PoolsController
from weft.cluster import Cluster
from weft.controllers import Controller, Enqueue

OF_ALL_THERE_IS = frozenset[type[Hashable]]({PlacementKey, PoolsKey})
"""Keys whose work looks at the whole cluster."""


def controllers(
    cluster: Cluster, fabrics: Fabrics, poll_seconds: float, enqueue: Enqueue
) -> Mapping[type[Hashable], Controller[Any]]:
    """One controller per type of key; placement and the logical nodes share the assignments."""
    assignments = Assignments(enqueue)
    return {
        FabricKey: FabricController(cluster, fabrics, poll_seconds, enqueue),
        PoolsKey: PoolsController(cluster, fabrics, assignments),
        PlacementKey: PlacementController(cluster, fabrics, assignments),
        LogicalNodeKey: LogicalNodeController(cluster, fabrics, assignments, enqueue),
    }

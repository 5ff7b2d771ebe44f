"""What binding's controllers work on; the type of a key names its controller."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FabricKey:
    """One Fabric: its session, its status, and those who wait for what it shows."""

    name: str


@dataclass(frozen=True)
class PoolsKey:
    """All pools: their counts depend on each other, because a device belongs to one of them."""


@dataclass(frozen=True)
class PlacementKey:
    """One pass over all logical nodes that wait for a place."""


@dataclass(frozen=True)
class LogicalNodeKey:
    """One LogicalNode and the claims that were made for it; nobody else writes either."""

    namespace: str
    name: str

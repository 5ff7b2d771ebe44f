"""Which device belongs to which pool. Pure.

A device that two pools select belongs to the older one, so that it is offered and counted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from weft.api import GPUPool, MemoryPool, PoolAmount, PoolKind, PoolRef, StoragePool
from weft.fabric.driver import Device, DeviceKind

Pool = GPUPool | MemoryPool | StoragePool

PoolKey = tuple[DeviceKind, str]
"""A pool by what its devices are and its name: pools of different kinds may have one name."""

DEVICES_OF: Mapping[str, DeviceKind] = {
    PoolKind.GPU: DeviceKind.ACCELERATOR,
    PoolKind.MEMORY: DeviceKind.MEMORY,
    PoolKind.STORAGE: DeviceKind.STORAGE,
}
POOL_KIND: Mapping[DeviceKind, PoolKind] = {DEVICES_OF[kind]: kind for kind in PoolKind}


def pool_key(pool: Pool) -> PoolKey:
    """The key of a pool."""
    return DEVICES_OF[pool.kind], pool.metadata.name


def key_of(reference: PoolRef | PoolAmount) -> PoolKey:
    """The key of the pool that is referred to."""
    return DEVICES_OF[reference.kind], reference.name


@dataclass(frozen=True)
class Membership:
    """The devices of one pool, and how many it selects that an older pool has."""

    devices: tuple[Device, ...]
    overlapping: Mapping[str, int] = field(default_factory=dict)
    """Number of devices by the name of the older pool that has them."""


def members(pools: Iterable[Pool], fabric: str, devices: Iterable[Device]) -> dict[PoolKey, Membership]:
    """The membership of each pool of a fabric, by device kind and pool name."""
    devices = tuple(devices)
    ordered = sorted(
        (pool for pool in pools if pool.spec.fabric_ref.name == fabric),
        key=lambda pool: (str(pool.metadata.creation_timestamp), pool.metadata.name),
    )
    owner: dict[str, str] = {}
    result: dict[PoolKey, Membership] = {}
    for pool in ordered:
        kind, name = key = pool_key(pool)
        selector = pool.spec.selector
        mine: list[Device] = []
        overlapping: dict[str, int] = {}
        for device in devices:
            if device.kind != kind or not selector.matches(device.attributes, device.capacity_bytes):
                continue
            if device.id in owner:
                overlapping[owner[device.id]] = overlapping.get(owner[device.id], 0) + 1
            else:
                owner[device.id] = name
                mine.append(device)
        result[key] = Membership(tuple(mine), overlapping)
    return result

"""Which device belongs to which pool. Pure.

A device that two pools select belongs to the older one, so that it is offered and counted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from weft.api import GPUPool, MemoryPool, StoragePool
from weft.fabric.driver import Device, DeviceKind

Pool = GPUPool | MemoryPool | StoragePool

KIND_OF_POOL: Mapping[type, DeviceKind] = {
    GPUPool: DeviceKind.ACCELERATOR,
    MemoryPool: DeviceKind.MEMORY,
    StoragePool: DeviceKind.STORAGE,
}


@dataclass(frozen=True)
class Membership:
    """The devices of one pool, and how many it selects that an older pool has."""

    devices: tuple[Device, ...]
    overlapping: Mapping[str, int] = field(default_factory=dict)
    """Number of devices by the name of the older pool that has them."""


def members(
    pools: Iterable[Pool], fabric: str, devices: Iterable[Device]
) -> dict[tuple[DeviceKind, str], Membership]:
    """The membership of each pool of a fabric, by device kind and pool name."""
    devices = tuple(devices)
    ordered = sorted(
        (pool for pool in pools if pool.spec.fabric_ref.name == fabric),
        key=lambda pool: (str(pool.metadata.creation_timestamp), pool.metadata.name),
    )
    owner: dict[str, str] = {}
    result: dict[tuple[DeviceKind, str], Membership] = {}
    for pool in ordered:
        kind = KIND_OF_POOL[type(pool)]
        selector = pool.spec.selector
        mine: list[Device] = []
        overlapping: dict[str, int] = {}
        for device in devices:
            if device.kind != kind or not selector.matches(device.attributes, device.capacity_bytes):
                continue
            if device.id in owner:
                overlapping[owner[device.id]] = overlapping.get(owner[device.id], 0) + 1
            else:
                owner[device.id] = pool.metadata.name
                mine.append(device)
        result[kind, pool.metadata.name] = Membership(tuple(mine), overlapping)
    return result

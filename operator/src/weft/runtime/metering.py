"""What each namespace has held of each pool over time: devices, bytes, cost and energy, as sums that only grow.

A device is held from the creation of its DeviceAttachment to its deletion after a verified detach, but for the time
that it is quarantined, as in a DeviceQuota. Energy is what the pool says that an attached device draws, times the time
that it is held: no device is asked what it drew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from weft.api import PoolKind
from weft.api.quantity import parse_bytes, parse_decimal
from weft.api.resources import DEVICE_ATTACHMENTS, POOLS, ResourceType
from weft.cluster import Object

GIBIBYTE = 1 << 30
HOUR = 3600.0


class Holder(NamedTuple):
    """Who holds devices of which pool."""

    namespace: str
    kind: str
    pool: str


@dataclass
class Account:
    """What one holder has held since this process began to count, and holds now."""

    devices: int = 0
    bytes: int = 0
    device_seconds: float = 0.0
    byte_seconds: float = 0.0
    cost: float = 0.0
    """In the currency of the pool's `cost`."""
    joules: float = 0.0
    """By the pool's `power.busyWatts`."""
    counted_until: float = 0.0


class Rates(NamedTuple):
    """What a pool says of its devices."""

    price: float = 0.0
    """Per device and hour of a GPUPool, per GiB and hour of the others."""
    watts: float = 0.0
    """Of one device."""


class Meter:
    """Hears of every change of the cache (`ObjectCache.listen`); `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._accounts: dict[Holder, Account] = {}
        self._rates: dict[tuple[str, str], Rates] = {}
        """By kind and name of the pool."""

    def hear(self, resource: ResourceType, before: Object | None, after: Object | None) -> None:
        """Take a change of an object into account; of most kinds nothing is taken."""
        if resource == DEVICE_ATTACHMENTS:
            then, now = _held(before), _held(after)
            if then != now:
                self._add(then, -1)
                self._add(now, 1)
        elif resource in POOLS and (after or before):
            name = (after or before or {})["metadata"]["name"]
            rates = _rates(resource, after) if after is not None else Rates()
            if rates != self._rates.get((resource.kind, name), Rates()):
                # What was held until now was held at the rates of then.
                self.read()
                self._rates[resource.kind, name] = rates

    def read(self) -> Mapping[Holder, Account]:
        """The accounts as of now. Who held something once stays: a sum does not disappear."""
        now = self._clock()
        for holder, account in self._accounts.items():
            self._count(holder, account, now)
        return self._accounts

    def _add(self, held: tuple[Holder, int] | None, sign: int) -> None:
        if held is None:
            return
        holder, size = held
        now = self._clock()
        account = self._accounts.setdefault(holder, Account(counted_until=now))
        self._count(holder, account, now)
        account.devices += sign
        account.bytes += sign * size

    def _count(self, holder: Holder, account: Account, now: float) -> None:
        seconds = now - account.counted_until
        account.device_seconds += account.devices * seconds
        account.byte_seconds += account.bytes * seconds
        units = account.devices if holder.kind == PoolKind.GPU.value else account.bytes / GIBIBYTE
        rates = self._rates.get((holder.kind, holder.pool), Rates())
        account.cost += units * rates.price * seconds / HOUR
        account.joules += account.devices * rates.watts * seconds
        account.counted_until = now


def _held(attachment: Object | None) -> tuple[Holder, int] | None:
    """Who holds a claimed device, and its bytes; None where nobody does."""
    if attachment is None:
        return None
    for condition in attachment.get("status", {}).get("conditions", ()):
        if condition["type"] == "Quarantined" and condition["status"] == "True":
            return None
    spec = attachment["spec"]
    pool = spec["poolRef"]
    size = parse_bytes(spec["capacity"]) if "capacity" in spec else 0
    return Holder(spec["claimRef"]["namespace"], pool["kind"], pool["name"]), size


def _rates(resource: ResourceType, pool: Object) -> Rates:
    cost, power = pool["spec"].get("cost") or {}, pool["spec"].get("power") or {}
    amount = cost.get("perDeviceHour" if resource.kind == PoolKind.GPU.value else "perGibibyteHour", 0)
    return Rates(float(parse_decimal(amount)), float(power.get("busyWatts", 0)))

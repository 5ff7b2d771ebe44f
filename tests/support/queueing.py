"""A rack over time: requests come, wait, are placed by the operator's own search, and end. No clock and no cluster."""

from __future__ import annotations

import heapq
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

import numpy as np

from support.arrivals import GIB, Arrival
from weft.binding.asked import Constraint, Need, Shape, Waiting
from weft.binding.plan import Placement, Remembered
from weft.binding.search import place
from weft.binding.stock import HostOffer, Offer, Stock
from weft.fabric.driver import Device, DeviceKind

POOLS = {
    DeviceKind.ACCELERATOR: (DeviceKind.ACCELERATOR, "gpus"),
    DeviceKind.MEMORY: (DeviceKind.MEMORY, "cxl"),
    DeviceKind.STORAGE: (DeviceKind.STORAGE, "nvme"),
}
DOMAIN = 8
"""Accelerators of one domain."""
TIE = (Constraint("nvlinkDomain", frozenset({"main"})),)


@dataclass(frozen=True)
class Size:
    """What a rack has."""

    accelerators: int = 1600
    hosts: int = 1000
    memories: int = 400
    """Of 512 GiB."""
    storages: int = 400
    """Of 2 TiB."""

    @property
    def amounts(self) -> tuple[int, ...]:
        return self.accelerators, self.memories, self.storages, self.hosts


def _offer(kind: DeviceKind, name: str, size: int, attributes: Mapping[str, str]) -> Offer:
    return Offer("rack", POOLS[kind], Device(name, kind, attributes, size, True))


class Rack:
    """Devices and hosts, and who has them now."""

    def __init__(self, size: Size, weights: Mapping[str, int] | None = None) -> None:
        self.size = size
        self.weights = weights or {}
        domains = ({"nvlinkDomain": f"nvl-{number // DOMAIN}"} for number in range(size.accelerators))
        free = [
            _offer(DeviceKind.ACCELERATOR, f"gpu-{number}", 80 * GIB, attributes)
            for number, attributes in enumerate(domains)
        ]
        free += [_offer(DeviceKind.MEMORY, f"mem-{number}", 512 * GIB, {}) for number in range(size.memories)]
        free += [
            _offer(DeviceKind.STORAGE, f"ssd-{number}", 2048 * GIB, {}) for number in range(size.storages)
        ]
        self._free = free
        self._held = [replace(offer, free=False, held=True) for offer in free]
        self._now = list(free)
        self._number = {offer.device.id: number for number, offer in enumerate(free)}
        self._hosts = {
            f"n{number}": HostOffer("rack", f"h{number}", f"n{number}", {}, Decimal(64), 512 * GIB)
            for number in range(size.hosts)
        }
        self._carries: dict[str, str] = {}
        self._has: dict[str, tuple[str, list[int]]] = {}
        self._used: dict[tuple[str, DeviceKind], int] = {}
        self._waiting: dict[str, Waiting] = {}
        self._remembered = Remembered()
        self._shapes: dict[Shape, Shape] = {}
        self.seconds: list[float] = []
        """CPU time of each decision."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def remembered(self) -> Remembered:
        return self._remembered

    def waiting_ones(self) -> list[Waiting]:
        return list(self._waiting.values())

    def ask(self, arrival: Arrival, priority: int = 0) -> None:
        request = _request(arrival)
        # One object for all equal shapes, as the operator's reader has it.
        shape = self._shapes.setdefault(request.shape, request.shape)
        self._waiting[request.uid] = replace(request, shape=shape, priority=priority)

    def withdraw(self, uid: str) -> None:
        self._waiting.pop(uid, None)

    def release(self, uid: str) -> None:
        node, devices = self._has.pop(uid)
        del self._carries[node]
        namespace = uid.partition("/")[0]
        for number in devices:
            offer = self._now[number] = self._free[number]
            self._used[namespace, offer.device.kind] -= offer.quota_units

    def stock(self) -> Stock:
        return Stock(
            tuple(self._now),
            tuple(host for name, host in self._hosts.items() if name not in self._carries),
            busy_hosts=tuple(self._hosts[name] for name in self._carries),
            used=self._used,
            weights=self.weights,
        )

    def decide(self) -> Placement:
        """One pass, and what it says is done."""
        stock = self.stock()
        began = time.thread_time()
        placement = place(self._waiting.values(), stock, self._remembered)
        self.seconds.append(time.thread_time() - began)
        self._remembered = placement.remembered
        self._used = dict(self._used)
        for each in placement.assignments:
            uid = each.waiting.uid
            del self._waiting[uid]
            devices = [self._number[chosen.offer.device.id] for chosen in each.devices]
            if each.host.node_name in self._carries or not all(self._now[number].free for number in devices):
                raise AssertionError(f"{uid} gets what another has")
            if len(set(devices)) < len(devices):
                raise AssertionError(f"{uid} gets a device twice")
            self._carries[each.host.node_name] = uid
            self._has[uid] = each.host.node_name, devices
            for number in devices:
                offer = self._now[number] = self._held[number]
                key = (each.waiting.namespace, offer.device.kind)
                self._used[key] = self._used.get(key, 0) + offer.quota_units
        return placement


def uid_of(arrival: Arrival) -> str:
    return f"{arrival.namespace}/{arrival.number}"


def _request(arrival: Arrival) -> Waiting:
    needs = []
    if arrival.accelerators:
        needs.append(Need("main", DeviceKind.ACCELERATOR, count=arrival.accelerators))
    for name, kind, size in (
        ("kv", DeviceKind.MEMORY, arrival.memory),
        ("cache", DeviceKind.STORAGE, arrival.storage),
    ):
        if size:
            needs.append(Need(name, kind, size_bytes=size))
    shape = Shape(tuple(needs), frozenset(POOLS.values()), constraints=TIE if arrival.tied else ())
    # As objects have it: to the second; of one second the name decides.
    created = f"{int(arrival.created):012}"
    return Waiting(uid_of(arrival), arrival.namespace, f"{arrival.number:08}", created, shape)


@dataclass
class Replay:
    """What became of the arrivals."""

    started: dict[int, float] = field(default_factory=dict)
    """When, by the number of the arrival."""
    never: set[int] = field(default_factory=set)
    """Those that ask for more than there is."""
    seconds: list[float] = field(default_factory=list)
    most_waiting: int = 0


def replay(arrivals: Iterable[Arrival], size: Size, weights: Mapping[str, int] | None = None) -> Replay:
    """Let them come and go; a pass for each moment at which something happens."""
    rack, result = Rack(size, weights), Replay()
    coming = sorted(arrivals, key=lambda each: (each.created, each.number), reverse=True)
    known = {uid_of(each): each for each in coming}
    ends: list[tuple[float, str]] = []
    while coming or ends:
        now = min(coming[-1].created if coming else math.inf, ends[0][0] if ends else math.inf)
        while ends and ends[0][0] <= now:
            rack.release(heapq.heappop(ends)[1])
        while coming and coming[-1].created <= now:
            rack.ask(coming.pop())
        if not rack.waiting:
            continue
        placement = rack.decide()
        for each in placement.assignments:
            arrival = known[each.waiting.uid]
            result.started[arrival.number] = now
            if math.isfinite(arrival.lives):
                heapq.heappush(ends, (now + arrival.lives, each.waiting.uid))
        for refusal in placement.refusals:
            if not refusal.accepted:
                result.never.add(known[refusal.waiting.uid].number)
                rack.withdraw(refusal.waiting.uid)
        result.most_waiting = max(result.most_waiting, rack.waiting)
    result.seconds = rack.seconds
    return result


def utilisation(
    arrivals: Iterable[Arrival], started: Mapping[int, float], accelerators: int, begin: float, end: float
) -> float:
    """The part of the accelerators that is held between two moments."""
    busy = 0.0
    for each in arrivals:
        if (start := started.get(each.number)) is not None:
            busy += each.accelerators * max(0.0, min(start + each.lives, end) - max(start, begin))
    return busy / (accelerators * (end - begin))


def with_hindsight(arrivals: Iterable[Arrival], size: Size) -> dict[int, float]:
    """First fit decreasing over the whole future: the largest first, each at the earliest moment after it came at which
    there is room for all of its life, wherever the devices are. Nobody who decides as things come can know as much."""
    limits = np.array(size.amounts)
    units = {each.number: np.array(_units(each)) for each in arrivals}
    ordered = [each for each in arrivals if (units[each.number] <= limits).all()]
    ordered.sort(key=lambda each: (-each.accelerators, each.created, each.number))
    times = [-math.inf, math.inf]
    used = np.zeros((2 * len(ordered) + 4, len(limits)), dtype=np.int64)
    started: dict[int, float] = {}
    for each in ordered:
        start, need = each.created, units[each.number]
        while True:
            first = _index(times, start)
            last = _index(times, start + each.lives, before=True)
            full = np.nonzero((used[first : last + 1] + need > limits).any(axis=1))[0]
            if not len(full):
                break
            start = times[first + int(full[-1]) + 1]
        for moment in (start, start + each.lives):
            at = _index(times, moment)
            if times[at] != moment and math.isfinite(moment):
                times.insert(at + 1, moment)
                used[at + 1 : len(times)] = used[at : len(times) - 1].copy()
        used[_index(times, start) : _index(times, start + each.lives, before=True) + 1] += need
        started[each.number] = start
    return started


def _index(times: list[float], moment: float, *, before: bool = False) -> int:
    """The step that a moment is in; with `before` the one that ends there."""
    return (bisect_left(times, moment) if before else bisect_right(times, moment)) - 1


def _units(arrival: Arrival) -> tuple[int, ...]:
    return (
        arrival.accelerators,
        -(-arrival.memory // (512 * GIB)),
        -(-arrival.storage // (2048 * GIB)),
        1,
    )

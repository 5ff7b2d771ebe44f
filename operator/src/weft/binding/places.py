"""The hosts of a pass, and which of them carry nothing yet."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from weft.binding.asked import Shape
from weft.binding.choose import Devices
from weft.binding.stock import HostOffer

Place = tuple[str, str]
"""Fabric and host."""


class Hosts:
    """All hosts, the smallest first."""

    def __init__(self, offers: Iterable[HostOffer], devices: Devices, busy: Iterable[HostOffer] = ()) -> None:
        self._busy = tuple(busy)
        self.offers: dict[Place, HostOffer] = {
            (host.fabric, host.host): host for host in sorted(offers, key=attrgetter("size"))
        }
        self._devices = devices
        hosts = (*self.offers.values(), *self._busy)
        one_fabric = len({host.fabric for host in hosts}) <= 1 and not any(host.also for host in hosts)
        self._alike = devices.reach_all and one_fabric
        """Whether all hosts are reached by the same devices."""
        self._reach: dict[Place, frozenset[int]] = {}
        self._taken: set[str] = set()
        """Nodes that carry a logical node now."""
        self._suited: dict[object, _Suited] = {}

    def reach(self, place: Place) -> frozenset[int]:
        """Equal for two hosts that the same devices reach."""
        known = self._reach.get(place)
        if known is None:
            known = self._reach[place] = self._devices.reach(self.offers[place].places)
        return known

    def take(self, place: Place) -> None:
        self._taken.add(self.offers[place].node_name)

    def give_back(self, place: Place) -> None:
        self._taken.discard(self.offers[place].node_name)
        for each in self._suited.values():
            each.first = 0

    def free(self) -> Iterator[HostOffer]:
        """Hosts that carry nothing, closed or not."""
        return (
            host for host in self.offers.values() if host.node_name not in self._taken and not host.carries
        )

    def suited(self, shape: Shape) -> list[Place]:
        """The hosts that a shape may have, whether they carry something or not."""
        known = self._known(shape)
        known.found += known.rest
        return known.found

    def kinds(self, shape: Shape) -> Collection[frozenset[int]]:
        """The reaches of the hosts that a shape may have."""
        known = self._known(shape)
        if known.kinds is None:
            if self._alike:
                known.found += () if known.found else itertools.islice(known.rest, 1)
                known.kinds = dict.fromkeys(map(self.reach, known.found[:1]))
            else:
                known.kinds = dict.fromkeys(map(self.reach, self.suited(shape)))
        return known.kinds

    def kinds_in_time(self, shape: Shape) -> Iterable[frozenset[int]]:
        """The reaches of the hosts that a shape may have now, or when they are released."""
        return dict.fromkeys((*self.kinds(shape), *self._busy_kinds(shape)))

    def _busy_kinds(self, shape: Shape) -> Collection[frozenset[int]]:
        known = self._known(shape)
        if known.busy_kinds is None:
            hosts: Iterator[HostOffer] = (
                host for host in self._busy if suits(shape, host) and not host.why_closed(shape.tolerations)
            )
            if self._alike:
                hosts = itertools.islice(hosts, 1)
            known.busy_kinds = dict.fromkeys(self._devices.reach(host.places) for host in hosts)
        return known.busy_kinds

    def kinds_without(
        self, shape: Shape, gone: Collection[str], kept: Iterable[Place]
    ) -> set[frozenset[int]]:
        """The reaches of the hosts that a shape may have when the logical nodes of some Nodes are gone; `kept` are
        withheld for it."""
        found = {self.reach(place) for place in (*self.open(shape), *kept)}
        return found | {
            self._devices.reach(host.places)
            for host in self._busy
            if host.node_name in gone and suits(shape, host) and not host.why_closed(shape.tolerations)
        }

    def open(self, shape: Shape) -> Iterator[Place]:
        """Those of them that carry nothing. Hosts after the one that is taken are not looked at."""
        known = self._known(shape)
        while known.first < len(known.found) and self._is_taken(known.found[known.first]):
            known.first += 1
        at = known.first
        while True:
            if at == len(known.found):
                place = next(known.rest, None)
                if place is None:
                    return
                known.found.append(place)
            if not self._is_taken(known.found[at]):
                yield known.found[at]
            at += 1

    def _known(self, shape: Shape) -> _Suited:
        host = (shape.node_selector, shape.cpu, shape.memory_bytes, shape.avoid_hosts, shape.tolerations)
        key = (*host, shape.node_name)
        if key not in self._suited:
            rest = (
                place
                for place, host in self.offers.items()
                if suits(shape, host) and not host.why_closed(shape.tolerations)
            )
            self._suited[key] = _Suited([], rest)
        return self._suited[key]

    def _is_taken(self, place: Place) -> bool:
        return self.offers[place].node_name in self._taken


@dataclass
class _Suited:
    """The hosts for one kind of shape, the smallest first."""

    found: list[Place]
    rest: Iterator[Place]
    """Those after the ones that were looked at."""
    first: int = 0
    """The ones before it are taken."""
    kinds: dict[frozenset[int], None] | None = None
    busy_kinds: dict[frozenset[int], None] | None = None


def suits(shape: Shape, host: HostOffer) -> bool:
    """Whether a host has the labels, CPU and memory asked for, or is the one that is meant."""
    if shape.node_name or host.carries:
        is_meant = host.node_name == shape.node_name
        return is_meant and all(name not in shape.avoid_hosts for _, name in host.places)
    return (
        all(name not in shape.avoid_hosts for _, name in host.places)
        and shape.node_selector.matches(host.labels)
        and host.cpu >= shape.cpu
        and host.memory_bytes >= shape.memory_bytes
    )

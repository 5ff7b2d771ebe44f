"""What a pass places on, and what it has placed so far."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from weft.binding.asked import Waiting
from weft.binding.choose import Budget, Devices, Parts, Unmet
from weft.binding.objective import WEIGHED, weight
from weft.binding.places import Hosts, Place
from weft.binding.stock import Stock


@dataclass(frozen=True, eq=False)
class Held:
    """A place that the pass gave to a request."""

    request: Waiting
    place: Place
    parts: Parts


class Room:
    """Devices, hosts and quota, less what the pass has given away."""

    def __init__(self, stock: Stock) -> None:
        self.devices = Devices(stock)
        self.hosts = Hosts(stock.hosts, self.devices, stock.busy_hosts)
        self.quota: dict[str, Budget] = {}
        """What is left of pools, by the namespaces that have limits."""
        for (namespace, pool), left in stock.quota_left.items():
            self.quota.setdefault(namespace, {})[pool] = left
        self.hosts_left = dict(stock.hosts_left)
        """Hosts that the namespaces that have a limit may still take."""
        self.held: dict[str, Held] = {}
        """What the pass has placed, by the uid of the request."""

    def budget(self, namespace: str) -> Budget:
        """What a namespace may still take of the pools that are limited for it."""
        return self.quota.get(namespace, {})

    def take(self, held: Held) -> None:
        """Withhold what a request was given."""
        self.held[held.request.uid] = held
        self.devices.take(held.parts)
        self.hosts.take(held.place)
        self._count(held, -1)

    def give_back(self, held: Held) -> None:
        """Undo `take`."""
        del self.held[held.request.uid]
        self.devices.give_back(held.parts)
        self.hosts.give_back(held.place)
        self._count(held, 1)

    def is_limited(self, namespace: str) -> bool:
        """Whether a DeviceQuota makes a difference to a namespace."""
        return namespace in self.quota or namespace in self.hosts_left

    def _count(self, held: Held, sign: int) -> None:
        if held.request.namespace in self.hosts_left and not held.request.shape.node_name:
            self.hosts_left[held.request.namespace] += sign
        budget = self.quota.get(held.request.namespace)
        if budget:
            for part in held.parts:
                if (pool := part.bin.offer.pool) in budget:
                    budget[pool] += sign * part.count * part.bin.units

    def look(self, request: Waiting) -> Held | None:
        """A place as things are now, whatever was refused before."""
        return self.first_place(request, afresh=True)[0]

    def first_place(
        self, request: Waiting, *, afresh: bool = False
    ) -> tuple[Held | None, dict[frozenset[int], Unmet]]:
        """A place for a request within its quota, or what was unmet at the hosts that suit it, by their reach."""
        # Hosts that the same devices reach are alike: if one fails for want of devices, so do the others.
        failures: dict[frozenset[int], Unmet] = {}
        if self.hosts_left.get(request.namespace, 1) <= 0 and not request.shape.node_name:
            return None, failures
        budget = self.budget(request.namespace)
        best: Held | None = None
        lightest, looked_at = Decimal(0), set[frozenset[int]]()
        for place in self.hosts.open(request.shape):
            reach = self.hosts.reach(place)
            if reach in looked_at:
                continue
            looked_at.add(reach)
            parts = self.devices.choose(request.shape, reach, budget, afresh=afresh)
            if isinstance(parts, Unmet):
                failures[reach] = parts
            elif (objective := request.shape.objective) not in WEIGHED:
                return Held(request, place, parts), failures
            else:
                heavy = weight(objective, ((0, part.bin, part.count) for part in parts))
                if best is None or heavy < lightest:
                    best, lightest = Held(request, place, parts), heavy
            if len(looked_at) == len(self.hosts.kinds(request.shape)):
                # All others are like one of these.
                break
        return best, failures

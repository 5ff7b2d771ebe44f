"""The placement algorithm: one pass over all that waits. Pure.

Requests are placed in the order in which they were created. For each one the hosts that suit it are tried, the
smallest first; on a host, every need is met from the devices that reach it, or the host is passed over: all or
nothing. Among devices that fit, the cheapest come first, then those from the interconnect domain with the
fewest free devices, so that whole domains stay free for requests that need one.

All devices are sorted once and each selector is held against them once, however many requests there are. Within a pass
free devices only become fewer, so requests of a shape that was refused are refused without another look. What a
refused request is told has no number that moves by itself: while the reason stays the same, so does the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from weft.binding.choose import Budget, Devices, Unmet, asked
from weft.binding.membership import PoolKey
from weft.binding.plan import (
    Assignment,
    Effort,
    HostOffer,
    Need,
    Placement,
    Refusal,
    Remembered,
    Shape,
    Stock,
    Waiting,
    host_size,
    pool_words,
)

DEVICE_REASONS = ("NotEnoughDevices", "ConstraintUnmet")


def place(waiting: Iterable[Waiting], stock: Stock, remembered: Remembered | None = None) -> Placement:
    """Place requests, oldest first. `remembered` is what the pass before left."""
    pass_ = _Pass(stock, remembered or Remembered())
    assignments: list[Assignment] = []
    refusals: list[Refusal] = []
    for request in sorted(waiting, key=lambda item: (item.created, item.namespace, item.name)):
        outcome = pass_.place(request)
        if isinstance(outcome, Assignment):
            assignments.append(outcome)
        else:
            refusals.append(outcome)
    return Placement(tuple(assignments), tuple(refusals), pass_.effort(), pass_.remembered(refusals))


class _Pass:
    """The state of one pass. Offers are known by their number in the pass's one order."""

    def __init__(self, stock: Stock, remembered: Remembered) -> None:
        self._stock = stock
        self._devices = Devices(stock)
        self._quota = dict(stock.quota_left)
        self._limited = {namespace for namespace, _ in self._quota}
        self._hosts = {(host.fabric, host.host): host for host in sorted(stock.hosts, key=host_size)}
        self._reaches = {place: self._devices.reach(host.places) for place, host in self._hosts.items()}
        self._suited: dict[object, list[tuple[str, str]]] = {}
        self._refused = dict(remembered.for_stock(stock))
        self._hopeless = {key for key in remembered.hopeless if key in self._refused}
        self._said: dict[object, tuple[str, str]] = {}
        self._searches = 0

    def effort(self) -> Effort:
        return Effort(1, self._devices.matchings, self._searches, self._devices.choices)

    def remembered(self, refusals: Iterable[Refusal]) -> Remembered:
        """What was refused, by shape; shapes for which nobody waits any more are forgotten."""
        keys = {self._key(refusal.waiting) for refusal in refusals}
        refused = {key: why for key, why in self._refused.items() if key in keys}
        # What is left: what this pass gave to others may come back, and is more than was refused on then.
        left = replace(
            self._stock,
            offers=self._devices.left(),
            hosts=tuple(self._hosts.values()),
            quota_left=dict(self._quota),
        )
        return Remembered(left, refused, frozenset(self._hopeless & keys))

    def _key(self, request: Waiting) -> tuple[Shape, str]:
        # Without a limit of its own a namespace has the answer of all others that ask for the same.
        return request.shape, request.namespace if request.namespace in self._limited else ""

    def place(self, request: Waiting) -> Assignment | Refusal:
        key = self._key(request)
        known = self._refused.get(key)
        if known is None:
            self._searches += 1
            found = self._search(request)
            if isinstance(found, Assignment):
                self._take(request, found)
                return found
            known = self._refused[key] = found
            if known[0] in DEVICE_REASONS and not self._devices.could_be_met(request.shape):
                self._hopeless.add(key)
        return Refusal(request, *known)

    def _take(self, request: Waiting, assignment: Assignment) -> None:
        # It carries one logical node.
        name = assignment.host.node_name
        self._hosts = {place: host for place, host in self._hosts.items() if host.node_name != name}
        for chosen in assignment.devices:
            limited = (request.namespace, chosen.offer.pool)
            if limited in self._quota:
                self._quota[limited] -= chosen.offer.quota_units

    def _search(self, request: Waiting) -> Assignment | tuple[str, str]:
        shape = request.shape
        budget = {
            pool: left for (namespace, pool), left in self._quota.items() if namespace == request.namespace
        }
        # What another's bind does not change is said first, so that it stays said.
        for need in shape.needs:
            if pools := self._used_up(shape, need, budget):
                text = f"a DeviceQuota of the namespace does not allow so much of {pool_words(pools)}"
                return "QuotaExceeded", f"{need.words()}; {text}"
        for need in shape.needs:
            if not self._devices.has_enough(shape, need):
                return (
                    "NotEnoughDevices",
                    f"{need.words()}; not enough are free in pools open to this namespace",
                )
        suited = self._hosts_for(shape)
        if not suited:
            return "NoHost", self._no_host(shape)
        # Hosts that the same devices reach are alike: if one fails for want of devices, so do the others.
        failures: dict[frozenset[int], Unmet] = {}
        for place in suited:
            reach = self._reaches[place]
            if reach in failures:
                continue
            chosen = self._devices.choose(shape, reach, budget)
            if isinstance(chosen, Unmet):
                failures[reach] = chosen
                continue
            self._devices.take(number for number, _ in chosen)
            devices = tuple(each for _, each in chosen)
            return Assignment(request, self._hosts[place], devices)
        return self._words(shape, budget, *next(iter(failures.items())))

    def _words(self, shape: Shape, budget: Budget, reach: frozenset[int], unmet: Unmet) -> tuple[str, str]:
        """Why the first suitable host could not be used: by leaving out, one by one, what may have been in the way."""
        key = asked(shape, reach, budget)
        if key not in self._said:
            self._said[key] = self._find_words(shape, budget, reach, unmet)
        return self._said[key]

    def _find_words(
        self, shape: Shape, budget: Budget, reach: frozenset[int], unmet: Unmet
    ) -> tuple[str, str]:
        if budget and not isinstance(self._devices.choose(shape, reach, {}), Unmet):
            limited = pool_words(pool for pool in budget if pool in shape.allowed_pools)
            return (
                "QuotaExceeded",
                f"a DeviceQuota of the namespace does not allow so much of {limited} together",
            )
        required = [constraint for constraint in shape.constraints if constraint.required]
        if required:
            relaxed = Shape(shape.needs, shape.allowed_pools, jurisdictions=shape.jurisdictions)
            if not isinstance(self._devices.choose(relaxed, reach, budget), Unmet):
                asked = " and ".join(
                    f"one {each.attribute} for {', '.join(sorted(each.needs))}" for each in required
                )
                return (
                    "ConstraintUnmet",
                    f"placement.constraints require {asked}, and none has enough free devices",
                )
        text = "not enough are free together, at one host, in pools open to this namespace"
        return unmet.reason, f"{unmet.need.words()}; {text}"

    def _used_up(self, shape: Shape, need: Need, budget: Budget) -> set[PoolKey]:
        """The limited pools, where none of the choices can be met for want of quota, however much is free."""
        if not budget:
            return set()
        limited: set[PoolKey] = set()
        for choice in need.choices:
            pools = self._devices.pools_of(need.kind, choice) & shape.allowed_pools
            if not pools or any(pool not in budget for pool in pools):
                return set()
            if sum(max(0, budget[pool]) for pool in pools) >= (need.count or need.size_bytes):
                return set()
            limited |= pools
        return limited

    def _hosts_for(self, shape: Shape) -> list[tuple[str, str]]:
        key = (shape.node_selector, shape.cpu, shape.memory_bytes, shape.avoid_hosts)
        if key not in self._suited:
            self._suited[key] = [
                place for place, host in self._hosts.items() if not host.closed and _suits(shape, host)
            ]
        return [place for place in self._suited[key] if place in self._hosts]

    def _no_host(self, shape: Shape) -> str:
        text = (
            "no host is free that has the node labels, CPU and memory asked for and carries no logical node"
        )
        closed = [host for host in self._hosts.values() if host.closed and _suits(shape, host)]
        if closed:
            named = [
                f"{host.node_name} ({host.closed})"
                for host in sorted(closed, key=lambda host: host.node_name)
            ]
            text += f"; Nodes that would do are closed: {', '.join(named[:3])}"
        if self._stock.observed_only:
            fabrics = ", ".join(f"Fabric {name}" for name in sorted(self._stock.observed_only))
            text += f"; {fabrics} is only observed: set spec.mode to Manage to let Weft bind there"
        return text


def _suits(shape: Shape, host: HostOffer) -> bool:
    return (
        all(name not in shape.avoid_hosts for _, name in host.places)
        and shape.node_selector.matches(host.labels)
        and host.cpu >= shape.cpu
        and host.memory_bytes >= shape.memory_bytes
    )

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

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from weft.binding.membership import PoolKey
from weft.binding.plan import (
    Assignment,
    Choice,
    Chosen,
    Constraint,
    Effort,
    HostOffer,
    Need,
    Offer,
    Placement,
    Refusal,
    Remembered,
    Selector,
    Shape,
    Stock,
    Waiting,
    domains,
    host_size,
    natural,
    pool_words,
)
from weft.fabric.driver import DeviceKind

MOST_TRIES = 200
"""Sets of domains that are tried for one request on one kind of host: a bound on what a tenant can cost."""

DEVICE_REASONS = ("NotEnoughDevices", "ConstraintUnmet")
Budget = dict[PoolKey, int]
"""What may still be taken of each limited pool."""
Lists = Mapping[Need, Sequence[int]]
"""The devices that each need may be met from: numbers of offers."""


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


@dataclass(frozen=True)
class _Unmet:
    """Why a search failed: the need, and what kept it from being met."""

    need: Need
    reason: str = "NotEnoughDevices"


@dataclass
class _Try:
    """What one request has taken so far, on one host."""

    taken: set[int] = field(default_factory=set)
    budget: Budget = field(default_factory=dict)
    chosen: list[tuple[Need, int]] = field(default_factory=list)

    def copy(self) -> _Try:
        return _Try(set(self.taken), dict(self.budget), list(self.chosen))


class _Pass:
    """The state of one pass. Offers are known by their number in the pass's one order."""

    def __init__(self, stock: Stock, remembered: Remembered) -> None:
        self._stock = stock
        crowding: dict[tuple[str, ...], int] = {}
        for offer in stock.offers:
            if offer.free:
                place = domains(offer.device)
                crowding[place] = crowding.get(place, 0) + 1

        def order(offer: Offer) -> tuple[object, ...]:
            place = domains(offer.device)
            return offer.cost_per_hour, crowding.get(place, 0), place, offer.fabric, natural(offer.device.id)

        self._offers = sorted(stock.offers, key=order)
        self._free = [offer.free for offer in self._offers]
        self._quota = dict(stock.quota_left)
        self._limited = {namespace for namespace, _ in self._quota}
        self._hosts = {(host.fabric, host.host): host for host in sorted(stock.hosts, key=host_size)}
        self._zones = self._number_zones()
        self._matches: dict[tuple[DeviceKind, Selector, int], list[int]] = {}
        self._suited: dict[object, list[tuple[str, str]]] = {}
        self._refused = dict(remembered.for_stock(stock))
        self._hopeless = {key for key in remembered.hopeless if key in self._refused}
        self._unmet: dict[object, _Unmet] = {}
        self._unmet_of_all: dict[object, _Unmet] = {}
        self._said: dict[object, tuple[str, str]] = {}
        self._searches = 0
        self._choices = 0
        self._tries = 0

    def effort(self) -> Effort:
        return Effort(sorts=1, matchings=len(self._matches), searches=self._searches, choices=self._choices)

    def remembered(self, refusals: Iterable[Refusal]) -> Remembered:
        """What was refused, by shape; shapes for which nobody waits any more are forgotten."""
        keys = {self._key(refusal.waiting) for refusal in refusals}
        refused = {key: why for key, why in self._refused.items() if key in keys}
        return Remembered(self._stock, refused, frozenset(self._hopeless & keys))

    def _key(self, request: Waiting) -> tuple[Shape, str]:
        # Without a limit of its own a namespace has the answer of all others that ask for the same.
        return request.shape, request.namespace if request.namespace in self._limited else ""

    def _number_zones(self) -> list[int]:
        """By offer, a number that devices share which the same hosts reach; each host's numbers in `_reaches`."""
        known: dict[tuple[str, frozenset[str] | None], int] = {}
        zones = [
            known.setdefault((offer.fabric, offer.device.reachable_hosts), len(known))
            for offer in self._offers
        ]
        self._reaches = {
            place: frozenset(
                zone
                for (fabric, hosts), zone in known.items()
                if fabric == place[0] and (hosts is None or place[1] in hosts)
            )
            for place in self._hosts
        }
        return zones

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
            if known[0] in DEVICE_REASONS and self._is_hopeless(request.shape):
                self._hopeless.add(key)
        return Refusal(request, *known)

    def _is_hopeless(self, shape: Shape) -> bool:
        """Whether the devices would not suffice though all were free and reached one host, whatever quotas say."""
        free, self._free = self._free, [True] * len(self._free)
        unmet, self._unmet = self._unmet, self._unmet_of_all
        try:
            return isinstance(self._choose(shape, None, {}), _Unmet)
        finally:
            self._free, self._unmet = free, unmet

    def _take(self, request: Waiting, assignment: Assignment) -> None:
        # One Node may run on a host of each of several fabrics; it carries one logical node.
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
            if not any(
                self._is_enough(need, self._candidates(shape, need, choice)) for choice in need.choices
            ):
                return (
                    "NotEnoughDevices",
                    f"{need.words()}; not enough are free in pools open to this namespace",
                )
        suited = self._hosts_for(shape)
        if not suited:
            return "NoHost", self._no_host(shape)
        # Hosts that the same devices reach are alike: if one fails for want of devices, so do the others.
        failures: dict[frozenset[int], _Unmet] = {}
        for place in suited:
            reach = self._reaches[place]
            if reach in failures:
                continue
            chosen = self._choose(shape, reach, budget)
            if isinstance(chosen, _Unmet):
                failures[reach] = chosen
                continue
            for number, _ in chosen:
                self._free[number] = False
            devices = tuple(each for _, each in chosen)
            return Assignment(request, self._hosts[place], devices)
        return self._words(shape, budget, *next(iter(failures.items())))

    def _words(self, shape: Shape, budget: Budget, reach: frozenset[int], unmet: _Unmet) -> tuple[str, str]:
        """Why the first suitable host could not be used: by leaving out, one by one, what may have been in the way."""
        key = _asked(shape, reach, budget)
        if key not in self._said:
            self._said[key] = self._find_words(shape, budget, reach, unmet)
        return self._said[key]

    def _find_words(
        self, shape: Shape, budget: Budget, reach: frozenset[int], unmet: _Unmet
    ) -> tuple[str, str]:
        if budget and not isinstance(self._choose(shape, reach, {}), _Unmet):
            limited = pool_words(pool for pool in budget if pool in shape.allowed_pools)
            return (
                "QuotaExceeded",
                f"a DeviceQuota of the namespace does not allow so much of {limited} together",
            )
        required = [constraint for constraint in shape.constraints if constraint.required]
        if required:
            relaxed = Shape(shape.needs, shape.allowed_pools, jurisdictions=shape.jurisdictions)
            if not isinstance(self._choose(relaxed, reach, budget), _Unmet):
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
            pools = {self._offers[number].pool for number in self._matching(need.kind, choice)}
            pools &= shape.allowed_pools
            if not pools or any(pool not in budget for pool in pools):
                return set()
            if sum(max(0, budget[pool]) for pool in pools) >= (need.count or need.size_bytes):
                return set()
            limited |= pools
        return limited

    def _is_enough(self, need: Need, numbers: Sequence[int]) -> bool:
        if need.count:
            return len(numbers) >= need.count
        return sum(self._offers[number].device.capacity_bytes for number in numbers) >= need.size_bytes

    def _matching(self, kind: DeviceKind, choice: Choice) -> list[int]:
        """All offers that a choice means, free or not, in the order in which they are taken: found once in a pass."""
        key = (kind, choice.selector, choice.least_bytes)
        if key not in self._matches:
            found = [
                number
                for number, offer in enumerate(self._offers)
                if offer.device.kind is kind and choice.matches(offer.device)
            ]
            if kind is not DeviceKind.ACCELERATOR:
                # A size is covered by the smallest device that holds it.
                found.sort(key=lambda number: self._offers[number].device.capacity_bytes)
            self._matches[key] = found
        return self._matches[key]

    def _candidates(
        self, shape: Shape, need: Need, choice: Choice, reach: frozenset[int] | None = None
    ) -> list[int]:
        """The free ones that the request may have, and that reach the host."""
        return [
            number
            for number in self._matching(need.kind, choice)
            if self._free[number]
            and (offer := self._offers[number]).pool in shape.allowed_pools
            and (not shape.jurisdictions or offer.jurisdiction in shape.jurisdictions)
            and (reach is None or self._zones[number] in reach)
        ]

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
            text += f"; Nodes that would do take no pods: {', '.join(named[:3])}"
        if self._stock.observed_only:
            fabrics = ", ".join(f"Fabric {name}" for name in sorted(self._stock.observed_only))
            text += f"; {fabrics} is only observed: set spec.mode to Manage to let Weft bind there"
        return text

    def _choose(
        self, shape: Shape, reach: frozenset[int] | None, budget: Budget
    ) -> list[tuple[int, Chosen]] | _Unmet:
        """Devices for all needs: of the alternatives, in their order, the first that can all be met."""
        # Whatever else is asked of the host: what could not be met cannot be met later in the pass.
        key = _asked(shape, reach, budget)
        if key in self._unmet:
            return self._unmet[key]
        self._choices += 1
        first: _Unmet | None = None
        for choices in itertools.product(*(need.choices for need in shape.needs)):
            lists = {
                need: self._candidates(shape, need, choice, reach)
                for need, choice in zip(shape.needs, choices, strict=True)
            }
            found = self._meet_all(lists, shape.constraints, budget)
            if not isinstance(found, _Unmet):
                names = {need.name: choice.name for need, choice in zip(shape.needs, choices, strict=True)}
                return [
                    (number, Chosen(need.name, self._offers[number], names[need.name]))
                    for need, number in found.chosen
                ]
            first = first or found
        assert first is not None
        self._unmet[key] = first
        return first

    def _meet_all(self, lists: Lists, constraints: Sequence[Constraint], budget: Budget) -> _Try | _Unmet:
        """Every need, group by group: needs that constraints tie together are met together, accelerators first."""
        done = _Try(budget=dict(budget))
        self._tries = 0
        for needs, ties in _groups(tuple(lists), constraints):
            found = self._meet_tied({need: lists[need] for need in needs}, ties, done)
            if isinstance(found, _Unmet):
                return found
            done = found
        return done

    def _meet_tied(self, lists: Lists, ties: Sequence[Constraint], before: _Try) -> _Try | _Unmet:
        """Needs that share domains: the fullest domain that suffices first, so that whole ones stay free."""
        if not ties:
            return self._meet(lists, before)
        tie, *rest = ties
        by_value: dict[str, dict[Need, list[int]]] = {}
        tied = [need for need in lists if need.name in tie.needs]
        for need in tied:
            for number in lists[need]:
                if number not in before.taken and (
                    value := self._offers[number].device.attributes.get(tie.attribute)
                ):
                    by_value.setdefault(value, {}).setdefault(need, []).append(number)
        unmet = _Unmet(tied[0] if tied else next(iter(lists)))
        for value in sorted(by_value, key=lambda value: (sum(map(len, by_value[value].values())), value)):
            inside = by_value[value]
            if any(not self._is_enough(need, inside.get(need, ())) for need in tied):
                continue
            if self._tries >= MOST_TRIES:
                break
            self._tries += 1
            found = self._meet_tied({**lists, **inside}, rest, before)
            if not isinstance(found, _Unmet):
                return found
        return unmet if tie.required else self._meet_tied(lists, rest, before)

    def _meet(self, lists: Lists, before: _Try) -> _Try | _Unmet:
        """Each need in turn, from its list."""
        now = before.copy()
        for need, numbers in lists.items():
            left = [number for number in numbers if number not in now.taken]
            picked = (
                self._first(need.count, left, now) if need.count else self._cover(need.size_bytes, left, now)
            )
            if picked is None:
                return _Unmet(need)
            now.chosen += [(need, number) for number in picked]
        return now

    def _first(self, count: int, numbers: Sequence[int], now: _Try) -> list[int] | None:
        """The first `count` that the quota allows, or None."""
        picked: list[int] = []
        for number in numbers:
            if len(picked) == count:
                break
            if self._affordable(number, now.budget):
                self._spend(number, now)
                picked.append(number)
        return picked if len(picked) == count else None

    def _cover(self, size_bytes: int, numbers: Sequence[int], now: _Try) -> list[int] | None:
        """Devices that hold `size_bytes` together: the largest ones until the smallest that covers the rest."""
        left = list(numbers)
        sizes = [self._offers[number].device.capacity_bytes for number in left]
        picked: list[int] = []
        missing = size_bytes
        while missing > 0:
            while left and not self._affordable(left[-1], now.budget):
                del left[-1], sizes[-1]
            if not left:
                return None
            # Ordered by size; of equals the first in the pass's order.
            at = bisect_left(sizes, min(missing, sizes[-1]))
            while not self._affordable(left[at], now.budget):
                at += 1
            number, size = left.pop(at), sizes.pop(at)
            picked.append(number)
            self._spend(number, now)
            missing -= size
        return picked

    def _affordable(self, number: int, budget: Budget) -> bool:
        offer = self._offers[number]
        return budget.get(offer.pool, offer.quota_units) >= offer.quota_units

    def _spend(self, number: int, now: _Try) -> None:
        now.taken.add(number)
        offer = self._offers[number]
        if offer.pool in now.budget:
            now.budget[offer.pool] -= offer.quota_units


def _asked(shape: Shape, reach: frozenset[int] | None, budget: Budget) -> object:
    """All that the choice of devices depends on: shapes that differ in the host alone have it in common."""
    asked = (shape.needs, shape.allowed_pools, shape.constraints, shape.jurisdictions)
    return asked, reach, frozenset(budget.items())


def _groups(
    needs: Sequence[Need], constraints: Sequence[Constraint]
) -> list[tuple[list[Need], list[Constraint]]]:
    """Needs that constraints tie together, with these constraints; the others alone. Accelerators come first."""
    group_of = {need.name: {need.name} for need in needs}
    for constraint in constraints:
        joined = set().union(*(group_of[name] for name in constraint.needs if name in group_of))
        for name in joined:
            group_of[name] = joined
    groups: list[tuple[list[Need], list[Constraint]]] = []
    seen: set[str] = set()
    for need in sorted(needs, key=lambda need: need.kind is not DeviceKind.ACCELERATOR):
        if need.name not in seen:
            names = group_of[need.name]
            seen |= names
            members = [each for each in needs if each.name in names]
            groups.append((members, [each for each in constraints if each.needs & names]))
    return groups


def _suits(shape: Shape, host: HostOffer) -> bool:
    return (
        host.host not in shape.avoid_hosts
        and shape.node_selector.matches(host.labels)
        and host.cpu >= shape.cpu
        and host.memory_bytes >= shape.memory_bytes
    )

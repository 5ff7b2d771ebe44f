"""Which devices one request gets: in the order of the pass, within its constraints and quota. Pure.

Devices are known by their number in one order: the cheapest first, then those from the interconnect domain with the
fewest free devices. They are sorted once in a pass, and each selector is held against them once.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from weft.binding.membership import PoolKey
from weft.binding.plan import (
    Choice,
    Chosen,
    Constraint,
    Need,
    Offer,
    Selector,
    Shape,
    Stock,
    domains,
    natural,
)
from weft.fabric.driver import DeviceKind

MOST_TRIES = 200
"""Sets of domains that are tried for one request on one kind of host: a bound on what a tenant can cost."""

Budget = dict[PoolKey, int]
"""What may still be taken of each limited pool."""
Lists = Mapping[Need, Sequence[int]]
"""The devices that each need may be met from: numbers of offers."""


@dataclass(frozen=True)
class Unmet:
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


class Devices:
    """All devices of a stock, and which of them are free now."""

    def __init__(self, stock: Stock) -> None:
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
        self._zone_of: dict[tuple[str, frozenset[str] | None], int] = {}
        self._zones = [
            self._zone_of.setdefault((offer.fabric, offer.device.reachable_hosts), len(self._zone_of))
            for offer in self._offers
        ]
        self._matches: dict[tuple[DeviceKind, Selector, int], list[int]] = {}
        self._unmet: dict[object, Unmet] = {}
        self._unmet_of_all: dict[object, Unmet] = {}
        self._tries = 0
        self.choices = 0
        """Times that devices were looked for."""

    @property
    def matchings(self) -> int:
        """Selectors that were held against all devices."""
        return len(self._matches)

    def reach(self, places: Iterable[tuple[str, str]]) -> frozenset[int]:
        """Equal for two machines that the same devices reach; `places` are its (fabric, host)."""
        hosts_of = dict(places)
        return frozenset(
            zone
            for (of, hosts), zone in self._zone_of.items()
            if of in hosts_of and (hosts is None or hosts_of[of] in hosts)
        )

    def take(self, numbers: Iterable[int]) -> None:
        """These are not free any more."""
        for number in numbers:
            self._free[number] = False

    def left(self) -> tuple[Offer, ...]:
        """All devices, those that were taken not free."""
        return tuple(
            offer if free is offer.free else replace(offer, free=free)
            for offer, free in zip(self._offers, self._free, strict=True)
        )

    def could_be_met(self, shape: Shape) -> bool:
        """Whether the devices would suffice if all were free and reached one host, whatever quotas say."""
        free, self._free = self._free, [True] * len(self._free)
        unmet, self._unmet = self._unmet, self._unmet_of_all
        try:
            return not isinstance(self.choose(shape, None, {}), Unmet)
        finally:
            self._free, self._unmet = free, unmet

    def pools_of(self, kind: DeviceKind, choice: Choice) -> set[PoolKey]:
        """The pools that have devices that a choice means, free or not."""
        return {self._offers[number].pool for number in self._matching(kind, choice)}

    def has_enough(self, shape: Shape, need: Need) -> bool:
        """Whether enough is free for one of the need's choices, wherever it is."""
        return any(self._is_enough(need, self._candidates(shape, need, choice)) for choice in need.choices)

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

    def choose(
        self, shape: Shape, reach: frozenset[int] | None, budget: Budget
    ) -> list[tuple[int, Chosen]] | Unmet:
        """Devices for all needs: of the alternatives, in their order, the first that can all be met."""
        # Whatever else is asked of the host: what could not be met cannot be met later in the pass.
        key = asked(shape, reach, budget)
        if key in self._unmet:
            return self._unmet[key]
        self.choices += 1
        first: Unmet | None = None
        for choices in itertools.product(*(need.choices for need in shape.needs)):
            lists = {
                need: self._candidates(shape, need, choice, reach)
                for need, choice in zip(shape.needs, choices, strict=True)
            }
            found = self._meet_all(lists, shape.constraints, budget)
            if not isinstance(found, Unmet):
                names = {need.name: choice.name for need, choice in zip(shape.needs, choices, strict=True)}
                return [
                    (number, Chosen(need.name, self._offers[number], names[need.name]))
                    for need, number in found.chosen
                ]
            first = first or found
        assert first is not None
        self._unmet[key] = first
        return first

    def _meet_all(self, lists: Lists, constraints: Sequence[Constraint], budget: Budget) -> _Try | Unmet:
        """Every need, group by group: needs that constraints tie together are met together, accelerators first."""
        done = _Try(budget=dict(budget))
        self._tries = 0
        for needs, ties in _groups(tuple(lists), constraints):
            found = self._meet_tied({need: lists[need] for need in needs}, ties, done)
            if isinstance(found, Unmet):
                return found
            done = found
        return done

    def _meet_tied(self, lists: Lists, ties: Sequence[Constraint], before: _Try) -> _Try | Unmet:
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
        unmet = Unmet(tied[0] if tied else next(iter(lists)))
        for value in sorted(by_value, key=lambda value: (sum(map(len, by_value[value].values())), value)):
            inside = by_value[value]
            if any(not self._is_enough(need, inside.get(need, ())) for need in tied):
                continue
            if self._tries >= MOST_TRIES:
                break
            self._tries += 1
            found = self._meet_tied({**lists, **inside}, rest, before)
            if not isinstance(found, Unmet):
                return found
        return unmet if tie.required else self._meet_tied(lists, rest, before)

    def _meet(self, lists: Lists, before: _Try) -> _Try | Unmet:
        """Each need in turn, from its list."""
        now = before.copy()
        for need, numbers in lists.items():
            left = [number for number in numbers if number not in now.taken]
            picked = (
                self._first(need.count, left, now) if need.count else self._cover(need.size_bytes, left, now)
            )
            if picked is None:
                return Unmet(need)
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


def asked(shape: Shape, reach: frozenset[int] | None, budget: Budget) -> object:
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

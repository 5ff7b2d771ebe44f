"""Which devices one request gets: in the order of the pass, within its constraints and quota. Pure.

Devices are taken from bins in one order: the cheapest first, then those from the interconnect domain with the fewest
free devices. Bins are sorted once in a pass, and each selector is held against them once.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from weft.api.node_shape import Objective
from weft.binding.asked import Choice, Constraint, Need, Shape
from weft.binding.bins import Bin, bins_of
from weft.binding.membership import PoolKey
from weft.binding.objective import WEIGHED, in_few_domains, order, weight
from weft.binding.stock import Stock
from weft.fabric.driver import DeviceKind

MOST_TRIES = 200
"""Sets of domains that are tried for one request on one kind of host: a bound on what a tenant can cost."""

Budget = dict[PoolKey, int]
"""What may still be taken of each limited pool."""
Lists = Mapping[int, Sequence[Bin]]
"""The bins that each need may be met from, by the need's place in its request."""
Groups = tuple[tuple[tuple[int, ...], tuple[Constraint, ...]], ...]
"""Needs that constraints tie together, with these."""


@dataclass(frozen=True)
class Unmet:
    """Why a search failed: the need, and what kept it from being met."""

    need: Need
    reason: str = "NotEnoughDevices"


@dataclass(frozen=True)
class Part:
    """Devices of one bin for one need."""

    need: str
    bin: Bin
    count: int
    alternative: str = ""
    """The entry of firstAvailable that they meet; empty where there are no alternatives."""


Parts = tuple[Part, ...]


@dataclass
class Try:
    """What one request has taken so far, on one host."""

    taken: dict[int, int] = field(default_factory=dict)
    """Devices by the number of their bin."""
    budget: Budget = field(default_factory=dict)
    chosen: list[tuple[int, Bin, int]] = field(default_factory=list)
    """Need, bin, devices."""
    objective: Objective | None = None

    def copy(self) -> Try:
        return Try(dict(self.taken), dict(self.budget), list(self.chosen), self.objective)

    @property
    def weight(self) -> Decimal:
        """The less the better, among tries of one request with an objective of `WEIGHED`."""
        return weight(self.objective, self.chosen)

    def left(self, bin_: Bin) -> int:
        """Devices of a bin that may still be taken: free ones, as far as the quota goes."""
        left = bin_.free - self.taken.get(bin_.number, 0)
        if left > 0 and self.budget and (pool := bin_.offer.pool) in self.budget:
            left = min(left, max(0, self.budget[pool]) // (bin_.units or 1))
        return left

    def take(self, need: int, bin_: Bin, count: int) -> None:
        self.taken[bin_.number] = self.taken.get(bin_.number, 0) + count
        pool = bin_.offer.pool
        if pool in self.budget:
            self.budget[pool] -= count * bin_.units
        self.chosen.append((need, bin_, count))


class _Values:
    """The domains that tied needs could be met in, those with the fewest free devices first."""

    def __init__(self, attribute: str, lists: Lists, touched: int) -> None:
        self._inside: dict[str, dict[int, list[Bin]]] = {}
        self._of_bin: dict[int, str] = {}
        for number, bins in lists.items():
            for each in bins:
                if value := each.offer.device.attributes.get(attribute):
                    self._inside.setdefault(value, {}).setdefault(number, []).append(each)
                    self._of_bin[each.number] = value
        self._free = {value: self._count(value) for value in self._inside}
        self._order = sorted((free, value) for value, free in self._free.items())
        self._touched = touched
        """How many of the changes are counted in."""

    def _count(self, value: str) -> int:
        return sum(each.free for bins in self._inside[value].values() for each in bins)

    def ordered(self, touched: Sequence[int], least: int) -> Iterator[dict[int, list[Bin]]]:
        """The bins by need, of each domain that has at least so many devices free."""
        for bin_ in touched[self._touched :]:
            value = self._of_bin.get(bin_)
            if value is not None and (free := self._count(value)) != self._free[value]:
                del self._order[bisect_left(self._order, (self._free[value], value))]
                insort(self._order, (free, value))
                self._free[value] = free
        self._touched = len(touched)
        first = bisect_left(self._order, (least, ""))
        return (self._inside[value] for _, value in itertools.islice(self._order, first, None))


class Devices:
    """All devices of a stock, and how many of them are free now."""

    def __init__(self, stock: Stock) -> None:
        self.bins = bins_of(stock.offers)
        self._zone_of: dict[tuple[str, frozenset[str] | None], int] = {}
        self._zones = [
            self._zone_of.setdefault((each.fabric, each.offer.device.reachable_hosts), len(self._zone_of))
            for each in self.bins
        ]
        self.reach_all = all(hosts is None for _, hosts in self._zone_of)
        """Whether each device reaches all hosts of its fabric."""
        self._reaches: dict[tuple[int, ...], frozenset[int]] = {}
        self._matches: dict[object, list[Bin]] = {}
        self._eligible: dict[object, list[Bin]] = {}
        self._unmet: dict[object, Unmet] = {}
        self._unmet_of_all: dict[object, Unmet] = {}
        self._groups: dict[object, Groups] = {}
        self._values: dict[object, _Values] = {}
        self._touched: list[int] = []
        """Numbers of bins of which something was taken or given back, in that order."""
        self._tries = 0
        self.gave_up = False
        """Whether `could_be_met` said no without having tried everything."""
        self.choices = 0
        """Times that devices were looked for."""

    @property
    def matchings(self) -> int:
        """Selectors that were held against all devices."""
        return len(self._matches)

    def reach(self, places: Iterable[tuple[str, str]]) -> frozenset[int]:
        """Equal for two machines that the same devices reach; `places` are its (fabric, host)."""
        hosts_of = dict(places)
        zones = tuple(
            zone
            for (of, hosts), zone in self._zone_of.items()
            if of in hosts_of and (hosts is None or hosts_of[of] in hosts)
        )
        return self._reaches.setdefault(zones, frozenset(zones))

    def take(self, parts: Parts) -> None:
        """These are not free any more."""
        for part in parts:
            part.bin.free -= part.count
            self._touched.append(part.bin.number)

    def give_back(self, parts: Parts) -> None:
        """These are free again."""
        for part in parts:
            part.bin.free += part.count
            self._touched.append(part.bin.number)

    def look_again(self) -> None:
        """What was refused may be there now: somebody was moved."""
        self._unmet.clear()

    def could_be_met(self, shape: Shape) -> bool:
        """Whether the devices would suffice if all were free and reached one host, whatever quotas say."""
        unmet, self._unmet = self._unmet, self._unmet_of_all
        self.gave_up = False
        try:
            with self.as_if_free(each.total for each in self.bins):
                return not isinstance(self.choose(shape, None, {}), Unmet)
        finally:
            self._unmet = unmet

    @contextmanager
    def as_if_free(self, counts: Iterable[int]) -> Iterator[Mapping[int, int]]:
        """So many of each bin count as free meanwhile; yields what is free in truth, by the number of the bin."""
        before = {each.number: each.free for each in self.bins}
        for each, count in zip(self.bins, counts, strict=True):
            each.free = count
        try:
            yield before
        finally:
            for each in self.bins:
                each.free = before[each.number]

    def pools_of(self, kind: DeviceKind, choice: Choice) -> set[PoolKey]:
        """The pools that have devices that a choice means, free or not."""
        return {each.offer.pool for each in self._matching(kind, choice)}

    def has_enough(self, shape: Shape, need: Need) -> bool:
        """Whether enough is free for one of the need's choices, wherever it is."""
        number = shape.needs.index(need)
        return any(
            is_enough(need, self.eligible(shape, number, which, None)) for which in range(len(need.choices))
        )

    def _matching(self, kind: DeviceKind, choice: Choice, objective: Objective | None = None) -> list[Bin]:
        """All bins that a choice means, in the order in which they are taken: found once in a pass."""
        key = (kind, choice.selector, choice.least_bytes, objective)
        if key not in self._matches:
            found = [
                each
                for each in self.bins
                if each.offer.device.kind is kind and choice.matches(each.offer.device)
            ]
            if objective is not None:
                found.sort(key=order(objective))
            if kind is not DeviceKind.ACCELERATOR:
                # A size is covered by the smallest device that holds it.
                found.sort(key=lambda each: each.size_bytes)
            self._matches[key] = found
        return self._matches[key]

    def eligible(self, shape: Shape, need: int, choice: int, reach: frozenset[int] | None) -> list[Bin]:
        """The bins that one of the request's needs may be met from by one of its choices, at hosts with this reach,
        whatever is free of them now."""
        key = (shape.asked, need, choice, reach)
        if key not in self._eligible:
            asked_for = shape.needs[need]
            self._eligible[key] = [
                each
                for each in self._matching(asked_for.kind, asked_for.choices[choice], shape.objective)
                if each.offer.pool in shape.allowed_pools
                and (not shape.jurisdictions or each.offer.jurisdiction in shape.jurisdictions)
                and (reach is None or self._zones[each.number] in reach)
            ]
        return self._eligible[key]

    def choose(
        self, shape: Shape, reach: frozenset[int] | None, budget: Budget, *, afresh: bool = False
    ) -> Parts | Unmet:
        """Devices for all needs: of the alternatives, in their order, the first that can all be met.

        What was not met is remembered until `look_again`, but not what is looked for `afresh`.
        """
        # Whatever else is asked of the host: what could not be met cannot be met later in the pass.
        key = asked(shape, reach, budget)
        if not afresh and key in self._unmet:
            return self._unmet[key]
        self.choices += 1
        first: Unmet | None = None
        for choices in itertools.product(*(range(len(need.choices)) for need in shape.needs)):
            lists = {
                number: self.eligible(shape, number, which, reach) for number, which in enumerate(choices)
            }
            found = self._meet_all(shape, lists, budget, (shape.asked, reach, choices))
            if not isinstance(found, Unmet):
                return tuple(
                    Part(
                        shape.needs[number].name,
                        bin_,
                        count,
                        shape.needs[number].choices[choices[number]].name,
                    )
                    for number, bin_, count in found.chosen
                )
            first = first or found
        assert first is not None
        if not afresh:
            self._unmet[key] = first
        return first

    def _meet_all(self, shape: Shape, lists: Lists, budget: Budget, key: object) -> Try | Unmet:
        """Every need, group by group: needs that constraints tie together are met together, accelerators first."""
        done = Try(budget=dict(budget), objective=shape.objective)
        self._tries = 0
        for needs, ties in self.groups(shape):
            tied = {need: lists[need] for need in needs}
            found = self.meet_tied(shape.needs, tied, ties, done, (key, needs))
            if isinstance(found, Unmet):
                return found
            done = found
        return done

    def groups(self, shape: Shape) -> Groups:
        """The needs that constraints tie together."""
        groups = self._groups.get(shape.asked)
        if groups is None:
            groups = self._groups[shape.asked] = _groups(shape.needs, shape.constraints)
        return groups

    def meet_tied(
        self, needs: Sequence[Need], lists: Lists, ties: Sequence[Constraint], before: Try, key: object
    ) -> Try | Unmet:
        """Needs that share domains: the fullest domain that suffices first, so that whole ones stay free.

        `key`: equal where the lists and the first tie are; None: not known.
        """
        if not ties:
            return self._meet(needs, lists, before)
        tie, *rest = ties
        tied = [number for number in lists if needs[number].name in tie.needs]
        unmet = Unmet(needs[tied[0] if tied else next(iter(lists))])
        values = self._values.get(key) if key is not None else None
        if values is None:
            values = _Values(tie.attribute, {number: lists[number] for number in tied}, len(self._touched))
            if key is not None:
                self._values[key] = values
        best: Try | None = None
        for inside in values.ordered(self._touched, sum(needs[number].count for number in tied)):
            if any(not is_enough(needs[number], inside.get(number, ())) for number in tied):
                continue
            if self._tries >= MOST_TRIES:
                self.gave_up = True
                break
            self._tries += 1
            found = self.meet_tied(needs, {**lists, **inside}, rest, before, None)
            if not isinstance(found, Unmet):
                if before.objective not in WEIGHED:
                    return found
                best = found if best is None or found.weight < best.weight else best
        if best is not None:
            return best
        return unmet if tie.required else self.meet_tied(needs, lists, rest, before, None)

    def _meet(self, needs: Sequence[Need], lists: Lists, before: Try) -> Try | Unmet:
        """Each need in turn, from its list."""
        now = before.copy()
        for number, bins in lists.items():
            need = needs[number]
            if need.count:
                if now.objective is Objective.LATENCY:
                    bins = in_few_domains(bins, need.count, now.left)
                met = _first(number, need.count, bins, now)
            elif now.objective in WEIGHED:
                met = _cover_best(number, need.size_bytes, bins, now)
            else:
                met = cover(number, need.size_bytes, bins, now)
            if not met:
                return Unmet(need)
        return now


def is_enough(need: Need, bins: Iterable[Bin]) -> bool:
    """Whether what is free of these bins suffices."""
    if need.count:
        return sum(each.free for each in bins) >= need.count
    return sum(each.free * each.size_bytes for each in bins) >= need.size_bytes


def _first(need: int, count: int, bins: Iterable[Bin], now: Try) -> bool:
    """Take the first `count` that the quota allows."""
    for each in bins:
        if each.free and (left := now.left(each)) > 0:
            taken = min(left, count)
            now.take(need, each, taken)
            count -= taken
            if not count:
                return True
    return False


def cover(need: int, size_bytes: int, bins: Iterable[Bin], now: Try) -> bool:
    """Take devices that hold `size_bytes` together: the largest ones until the smallest that covers the rest."""
    left = [each for each in bins if each.free]
    missing = size_bytes
    while missing > 0:
        while left and now.left(left[-1]) <= 0:
            left.pop()
        if not left:
            return False
        # Ordered by size; of equals the first in the pass's order.
        at = bisect_left(left, min(missing, left[-1].size_bytes), key=lambda each: each.size_bytes)
        while now.left(left[at]) <= 0:
            at += 1
        each = left[at]
        # Of one that is smaller than what is missing, as many as do not exceed it.
        count = min(now.left(each), max(1, missing // (each.size_bytes or 1)))
        now.take(need, each, count)
        missing -= count * each.size_bytes
        if not each.size_bytes:
            return False
    return True


def _cover_best(need: int, size_bytes: int, bins: Sequence[Bin], now: Try) -> bool:
    """As `cover`, from all of the bins or from one pool's: the cheapest way counts, or the one that draws least."""
    of_pool: dict[PoolKey, list[Bin]] = {}
    for each in bins:
        of_pool.setdefault(each.offer.pool, []).append(each)
    tries = [now.copy() for _ in range(len(of_pool) + 1)]
    met = [
        each
        for each, some in zip(tries, (bins, *of_pool.values()), strict=True)
        if cover(need, size_bytes, some, each)
    ]
    if not met:
        return False
    best = min(met, key=lambda each: each.weight)
    now.taken, now.budget, now.chosen = best.taken, best.budget, best.chosen
    return True


def asked(shape: Shape, reach: frozenset[int] | None, budget: Budget) -> object:
    """All that the choice of devices depends on: shapes that differ in the host alone have it in common."""
    return shape.asked, reach, frozenset(budget.items())


def _groups(needs: Sequence[Need], constraints: Sequence[Constraint]) -> Groups:
    """Needs that constraints tie together, by their places, with these constraints; the others alone. Accelerators
    come first."""
    group_of = {need.name: {need.name} for need in needs}
    for constraint in constraints:
        joined = set().union(*(group_of[name] for name in constraint.needs if name in group_of))
        for name in joined:
            group_of[name] = joined
    groups: list[tuple[tuple[int, ...], tuple[Constraint, ...]]] = []
    seen: set[str] = set()
    for need in sorted(needs, key=lambda need: need.kind is not DeviceKind.ACCELERATOR):
        if need.name not in seen:
            names = group_of[need.name]
            seen |= names
            members = tuple(number for number, each in enumerate(needs) if each.name in names)
            groups.append((members, tuple(each for each in constraints if each.needs & names)))
    return tuple(groups)

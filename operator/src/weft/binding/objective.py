"""What decides between sets of devices that would all do: `placement.objective` of a LogicalNode. Pure.

Constraints and the order of alternatives come before it, and it decides for one request at a time: a dearer set is
taken when the cheaper one went to whoever had its turn before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from weft.api.node_shape import Objective
from weft.binding.bins import Bin

WEIGHED = frozenset({Objective.COST, Objective.ENERGY})
"""Objectives for which all domains and kinds of hosts are compared, and not the first that suffices taken."""

Chosen = tuple[int, Bin, int]
"""Need, bin, devices."""


def order(objective: Objective | None) -> Callable[[Bin], tuple[object, ...]]:
    """The sort key in whose order devices are taken."""
    match objective:
        case Objective.PACKING:
            return lambda each: (each.crowding, each.place, each.number)
        case Objective.ENERGY:
            return lambda each: (each.offer.added_watts, each.number)
        case _:
            return lambda each: (each.number,)


def weight(objective: Objective | None, chosen: Iterable[Chosen]) -> Decimal:
    """What is least in the best set: money per hour, or watts more than idle."""
    if objective is Objective.ENERGY:
        return Decimal(sum(count * bin_.offer.added_watts for _, bin_, count in chosen))
    return sum((count * bin_.offer.cost_per_hour for _, bin_, count in chosen), Decimal(0))


def in_few_domains(bins: Sequence[Bin], count: int, left: Callable[[Bin], int]) -> list[Bin]:
    """The bins in an order in which `count` devices come from the fewest interconnect domains; of those that suffice
    for what is missing, from the fullest one. `left` says how many devices of a bin may still be taken."""
    inside: dict[tuple[str, ...], list[Bin]] = {}
    for each in bins:
        inside.setdefault(each.place, []).append(each)
    free = {place: sum(max(0, left(each)) for each in members) for place, members in inside.items()}
    ordered: list[Bin] = []
    while free and count > 0:
        enough = [place for place in free if free[place] >= count]
        # Those that come first in the pass's order among equals: dictionaries keep it.
        place = min(enough, key=free.__getitem__) if enough else max(free, key=free.__getitem__)
        count -= free.pop(place)
        ordered += inside[place]
    return ordered

"""Which bound logical nodes have to give way to the head of the queue. Pure.

Only where each pool of the victim allows it, only for a greater priority, and only if what that frees gives the head
its place: all or nothing. Victims are of the lowest priority; of these the smallest that suffice, the youngest of
equals, and none that could stay. Whoever is on the way out already counts as free first, so that nobody else is asked
to go meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from weft.binding.asked import Shape
from weft.binding.choose import Budget, Unmet
from weft.binding.keeping import Kept
from weft.binding.room import Room
from weft.binding.stock import Holder, Stock

MOST_VICTIMS = 64
"""Logical nodes that are looked at for one request: a bound on what a tenant can cost."""


def victims(room: Room, stock: Stock, kept: Kept, withheld: bool) -> tuple[Holder, ...]:
    """Who has to give way to the head of the queue; empty: nobody, or it would not help.

    `withheld`: whether what is kept for the head is taken from the room's devices already.
    """
    request = kept.request
    if not stock.holders or not request.may_preempt or request.extends or not kept.missing:
        return ()
    search, holders = _Search(room, stock, kept, withheld), stock.holders
    leaving = [each for each in holders if each.is_leaving]
    if search.is_met(leaving):
        return ()
    able = [
        each
        for each in holders
        if not each.is_leaving and each.priority < request.priority and each.may_go_for(request.namespace)
    ]
    # Who was asked to go already stays the one, whoever else came since.
    able.sort(key=lambda each: each.uid)
    able.sort(key=lambda each: each.since, reverse=True)
    able.sort(key=lambda each: (not each.is_told, each.priority, len(each.devices)))
    able = able[:MOST_VICTIMS]
    if not search.is_met([*leaving, *able]):
        return ()
    # The greatest priority, the largest and the oldest is spared first.
    for each in reversed(able):
        rest = [other for other in able if other is not each]
        if search.is_met([*leaving, *rest]):
            able = rest
    return tuple(able)


class _Search:
    """Whether the head would have a place if some were gone."""

    def __init__(self, room: Room, stock: Stock, kept: Kept, withheld: bool) -> None:
        self._room = room
        self._kept = kept
        self._free = [each.free for each in room.devices.bins]
        if withheld:
            for part in kept.parts:
                self._free[part.bin.number] += part.count
        numbers = {each.offer.alike: each.number for each in room.devices.bins}
        self._bin_of = {
            (offer.fabric, offer.device.id): numbers[offer.alike] for offer in stock.offers if offer.held
        }

    def is_met(self, gone: Collection[Holder]) -> bool:
        """Whether the devices suffice at a host that carries nothing then."""
        room, request = self._room, self._kept.request
        free, budget = list(self._free), dict(room.budget(request.namespace))
        hosts_left = room.hosts_left.get(request.namespace, 1)
        for each in gone:
            for device in each.devices:
                if (number := self._bin_of.get(device)) is not None:
                    free[number] += 1
            if each.namespace == request.namespace:
                hosts_left += 1
                for pool, units in each.units.items():
                    if pool in budget:
                        budget[pool] += units
        if hosts_left <= 0:
            return False
        nodes = {each.node_name for each in gone}
        return any(
            self._suffices(request.shape, reach, budget, free)
            for reach in room.hosts.kinds_without(request.shape, nodes, self._kept.places)
        )

    def _suffices(self, shape: Shape, reach: frozenset[int], budget: Budget, free: list[int]) -> bool:
        # Whether a set can be had does not depend on which one is the best.
        shape = replace(shape, objective=None)
        devices = self._room.devices
        with devices.as_if_free(free):
            return not isinstance(devices.choose(shape, reach, budget, afresh=True), Unmet)

"""What is kept for the head of the queue, so that nobody behind it takes what it needs. Pure.

How long others hold their devices is not known, so no time can be promised. What is promised: of all sets of devices
that would do, the head gets the one of which the least is missing, and what is free of it is given to nobody else. So
what is missing only becomes less, until the head has its place, however many small requests come meanwhile. All that
is outside of the set is free for those behind.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from weft.binding.asked import Constraint, Gang, Shape, Waiting, pinned
from weft.binding.bins import Bin
from weft.binding.choose import Devices, Part, Parts, Try, cover, is_enough
from weft.binding.places import Place
from weft.binding.room import Room
from weft.fabric.driver import DeviceKind

MOST_DOMAINS = 16
"""Domains that are looked at for one gang."""
MOST_TRIES = 1000
"""Sets of domains that are looked at for one request at one kind of host: a bound on what a tenant can cost."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What is withheld for one request."""

    request: Waiting
    parts: Parts
    """The free ones of its devices."""
    places: tuple[Place, ...]
    """The hosts for it, as far as there are some already."""
    missing: int
    """Devices that have to be released by others; a host counts as one."""

    @property
    def identity(self) -> Hashable:
        """Equal where the same is withheld."""
        parts = frozenset((part.bin.offer.alike, part.count) for part in self.parts)
        return self.request.uid, self.places, parts


def nearest(room: Room, request: Waiting) -> Kept | None:
    """The set of devices for a request of which the least is missing; None where no release of others suffices."""
    if request.gang is not None:
        return _nearest_domain(room, request, request.gang)
    found = _nearest(room, request, Try(budget=dict(room.budget(request.namespace))))
    return found and found[0]


def _nearest(room: Room, request: Waiting, before: Try) -> tuple[Kept, Try] | None:
    """The same, and what is taken then; `before` is taken already, for others of its gang."""
    best: tuple[Kept, Try] | None = None
    shape, devices = request.shape, room.devices
    for reach in room.hosts.kinds_in_time(shape):
        place = next((each for each in room.hosts.open(shape) if room.hosts.reach(each) == reach), None)
        with devices.as_if_free(each.usable for each in devices.bins) as free:
            search = _Search(devices, shape, free)
            for found in search.sets(reach, before):
                missing = search.missing(found) + (place is None)
                if best is None or missing < best[0].missing:
                    places = () if place is None else (place,)
                    best = Kept(request, search.free_parts(found, before), places, missing), found
    return best


def _nearest_domain(room: Room, request: Waiting, gang: Gang) -> Kept | None:
    """The domain in which the least is missing for all of a gang that have no place yet."""
    held = {(each.request.namespace, each.request.name) for each in room.held.values()}
    members = [each for each in gang.members if (each.namespace, each.name) not in held]
    if not members or room.hosts_left.get(request.namespace, len(members)) < len(members):
        return None
    best: Kept | None = None
    for domain in [gang.domain] if gang.domain else _domains(room, gang.attribute, members):
        kept = _all_of(room, request, [pinned(each, gang.attribute, domain) for each in members])
        if kept is not None and (best is None or kept.missing < best.missing):
            best = kept
    return best


def _domains(room: Room, attribute: str, members: Sequence[Waiting]) -> list[str]:
    """The domains that may suffice, those with the most free accelerators first."""
    free: Counter[str] = Counter()
    usable: Counter[str] = Counter()
    for each in room.devices.bins:
        value = each.offer.device.attributes.get(attribute)
        if value and each.offer.device.kind is DeviceKind.ACCELERATOR:
            free[value] += each.free
            usable[value] += each.usable
    wanted = sum(need.count for each in members for need in each.shape.needs)
    enough = [value for value, count in usable.items() if count >= wanted]
    return sorted(enough, key=lambda value: (-free[value], value))[:MOST_DOMAINS]


def _all_of(room: Room, request: Waiting, members: Sequence[Waiting]) -> Kept | None:
    taken = Try(budget=dict(room.budget(request.namespace)))
    parts: list[Part] = []
    places: list[Place] = []
    devices_missing = 0
    try:
        for each in members:
            found = _nearest(room, each, replace(taken, chosen=[]))
            if found is None:
                return None
            kept, taken = found
            # Devices are counted for all so far, hosts for this one.
            devices_missing = kept.missing - (not kept.places)
            parts += kept.parts
            for place in kept.places:
                room.hosts.take(place)
                places.append(place)
    finally:
        for place in places:
            room.hosts.give_back(place)
    missing = devices_missing + len(members) - len(places)
    return Kept(request, tuple(parts), tuple(places), missing)


class _Search:
    """For one request at one kind of host, while what others hold counts as free."""

    def __init__(self, devices: Devices, shape: Shape, free: Mapping[int, int]) -> None:
        self._devices = devices
        self._shape = shape
        self._free = free
        """What is free in truth, by the number of the bin."""
        self._tries = 0

    def sets(self, reach: frozenset[int], nothing: Try) -> Iterator[Try]:
        """One set of devices for each way to choose among alternatives."""
        shape, devices = self._shape, self._devices
        for choices in itertools.product(*(range(len(need.choices)) for need in shape.needs)):
            done: Try | None = nothing
            for needs, ties in devices.groups(shape):
                lists = {number: devices.eligible(shape, number, choices[number], reach) for number in needs}
                required = [tie for tie in ties if tie.required]
                done = self._meet(lists, required, done) if done is not None else None
            if done is not None:
                yield done

    def missing(self, found: Try) -> int:
        return sum(max(0, count - self._free[number]) for number, count in found.taken.items())

    def free_parts(self, found: Try, before: Try) -> Parts:
        """What is free of a set, less what was taken before it."""
        left = {number: max(0, free - before.taken.get(number, 0)) for number, free in self._free.items()}
        parts = []
        for number, each, count in found.chosen:
            taken = min(count, left[each.number])
            left[each.number] -= taken
            if taken:
                parts.append(Part(self._shape.needs[number].name, each, taken))
        return tuple(parts)

    def _meet(
        self, lists: Mapping[int, Sequence[Bin]], ties: Sequence[Constraint], before: Try
    ) -> Try | None:
        """Needs that share domains, in the domain of which the least is missing."""
        needs = self._shape.needs
        if not ties:
            now = before.copy()
            return now if all(self._take(number, bins, now) for number, bins in lists.items()) else None
        tie, *rest = ties
        tied = [number for number in lists if needs[number].name in tie.needs]
        inside: dict[str, dict[int, list[Bin]]] = {}
        for number in tied:
            for each in lists[number]:
                if value := each.offer.device.attributes.get(tie.attribute):
                    inside.setdefault(value, {}).setdefault(number, []).append(each)
        best: Try | None = None
        least = 0
        for bins in inside.values():
            if self._tries >= MOST_TRIES:
                break
            if any(not is_enough(needs[number], bins.get(number, ())) for number in tied):
                continue
            self._tries += 1
            found = self._meet({**lists, **bins}, rest, before)
            if found is not None and (best is None or self.missing(found) < least):
                best, least = found, self.missing(found)
        return best

    def _take(self, number: int, bins: Sequence[Bin], now: Try) -> bool:
        """What is free first, then what others hold."""
        need = self._shape.needs[number]
        if not need.count:
            some_free = now.copy()
            if cover(number, need.size_bytes, [each for each in bins if self._free[each.number]], some_free):
                now.taken, now.budget, now.chosen = some_free.taken, some_free.budget, some_free.chosen
                return True
            return cover(number, need.size_bytes, bins, now)
        left = need.count
        for only_free in (True, False):
            for each in bins:
                most = now.left(each)
                if only_free:
                    most = min(most, self._free[each.number] - now.taken.get(each.number, 0))
                if left and most > 0:
                    now.take(number, each, min(most, left))
                    left -= min(most, left)
        return not left

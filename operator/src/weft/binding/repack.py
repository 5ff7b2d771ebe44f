"""Room for a request that finds none: what the same pass placed is moved, or loses its place to what asks for more.

Pure. Nothing of a pass is carried out yet, so moving costs nothing but the search. It is bounded, and what was bound
before the pass is not touched.

For each set of devices that the request could be met from (where it is tied to a domain, each domain) those that hold
some of them, or a host that it could have, are taken out, one alone or several one after the other, until the request
fits; then each finds another place, or makes room for itself the same way once more. Where one of them does not, all is
put back, unless more accelerators are placed without it (`make_room` with `may_lose`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence

from weft.binding.asked import Shape, Waiting
from weft.binding.bins import Bin
from weft.binding.room import Held, Room

MOST_MOVES = 300
"""Searches for one request, at one depth: a bound on what a tenant can cost."""
MOST_WORK = 300_000
"""The same for a pass, in bins and placed requests that are looked at: tenths of a second, beside the event loop."""
LEAST_WORK = 15_000
"""The same while a queue waits that was looked at before: milliseconds, because a decision comes with each release."""
DEPTHS = (0, 1, 2, 3)
"""How often those that are moved may move others: the shallow searches, which are short, come first."""


class Repack:
    """Moves within one pass."""

    def __init__(self, room: Room, most_work: int = MOST_WORK) -> None:
        self._room = room
        self._most_work = most_work
        self._done: list[tuple[bool, Held]] = []
        """What was taken (True) and given back since the outermost request asked for room."""
        self._may_lose: Collection[str] = ()
        self._limit = 0
        self.moves = 0
        """Times that a place was looked for."""
        self._work = 0

    def make_room(self, request: Waiting, may_lose: Collection[str] | None = None) -> bool:
        """Place the request, whoever of the pass has to move; False: nothing is changed.

        Those of `may_lose` (uids) lose their place where that lets more accelerators be placed; None: nobody.
        """
        if not self._room.held or self._work > self._most_work or self._is_vain(request, may_lose or ()):
            return False
        self._done = []
        self._may_lose = may_lose or ()
        settled, gain = frozenset({request.uid}), _accelerators(request)
        for depth in DEPTHS:
            self._limit = self.moves + MOST_MOVES
            if self._make_room(request, settled, depth, gain) is not None:
                return True
        return False

    def _is_vain(self, request: Waiting, may_lose: Collection[str]) -> bool:
        """Whether more is asked for than all moves together could set free.

        Who moves within what the request could have sets nothing free; outside of it there is room for as many as are
        free there, whoever changes places; and those of `may_lose` need no other place.
        """
        shape, devices = request.shape, self._room.devices
        for number, need in enumerate(shape.needs):
            if not need.count:
                continue
            eligible = {
                each.number
                for choice in range(len(need.choices))
                for each in devices.eligible(shape, number, choice, None)
            }
            self._work += len(devices.bins)
            free = sum(each.free for each in devices.bins if each.offer.device.kind is need.kind)
            if free >= need.count:
                continue
            free += sum(
                part.count
                for uid in may_lose
                if (held := self._room.held.get(uid)) is not None
                for part in held.parts
                if part.bin.number in eligible
            )
            if free < need.count:
                return True
        return False

    def _make_room(self, request: Waiting, settled: frozenset[str], depth: int, gain: int) -> int | None:
        """Place the request; what is left of `gain`, or None. `gain` is how many accelerators more will be placed if
        nobody loses a place; `settled` may not be moved: the request itself, and those that have moved for it."""
        for movers in self._who_could_move(request.shape, settled):
            if self.moves >= self._limit or self._work > self._most_work:
                return None
            mark = len(self._done)
            left = self._exchange(request, movers, settled, depth, gain)
            if left is not None:
                return left
            self._undo(mark)
        return None

    def _exchange(
        self, request: Waiting, movers: Sequence[Held], settled: frozenset[str], depth: int, gain: int
    ) -> int | None:
        """Take out movers until the request fits, and find each of them another place."""
        out: list[Held] = []
        found = None
        for held in movers:
            self._give_back(held)
            out.append(held)
            found = self._look(request)
            if found is not None:
                break
        if found is None:
            return None
        self._take(found)
        for held in sorted(out, key=_hardness, reverse=True):
            settled |= {held.request.uid}
            if (other := self._look(held.request)) is not None:
                self._take(other)
                continue
            left = self._make_room(held.request, settled, depth - 1, gain) if depth else None
            if left is None and held.request.uid in self._may_lose:
                left = gain - _accelerators(held.request)
            if left is None or left <= 0:
                return None
            gain = left
        return gain

    def _who_could_move(self, shape: Shape, settled: frozenset[str]) -> Iterator[Sequence[Held]]:
        """Sets of those in the way, in the order in which they are taken out; the likeliest first."""
        movable = [held for uid, held in self._room.held.items() if uid not in settled]
        self._work += len(movable)
        held_of: dict[int, list[tuple[Held, int]]] = {}
        for held in movable:
            for part in held.parts:
                held_of.setdefault(part.bin.number, []).append((held, part.count))
        several: list[Sequence[Held]] = []
        seen: set[Held] = set()
        for wanted, missing, by_size in self._wanted(shape):
            amount: dict[Held, int] = {}
            for bin_ in wanted:
                for held, count in held_of.get(bin_.number, ()):
                    amount[held] = amount.get(held, 0) + count * (bin_.size_bytes if by_size else 1)
            if sum(amount.values()) < missing:
                continue
            ordered = sorted(amount, key=_hardness)
            for held in ordered:
                if amount[held] >= missing and held not in seen:
                    seen.add(held)
                    yield (held,)
            small = [held for held in ordered if amount[held] < missing]
            if len(small) > 1:
                several.append(small)
        yield from several
        # Where devices are not what is missing, a host is.
        suited = set(self._room.hosts.suited(shape))
        for held in sorted(movable, key=_hardness):
            if held.place in suited and held not in seen:
                yield (held,)

    def _wanted(self, shape: Shape) -> Iterator[tuple[Sequence[Bin], int, bool]]:
        """Bins that a need could be met from, how much is missing of them, and whether in bytes; the least first."""
        devices, hosts = self._room.devices, self._room.hosts
        found: dict[tuple[int, ...], tuple[Sequence[Bin], int, bool]] = {}
        for number, need in enumerate(shape.needs):
            tie = next(
                (each for each in shape.constraints if each.required and need.name in each.needs), None
            )
            for choice, reach in itertools.product(range(len(need.choices)), hosts.kinds(shape)):
                by_value: dict[str | None, list[Bin]] = {}
                for each in devices.eligible(shape, number, choice, reach):
                    value = each.offer.device.attributes.get(tie.attribute) if tie else ""
                    by_value.setdefault(value, []).append(each)
                by_value.pop(None, None)
                for bins in by_value.values():
                    free = sum(each.free * (1 if need.count else each.size_bytes) for each in bins)
                    missing = max(1, (need.count or need.size_bytes) - free)
                    found.setdefault(tuple(each.number for each in bins), (bins, missing, not need.count))
        return iter(sorted(found.values(), key=lambda item: (item[2], item[1], item[0][0].number)))

    def _look(self, request: Waiting) -> Held | None:
        self.moves += 1
        self._work += len(self._room.devices.bins)
        return self._room.look(request)

    def _take(self, held: Held) -> None:
        self._room.take(held)
        self._done.append((True, held))

    def _give_back(self, held: Held) -> None:
        self._room.give_back(held)
        self._done.append((False, held))

    def _undo(self, mark: int) -> None:
        while len(self._done) > mark:
            was_taken, held = self._done.pop()
            if was_taken:
                self._room.give_back(held)
            else:
                self._room.take(held)


def _hardness(held: Held) -> tuple[object, ...]:
    """Sorts first who finds another place the easiest."""
    shape = held.request.shape
    tied = sum(each.required for each in shape.constraints)
    return bool(tied), _accelerators(held.request), len(shape.needs), held.request.created, held.request.uid


def _accelerators(request: Waiting) -> int:
    return sum(need.count for need in request.shape.needs)

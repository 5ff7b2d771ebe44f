"""The placement algorithm: one pass over all that waits. Pure.

Requests are placed in their turn (`turns.py`); what the head of the queue needs is kept for it (`keeping.py`). For each
one the hosts that suit it are tried, the smallest first; on a host, every need is met from the devices that reach it,
or the host is passed over: all or nothing. Among devices that fit, the cheapest come first, then those from the
interconnect domain with the fewest free devices, so that whole domains stay free for requests that need one. Who finds
no place this way gets one if those that the pass placed before can be moved out of the way and all keep a place
(`repack.py`).

All devices are sorted once and each selector is held against them once, however many requests there are. Within a pass
free devices only become fewer, so requests of a shape that was refused are refused without another look. What a
refused request is told has no number that moves by itself: while the reason stays the same, so does the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from weft.binding.asked import Shape, Waiting
from weft.binding.groups import Groups, Sample, group_of
from weft.binding.keeping import Kept, nearest
from weft.binding.membership import PoolKey
from weft.binding.plan import (
    Assignment,
    Chosen,
    Effort,
    Placement,
    RefusalKey,
    Remembered,
    Told,
    Unused,
    Why,
)
from weft.binding.preemption import victims
from weft.binding.repack import LEAST_WORK, MOST_WORK, Repack
from weft.binding.room import Held, Room
from weft.binding.stock import Holder, Offer, Stock
from weft.binding.stranded import unused
from weft.binding.told import Queue, tell
from weft.binding.turns import Turns
from weft.binding.why import AS_GANG, MOVABLE_REASONS, NOT_FOR_HOSTS, SUSPENDED, Words
from weft.fabric.driver import DeviceKind

MOST_ROUNDS = 3
"""How often it is tried to exchange those that were placed for those that were not."""
MOST_HEADS = 20
"""Requests that are looked at as the head of the queue: a bound on what those cost that nobody's release helps."""


def place(waiting: Iterable[Waiting], stock: Stock, remembered: Remembered | None = None) -> Placement:
    """Place requests, each in its turn. `remembered` is what the pass before left."""
    return place_groups(Groups(waiting), stock, remembered or Remembered())


def place_groups(
    groups: Groups, stock: Stock, remembered: Remembered, *, one_by_one: bool = False
) -> Placement:
    """The same for requests that are kept in groups. `one_by_one`: look at each request of a group, to the same end."""
    head = remembered.head or groups.told_head()
    sample = Sample(groups, head, all_of_them=one_by_one)
    pass_ = _Pass(groups, stock, remembered, LEAST_WORK if head else MOST_WORK)
    turns = pass_.turns(sample.first(), head)
    ordered: list[Waiting] = []
    for request in turns:
        ordered.append(request)
        if pass_.place(request):
            turns.took(request)
            if (another := sample.next_after(request)) is not None:
                turns.add(another)
        elif request in turns.first:
            pass_.keep(request)
    first = {request.uid for request in turns.first}
    for _ in range(MOST_ROUNDS):
        if not pass_.exchange(ordered, first):
            break
    if sample.is_short(pass_.placed):
        # Others were moved for one of a group: those behind it may have their places, too.
        return place_groups(groups, stock, remembered, one_by_one=True)
    return pass_.placement(ordered)


Ordered = Sequence[Waiting]
"""Requests in their turn."""


class _Pass:
    """The state of one pass."""

    def __init__(self, groups: Groups, stock: Stock, remembered: Remembered, most_work: int) -> None:
        self._groups = groups
        self._stock = stock
        self._room = Room(stock)
        self._words = Words(stock, self._room)
        remembered = remembered.for_stock(stock)
        self._refused = dict(remembered.refused)
        self._before = remembered.told
        self._remembered_keys = frozenset(self._refused)
        self._hopeless = set(remembered.hopeless)
        self._possible = set(remembered.possible)
        self._key_of: dict[str, RefusalKey] = {}
        """What a refused request was refused under, by its uid."""
        self._kept: Kept | None = None
        self._behind: Hashable = None
        """What is kept for the head of the queue; None while nothing is."""
        self._totals: Counter[DeviceKind] = Counter()
        for each in self._room.devices.bins:
            self._totals[each.offer.device.kind] += each.total * each.units
        self._searches = 0
        self._repack = Repack(self._room, most_work)
        self._moved = False
        """Whether somebody was moved since the last look at who was refused."""
        self._passed_over = set(remembered.passed_over)
        """Uids of those that lost a place to others that ask for more."""

    # --- what the pass comes to ---

    def placement(self, ordered: Ordered) -> Placement:
        """The devices themselves are handed out last: who is first in turn gets the first ones of each bin."""
        used = {part.bin for held in self._room.held.values() for part in held.parts}
        handed: dict[int, Iterator[Offer]] = {each.number: iter(each.free_offers()) for each in used}
        assignments: list[Assignment] = []
        left: list[Waiting] = []
        for request in ordered:
            if (held := self._room.held.get(request.uid)) is None:
                left.append(request)
                continue
            devices = tuple(
                Chosen(part.need, next(handed[part.bin.number]), part.alternative)
                for part in held.parts
                for _ in range(part.count)
            )
            assignments.append(Assignment(request, self._room.hosts.offers[held.place], devices))
        whys = {group_of(each): self._why(each) for each in left}
        is_new = self._kept is None
        if is_new:
            queue = self.turns([each for each in left if self._why(each).in_queue], "")
            self._kept = next(filter(None, map(self._nearest, self._candidates(queue))), None)
        head = self._kept.request if self._kept is not None else None
        after = Queue(
            lambda these: self.turns(these, "" if is_new else self._head()), self._next_release, head, is_new
        )
        told = tell(self._groups, self.placed, whys, after, self._before)
        effort = Effort(
            1, self._room.devices.matchings, self._searches, self._room.devices.choices, self._repack.moves
        )
        remembered = self._remembered(assignments, left, told)
        gone = self._victims()
        unused_ = self._unused([(each.shape, whys[group_of(each)].reason) for each in left])
        return Placement(tuple(assignments), tuple(told.refusals.values()), effort, remembered, unused_, gone)

    @property
    def placed(self) -> Collection[str]:
        """Uids of those that have a place."""
        return self._room.held.keys()

    def _victims(self) -> tuple[Holder, ...]:
        if self._kept is None:
            return ()
        return victims(self._room, self._stock, self._kept, withheld=self._behind is not None)

    def _unused(self, left: Iterable[tuple[Shape, str]]) -> Mapping[PoolKey, Unused]:
        devices, kept = self._room.devices, self._kept.parts if self._kept is not None else ()
        if self._behind is None:
            # It was chosen after the pass, and nothing is withheld for it yet.
            devices.take(kept)
        return unused(devices.bins, kept, left)

    def _next_release(self, request: Waiting) -> str:
        """Which logical node of the same namespace releases such devices first, as far as that is known."""
        for need in request.shape.needs:
            for choice in need.choices:
                pools = self._room.devices.pools_of(need.kind, choice) & request.shape.allowed_pools
                for pool in sorted(pools):
                    if name := self._stock.next_release.get((request.namespace, pool)):
                        return f"; of this namespace {name} is the next that releases such devices"
        return ""

    def _remembered(self, assignments: Iterable[Assignment], left: Ordered, told: Told) -> Remembered:
        """What was refused, by shape; shapes for which nobody waits any more are forgotten."""
        keys = {self._key_of[each.uid] for each in left if each.uid in self._key_of}
        refused = {key: why for key, why in self._refused.items() if key in keys}
        possible = frozenset(each.possible for each in left) & self._possible
        quota_left = {
            (namespace, pool): units
            for namespace, budget in self._room.quota.items()
            for pool, units in budget.items()
        }
        taken = ((each.offer.fabric, each.offer.device.id) for item in assignments for each in item.devices)
        return Remembered(
            replace(self._stock, quota_left=quota_left, hosts_left=dict(self._room.hosts_left)),
            frozenset(taken),
            frozenset(item.host.node_name for item in assignments),
            refused,
            frozenset(self._hopeless & keys),
            frozenset(self._passed_over & told.refusals.keys()),
            told,
            possible,
            self._head(),
        )

    # --- the queue ---

    def turns(self, waiting: Iterable[Waiting], head: str) -> Turns:
        """Whose turn it is, with what the pass has given away so far."""
        turns = Turns(waiting, self._stock.used, self._totals, self._stock.weights, head)
        for held in self._room.held.values():
            turns.took(held.request)
        return turns

    def _head(self) -> str:
        return self._kept.request.uid if self._kept is not None else ""

    def _candidates(self, queue: Iterable[Waiting]) -> Iterator[Waiting]:
        """Who may be the head of the queue, one of each shape."""
        seen: set[RefusalKey] = set()
        for request in queue:
            key = self._key_of[request.uid]
            if len(seen) < MOST_HEADS and key not in seen:
                seen.add(key)
                yield request

    def _nearest(self, request: Waiting) -> Kept | None:
        return nearest(self._room, request)

    def keep(self, request: Waiting) -> None:
        """Withhold what the request needs from all that have their turn after it."""
        if self._kept is None and self._why(request).in_queue:
            kept = self._nearest(request)
            if kept is not None:
                self._kept, self._behind = kept, kept.identity
                self._room.devices.take(kept.parts)
                for place in kept.places:
                    self._room.hosts.take(place)

    # --- one request ---

    def _key(self, request: Waiting) -> RefusalKey:
        """Requests with one key have one answer."""
        # Without a limit of its own a namespace has the answer of all others that ask for the same.
        namespace = request.namespace if self._room.is_limited(request.namespace) else ""
        on_all: RefusalKey = request.shape, namespace, None
        # What is not there at all, is not there beside what is kept.
        if self._behind is None or on_all in self._refused:
            return on_all
        return request.shape, namespace, self._behind

    def _why(self, request: Waiting) -> Why:
        if request.not_accepted is not None:
            return Why(*request.not_accepted, accepted=False)
        if request.suspended:
            return SUSPENDED
        return self._refused[self._key_of[request.uid]]

    def place(self, request: Waiting) -> bool:
        """Find a place, or the reason why there is none."""
        if not request.has_turn:
            return False
        key = self._key_of[request.uid] = self._key(request)
        if key in self._refused:
            return False
        found = self._search(request)
        if isinstance(found, Held):
            self._room.take(found)
            return True
        if found.reason in NOT_FOR_HOSTS and not self._is_possible(request.possible):
            found = self._words.hopeless(request.possible, found)
            key = self._key_of[request.uid] = (*key[:2], None)
            self._hopeless.add(key)
        elif found.reason in MOVABLE_REASONS and self._repack.make_room(request):
            self._room.devices.look_again()
            self._moved = True
            return True
        self._refused[key] = found
        return False

    def _is_possible(self, shape: Shape) -> bool:
        if shape not in self._possible and self._room.devices.could_be_met(shape):
            self._possible.add(shape)
        return shape in self._possible

    def exchange(self, ordered: Ordered, never: Collection[str]) -> bool:
        """Give places to refused requests that ask for more accelerators than those that lose theirs; whether somebody
        was moved since the last time.

        Only a tenant's own lose theirs, and who has lost one does not lose another: nobody waits for ever because
        others fit better. Those of `never` (uids) lose none: the queue had come to them.
        """
        if self._refused.keys() == self._remembered_keys and not self._moved:
            return False
        may_lose: dict[str, set[str]] = {}
        for uid, held in self._room.held.items():
            if uid not in self._passed_over and uid not in never:
                may_lose.setdefault(held.request.namespace, set()).add(uid)
        before = frozenset(self._room.held)
        # What was refused on all that this pass began with, is refused whoever is moved.
        useless = self._remembered_keys | self._hopeless
        tried: set[tuple[Shape, str]] = set()
        for request in self._left(ordered):
            key, asked = self._key_of[request.uid], (request.shape, request.namespace)
            if key in useless or asked in tried or self._refused[key].reason not in MOVABLE_REASONS:
                continue
            losers = may_lose.get(request.namespace)
            # With nobody to lose a place it was tried in its turn.
            if losers and self._repack.make_room(request, losers):
                self._moved = True
            else:
                tried.add(asked)
        self._passed_over |= before - self._room.held.keys()
        moved, self._moved = self._moved, False
        if moved:
            self._look_again(ordered)
        return moved

    def _left(self, ordered: Ordered) -> Ordered:
        """Those that have a turn and no place."""
        return [each for each in ordered if each.uid not in self._room.held and each.has_turn]

    def _look_again(self, ordered: Ordered) -> None:
        """What was refused on the way may fit now that others were moved, and who lost a place is told why."""
        self._room.devices.look_again()
        left = self._left(ordered)
        for request in left:
            key = self._key_of[request.uid]
            if key not in self._remembered_keys and key not in self._hopeless:
                self._refused.pop(key, None)
        for request in left:
            # What is withheld now was not, perhaps, when it was looked for first.
            key = self._key_of[request.uid] = self._key(request)
            if key not in self._refused:
                found = self._search(request)
                if isinstance(found, Held):
                    self._room.take(found)
                else:
                    self._refused[key] = found

    def _search(self, request: Waiting) -> Held | Why:
        self._searches += 1
        if request.gang is not None:
            return AS_GANG
        budget = self._room.budget(request.namespace)
        why = self._words.before_search(request.shape, request.namespace, budget)
        if why is not None:
            return why
        found, failures = self._room.first_place(request)
        return found if found is not None else self._words.no_place(request.shape, budget, failures)

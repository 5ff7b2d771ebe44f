"""Which logical nodes want a place, kept from one snapshot to the next: only those that something changed for are
looked at. For one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import compress, count
from operator import is_not

from weft.api import DeviceAttachment
from weft.binding import requests
from weft.binding.asked import Shape, Waiting
from weft.binding.decide import wants_place
from weft.binding.grants import Grants
from weft.binding.groups import Groups
from weft.binding.holdings import Owner, owner_of
from weft.binding.membership import PoolKey
from weft.binding.parsed import read_or_none
from weft.binding.requests import Glance, Request, Turn
from weft.cluster import Object
from weft.fabric.driver import Device

NO_POOLS: frozenset[PoolKey] = frozenset()
NO_HOSTS: frozenset[str] = frozenset()

Claims = tuple[DeviceAttachment, ...]


@dataclass(frozen=True)
class Terms:
    """What decides, beside the logical nodes themselves, who wants a place and from where."""

    owners: Set[Owner]
    """Those that have claims which keep them from wanting a place."""
    assigned: Set[str]
    """Uids of those that have a place without claims."""
    avoided: Mapping[str, frozenset[str]]
    """Hosts to pass over, by uid."""
    pools: Mapping[str, frozenset[PoolKey]]
    """Those that are open to a namespace."""
    grants: Grants
    growing: Mapping[Owner, Claims]
    """Claims of those that say that they have not what they ask for."""
    devices: Callable[[Claims], Mapping[tuple[str, str], Device]]
    """What is known of claimed devices, by fabric and name."""


class Wishes:
    """The logical nodes of one snapshot after the other."""

    def __init__(self) -> None:
        self.groups = Groups()
        """Those that want whatever is free."""
        self.adopting: dict[str, Waiting] = {}
        """Those that name what they take over, by uid."""
        self._raws: tuple[Object, ...] = ()
        """Cached objects are never changed in place: one that changed is another one."""
        self._nodes: dict[Owner, _Node] = {}
        self._of_note: set[Owner] = set()
        """Those that may end or want more."""
        self._owners: dict[str, Owner] = {}
        """By uid."""
        self._changed: set[Owner] = set()
        self._wishes: dict[Owner, Waiting] = {}
        self._shapes: dict[Shape, Shape] = {}
        # What was decided on last.
        self._claimed: Set[Owner] = frozenset()
        self._assigned: Set[str] = frozenset()
        self._avoided: Mapping[str, frozenset[str]] = {}
        self._pools: Mapping[str, frozenset[PoolKey]] = {}
        self._turns: dict[tuple[str, str | None], Turn] = {}
        self._growing: Set[Owner] = frozenset()
        self._gangs: dict[str, Waiting] = {}
        """What is in the groups and is no logical node, by uid."""
        self._timed: set[Owner] = set()
        """Those of which only the time tells whether they want a place."""

    def look(self, raws: tuple[Object, ...]) -> None:
        """Take note of which logical nodes there are."""
        if raws is self._raws:
            return
        # Of many nearly all are as they were, in the same order: no table of all is made.
        first = _alike(raws, self._raws)
        before, now = self._raws[first:], raws[first:]
        last = _alike(now[::-1], before[::-1])
        before, now = before[: len(before) - last], now[: len(now) - last]
        stay = set(map(id, before)) & set(map(id, now))
        for raw in before:
            if id(raw) not in stay:
                self._forget(raw)
        for raw in now:
            if id(raw) not in stay:
                self._take(raw)
        self._raws = raws

    def _forget(self, raw: Object) -> None:
        owner = owner_of(raw)
        self._changed.add(owner)
        node = self._nodes.get(owner)
        if node is not None and node.raw is raw:
            del self._nodes[owner]
            self._owners.pop(raw["metadata"]["uid"], None)
            self._of_note.discard(owner)

    def _take(self, raw: Object) -> None:
        node = _Node(raw, Glance.of(raw))
        owner = node.glance.owner
        self._changed.add(owner)
        self._nodes[owner] = node
        self._owners[raw["metadata"]["uid"]] = owner
        if node.glance.may_end or node.glance.wants_more:
            self._of_note.add(owner)
        else:
            self._of_note.discard(owner)

    @property
    def wanting_more(self) -> Iterator[Owner]:
        """Those that said that they have not what they ask for."""
        return (owner for owner in self._of_note if self._nodes[owner].glance.wants_more)

    @property
    def ending(self) -> Iterator[Request]:
        """Those that may be known to give their devices back."""
        nodes = (node for owner in self._of_note if (node := self._nodes[owner]).glance.may_end)
        return (request for node in nodes if (request := node.read()) is not None)

    def update(self, terms: Terms, now: datetime) -> Wishes:
        """Bring up to date who wants what; itself."""
        self._changed |= self._timed | self._changed_by(terms)
        self._timed = set()
        for owner in tuple(self._changed):
            before, wish = self._wishes.pop(owner, None), self._wish(owner, terms, now)
            if wish is not None:
                self._wishes[owner] = wish = before if before == wish else wish
            if before is not None and (wish is None or before.uid != wish.uid):
                self.groups.drop(before.uid)
                self.adopting.pop(before.uid, None)
            if wish is not None and wish.adopt:
                self.groups.drop(wish.uid)
                self.adopting[wish.uid] = wish
            elif wish is not None:
                self.adopting.pop(wish.uid, None)
                self.groups.put(wish)
            self._changed.discard(owner)
        return self

    def lay_gangs(self, gangs: Iterable[Waiting]) -> None:
        """Let these have their places in the queue: each for those of its members that have no devices yet."""
        before, self._gangs = self._gangs, {}
        for each in gangs:
            assert each.gang is not None
            members = each.gang.members
            if each.gang.domain:
                members = tuple(one for one in members if self._lacks(one))
            if members:
                now = replace(each, gang=replace(each.gang, members=members))
                self._gangs[each.uid] = known if (known := before.get(each.uid)) == now else now
        for uid in before.keys() - self._gangs.keys():
            self.groups.drop(uid)
        for each in self._gangs.values():
            self.groups.put(each)

    def _lacks(self, member: Waiting) -> bool:
        owner = member.namespace, member.name
        return owner not in self._nodes or owner in self._wishes

    def _changed_by(self, terms: Terms) -> set[Owner]:
        """Those that something else changed for since the last time."""
        uids = set(terms.assigned ^ self._assigned)
        uids |= {uid for uid, _ in terms.avoided.items() ^ self._avoided.items()}
        turns = {key: terms.grants.turn(*key) for key in self._turns}
        namespaces = {key[0] for key, turn in turns.items() if turn != self._turns[key]}
        for each in terms.pools.keys() | self._pools.keys():
            if terms.pools.get(each) is not self._pools.get(each):
                namespaces.add(each)
        changed = {self._owners[uid] for uid in uids if uid in self._owners}
        changed |= (terms.owners ^ self._claimed) | terms.growing.keys() | self._growing
        if namespaces:
            changed |= {owner for owner in self._nodes if owner[0] in namespaces}
        self._claimed, self._assigned = frozenset(terms.owners), frozenset(terms.assigned)
        self._avoided, self._pools = dict(terms.avoided), dict(terms.pools)
        self._turns, self._growing = turns, frozenset(terms.growing)
        return changed

    def _wish(self, owner: Owner, terms: Terms, now: datetime) -> Waiting | None:
        node = self._nodes.get(owner)
        if node is None:
            return None
        if owner in terms.owners and owner not in terms.growing:
            if not node.glance.may_end:
                node.forget()
            return None
        request = node.read()
        if request is None:
            return None
        if not request.wanting:
            self._timed.add(owner)
            if not wants_place(request.node, (), now):
                return None
        if request.uid in terms.assigned:
            return None
        key = owner[0], request.priority_class
        if key not in self._turns:
            self._turns[key] = terms.grants.turn(*key)
        pools, avoid = terms.pools.get(owner[0], NO_POOLS), terms.avoided.get(request.uid, NO_HOSTS)
        wish: Waiting | None = requests.waiting(request, pools, avoid, self._turns[key])
        if wish is not None and (claims := terms.growing.get(owner)):
            wish = requests.growing(wish, request.node, claims, terms.devices(claims))
        return replace(wish, shape=self._shared(wish.shape)) if wish is not None else None

    def _shared(self, shape: Shape) -> Shape:
        """One object for all equal shapes: they are compared in every pass."""
        if len(self._shapes) > 2 * len(self.groups.members) + 100:
            kept: Iterable[Shape] = (members[0].shape for members in self.groups.members.values())
            self._shapes = {each: each for each in kept}
        return self._shapes.setdefault(shape, shape)


def _alike(these: tuple[Object, ...], those: tuple[Object, ...]) -> int:
    """How many at the beginning are the same objects."""
    return next(compress(count(), map(is_not, these, those)), min(len(these), len(those)))


@dataclass(slots=True)
class _Node:
    """A LogicalNode, parsed when that is needed first."""

    raw: Object
    glance: Glance
    _request: Request | None = None
    _is_read: bool = False

    def read(self) -> Request | None:
        """What it asks for; None: it cannot be read."""
        if not self._is_read:
            self._request, self._is_read = read_or_none(requests.read, self.raw), True
        return self._request

    def forget(self) -> None:
        """It has claims and stays: nobody asks what it asked for, and there are many of these."""
        self._request, self._is_read = None, False

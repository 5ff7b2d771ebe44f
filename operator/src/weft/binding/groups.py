"""Those who wait, in groups of which one answers for all: a pass costs as much as there are groups, not requests.

Within a pass free devices only become fewer. So who asks for the same as somebody of its namespace and priority who was
refused, is refused, too: the first of a group is looked at, and the next one when that one has its place.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping

from weft.binding.asked import Waiting

GroupKey = Hashable
Members = tuple[Waiting, ...]
"""In their turn."""


def group_of(request: Waiting) -> GroupKey:
    """Equal for two requests between which nothing but their age makes a difference."""
    has_none = request.not_accepted, request.suspended
    return request.namespace, request.priority, request.shape, request.whole, has_none


class Groups:
    """Who waits, kept from pass to pass. For one thread."""

    def __init__(self, waiting: Iterable[Waiting] = ()) -> None:
        self._waiting: dict[str, Waiting] = {}
        self._members: dict[GroupKey, Members] = {}
        self._were_heads: set[str] = set()
        lists: dict[GroupKey, list[Waiting]] = {}
        for each in waiting:
            lists.setdefault(self._note(each), []).append(each)
        for key, members in lists.items():
            self._members[key] = tuple(sorted(members, key=_age))

    @property
    def waiting(self) -> Mapping[str, Waiting]:
        """By uid."""
        return self._waiting

    @property
    def members(self) -> Mapping[GroupKey, Members]:
        """By group: another tuple where one came or went."""
        return self._members

    def put(self, request: Waiting) -> None:
        """It waits, as it is now."""
        if self._waiting.get(request.uid) is request:
            return
        self.drop(request.uid)
        key = self._note(request)
        members = list(self._members.get(key, ()))
        insort(members, request, key=_age)
        self._members[key] = tuple(members)

    def drop(self, uid: str) -> None:
        """It waits no more."""
        before = self._waiting.pop(uid, None)
        if before is None:
            return
        self._were_heads.discard(uid)
        key = group_of(before)
        self._members[key] = tuple(each for each in self._members[key] if each is not before)
        if not self._members[key]:
            del self._members[key]

    def told_head(self) -> str:
        """Uid of the one whose status says that it is the head of the queue; the oldest, if several do."""
        told = (self._waiting[uid] for uid in self._were_heads)
        return min(told, key=lambda each: (*_age(each), each.namespace)).uid if self._were_heads else ""

    def _note(self, request: Waiting) -> GroupKey:
        self._waiting[request.uid] = request
        if request.was_head:
            self._were_heads.add(request.uid)
        return group_of(request)


class Sample:
    """The requests that a pass looks at: as many of each group as find a place, and one that does not."""

    def __init__(self, groups: Groups, head: str, *, all_of_them: bool = False) -> None:
        self._groups = groups
        self._at = dict.fromkeys(groups.members, 0)
        """By group, the place of the last one that is looked at because it is its turn."""
        self._seen: dict[str, None] = {}
        if all_of_them:
            self._at = {key: len(members) - 1 for key, members in groups.members.items()}
            self._seen = dict.fromkeys(groups.waiting)
            return
        last: dict[tuple[str, int], Waiting] = {}
        for members in groups.members.values():
            self._seen[members[0].uid] = None
            each = members[-1]
            level = each.namespace, each.priority
            if level not in last or _age(last[level]) < _age(each):
                last[level] = each
        # How long its namespace waits for its turn depends on the youngest of a greater priority.
        self._seen.update((each.uid, None) for each in last.values())
        if head in groups.waiting:
            self._seen[head] = None

    def first(self) -> Iterator[Waiting]:
        """Those that are looked at in any case."""
        return (self._groups.waiting[uid] for uid in self._seen)

    def next_after(self, placed: Waiting) -> Waiting | None:
        """Who is to be looked at now that this one has a place; None: nobody more."""
        key = group_of(placed)
        members, at = self._groups.members[key], self._at[key]
        if members[at] is not placed:
            return None
        while at + 1 < len(members):
            at += 1
            self._at[key] = at
            if members[at].uid not in self._seen:
                self._seen[members[at].uid] = None
                return members[at]
        return None

    def is_short(self, placed: Collection[str]) -> bool:
        """Whether somebody was not looked at though all before it in its group have a place."""
        return any(
            members[at].uid in placed and any(each.uid not in self._seen for each in members[at + 1 :])
            for key, at in self._at.items()
            if at + 1 < len(members := self._groups.members[key])
        )


def _age(request: Waiting) -> tuple[str, str]:
    return request.created, request.name

"""What those that wait are told, and their places in the queue; of a pass only what is not as it was before. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from weft.binding.asked import Waiting
from weft.binding.groups import GroupKey, Groups, Members, group_of
from weft.binding.plan import Refusal, Told, Why
from weft.binding.turns import Turns, place_words


def tell(
    groups: Groups,
    placed: Collection[str],
    whys: Mapping[GroupKey, Why],
    queue: Queue,
    before: Told,
) -> Told:
    """What each one that waits and was not `placed` (uids) is told: the same object as before where nothing changed.

    `whys`: of each group that has such a one.
    """
    waiting, refusals = groups.waiting, dict(before.refusals)
    for uid in (refusals.keys() - waiting.keys()).union(placed):
        refusals.pop(uid, None)
    # Who waits for a release, by group.
    members = {key: groups.members[key] for key, why in whys.items() if why.in_queue}
    for key in {group_of(waiting[uid]) for uid in placed} & members.keys():
        members[key] = tuple(each for each in members[key] if each.uid not in placed)
    stands = queue.stands_on(members), {key: whys[key] for key in members}
    new = [
        each
        for uid, each in waiting.items()
        if ((known := refusals.get(uid)) is None or known.waiting is not each) and uid not in placed
    ]
    places: Mapping[str, str] = {}
    firsts = before.firsts
    if (
        stands != before.queue
        or any(queue.next_release(each) != words for each, words in firsts)
        or any(group_of(each) in members for each in new)
    ):
        ordered = queue.ordered(members)
        places = {request.uid: place_words(rank) for rank, request in enumerate(ordered)}
        firsts = tuple((each, queue.next_release(each)) for each in _first_of_each(ordered))
    for key, why in whys.items():
        if key not in members and before.whys.get(key) != why:
            new += [each for each in groups.members[key] if each.uid not in placed]
    next_release = {each.uid: words for each, words in firsts}
    for request in (*(waiting[uid] for uid in places), *new):
        uid, why = request.uid, whys[group_of(request)]
        message = why.message + next_release.get(uid, "")
        now = Refusal(request, why.reason, message, why.accepted, places.get(uid, ""))
        known = refusals.get(uid)
        if known is None or known.waiting is not request or known != now:
            refusals[uid] = now
    return Told(refusals, whys, stands, firsts)


class Queue:
    """Those whom a release would help, in the order in which they have their turns when the pass is over."""

    def __init__(
        self,
        turns: Callable[[Iterable[Waiting]], Turns],
        next_release: Callable[[Waiting], str],
        head: Waiting | None,
        is_new: bool,
    ) -> None:
        self._turns = turns
        self.next_release = next_release
        """What is said of who releases such devices next."""
        self._head = head
        self._is_new = is_new
        """Whether it became the head in this pass."""

    def stands_on(self, members: Mapping[GroupKey, Members]) -> object:
        """Equal where nobody's place has changed."""
        order = self._turns(()).order({each[0].namespace for each in members.values()})
        return self._head and self._head.uid, self._is_new, order, dict(members)

    def ordered(self, members: Mapping[GroupKey, Members]) -> list[Waiting]:
        """All of them."""
        found = list(self._turns(each for group in members.values() for each in group))
        if self._head is not None and self._is_new:
            found.remove(self._head)
            found.insert(0, self._head)
        return found


def _first_of_each(queue: Iterable[Waiting]) -> Iterator[Waiting]:
    """The first of each namespace: it alone is told who releases next."""
    namespaces: set[str] = set()
    for each in queue:
        if each.namespace not in namespaces:
            namespaces.add(each.namespace)
            yield each

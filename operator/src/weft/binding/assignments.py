"""What placement decided and the logical nodes' controller has not carried out yet.

In the leader's memory only: a new leader places anew. Placement records and writes nothing to the API server; the
controller of the one LogicalNode takes what concerns it. Until its claims exist, an assignment withholds its
devices and its host from the next placement pass (`Snapshot.outstanding`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from weft.api.maintenance import Drain
from weft.binding.keys import LogicalNodeKey, PlacementKey, PoolsKey
from weft.binding.membership import PoolKey
from weft.binding.plan import Assignment, Refusal, Unused
from weft.binding.stock import Holder
from weft.controllers import Enqueue

AGAIN_SECONDS = 15.0
POOLS_SECONDS = 0.5
"""How long what stays free is gathered before the pools say so: a bind changes it several times."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0

Outcome = Assignment | Refusal


class Assignments:
    """Shared by placement and the logical nodes' controller. For one event loop."""

    def __init__(self, enqueue: Enqueue) -> None:
        self._enqueue = enqueue
        self._outcomes: dict[LogicalNodeKey, Outcome] = {}
        self._avoided: dict[str, frozenset[str]] = {}
        self._refused: dict[str, tuple[float, float]] = {}
        """The last pause of a request whose claim the API server refused, and when it is over, by uid."""
        self._unused: Mapping[PoolKey, Unused] = {}
        self._yielding: dict[str, Holder] = {}
        self.generation = 0
        """Grows when a place is wanted or is free that placement does not know of: an outcome or a host to avoid that
        was forgotten."""

    def record(self, outcome: Outcome) -> None:
        """Placement's word on one request; asks for its key only where it says something new.

        A refusal also forgets which hosts the request avoided: what was full may have room in a while.
        """
        waiting = outcome.waiting
        key = LogicalNodeKey(waiting.namespace, waiting.name)
        if isinstance(outcome, Refusal) and self._avoided.pop(waiting.uid, frozenset()):
            self.generation += 1
            self._enqueue(PlacementKey(), AGAIN_SECONDS)
        before, self._outcomes[key] = self._outcomes.get(key), outcome
        if before is None or _words(before) != _words(outcome):
            self._enqueue(key, 0.0)

    @property
    def unused(self) -> Mapping[PoolKey, Unused]:
        """What the last placement left free, by pool."""
        return self._unused

    def left(self, unused: Mapping[PoolKey, Unused]) -> None:
        """What a placement leaves free; asks for the pools' key only where that changed."""
        if unused != self._unused:
            self._unused = unused
            self._enqueue(PoolsKey(), POOLS_SECONDS)

    @property
    def yielding(self) -> frozenset[str]:
        """Uids of the logical nodes that have to give way to one of a greater priority."""
        return frozenset(self._yielding)

    def preempt(self, victims: Iterable[Holder]) -> None:
        """Who has to give way from now on, and nobody else; asks for the keys of those for whom that is new."""
        before, self._yielding = self._yielding, {each.uid: each for each in victims}
        for uid in before.keys() ^ self._yielding.keys():
            each = before.get(uid) or self._yielding[uid]
            self._enqueue(LogicalNodeKey(each.namespace, each.name), 0.0)

    def preempted(self, uid: str) -> Drain | None:
        """How the logical node with this uid is to be freed for another; None: it stays."""
        return each.drain if (each := self._yielding.get(uid)) is not None else None

    def of(self, key: LogicalNodeKey, uid: str) -> Outcome | None:
        """What was decided for the object with this uid; what was decided for an earlier namesake is forgotten."""
        outcome = self._outcomes.get(key)
        if outcome is not None and outcome.waiting.uid != uid:
            self.forget(key)
            return None
        return outcome

    def forget(self, key: LogicalNodeKey) -> None:
        """It was carried out, or lost: whoever says so asks for another where one is wanted."""
        if self._outcomes.pop(key, None) is not None:
            self.generation += 1

    def withdraw(self, key: LogicalNodeKey) -> None:
        """Nobody wants a place any more: what was assigned is free again, and placement does not know of it."""
        if isinstance(self._outcomes.get(key), Assignment):
            self._enqueue(PlacementKey(), 0.0)
        self.forget(key)

    def look_again(self) -> None:
        """Less is kept for somebody than the last placement knew."""
        self._enqueue(PlacementKey(), 0.0)

    def outcomes(self) -> tuple[Outcome, ...]:
        """All that was recorded and not forgotten. Assignments whose claims need not exist yet are among them."""
        return tuple(self._outcomes.values())

    def avoid(self, uid: str, host: str) -> None:
        """The host had no capacity left for the object with this uid: look elsewhere first."""
        self._avoided[uid] = self._avoided.get(uid, frozenset()) | {host}
        self.generation += 1

    def avoided(self, uid: str) -> frozenset[str]:
        """Hosts that the next placement of this object passes over."""
        return self._avoided.get(uid, frozenset())

    def avoided_hosts(self) -> dict[str, frozenset[str]]:
        """All of them, by uid."""
        return dict(self._avoided)

    def refused(self, uid: str, boot: float) -> None:
        """The API server refused its claim: for a pause that doubles no other is made, wherever there is a place."""
        before, _ = self._refused.get(uid, (FIRST_PAUSE_SECONDS / 2, 0.0))
        pause = min(before * 2, LONGEST_PAUSE_SECONDS)
        self._refused[uid] = pause, boot + pause

    def is_paused(self, uid: str, boot: float) -> bool:
        return uid in self._refused and boot < self._refused[uid][1]

    def settled(self, uid: str) -> None:
        """The object is bound, or wants nothing any more: no host need be avoided for it."""
        self._avoided.pop(uid, None)
        self._refused.pop(uid, None)


def _words(outcome: Outcome) -> tuple[object, ...]:
    if isinstance(outcome, Assignment):
        return outcome.waiting.uid, outcome.host, outcome.devices
    plan = outcome.plan and (outcome.plan.host, outcome.plan.devices)
    return outcome.waiting.uid, outcome.reason, outcome.message, outcome.accepted, outcome.place, plan

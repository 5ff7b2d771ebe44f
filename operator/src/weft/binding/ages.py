"""How long logical nodes have been bound, by a clock that does not jump. In the leader's memory."""

from __future__ import annotations

from datetime import datetime

from weft.api import LogicalNode
from weft.api.conditions import find
from weft.controllers import Now


class BoundAges:
    """Seconds since nodes became Bound.

    The wall clock is believed once, when a leader first sees that a node is bound; from then on its own seconds
    count: a clock that is set hours ahead ends no tenant's time, and one that is set back makes none longer.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[datetime, float, float]] = {}
        """By uid: when it became Bound, how long ago that was when it was first seen, and the boot time then."""

    def seconds(self, node: LogicalNode, now: Now) -> float | None:
        """How long the node has been bound; None where it is not, or goes anyway."""
        uid, bound = node.metadata.uid, find(node.status.conditions, "Bound")
        if bound is None or bound.status != "True" or node.metadata.deletion_timestamp is not None:
            self._first.pop(uid, None)
            return None
        known = self._first.get(uid)
        if known is None or known[0] != bound.last_transition_time:
            age = max(0.0, (now.wall - bound.last_transition_time).total_seconds())
            known = self._first[uid] = bound.last_transition_time, age, now.boot
        return known[1] + now.boot - known[2]


class Since:
    """How long something has been so, as far as this process has seen it, by the clock that does not jump."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, float]] = {}

    def seconds(self, key: str, holds: bool, boot: float, since: str = "") -> float | None:
        """Seconds since it was first seen to hold; None: it does not. With another `since` it has ended meanwhile."""
        if not holds:
            self._first.pop(key, None)
            return None
        if (known := self._first.get(key)) is None or known[0] != since:
            known = self._first[key] = since, boot
        return boot - known[1]

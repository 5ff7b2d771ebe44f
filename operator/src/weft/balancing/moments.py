"""When something happened, as objects say it, told in terms of the present wall clock. In the leader's memory."""

from __future__ import annotations

from datetime import datetime, timedelta

from weft.balancing.answers import AnswersSeen
from weft.balancing.engine_calls import Call
from weft.balancing.history import History
from weft.balancing.memory import Asked, Ended, Memory
from weft.balancing.own_speeds import OwnSpeeds
from weft.balancing.record import Record
from weft.balancing.sent_late import SentLate
from weft.controllers import Now

WHOLE_SECONDS = timedelta(seconds=1)
"""Times of conditions are cut off to these: a smaller difference is none."""


class Moments:
    """The recorded moments of one group.

    The wall clock is believed once, when a leader first sees a moment; from then on its own seconds count: a clock that
    is set hours ahead cuts off no drain, and one that is set back holds no decision for hours.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[datetime, float, float, float]] = {}
        """By subject and what happened to it: the moment, how long ago it was when it was first seen, the boot time
        then, and the boot time when it was last asked about."""
        self._asked: set[tuple[str, str]] = set()
        self.metrics = Memory()
        """What was wrong with the group's metrics until just now."""
        self.asked = Asked()
        self.ended = Ended()
        """How often the pods of its replicas ended by themselves."""
        self.calls: dict[str, Call] = {}
        """The last call to each engine that changes its stage by one; a new leader knows none."""
        self.load = History()
        """Its load of the last minutes; a new leader knows none."""
        self.answers = AnswersSeen()
        """What its decode replicas had to write; a new leader knows none."""
        self.record = Record()
        """What became of its promise over the last hours; a new leader knows none."""
        self.sent_late = SentLate()
        """On which of its replicas requests began after they had left."""
        self.speeds = OwnSpeeds()
        """How fast each of its replicas was seen to write answers."""

    def told(self, subject: str, what: str, moment: datetime | None, now: Now) -> datetime | None:
        """The moment as it would have been written had the wall clock always gone as it goes now."""
        if moment is None:
            return None
        key = subject, what
        self._asked.add(key)
        known = self._known.get(key)
        if known is None or known[0] != moment:
            age = max(0.0, (now.wall - moment).total_seconds())
            if known is not None:
                # It happened since the last look, whatever the clock says now.
                age = min(age, now.boot - known[3])
            known = moment, age, now.boot, now.boot
        self._known[key] = (*known[:3], now.boot)
        told = now.wall - timedelta(seconds=known[1] + now.boot - known[2])
        return moment if abs(told - moment) < WHOLE_SECONDS else told

    def since(self, subject: str, what: str, now: Now) -> datetime:
        """When it was first asked for, without a pass since then in which it was not. A new leader begins anew."""
        self._asked.add((subject, what))
        first = self._known.setdefault((subject, what), (now.wall, 0.0, now.boot, now.boot))[2]
        return now.wall - timedelta(seconds=now.boot - first)

    def forget_others(self) -> None:
        """Of what was not asked about since the last time nothing is kept."""
        self._known = {key: known for key, known in self._known.items() if key in self._asked}
        self._asked = set()

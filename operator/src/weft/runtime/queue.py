"""A work queue as controllers need it: a key waits at most once, is worked on by one worker at a time, and comes
back with growing delays while it fails.

Namespaces take turns, and none may hold all workers: a tenant with thousands of keys, or with slow ones, delays
another tenant's key by its own turn. Keys without a namespace have a lane of their own.
"""

from __future__ import annotations

import asyncio
import collections
import heapq
import itertools
from collections.abc import Hashable
from typing import NamedTuple

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 60.0
HURRIED_DELAY_SECONDS = 6.4
EARLY_SECONDS = 0.001
"""So much too early an appointment may come: a timer of a loop that rounds down would go off again and again."""
SHARE = 3
"""A lane is given one more worker while it has fewer than this many times the idle ones: at most 3/4 of all."""


class Appointment(NamedTuple):
    """When a key is to be worked on."""

    at: float
    """Seconds of the event loop's clock."""
    changed: bool
    """Asked for because an object changed, not by a controller: holds against the delay after a failure."""


class WorkQueue:
    """Keys to reconcile, for `workers` workers of one event loop. A key's `namespace`, if it has one, is its lane."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._lanes: collections.OrderedDict[str, collections.deque[Hashable]] = collections.OrderedDict()
        self._waiting: set[Hashable] = set()
        self._working: set[Hashable] = set()
        self._busy: collections.Counter[str] = collections.Counter()
        self._again: dict[Hashable, bool] = {}
        """Keys to work on once more after the work under way, and whether an object of theirs changed."""
        self._failures: dict[Hashable, int] = {}
        self._not_before: dict[Hashable, float] = {}
        self._hurried: set[Hashable] = set()
        """Keys that a change brought before their delay was over."""
        self._timers: list[tuple[float, int, Hashable]] = []
        self._due: dict[Hashable, Appointment] = {}
        self._order = itertools.count()
        self._idle: collections.deque[asyncio.Future[None]] = collections.deque()
        """Workers that wait for a key. One key wakes one of them: all of them would cost more than its work."""
        self._alarm: tuple[float, asyncio.TimerHandle] | None = None
        """For the first of the timers."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: Hashable, seconds: float = 0.0, *, changed: bool = False) -> None:
        """Work on the key in so many seconds; an earlier appointment stands.

        A key that is being worked on comes again afterwards. After a failure a key comes when its delay is over,
        whoever asks for it, unless an object that concerns it `changed`.
        """
        if seconds > 0:
            self._appoint(key, Appointment(asyncio.get_running_loop().time() + seconds, changed))
        elif key in self._working:
            self._again[key] = self._again.get(key, False) or changed
        elif key not in self._waiting and (changed or key not in self._not_before):
            self._make_ready(key)

    def retry(self, key: Hashable, at_least_seconds: float = 0.0) -> float:
        """Work on the key again after a delay that doubles with every failure in a row; returns the delay.

        Tries that changes brought forward double it no further than HURRIED_DELAY_SECONDS: many changes within a
        second of trouble would make it a minute, and what is left to do would wait for that when the trouble is over.
        """
        failures = self._failures.get(key, 0)
        # The exponent is bounded: a key that fails for weeks must not overflow a float.
        doubled = FIRST_DELAY_SECONDS * 2.0 ** min(failures, 16)
        if key in self._hurried and doubled > HURRIED_DELAY_SECONDS:
            doubled /= 2
        else:
            self._failures[key] = failures + 1
        self._hurried.discard(key)
        delay = max(min(doubled, LONGEST_DELAY_SECONDS), at_least_seconds)
        at = asyncio.get_running_loop().time() + delay
        self._not_before[key] = at
        if (due := self._due.get(key)) is not None and not due.changed:
            del self._due[key]
        self._appoint(key, Appointment(at, False))
        return delay

    def succeeded(self, key: Hashable) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)
        self._hurried.discard(key)

    async def take(self) -> Hashable:
        """Wait for a key and mark it as being worked on; give it back with `done`."""
        while (lane := self._next_lane()) is None:
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(woken)
            try:
                await woken
            except asyncio.CancelledError:
                if not woken.cancelled():
                    # It was this one's to take: another one has to.
                    self._wake()
                raise
        return self._give(lane)

    def done(self, key: Hashable) -> None:
        """The work on a key has ended."""
        self._working.discard(key)
        lane = _lane(key)
        self._busy[lane] -= 1
        if not self._busy[lane]:
            del self._busy[lane]
        if key in self._again:
            self.add(key, changed=self._again.pop(key))
        self._wake()

    def _appoint(self, key: Hashable, wanted: Appointment) -> None:
        if not wanted.changed:
            wanted = wanted._replace(at=max(wanted.at, self._not_before.get(key, 0.0)))
        before = self._due.get(key)
        if key in self._waiting or (before is not None and before.at <= wanted.at):
            return
        self._due[key] = wanted
        heapq.heappush(self._timers, (wanted.at, next(self._order), key))
        if len(self._timers) > 2 * len(self._due) + 100:
            # Most are of appointments that no longer stand; a far one would stay for as long.
            self._timers = [
                timer
                for timer in self._timers
                if (due := self._due.get(timer[2])) is not None and due.at == timer[0]
            ]
            heapq.heapify(self._timers)
        self._set_alarm()

    def _set_alarm(self) -> None:
        if not self._timers:
            return
        at = self._timers[0][0]
        if self._alarm is not None:
            if self._alarm[0] <= at:
                return
            self._alarm[1].cancel()
        self._alarm = at, asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        """The first appointment has come, and perhaps others."""
        self._alarm = None
        now = asyncio.get_running_loop().time() + EARLY_SECONDS
        while self._timers and self._timers[0][0] <= now:
            at, _, key = heapq.heappop(self._timers)
            if (due := self._due.get(key)) is not None and due.at == at:
                self._reach(key, due.changed)
        self._set_alarm()

    def _wake(self) -> None:
        """Wake a worker, if one waits and there is something that may be given to it."""
        if self._next_lane() is None:
            return
        while self._idle:
            woken = self._idle.popleft()
            # Those that were told to end meanwhile are cancelled.
            if not woken.done():
                woken.set_result(None)
                return

    def _reach(self, key: Hashable, changed: bool) -> None:
        """An appointment has come."""
        del self._due[key]
        if key in self._working:
            self._again[key] = self._again.get(key, False) or changed
        elif key not in self._waiting:
            self._make_ready(key)

    def _make_ready(self, key: Hashable) -> None:
        self._due.pop(key, None)
        if self._not_before.pop(key, 0.0) > asyncio.get_running_loop().time() + EARLY_SECONDS:
            self._hurried.add(key)
        self._waiting.add(key)
        self._lanes.setdefault(_lane(key), collections.deque()).append(key)
        self._wake()

    def _next_lane(self) -> str | None:
        idle = self._workers - len(self._working)
        return next((lane for lane in self._lanes if self._busy[lane] < SHARE * idle), None)

    def _give(self, lane: str) -> Hashable:
        keys = self._lanes.pop(lane)
        key = keys.popleft()
        if keys:
            # Behind the others: it is their turn.
            self._lanes[lane] = keys
        self._waiting.discard(key)
        self._working.add(key)
        self._busy[lane] += 1
        self._wake()
        return key


def _lane(key: Hashable) -> str:
    return str(getattr(key, "namespace", ""))

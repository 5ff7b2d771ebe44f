"""A work queue as controllers need it: a key waits at most once, is worked on by one worker at a time, and comes
back with growing delays while it fails."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import heapq
import itertools
from typing import NamedTuple

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 60.0


class Key(NamedTuple):
    """What to reconcile."""

    controller: str
    namespace: str
    name: str


class WorkQueue:
    """Keys to reconcile. For one event loop."""

    def __init__(self) -> None:
        self._ready: collections.deque[Key] = collections.deque()
        self._waiting: set[Key] = set()
        self._working: set[Key] = set()
        self._dirty: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._order = itertools.count()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: Key) -> None:
        """Work on the key soon. While it is being worked on, it comes again afterwards."""
        self._due.pop(key, None)
        if key in self._working:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Work on the key in a while; an earlier appointment stands."""
        at = asyncio.get_running_loop().time() + seconds
        if key in self._waiting or self._due.get(key, float("inf")) <= at:
            return
        self._due[key] = at
        heapq.heappush(self._timers, (at, next(self._order), key))
        if len(self._timers) > 2 * len(self._due) + 100:
            # Most are of appointments that no longer stand; a far one would stay for as long.
            self._timers = [timer for timer in self._timers if self._due.get(timer[2]) == timer[0]]
            heapq.heapify(self._timers)
        self._wake.set()

    def retry(self, key: Key) -> float:
        """Work on the key again after a delay that doubles with every failure in a row; returns the delay."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(FIRST_DELAY_SECONDS * 2.0 ** (failures - 1), LONGEST_DELAY_SECONDS)
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: Key) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)

    async def take(self) -> Key:
        """Wait for a key and mark it as being worked on; give it back with `done`."""
        while True:
            now = asyncio.get_running_loop().time()
            while self._timers and self._timers[0][0] <= now:
                at, _, key = heapq.heappop(self._timers)
                if self._due.get(key) == at:
                    self.add(key)
            if self._ready:
                key = self._ready.popleft()
                self._waiting.discard(key)
                self._working.add(key)
                if self._ready:
                    self._wake.set()
                return key
            self._wake.clear()
            timeout = self._timers[0][0] - now if self._timers else None
            # Not wait_for: before Python 3.12 it loses a cancellation that arrives together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()

    def done(self, key: Key) -> None:
        """The work on a key has ended."""
        self._working.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)

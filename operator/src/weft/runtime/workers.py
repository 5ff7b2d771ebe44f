"""Workers take keys from the queue, one reconciliation at a time, and say what keeps failing."""

from __future__ import annotations

import asyncio
import collections
import logging
import re
from collections.abc import Callable, Container, Hashable, Mapping
from functools import partial
from typing import Any

from weft.cluster import ClusterError, ConflictError
from weft.controllers import Controller, Now
from weft.runtime.metrics import OperatorMetrics
from weft.runtime.queue import WorkQueue

log = logging.getLogger(__name__)

SHORT_SECONDS, LONGEST_REST_SECONDS = 0.03, 1.0
"""Work that is over so soon is followed by no rest: one tenant's many objects would keep another's one waiting."""
PASSING_SECONDS = 5.0
"""Conflicts that take longer than this to pass are said: it is not just somebody who wrote at the same time."""
FAILED = "%s failed, is tried again in %.1f s and then less and less often: %s"


class Workers:
    """`controllers` by the type of the keys that they work on; `clock` is read once per reconciliation.

    Keys of the types `rests` are followed by a rest almost as long as the work on them took: what looks at the whole
    cluster would otherwise take the more of a burst's time the more there is, one pass after the other.
    """

    def __init__(
        self,
        controllers: Mapping[type[Hashable], Controller[Any]],
        queue: WorkQueue,
        metrics: OperatorMetrics,
        clock: Callable[[], Now],
        rests: Container[type[Hashable]] = (),
    ) -> None:
        self._controllers = controllers
        self._queue = queue
        self._metrics = metrics
        self._clock = clock
        self._rests = rests
        self._failing: dict[Hashable, str] = {}
        """What the last try of a key ended with, without the numbers in it."""
        for kind in controllers:
            metrics.failing_keys.labels(label(kind)).set_function(partial(self._count, kind))

    def failures(self) -> Mapping[str, int]:
        """How many keys of each controller failed at their last try."""
        return collections.Counter(label(type(key)) for key in self._failing)

    async def work(self) -> None:
        """One worker: reconcile keys until cancelled."""
        while True:
            key = await self._queue.take()
            try:
                now = self._clock()
                await self._reconcile(key, now)
                if type(key) in self._rests:
                    took = self._clock().boot - now.boot
                    await asyncio.sleep(min(max(0.0, took - SHORT_SECONDS), LONGEST_REST_SECONDS))
            finally:
                self._queue.done(key)

    async def _reconcile(self, key: Hashable, now: Now) -> None:
        kind = label(type(key))
        try:
            with self._metrics.reconcile_seconds.labels(kind).time():
                again = await self._controllers[type(key)].reconcile(key, now)
        except ConflictError as error:
            # Somebody else changed the object: the cache hears of it, decide again on the new state.
            delay = self._queue.retry(key)
            if delay > PASSING_SECONDS and self._is_news(key, error, type(error).__name__):
                log.warning(FAILED, key, delay, error)
        except ClusterError as error:
            delay = self._queue.retry(key, error.retry_after_seconds)
            if self._is_news(key, error, f"{type(error).__name__} {error.status}"):
                log.warning(FAILED, key, delay, error)
        except Exception as error:
            delay = self._queue.retry(key)
            if self._is_news(key, error, type(error).__name__):
                log.exception(FAILED, key, delay, error)
        else:
            self._queue.succeeded(key)
            if self._failing.pop(key, None) is not None:
                log.info("%s succeeds again", key)
            if again is not None:
                self._queue.add(key, again)

    def _is_news(self, key: Hashable, error: Exception, name: str) -> bool:
        """Count a failure; whether it is another one than at the key's last try, numbers aside."""
        self._metrics.reconcile_errors.labels(label(type(key)), name).inc()
        words = re.sub(r"\d+", "#", f"{name}: {error}")
        before, self._failing[key] = self._failing.get(key), words
        return before != words

    def _count(self, kind: type[Hashable]) -> float:
        return float(sum(type(key) is kind for key in self._failing))


def label(kind: type[Hashable]) -> str:
    """A controller's name in metrics: that of its keys."""
    return kind.__name__.removesuffix("Key").lower()

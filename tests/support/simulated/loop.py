"""An event loop whose clock is virtual: when nothing is ready it moves on to the next timer. No threads, no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

RESOLUTION = 1e-9
"""Seconds; a real clock's would depend on the machine."""


class Stuck(Exception):
    """Nothing is ready and no timer is set: the program under test waits for ever."""


class _Nothing:
    """A selector without files, which moves the loop's clock instead of waiting."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stuck
        # Work takes a moment, too: who asks for a wait shorter than the clock's resolution comes to its end.
        self._loop.now += max(timeout, 2 * RESOLUTION)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """`now` is in seconds. What an executor is asked for is done at once; its result comes `executor_seconds` later."""

    def __init__(self, now: float, executor_seconds: Callable[[], float]) -> None:
        super().__init__()
        self.now = now
        self._executor_seconds = executor_seconds
        self._selector = _Nothing(self)
        self._clock_resolution = RESOLUTION

    def time(self) -> float:
        return self.now

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001  # as an executor: whatever it is, it is the caller's
            future.set_exception(error)
        else:
            self.call_later(self._executor_seconds(), lambda: future.done() or future.set_result(result))
        return future

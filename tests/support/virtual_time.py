"""An event loop with sockets whose clock is virtual, for a client and a server in one test.

The clock stands still while anything is done, however slow the machine is, and moves on to the next timer when nothing
is left to do. So a test's timeouts are those of the waits that it is about, and cost no time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

ARRIVAL_SECONDS = 0.005
"""Of real time that nothing may have arrived for: what one socket of a process sends another is there at once."""
RESOLUTION = 1e-6
"""Seconds that each look at the clock takes: no two of them see the same time."""


class _Selector(selectors.DefaultSelector):
    """Moves the loop's clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualTimeLoop | None = None

    def select(self, timeout: float | None = None) -> list[Any]:
        loop = self.loop
        if loop is None or timeout is None or timeout <= 0 or loop.in_threads:
            return super().select(timeout if timeout is not None and timeout <= 0 else ARRIVAL_SECONDS)
        if not (events := super().select(ARRIVAL_SECONDS)):
            loop.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`now` is in seconds. While a thread works for the loop, its clock stands still."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.in_threads = 0
        selector = _Selector()
        super().__init__(selector)
        self._clock_resolution = RESOLUTION
        selector.loop = self

    def time(self) -> float:
        self.now += RESOLUTION
        return self.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)  # type: ignore[arg-type]
        self.in_threads += 1
        future.add_done_callback(self._back)
        return future

    def _back(self, _: object) -> None:
        self.in_threads -= 1

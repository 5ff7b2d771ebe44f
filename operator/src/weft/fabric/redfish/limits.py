"""How fast and how wide a manager is asked: slots for requests in flight and a token bucket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from weft.fabric.errors import Transient


class OutOfTime(Transient):
    """The time for this call ran out before the request was sent."""

    def __init__(self) -> None:
        super().__init__("the time for this call ran out before the request was sent")


class Limits:
    """At most `max_in_flight` requests at once, `requests_per_second`, bursts of one second's worth."""

    def __init__(self, max_in_flight: int, requests_per_second: float) -> None:
        self._slots = asyncio.Semaphore(max(1, max_in_flight))
        self._interval_seconds = 1.0 / max(requests_per_second, 0.01)
        self._burst = max(1.0, requests_per_second)
        self._next_at_seconds = 0.0

    @contextlib.asynccontextmanager
    async def turn(self, deadline: float | None) -> AsyncIterator[None]:
        """Hold a slot. Raises Transient when none is free by the deadline (in the event loop's time)."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
                try:
                    await self._token()
                except BaseException:  # a cancellation, too, must give the slot back
                    self._slots.release()
                    raise
        except TimeoutError:
            raise OutOfTime from None
        try:
            yield
        finally:
            self._slots.release()

    async def _token(self) -> None:
        now = asyncio.get_running_loop().time()
        start = max(self._next_at_seconds, now - (self._burst - 1.0) * self._interval_seconds)
        self._next_at_seconds = start + self._interval_seconds
        if start > now:
            try:
                await asyncio.sleep(start - now)
            except asyncio.CancelledError:
                self._next_at_seconds -= (
                    self._interval_seconds
                )  # it was not used: somebody else's request may be
                raise

"""Whether the event loop still turns: what the liveness probe asks."""

from __future__ import annotations

import asyncio
import time

BEAT_SECONDS = 1.0
LIMIT_SECONDS = 30.0


class Heartbeat:
    """Beats on the event loop while `run` runs."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def run(self) -> None:
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    def live(self) -> bool:
        return time.monotonic() - self._last < LIMIT_SECONDS

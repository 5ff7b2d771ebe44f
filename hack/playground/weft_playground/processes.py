"""What the demo's processes share: they end on SIGTERM or SIGINT, and know how late their event loop runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Coroutine
from typing import Any

from weft_playground.lag import LagMeter

HEARTBEAT_SECONDS = 0.05


async def until_stopped(work: Coroutine[Any, Any, Any]) -> None:
    """Run `work` until it ends or a signal asks this process to; then cancel it. Its errors are raised."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def measure_loop(lag: LagMeter) -> None:
    """Observe, for ever, how much later than asked this event loop wakes a sleeper."""
    while True:
        due = time.monotonic() + HEARTBEAT_SECONDS
        await asyncio.sleep(HEARTBEAT_SECONDS)
        lag.observe(time.monotonic() - due)

"""Work that runs beside other work, and waiting for work that events may make pointless."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any


class Tasks:
    """Tasks that end with the block: each is cancelled, at its next await."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(work))
        return self._tasks[-1]

    async def __aenter__(self) -> Tasks:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def finished(work: Awaitable[None], *ends: asyncio.Event) -> bool:
    """Wait for `work`, or give it up at the first of `ends`; returns whether it was finished first."""
    working, ending = asyncio.ensure_future(work), [asyncio.create_task(end.wait()) for end in ends]
    try:
        await asyncio.wait((working, *ending), return_when=asyncio.FIRST_COMPLETED)
        if any(end.is_set() for end in ends):
            return False
        working.result()
        return True
    finally:
        for each in (working, *ending):
            each.cancel()

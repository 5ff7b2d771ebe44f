"""Waiting in a test that runs on an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def eventually(
    check: Callable[[], T | None] | Callable[[], Awaitable[T | None]],
    *,
    what: str = "",
    timeout_seconds: float = 30.0,
    every_seconds: float = 0.1,
) -> T:
    """Call `check` until what it returns is true, and return that.

    Raises AssertionError, with `what` and the last answer, when `timeout_seconds` pass first.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        answer: Any = check()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            found: T = answer
            return found
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{what or 'the condition'} did not hold in {timeout_seconds:g} s: {answer!r}"
            )
        await asyncio.sleep(every_seconds)

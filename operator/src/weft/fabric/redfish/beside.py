"""What takes long of a big rack, beside the event loop: one after the other, of whichever manager.

In threads of their own ten racks would keep the interpreter from the event loop ten times as often, and placement from
a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_thread = ThreadPoolExecutor(1, "redfish")


async def beside(work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """What `work` returns or raises; it computes and waits for nothing."""
    return await asyncio.get_running_loop().run_in_executor(_thread, partial(work, *args, **more))

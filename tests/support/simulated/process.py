"""What an operating system may do to a replica: end it at any message, or stop it for a while."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

from support.simulated.loop import VirtualLoop

CURRENT: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


class Process:
    """One replica's. Its messages pass `sends` on their way out and `back` on their way in."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.dead = False
        self.stopped_until = 0.0
        self.cut_until = 0.0
        """Until when nothing passes between it and the API server."""
        self._tasks: list[asyncio.Task[Any]] = []
        self._kill_in = 0
        self._kill_after = False

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run the replica; what it starts is known to be its own."""
        context = contextvars.copy_context()
        context.run(CURRENT.set, self)
        return context.run(self._loop.create_task, work)

    def owns(self, task: asyncio.Task[Any]) -> None:
        if len(self._tasks) > 100:
            self._tasks = [each for each in self._tasks if not each.done()]
        self._tasks.append(task)

    @property
    def is_stopped(self) -> bool:
        return self.stopped_until > self._loop.now

    @property
    def is_cut_off(self) -> bool:
        return self.cut_until > self._loop.now

    def kill_at(self, messages: int, *, after: bool) -> None:
        """kill -9 at the so many-th message from now (1: the next), before it is sent or `after` it took effect."""
        self._kill_in, self._kill_after = messages, after

    def kill(self) -> None:
        """kill -9."""
        self.dead = True
        for task in self._tasks:
            task.cancel()

    def die(self) -> None:
        """kill -9 from within: raises CancelledError, as everything that the process has under way does next."""
        self.kill()
        raise asyncio.CancelledError

    def sends(self) -> bool:
        """A message leaves; returns whether the process is to `die` once it took effect."""
        if self.dead:
            raise asyncio.CancelledError
        if self._kill_in:
            self._kill_in -= 1
            if self._kill_in == 0:
                if self._kill_after:
                    return True
                self.die()
        return False

    async def back(self) -> None:
        """An answer arrives: nobody reads it while the process is stopped, nor when it is dead."""
        while self.is_stopped and not self.dead:  # noqa: ASYNC110  # it may be stopped again
            await asyncio.sleep(self.stopped_until - self._loop.now)
        if self.dead:
            raise asyncio.CancelledError


def factory(loop: asyncio.AbstractEventLoop, work: Any, context: Any = None) -> asyncio.Task[Any]:
    """The loop's task factory: notes whose task it is."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    process = CURRENT.get(None)
    if process is not None:
        process.owns(task)
    return task

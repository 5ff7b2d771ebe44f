"""A connection between the driver and the manager that the suite can cut, hold up or falsify.

It knows nothing of the protocol but that a client asks and the manager answers: an exchange is what is sent until an
answer comes, and the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from types import TracebackType
from typing import Self


class Lost(enum.Enum):
    """What of an exchange does not arrive."""

    QUESTION = "what was asked did not arrive"
    ANSWER = "the answer did not arrive"


class Proxy:
    """Listens on a port of this machine while it is entered, and passes all on to the manager."""

    def __init__(self, manager: tuple[str, int]) -> None:
        self._manager = manager
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.go_on()

    def go_on(self) -> None:
        """Pass everything on, from now on."""
        self._cut: tuple[int, Lost] | None = None
        self._hanging = False
        self._instead = b""
        self._count = 0
        self.has_cut = False

    def cut(self, number: int, lost: Lost) -> None:
        """Close the connection in the exchange of this number, counted from now on."""
        self.go_on()
        self._cut = number, lost

    def hang(self) -> None:
        """Take what is asked, and neither pass it on nor answer."""
        self._hanging = True

    def say(self, garbage: bytes) -> None:
        """Answer everything with this, and pass nothing on."""
        self._instead = garbage

    async def break_all(self) -> None:
        """Close every connection that is open."""
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.break_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection(*self._manager)
            self._writers.add(upstream)
            state = _Exchange()
            back = asyncio.ensure_future(self._back(answers, writer, state))
            try:
                await self._forth(reader, writer, upstream, state)
            finally:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in filter(None, (writer, upstream)):
                each.transport.abort()
                self._writers.discard(each)
            self._tasks.discard(task)

    async def _forth(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: asyncio.StreamWriter,
        state: _Exchange,
    ) -> None:
        while data := await reader.read(65536):
            if state.answered:
                self._count += 1
                state.number, state.answered = self._count, False
            if self._cut == (state.number, Lost.QUESTION):
                self.has_cut = True
                return
            if self._hanging:
                continue
            if self._instead:
                writer.write(self._instead)
                writer.close()
                await writer.wait_closed()
                return
            upstream.write(data)
            await upstream.drain()

    async def _back(
        self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, state: _Exchange
    ) -> None:
        while data := await answers.read(65536):
            state.answered = True
            if self._cut == (state.number, Lost.ANSWER):
                self.has_cut = True
                break
            if self._hanging:
                continue
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class _Exchange:
    """Where one connection stands."""

    number = 0
    answered = True

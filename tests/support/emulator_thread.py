"""The emulator in a thread of the test's process, for tests that run no event loop of their own, or several."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Self

from aiohttp import web

from weft.emulator.inventory import parse
from weft.emulator.main import Settings, build


class EmulatorThread:
    """A fabric manager while it is entered; `settings.state` keeps what is attached across a restart."""

    def __init__(self, inventory: dict[str, Any], settings: Settings) -> None:
        self._world = parse(inventory)
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="emulator", daemon=True)
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def restart(self) -> None:
        """End the service, with its sessions and tasks, and start it anew at the same address."""
        self._wait(self._stop())
        self._wait(self._start())

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _start(self) -> None:
        runner = web.AppRunner(
            build(self._world, replace(self._settings)), access_log=None, shutdown_timeout=0.1
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._runner, self._port = runner, runner.addresses[0][1]

    async def _stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

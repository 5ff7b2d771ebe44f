"""An HTTP proxy in front of the API server and the fabric manager that can stop the operator at a chosen message.

It counts the messages of a bind or a release (writes to the API server; reads of one host and writes at the
manager) and, at the n-th, calls `kill` either before passing it on or after it took effect, so that the operator
never learns the outcome. Leases, events and polling are passed on uncounted.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}
UNCOUNTED = re.compile(r"/(leases|events)(/|$)|/(fabrics|gpupools|memorypools|storagepools)/")
ONE_HOST = re.compile(r"/redfish/v1/Systems/[^/?]+$")


@dataclass
class Trap:
    """Where to strike next."""

    at: int
    after_effect: bool
    seen: list[str] = field(default_factory=list)
    struck: str = ""


class KillingProxy:
    """Two listeners on loopback, in a thread of its own."""

    def __init__(self, api_url: str, ca_file: Path, fabric_url: str, kill: Callable[[], None]) -> None:
        self._upstream = {"api": api_url.rstrip("/"), "fabric": fabric_url.rstrip("/")}
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._kill = kill
        self._trap: Trap | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.urls: dict[str, str] = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def arm(self, at: int, *, after_effect: bool) -> Trap:
        """Strike at the `at`-th message from now (1 is the first)."""
        self._trap = Trap(at, after_effect)
        return self._trap

    def disarm(self) -> None:
        self._trap = None

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _start(self) -> dict[str, str]:
        no_limit = aiohttp.ClientTimeout(total=None)
        # The watches of killed replicas stay open for a while: a limit would hold up the living.
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=no_limit, auto_decompress=False)
        self._runners: list[web.AppRunner] = []
        urls = {}
        for side in self._upstream:
            app = web.Application(client_max_size=64 << 20)
            app.router.add_route("*", "/{path:.*}", self._handler(side))
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            self._runners.append(runner)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            urls[side] = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return urls

    async def _stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        await self._session.close()
        # Handlers of watches whose client was killed may still wait; nobody will end them later.
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _handler(self, side: str) -> Callable[[web.Request], object]:
        async def handle(request: web.Request) -> web.StreamResponse:
            trap = self._trap if self._counts(side, request) else None
            strike = False
            if trap is not None and not trap.struck:
                trap.seen.append(f"{request.method} {request.path}")
                strike = len(trap.seen) == trap.at
                if strike:
                    trap.struck = trap.seen[-1]
            if strike and trap is not None and not trap.after_effect:
                await asyncio.to_thread(self._kill)
                raise ConnectionResetError
            return await self._pass_on(side, request, strike)

        return handle

    @staticmethod
    def _counts(side: str, request: web.Request) -> bool:
        if side == "fabric":
            return request.method in ("PATCH", "DELETE") or bool(ONE_HOST.search(request.path))
        return request.method != "GET" and not UNCOUNTED.search(request.path)

    async def _pass_on(self, side: str, request: web.Request, strike: bool) -> web.StreamResponse:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_BY_HOP}
        url = self._upstream[side] + request.path_qs
        tls = self._tls if url.startswith("https") else True
        async with self._session.request(
            request.method,
            url,
            headers=headers,
            data=await request.read() or None,
            ssl=tls,
            allow_redirects=False,
        ) as answer:
            if strike:
                await answer.read()
                await asyncio.to_thread(self._kill)
                raise ConnectionResetError
            passed = {key: value for key, value in answer.headers.items() if key.lower() not in HOP_BY_HOP}
            if "Content-Encoding" in answer.headers:
                passed["Content-Encoding"] = answer.headers["Content-Encoding"]
            response = web.StreamResponse(status=answer.status, headers=passed)
            # A client that was killed does not read to the end.
            with contextlib.suppress(ConnectionResetError):
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response

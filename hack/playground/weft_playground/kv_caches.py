"""Which prefilled KV caches are held where: in place of NIXL's side channel, within a process and between pods.

A decode replica takes a cache with what its router hands on from the prefill replica (`kv_transfer_params`). Replicas
of one process find it in a table that they share; another pod's is asked for over HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiohttp import web

SECONDS = 2.0
HOLD_SECONDS = 480.0
"""How long a cache waits for its reader, as in vLLM: a client that went away in between never sends one."""


class KVCaches:
    """The caches of this process's replicas. `address`: host and port at which other pods reach them, if they can."""

    def __init__(self, address: tuple[str, int] | None = None) -> None:
        self._address = address
        self._held: dict[str, Callable[[], None]] = {}
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def hold(self, request_id: str, release: Callable[[], None]) -> dict[str, Any]:
        """Keep a cache until a decode replica has read it, or too long; `release` is called then.

        Returns where it is.
        """
        self._held[request_id] = release
        loop = asyncio.get_running_loop()
        self._expiries[request_id] = loop.call_later(HOLD_SECONDS, self._drop, request_id)
        where: dict[str, Any] = {"remote_request_id": request_id}
        if self._address is not None:
            where["remote_host"], where["remote_port"] = self._address
        return where

    async def holds(self, where: Mapping[str, Any]) -> bool:
        """Whether the cache is there to be read. A replica that does not answer has none."""
        if where.get("remote_request_id") in self._held:
            return True
        return self._elsewhere(where) and await self._ask("GET", where)

    def take(self, where: Mapping[str, Any]) -> None:
        """The reader has its copy, or has no use for it any more."""
        if where["remote_request_id"] in self._held:
            # Not at once: the cache may be on the very model that is in the middle of admitting its reader.
            asyncio.get_running_loop().call_soon(self._drop, where["remote_request_id"])
        elif self._elsewhere(where):
            task = asyncio.create_task(self._release(where))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/kv/{request_id}", self._has)
        app.router.add_delete("/kv/{request_id}", self._delete)

    async def close(self) -> None:
        for expiry in self._expiries.values():
            expiry.cancel()
        await asyncio.gather(*self._tasks)
        if self._session is not None:
            await self._session.close()

    def _elsewhere(self, where: Mapping[str, Any]) -> bool:
        return "remote_host" in where and (where["remote_host"], where["remote_port"]) != self._address

    async def _release(self, where: Mapping[str, Any]) -> None:
        await self._ask("DELETE", where)

    async def _ask(self, method: str, where: Mapping[str, Any]) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS))
        url = f"http://{where['remote_host']}:{where['remote_port']}/kv/{where['remote_request_id']}"
        try:
            async with self._session.request(method, url) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _has(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["request_id"] in self._held else 404)

    async def _delete(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self._drop(request.match_info["request_id"]) else 404)

    def _drop(self, request_id: str) -> bool:
        """Free a cache; returns whether it was held."""
        if (release := self._held.pop(request_id, None)) is None:
            return False
        self._expiries.pop(request_id).cancel()
        release()
        return True

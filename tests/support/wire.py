"""HTTP proxies on loopback that stand between the operator, the API server and fabric managers.

Every message is shown to `treat`, which says what becomes of it (`Treatment`); every answer of the real server is
shown to `heard`, before the client learns of it. One thread serves all listeners.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}
GONE_EVENT = b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","code":410,"reason":"Expired"}}\n'  # noqa: E501
REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 503: "ServiceUnavailable"}


@dataclass(frozen=True)
class Message:
    """One request of the operator."""

    side: str
    """Name of the upstream."""
    method: str
    path: str
    query: str
    body: bytes

    @property
    def is_api(self) -> bool:
        """Whether it goes to the API server; each replica of the operator may have a side of its own."""
        return self.side.startswith("api")

    @property
    def is_watch(self) -> bool:
        return self.method == "GET" and "watch=" in self.query

    def __str__(self) -> str:
        return f"{self.side} {self.method} {self.path}"


class Way(enum.Enum):
    """What becomes of a message."""

    PASS = "pass"
    DROP = "drop"
    """Not passed on; the connection is reset."""
    REFUSE = "refuse"
    """Not passed on; answered with `status`."""
    LOSE = "lose"
    """Passed on; instead of the answer the connection is reset."""
    DENY = "deny"
    """Passed on; the answer is `status` all the same."""
    LIE = "lie"
    """A change that is not passed on, and is answered by 200 with the resource as it is."""
    TWICE = "twice"
    """Passed on twice at the same time; the client gets the later answer."""
    STALE = "stale"
    """Answered as the same request was up to `seconds` ago, where there was one."""
    HALF = "half"
    """The second half of the members is missing in the answer."""
    GARBAGE = "garbage"
    """Passed on; the answer's body is cut short in the middle."""
    KILL_BEFORE = "kill-before"
    """`kill` is called, and the message is not passed on."""
    KILL_AFTER = "kill-after"
    """Passed on; `kill` is called, and the answer goes nowhere."""


@dataclass(frozen=True)
class Treatment:
    """`delay` seconds pass before anything else, whether or not the client is still there."""

    way: Way = Way.PASS
    delay: float = 0.0
    status: int = 0
    seconds: float = 0.0


PASS = Treatment()


class WatchWay(enum.Enum):
    """What becomes of one line of a watch."""

    PASS = "pass"
    HOLD = "hold"
    DROP = "drop"
    END = "end"
    """The stream ends, as after the server's time limit."""
    GONE = "gone"
    """The stream ends with 410: the client has to list anew."""


def _pass_all(_message: Message) -> Treatment:
    return PASS


def _pass_lines(_message: Message) -> WatchWay:
    return WatchWay.PASS


def _hear_nothing(_message: Message, _status: int, _body: bytes) -> None:
    pass


class Wire:
    """The proxies. `urls` has the address of each side."""

    def __init__(self, ca_file: Path) -> None:
        self.urls: dict[str, str] = {}
        self.treat: Callable[[Message], Treatment] = _pass_all
        self.treat_line: Callable[[Message], WatchWay] = _pass_lines
        self.heard: Callable[[Message, int, bytes], None] = _hear_nothing
        self.kill: Callable[[], None] = lambda: None
        self.struck: dict[str, int] = {}
        """How many messages and lines were treated in each way, other than passed."""
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._upstream: dict[str, str] = {}
        self._answers: dict[str, tuple[float, int, dict[str, str], bytes]] = {}
        self._runners: dict[str, web.AppRunner] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._thread.start()
        self._run(self._open())

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def add(self, side: str, url: str) -> str:
        """Stand in front of a server; returns the address to give to the operator."""
        self._upstream[side] = url.rstrip("/")
        self._run(self._listen(side))
        return self.urls[side]

    def remove(self, side: str) -> None:
        self._run(self._runners.pop(side).cleanup())

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _open(self) -> None:
        # The watches of killed replicas stay open for a while: a limit would hold up the living.
        connector = aiohttp.TCPConnector(limit=0)
        no_limit = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=connector, timeout=no_limit, auto_decompress=True)

    async def _listen(self, side: str) -> None:
        app = web.Application(client_max_size=64 << 20)

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._handle(side, request)

        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._runners[side] = runner
        self.urls[side] = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _stop(self) -> None:
        for runner in self._runners.values():
            await runner.cleanup()
        await self._session.close()
        # Handlers of watches whose client was killed may still wait; nobody will end them later.
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _handle(self, side: str, request: web.Request) -> web.StreamResponse:
        message = Message(side, request.method, request.path, request.query_string, await request.read())
        if message.is_watch:
            return await self._watch(message, request)
        treatment = self.treat(message)
        way = treatment.way
        if way is not Way.PASS or treatment.delay:
            self._count(way.value if way is not Way.PASS else "delay")
        if treatment.delay:
            await asyncio.sleep(treatment.delay)
        match way:
            case Way.KILL_BEFORE:
                await asyncio.to_thread(self.kill)
                return self._reset(request)
            case Way.DROP:
                return self._reset(request)
            case Way.REFUSE:
                return _refusal(treatment.status)
            case Way.LIE:
                status, headers, body = await self._ask(message, request, method="GET")
                return web.Response(status=status, headers=headers, body=body)
            case Way.STALE:
                kept = self._answers.get(_key(message))
                if kept is not None and time.monotonic() - kept[0] <= treatment.seconds:
                    return web.Response(status=kept[1], headers=kept[2], body=kept[3])
        if way is Way.TWICE:
            await self._ask(message, request)
        status, headers, body = await self._ask(message, request)
        match way:
            case Way.KILL_AFTER:
                await asyncio.to_thread(self.kill)
                return self._reset(request)
            case Way.LOSE:
                return self._reset(request)
            case Way.DENY:
                return _refusal(treatment.status)
            case Way.HALF:
                body = _half(body)
            case Way.GARBAGE:
                body = body[: len(body) // 2]
        return web.Response(status=status, headers=headers, body=body)

    def _count(self, what: str) -> None:
        self.struck[what] = self.struck.get(what, 0) + 1

    @staticmethod
    def _reset(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    def _send(self, message: Message, request: web.Request, method: str = "") -> Any:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_BY_HOP}
        url = self._upstream[message.side] + request.path_qs
        return self._session.request(
            method or message.method,
            url,
            headers=headers,
            data=message.body if message.body and not method else None,
            ssl=self._tls if url.startswith("https") else True,
            allow_redirects=False,
        )

    async def _ask(
        self, message: Message, request: web.Request, *, method: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        try:
            async with self._send(message, request, method) as answer:
                body = await answer.read()
                status = answer.status
                passed = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
        except aiohttp.ClientError:
            # The server is down.
            return 502, {}, b""
        if not method:
            self.heard(message, status, body)
        if message.method == "GET" and status == 200:
            self._answers[_key(message)] = (time.monotonic(), status, passed, body)
        return status, passed, body

    async def _watch(self, message: Message, request: web.Request) -> web.StreamResponse:
        treatment = self.treat(message)
        if treatment.way is Way.REFUSE:
            self._count(treatment.way.value)
            return _refusal(treatment.status)
        response = web.StreamResponse()
        with contextlib.suppress(aiohttp.ClientError, ConnectionResetError, ConnectionAbortedError):
            async with self._send(message, request) as answer:
                response.set_status(answer.status)
                response.headers["Content-Type"] = answer.headers.get("Content-Type", "application/json")
                await response.prepare(request)
                await self._lines(message, answer, response)
                await response.write_eof()
        return response

    async def _lines(
        self, message: Message, answer: aiohttp.ClientResponse, response: web.StreamResponse
    ) -> None:
        rest = b""
        reading = asyncio.ensure_future(answer.content.readany())
        try:
            while True:
                await asyncio.wait((reading,), timeout=0.1)
                way = self.treat_line(message)
                if way in (WatchWay.END, WatchWay.GONE):
                    self._count(f"watch {way.value}")
                    if way is WatchWay.GONE:
                        await response.write(GONE_EVENT)
                    return
                if way is WatchWay.HOLD or not reading.done():
                    continue
                chunk = reading.result()
                if not chunk:
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                reading = asyncio.ensure_future(answer.content.readany())
                for line in lines:
                    if self.treat_line(message) is WatchWay.DROP:
                        self._count("watch drop")
                    else:
                        await response.write(line + b"\n")
        finally:
            reading.cancel()


def _key(message: Message) -> str:
    return f"{message.side} {message.path}?{message.query}"


def _refusal(status: int) -> web.Response:
    """An error as the API server and as a Redfish service would say it, in one body."""
    text = f"refused by the wire with {status}"
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": status,
        "reason": REASONS.get(status, "InternalError"),
        "message": text,
        "error": {"code": "Base.1.18.GeneralError", "message": text},
    }
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    return web.json_response(body, status=status, headers=headers)


def _half(body: bytes) -> bytes:
    """A collection with the first half of its members, its count untouched."""
    try:
        data = json.loads(body)
    except ValueError:
        return body
    members = data.get("Members") if isinstance(data, dict) else None
    if not isinstance(members, list):
        return body
    return json.dumps(data | {"Members": members[: len(members) // 2]}).encode()

"""HTTP to one Redfish manager: bounded requests to one origin, and errors that say what may have happened."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from weft.fabric.driver import Connection
from weft.fabric.errors import AuthFailed, OutcomeUnknown, Transient
from weft.fabric.redfish.beside import beside
from weft.fabric.redfish.limits import Limits, OutOfTime
from weft.fabric.redfish.mapping import Json, Reply, retry_after_seconds
from weft.fabric.redfish.uris import SERVICE_ROOT, Origin, base_url, canonical, local_path, origin_of
from weft.plain import plain

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_REDIRECTS = 3
MAX_SPELLINGS = 100_000
"""Paths of which something is remembered."""
LARGE = 64 * 1024
"""Bytes of an answer that take about a millisecond to parse."""


Heard = Callable[[str, str, "Reply | None"], None]
"""Told of every request: method, path, and the answer, None if there was none."""


class NoAnswer(Transient):
    """Nothing came back in time, or nobody is there: the next request may wait as long."""


class Transport:
    """Sends requests to the connection's endpoint and nowhere else."""

    def __init__(self, connection: Connection, heard: Heard | None = None) -> None:
        self._connection = connection
        self._heard = heard
        self._limits = Limits(connection.max_in_flight, connection.requests_per_second)
        self._http: aiohttp.ClientSession | None = None
        self._slashed: set[str] = set()
        """Paths that the manager spells with a slash at their end; Weft compares them without."""
        self._known_origin: Origin | None = None
        self._allowed: dict[str, frozenset[str]] = {}

    def allowed(self, path: str) -> frozenset[str] | None:
        """The methods that the manager said it takes at a path when it was last read; None: it did not say."""
        return self._allowed.get(canonical(path))

    @property
    def _origin(self) -> Origin:
        if self._known_origin is None:
            self._known_origin = origin_of(self._connection.endpoint)
        return self._known_origin

    def local(self, link: object, base: str = "") -> str:
        """The path of a link that the manager gave. Raises Transient when it must not be followed."""
        path = local_path(self._origin, link, base)
        plain = canonical(path)
        slashed = path.partition("?")[0].endswith("/") and plain != canonical(SERVICE_ROOT)
        if slashed and len(self._slashed) < MAX_SPELLINGS:
            self._slashed.add(plain)
        return path

    def path_of(self, link: object, base: str) -> str:
        """The path of a link, whatever name of the manager stands before it. Raises Transient."""
        path = urlsplit(link).path if isinstance(link, str) else link
        return local_path(self._origin, path, base)

    def spelled(self, path: str) -> str:
        """The path with the last slash, where the manager's own links have it."""
        plain, mark, query = path.partition("?")
        return f"{plain}/{mark}{query}" if plain in self._slashed else path

    async def send(
        self,
        method: str,
        path: str,
        *,
        login: Mapping[str, str] | None = None,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
        follow: bool = False,
    ) -> Reply:
        """One request and its answer, whatever its status.

        Redirects within the origin are followed by a GET, with `follow` by others (not where the method would
        change), and by all where only a slash is added or taken away: the redirected request had no effect.

        Raises Transient when nothing was sent or only read, OutcomeUnknown when a write got no usable answer,
        and AuthFailed when TLS fails.
        """
        sent = {**(headers or {}), **(login or {})}
        path = self.spelled(path)
        for _ in range(MAX_REDIRECTS):
            async with self._limits.turn(deadline):
                reply = await self._told(method, path, body, sent, deadline)
            if reply.status not in (301, 302, 307, 308):
                return reply
            try:
                target = self.local(reply.location, base=path)
            except Transient:
                return reply  # leads elsewhere: an error, told by its status
            same = canonical(target) == canonical(path)
            if not (method == "GET" or same or (follow and reply.status in (307, 308))):
                return reply
            if same and not target.endswith("/"):
                self._slashed.discard(canonical(path))
            path = target
        raise Transient(f"{path}: the manager redirects without end")

    async def _told(
        self, method: str, path: str, body: Json | None, headers: Mapping[str, str], deadline: float | None
    ) -> Reply:
        reply: Reply | None = None
        try:
            reply = await self._exchange(method, path, body, headers, deadline)
            return reply
        finally:
            self._connection.requested(method, reply.status if reply is not None else 0)
            if self._heard is not None:
                self._heard(method, path, reply)

    async def _exchange(
        self,
        method: str,
        path: str,
        body: Json | None,
        headers: Mapping[str, str],
        deadline: float | None,
    ) -> Reply:
        seconds = self._connection.request_timeout_seconds
        if deadline is not None:
            seconds = min(seconds, deadline - asyncio.get_running_loop().time())
            if seconds <= 0:
                raise OutOfTime
        http = self._client()
        # Encoded already, and yarl would change the quoting of `$expand`.
        url = URL(base_url(self._origin) + path, encoded=True)
        try:
            async with http.request(
                method,
                url,
                json=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds, connect=seconds, sock_connect=seconds),
            ) as response:
                data = await self._read(response)
                if method == "GET" and response.ok:
                    self._note_allowed(path, response.headers.getall("Allow", []))
            return self._reply(method, path, response, data, await _parsed(data))
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise AuthFailed(
                f"TLS to {self._connection.endpoint} failed; check the Fabric's CA bundle and that the "
                f"certificate names this host: {error}"
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NoAnswer(f"cannot connect to {self._connection.endpoint}: {plain(error)}") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # ValueError: aiohttp's parser on header values that are not HTTP.
            kind = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
            text = f"{method} {path}: {kind}: {error}"
            if method != "GET":
                raise OutcomeUnknown(text) from error
            if isinstance(error, TimeoutError) and seconds < self._connection.request_timeout_seconds:
                raise OutOfTime from error  # the manager might have answered in its time
            raise (NoAnswer if isinstance(error, TimeoutError) else Transient)(text) from error

    def _note_allowed(self, path: str, headers: Sequence[str]) -> None:
        words = (word.strip().upper() for header in headers for word in header.split(","))
        methods = frozenset(word for word in words if word.isalpha())
        if not methods:
            self._allowed.pop(canonical(path), None)
        elif len(self._allowed) < MAX_SPELLINGS or canonical(path) in self._allowed:
            self._allowed[canonical(path)] = methods

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_chunked(1 << 16):
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                response.close()
                raise aiohttp.ClientPayloadError(f"the answer is larger than {MAX_BODY_BYTES} bytes")
        return bytes(data)

    def _reply(
        self, method: str, path: str, response: aiohttp.ClientResponse, data: bytes, body: Any
    ) -> Reply:
        if not isinstance(body, dict):
            if 200 <= response.status < 300:
                text = f"{method} {path}: the answer is not a JSON object"
                raise Transient(text) if method == "GET" else OutcomeUnknown(text)
            body = {}
        etag = response.headers.get("ETag") or body.get("@odata.etag")
        return Reply(
            path=path,
            status=response.status,
            body=body,
            etag=etag if isinstance(etag, str) and etag.isascii() and etag.isprintable() else "",
            location=response.headers.get("Location", ""),
            retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC)),
            token=response.headers.get("X-Auth-Token", ""),
            challenge=response.headers.get("WWW-Authenticate", ""),
        )

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            context: ssl.SSLContext | bool = True
            if self._connection.ca_pem and self._origin[0] == "https":
                try:
                    context = ssl.create_default_context(cadata=self._connection.ca_pem)
                except (ssl.SSLError, ValueError) as error:
                    raise AuthFailed(f"the Fabric's CA bundle holds no PEM certificates: {error}") from error
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json", "Accept-Encoding": "identity", "OData-Version": "4.0"},
            )
        return self._http

    async def close(self) -> None:
        """End the connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()


async def _parsed(data: bytes) -> Any:
    """What an answer says: an empty one nothing, and None where it is not JSON.

    A rack that comes in one answer takes tens of milliseconds, in which no bind would go on: that is parsed beside the
    event loop. Python's own parser keeps the interpreter to its end, unless it calls something written in Python.
    """
    try:
        if len(data) < LARGE:
            return json.loads(data) if data else {}
        return await beside(json.loads, data, object_hook=_as_it_is)
    except (ValueError, RecursionError):
        return None


def _as_it_is(obj: Json) -> Json:
    return obj

"""HTTP to one Redfish manager: login, bounded requests, errors by whether a change may have happened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
from yarl import URL

from weft.fabric.driver import Connection
from weft.fabric.errors import (
    AuthFailed,
    FabricError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Transient,
    Unsupported,
)
from weft.fabric.redfish.limits import OUT_OF_TIME, Limits
from weft.fabric.redfish.mapping import Json, Reply, error_of, mapping_at, retry_after_seconds
from weft.fabric.redfish.uris import SERVICE_ROOT, Origin, base_url, canonical, local_path, origin_of

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_REDIRECTS = 3
LOGIN_PAUSE_SECONDS = 5.0
SESSION_CONTEXT = "weft"
"""`Session.Context` of our sessions, by which a later leader finds them."""


class Session:
    """A manager's origin, our login there and the limits of the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._limits = Limits(connection.max_in_flight, connection.requests_per_second)
        self._login = asyncio.Lock()
        self._http: aiohttp.ClientSession | None = None
        self._origin: Origin | None = None
        self._token = ""
        self._refusal: tuple[float, str] | None = None
        self.uri = ""
        """Our Session resource at the manager; empty without a login."""

    @property
    def anonymous(self) -> bool:
        """True when there are no credentials: nothing is logged in."""
        return not self._connection.username

    @property
    def max_in_flight(self) -> int:
        """How many requests may be under way at once."""
        return max(1, self._connection.max_in_flight)

    @property
    def timeout_seconds(self) -> float:
        """The limit of one request."""
        return self._connection.request_timeout_seconds

    def local(self, link: object) -> str:
        """The path of a link that the manager gave. Raises Transient when it must not be followed."""
        if self._origin is None:
            self._origin = origin_of(self._connection.endpoint)
        return local_path(self._origin, link)

    async def get(self, link: object, *, deadline: float | None = None, renew: bool = True) -> Reply:
        """Read one resource.

        A session that has ended is renewed once, unless `renew` is False. `deadline` is in the loop's time.
        Raises a FabricError for every answer but success.
        """
        path = self.local(link)
        token = await self._token_for(path, deadline)
        reply = await self._send("GET", path, token=token, deadline=deadline)
        if reply.status == 401 and token:
            self._forget(token)
            if not renew:
                raise Transient(f"{path}: our session at the manager has ended; the next call logs in again")
            token = await self._token_for(path, deadline)
            reply = await self._send("GET", path, token=token, deadline=deadline)
        self._raise(reply, write=False, token=token)
        return reply

    async def write(
        self, method: str, link: object, body: Json | None, *, headers: Mapping[str, str], deadline: float
    ) -> Reply:
        """Change one resource, at most once.

        A write is not sent after `deadline`, and never again under a new session: a leader whose session was
        revoked must not slip through by logging in. Raises Transient when it was surely not carried out, and
        OutcomeUnknown when nobody can say.
        """
        path = self.local(link)
        token = await self._token_for(path, deadline)
        reply = await self._send(method, path, token=token, body=body, headers=headers, deadline=deadline)
        if reply.status == 401 and token:
            self._forget(token)
            raise Transient(f"{path}: our session at the manager has ended; the next call logs in again")
        self._raise(reply, write=True, token=token)
        return reply

    def _raise(self, reply: Reply, *, write: bool, token: str) -> None:
        error = error_of(reply, write=write)
        if reply.status == 401:
            self._forget(token)
        if isinstance(error, AuthFailed):
            who = "without credentials" if self.anonymous else f"as {self._connection.username!r}"
            raise AuthFailed(f"the manager refuses us {who}; check the Fabric's credentials Secret: {error}")
        if error is not None:
            raise error

    def _forget(self, token: str) -> None:
        if token and token == self._token:
            self._token = self.uri = ""

    async def _token_for(self, path: str, deadline: float | None) -> str:
        if self.anonymous or canonical(path) == canonical(SERVICE_ROOT):
            return self._token
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline), self._login:
                if self._refusal and loop.time() < self._refusal[0]:
                    raise AuthFailed(self._refusal[1])
                if not self._token:
                    await self._log_in()
                return self._token
        except TimeoutError:
            raise Transient(OUT_OF_TIME) from None
        except AuthFailed as error:
            # Requests that wait for this login must not each try it: managers lock accounts.
            if not self._refusal or loop.time() >= self._refusal[0]:
                self._refusal = (loop.time() + LOGIN_PAUSE_SECONDS, str(error))
            raise

    async def _log_in(self) -> None:
        root = await self._send("GET", SERVICE_ROOT)
        self._raise(root, write=False, token="")
        link = mapping_at(root.body, "Links", "Sessions").get("@odata.id")
        sessions = self.local(link or f"{SERVICE_ROOT}SessionService/Sessions")
        body = {"UserName": self._connection.username, "Password": self._connection.password}
        reply = await self._post_session(sessions, body | {"Context": SESSION_CONTEXT})
        if reply.status in (400, 422):
            # Context came with Session v1.5; older managers refuse the unknown property.
            reply = await self._post_session(sessions, body)
        error = error_of(reply, write=False)
        if isinstance(error, AuthFailed | InvalidRequest | NotFound | Unsupported):
            raise AuthFailed(
                f"the manager refused the login as {self._connection.username!r}; "
                f"check the Fabric's credentials Secret: {error}"
            )
        if error is not None:
            raise error
        if not reply.token:
            raise AuthFailed("the manager answered the login without X-Auth-Token: it has no session login")
        self._token = reply.token
        with contextlib.suppress(
            Transient
        ):  # a manager that names no session cannot be logged out of: no harm
            self.uri = canonical(self.local(reply.location or reply.body.get("@odata.id")))

    async def _post_session(self, path: str, body: Json) -> Reply:
        try:
            return await self._send("POST", path, body=body)
        except OutcomeUnknown as error:
            raise Transient(str(error)) from error  # a login that got lost changes no attachment

    async def _send(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> Reply:
        """One request and its answer, whatever its status; a GET follows redirects within the origin."""
        for _ in range(MAX_REDIRECTS):
            async with self._limits.turn(deadline):
                reply = await self._exchange(method, path, token, body, headers or {}, deadline)
            if method != "GET" or reply.status not in (301, 302, 307, 308):
                return reply
            try:
                path = self.local(reply.location)
            except Transient:
                return reply  # leads elsewhere: an error, told by its status
        raise Transient(f"{path}: the manager redirects without end")

    async def _exchange(
        self,
        method: str,
        path: str,
        token: str,
        body: Json | None,
        headers: Mapping[str, str],
        deadline: float | None,
    ) -> Reply:
        seconds = self.timeout_seconds
        if deadline is not None:
            seconds = min(seconds, deadline - asyncio.get_running_loop().time())
            if seconds <= 0:
                raise Transient(OUT_OF_TIME)
        http = self._client()
        assert self._origin is not None
        # Encoded already, and yarl would change the quoting of `$expand`.
        url = URL(base_url(self._origin) + path, encoded=True)
        sent = {**headers, **({"X-Auth-Token": token} if token else {})}
        try:
            async with http.request(
                method,
                url,
                json=body,
                headers=sent,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds, connect=seconds, sock_connect=seconds),
            ) as response:
                data = await self._read(response)
                return self._reply(method, path, response, data)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise AuthFailed(
                f"TLS to {self._connection.endpoint} failed; check the Fabric's CA bundle and that the "
                f"certificate names this host: {error}"
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Transient(f"cannot connect to {self._connection.endpoint}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # ValueError: aiohttp's parser on header values that are not HTTP.
            kind = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
            text = f"{method} {path}: {kind}: {error}"
            raise Transient(text) if method == "GET" else OutcomeUnknown(text) from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_chunked(1 << 16):
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                response.close()
                raise aiohttp.ClientPayloadError(f"the answer is larger than {MAX_BODY_BYTES} bytes")
        return bytes(data)

    def _reply(self, method: str, path: str, response: aiohttp.ClientResponse, data: bytes) -> Reply:
        body: Any = {}
        if data:
            try:
                body = json.loads(data)
            except (ValueError, RecursionError):
                body = None
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
        )

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._origin = origin_of(self._connection.endpoint)
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
        """Log out, as far as the manager answers, and end the connections."""
        http, self._http = self._http, None
        if http is None:
            return
        self._http = http
        if self._token and self.uri:
            with contextlib.suppress(FabricError):  # it ends by itself at the manager's session timeout
                deadline = asyncio.get_running_loop().time() + self.timeout_seconds
                await self._send("DELETE", self.uri, token=self._token, deadline=deadline)
        self._token = self.uri = ""
        self._http = None
        await http.close()

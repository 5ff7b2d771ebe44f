"""Our session at one Redfish manager: requests under a login, and answers that are errors raised as such."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

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
from weft.fabric.redfish.limits import OutOfTime
from weft.fabric.redfish.mapping import Json, Reply, error_of, mapping_at
from weft.fabric.redfish.transport import Transport
from weft.fabric.redfish.uris import SERVICE_ROOT, canonical

LOGIN_PAUSE_SECONDS = 5.0
SESSION_ENDED = "our session at the manager has ended; the next call logs in again"
SESSION_CONTEXT = "weft"
"""`Session.Context` of our sessions, by which a later leader finds them."""


class Forbidden(AuthFailed):
    """The login is good, and not enough for this resource."""


class Session:
    """A manager's origin, our login there and the limits of the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport = Transport(connection)
        self._logging_in = asyncio.Lock()
        self._token = ""
        self._login_number = 0
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

    def local(self, link: object, base: str = "") -> str:
        """The path of a link that the manager gave, of a page relative to the collection's (`base`).

        Raises Transient when it must not be followed.
        """
        return self._transport.local(link, base)

    async def log_in(self, deadline: float) -> int:
        """The number of our login at the manager, made now if there is none.

        A call that writes does all its requests under one login: a leader whose session was revoked in the
        meantime must not slip through under a new one.
        """
        await self._token_for("", deadline, None)
        return self._login_number

    async def get(self, link: object, *, deadline: float | None = None, login: int | None = None) -> Reply:
        """Read one resource.

        A session that has ended is renewed once; with `login`, it has to be that one. `deadline` is in the
        event loop's time. Raises a FabricError for every answer but success.
        """
        path = self.local(link)
        token = await self._token_for(path, deadline, login)
        reply = await self._transport.send("GET", path, token=token, deadline=deadline)
        if reply.status == 401 and token:
            self._forget(token)
            token = await self._token_for(path, deadline, login)
            reply = await self._transport.send("GET", path, token=token, deadline=deadline)
        self._raise(reply, write=False, token=token)
        return reply

    async def write(
        self,
        method: str,
        link: object,
        body: Json | None,
        *,
        headers: Mapping[str, str],
        deadline: float,
        login: int,
    ) -> Reply:
        """Change one resource, at most once, under the given login, and not after `deadline`.

        Raises Transient when it was surely not carried out, and OutcomeUnknown when nobody can say.
        """
        path = self.local(link)
        token = await self._token_for(path, deadline, login)
        reply = await self._transport.send(
            method, path, token=token, body=body, headers=headers, deadline=deadline
        )
        if reply.status == 401 and token:
            self._forget(token)
            raise Transient(SESSION_ENDED)
        self._raise(reply, write=True, token=token)
        return reply

    def _raise(self, reply: Reply, *, write: bool, token: str) -> None:
        error = error_of(reply, write=write)
        if reply.status == 401:
            self._forget(token)
        if isinstance(error, AuthFailed):
            who = "without credentials" if self.anonymous else f"as {self._connection.username!r}"
            kind = Forbidden if reply.status == 403 else AuthFailed
            raise kind(f"the manager refuses us {who}; check the Fabric's credentials Secret: {error}")
        if error is not None:
            raise error

    def _forget(self, token: str) -> None:
        if token and token == self._token:
            self._token = self.uri = ""

    async def _token_for(self, path: str, deadline: float | None, login: int | None) -> str:
        if self.anonymous or canonical(path) == canonical(SERVICE_ROOT):
            return self._token
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline), self._logging_in:
                if self._refusal and loop.time() < self._refusal[0]:
                    raise AuthFailed(self._refusal[1])
                if login is not None and (login != self._login_number or not self._token):
                    raise Transient(SESSION_ENDED)
                if not self._token:
                    await self._new_session()
                return self._token
        except TimeoutError:
            raise OutOfTime from None
        except AuthFailed as error:
            # Requests that wait for this login must not each try it: managers lock accounts.
            if not self._refusal or loop.time() >= self._refusal[0]:
                self._refusal = (loop.time() + LOGIN_PAUSE_SECONDS, str(error))
            raise

    async def _new_session(self) -> None:
        root = await self._transport.send("GET", SERVICE_ROOT)
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
        self._login_number += 1
        # A manager that does not name the session cannot be logged out of: no harm.
        with contextlib.suppress(Transient):
            self.uri = canonical(self.local(reply.location or reply.body.get("@odata.id")))

    async def _post_session(self, path: str, body: Json) -> Reply:
        try:
            return await self._transport.send("POST", path, body=body)
        except OutcomeUnknown as error:
            raise Transient(str(error)) from error  # a login that got lost changes no attachment

    async def close(self) -> None:
        """Log out, as far as the manager answers, and end the connections."""
        if self._token and self.uri:
            with contextlib.suppress(FabricError):  # it ends by itself at the manager's session timeout
                deadline = asyncio.get_running_loop().time() + self.timeout_seconds
                await self._transport.send("DELETE", self.uri, token=self._token, deadline=deadline)
        self._token = self.uri = ""
        await self._transport.close()

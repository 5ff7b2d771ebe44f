"""Our session at one Redfish manager: requests under a login, and answers that are errors raised as such."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Mapping

from weft.fabric.driver import Connection
from weft.fabric.errors import AuthFailed, FabricError, OutcomeUnknown, Transient
from weft.fabric.redfish.limits import OutOfTime
from weft.fabric.redfish.mapping import Json, Reply, error_of, mapping_at
from weft.fabric.redfish.transport import Heard, Transport
from weft.fabric.redfish.uris import SERVICE_ROOT, canonical

LOGIN_PAUSE_SECONDS = 5.0
SESSION_ENDED = "our session at the manager has ended; the next call logs in again"
SESSION_CONTEXT = "weft"
"""`Session.Context` of our sessions, with the owner's mark if there is one: by it a later leader finds them."""
_NO_SESSIONS = frozenset({404, 405, 410, 501})
"""Answers to a login of managers that have none."""

Login = Mapping[str, str]
"""The headers that prove who we are; empty: nobody."""


class Forbidden(AuthFailed):
    """The login is good, and not enough for this resource."""


class Session:
    """A manager's origin, our login there and the limits of the connection."""

    def __init__(self, connection: Connection, heard: Heard | None = None) -> None:
        self._connection = connection
        self._transport = Transport(connection, heard)
        self._logging_in = asyncio.Lock()
        self._login: Login = {}
        self._login_number = 0
        self._refusal: tuple[float, str] | None = None
        self.uri = ""
        """Our Session resource at the manager; empty without a login, and with HTTP Basic."""
        self.basic = False
        """Whether the manager has no sessions: each request carries the credentials."""

    @property
    def anonymous(self) -> bool:
        """True when there are no credentials: nothing is logged in."""
        return not self._connection.username

    @property
    def owner(self) -> str:
        """Our mark; empty: we have none."""
        return self._connection.owner

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

    def spelled(self, path: str) -> str:
        """The path as the manager spells it: with the last slash, where its links have one."""
        return self._transport.spelled(path)

    def allowed(self, path: str) -> frozenset[str] | None:
        """The methods that the manager said it takes at a path when it was last read; None: it did not say."""
        return self._transport.allowed(path)

    async def log_in(self, deadline: float) -> int:
        """The number of our login at the manager, made now if there is none.

        A call that writes does all its requests under one login: a leader whose session was revoked in the
        meantime must not slip through under a new one.
        """
        await self._login_for("", deadline, None)
        return self._login_number

    async def get(self, link: object, *, deadline: float | None = None, login: int | None = None) -> Reply:
        """Read one resource.

        A session that has ended is renewed once; with `login`, it has to be that one. `deadline` is in the
        event loop's time. Raises a FabricError for every answer but success.
        """
        path = self.local(link)
        used = await self._login_for(path, deadline, login)
        reply = await self._transport.send("GET", path, login=used, deadline=deadline)
        if reply.status == 401 and not self.anonymous and not self.basic:
            # The session has ended; or the service root, which should be public, is not.
            self._forget(used)
            used = await self._login_for("", deadline, login)
            reply = await self._transport.send("GET", path, login=used, deadline=deadline)
        self._raise(reply, write=False, used=used)
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
        used = await self._login_for(path, deadline, login)
        reply = await self._transport.send(
            method, path, login=used, body=body, headers=headers, deadline=deadline
        )
        if reply.status == 401 and used and not self.basic:
            self._forget(used)
            raise Transient(SESSION_ENDED)
        self._raise(reply, write=True, used=used)
        return reply

    def _raise(self, reply: Reply, *, write: bool, used: Login) -> None:
        error = error_of(reply, write=write)
        if isinstance(error, AuthFailed):
            who = "without credentials" if self.anonymous else f"as {self._connection.username!r}"
            kind = Forbidden if reply.status == 403 else AuthFailed
            refused = kind(f"the manager refuses us {who}; check the Fabric's credentials Secret: {error}")
            if reply.status == 401:
                self._forget(used)
                if self.basic:
                    self._pause(str(refused))
            raise refused
        if error is not None:
            raise error

    def _forget(self, used: Login) -> None:
        if used and used == self._login:
            self._login, self.uri = {}, ""

    def _pause(self, refusal: str) -> None:
        """Let requests that wait for a login not each try it: managers lock accounts."""
        now = asyncio.get_running_loop().time()
        if not self._refusal or now >= self._refusal[0]:
            self._refusal = (now + LOGIN_PAUSE_SECONDS, refusal)

    async def _login_for(self, path: str, deadline: float | None, login: int | None) -> Login:
        if self.anonymous or (path and canonical(path) == canonical(SERVICE_ROOT)):
            return self._login
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline), self._logging_in:
                if self._refusal and loop.time() < self._refusal[0]:
                    raise AuthFailed(self._refusal[1])
                if login is not None and (login != self._login_number or not self._login):
                    raise Transient(SESSION_ENDED)
                if not self._login:
                    await self._new_login()
                return self._login
        except TimeoutError:
            raise OutOfTime from None
        except AuthFailed as error:
            self._pause(str(error))
            raise

    async def _new_login(self) -> None:
        link = await self._sessions_link()
        sessions = self.local(link or f"{SERVICE_ROOT}SessionService/Sessions")
        body = {"UserName": self._connection.username, "Password": self._connection.password}
        context = f"{SESSION_CONTEXT}-{self.owner}" if self.owner else SESSION_CONTEXT
        reply = await self._post_session(sessions, body | {"Context": context})
        if reply.status in (400, 422):
            # Context came with Session v1.5; older managers refuse the unknown property.
            reply = await self._post_session(sessions, body)
        asks_for_basic = reply.status == 401 and not link and "basic" in reply.challenge.lower()
        answered = 200 <= reply.status < 300 and not reply.token
        if reply.status in _NO_SESSIONS or asks_for_basic or answered:
            self.basic = True
            secret = f"{self._connection.username}:{self._connection.password}".encode()
            self._login = {"Authorization": f"Basic {base64.b64encode(secret).decode()}"}
            self._login_number += 1
            return
        error = error_of(reply, write=False)
        if reply.status in (400, 401, 403, 422):
            raise AuthFailed(
                f"the manager refused the login as {self._connection.username!r}; "
                f"check the Fabric's credentials Secret: {error}"
            )
        if error is not None:
            raise error
        self.basic = False
        self._login = {"X-Auth-Token": reply.token}
        self._login_number += 1
        # A manager that does not name the session cannot be logged out of: no harm.
        with contextlib.suppress(Transient):
            own = reply.location or reply.body.get("@odata.id")
            # The name that a manager puts before the path here is often an inner one of its own.
            self.uri = canonical(self._transport.path_of(own, sessions))

    async def _sessions_link(self) -> object:
        """Where logins are made, as the service root says; None where it does not say, or is not public."""
        for path in (SERVICE_ROOT, SERVICE_ROOT.rstrip("/")):
            root = await self._transport.send("GET", path)
            if root.status != 404:
                break
        if root.status in (401, 403, 404):
            return None
        self._raise(root, write=False, used={})
        return mapping_at(root.body, "Links", "Sessions").get("@odata.id")

    async def _post_session(self, path: str, body: Json) -> Reply:
        try:
            return await self._transport.send("POST", path, body=body, follow=True)
        except OutcomeUnknown as error:
            raise Transient(str(error)) from error  # a login that got lost changes no attachment

    async def close(self) -> None:
        """Log out, as far as the manager answers, and end the connections."""
        if self._login and self.uri:
            with contextlib.suppress(FabricError):  # it ends by itself at the manager's session timeout
                deadline = asyncio.get_running_loop().time() + self.timeout_seconds
                await self._transport.send("DELETE", self.uri, login=self._login, deadline=deadline)
        self._login, self.uri = {}, ""
        await self._transport.close()

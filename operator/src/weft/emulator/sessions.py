"""Login sessions."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from weft.emulator import redfish
from weft.emulator.redfish import Document


@dataclass
class Session:
    """One login. `last_used_seconds` is of the caller's clock."""

    id: str
    token: str
    user: str
    created: str
    context: str | None
    last_used_seconds: float


class Sessions:
    """Who is logged in. Without credentials set, everyone may do everything."""

    def __init__(self, user: str, password: str, timeout_seconds: int) -> None:
        self._user = user
        self._password = password
        self.timeout_seconds = timeout_seconds
        self._by_token: dict[str, Session] = {}
        self._count = 0

    @property
    def required(self) -> bool:
        """Whether requests need credentials."""
        return bool(self._user)

    def accepts(self, user: object, password: object) -> bool:
        """Whether these are the credentials."""
        if not isinstance(user, str) or not isinstance(password, str):
            return False
        if not self.required:
            return True
        same_user = hmac.compare_digest(user.encode(), self._user.encode())
        return hmac.compare_digest(password.encode(), self._password.encode()) and same_user

    def accepts_basic(self, header: str) -> str | None:
        """The user of an Authorization header with the right Basic credentials."""
        scheme, _, value = header.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return user if self.accepts(user, password) else None

    def create(self, user: str, context: str | None, created: str, now_seconds: float) -> Session:
        """Log in."""
        self._count += 1
        session = Session(str(self._count), secrets.token_urlsafe(24), user, created, context, now_seconds)
        self._by_token[session.token] = session
        return session

    def use(self, token: str, now_seconds: float) -> Session | None:
        """The session with this token, unless it has ended; it was used now."""
        session = self._by_token.get(token)
        if session is None:
            return None
        if now_seconds - session.last_used_seconds > self.timeout_seconds:
            del self._by_token[token]
            return None
        session.last_used_seconds = now_seconds
        return session

    def delete(self, identity: str) -> Session | None:
        """End a session; the one that ended."""
        for token, session in self._by_token.items():
            if session.id == identity:
                return self._by_token.pop(token)
        return None

    def documents(self) -> dict[str, Document]:
        """The sessions as resources, by id."""
        return {session.id: document(session) for session in self._by_token.values()}


def document(session: Session) -> Document:
    """A session as a resource: neither token nor password is shown."""
    more: dict[str, Any] = {} if session.context is None else {"Context": session.context}
    return redfish.resource(
        f"{redfish.SESSIONS}/{session.id}",
        "Session.v1_7_2",
        f"Session {session.id}",
        UserName=session.user,
        Password=None,
        SessionType="Redfish",
        CreatedTime=session.created,
        **more,
    )

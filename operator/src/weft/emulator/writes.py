"""Requests that are to change something, what they mean, and why they are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.emulator.messages import Reply
from weft.emulator.state import Change, Record


@dataclass(frozen=True)
class Write:
    """One request that is to change something."""

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    request: str
    session: str
    user: str

    @property
    def if_match(self) -> str | None:
        """The ETag that the client expects."""
        return self.headers.get("If-Match")


@dataclass(frozen=True)
class Plan:
    """What a write means as things are now, and how it is answered once that is done."""

    change: Change
    path: str
    """The resource that is the answer's body."""
    status: int = 200
    """200 with the resource, 201 with its Location too, or 204."""
    creates: Mapping[str, Record] = field(default_factory=dict)
    """The resources that the client creates, by path."""
    deletes: tuple[str, ...] = ()
    device: str = ""
    """Of the creation or deletion of a part: the device that it is carved from."""
    copies: tuple[str, ...] = ()
    """Resources that show what changes, of which a service with stale copies shows old ones."""

    text: str = ""
    """The answer's body, where it is text and no resource."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.change.acts or self.creates or self.deletes)

    @property
    def turn(self) -> str:
        """Plans with the same turn are carried out one after the other."""
        return self.change.host or self.device


class RefusedWriteError(Exception):
    """The write is not carried out."""

    def __init__(
        self,
        reply: Reply,
        outcome: str = "",
        blocks: tuple[str, ...] = (),
        host: str = "",
        duplicate: bool = False,
    ) -> None:
        super().__init__(outcome)
        self.reply = reply
        self.outcome = outcome
        """For the journal; empty: the request made no sense, and is not in it."""
        self.blocks = blocks
        self.host = host
        self.duplicate = duplicate
        """Whether something like it was created before."""

"""One change at a manager: requests within one deadline and one login, and what is known while it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from weft.fabric.driver import Operation, OperationPhase
from weft.fabric.errors import Conflict, FabricError, NotFound, OutcomeUnknown, Transient
from weft.fabric.redfish.discovery import Service
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.mapping import Json, Precondition, Reply
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.reader import Collections, read
from weft.fabric.redfish.session import Session
from weft.fabric.redfish.tasks import OPERATION_HEADER, Tasks

DONE = "the manager says that it is done"
ETAGS_USELESS = (
    "the manager answers 412 to the ETag that it has just given: changes go out without If-Match once a fresh reading"
    " shows that nothing changed, so that one made by someone else in that moment is seen only afterwards"
)
_LOOK_SECONDS = (0.1, 2.0)
"""How often a task is looked at: at first, and at most."""

Meaning = Callable[[Json], object]
"""What of a resource a change depends on: two readings with the same meaning are the same to it."""


@dataclass
class Call:
    """One attach or detach."""

    session: Session
    tasks: Tasks
    poller: Poller
    service: Service
    deadline: float
    """In the event loop's time: nothing is sent after it."""
    login: int
    key: str
    """Of the operation, as a header can hold it."""
    notes: dict[str, None] = field(default_factory=dict)
    """What an administrator should know of the manager, collected over all calls."""

    async def read(self, link: object) -> Reply:
        """Read a resource and check that it is the one that was asked for."""
        return await read(self.session, link, deadline=self.deadline, login=self.login)

    async def read_system(self, path: str) -> Reply:
        """Read a system, and remember what it says."""
        reply = await self.read(path)
        self.poller.meet_system(path, reply.body)
        return reply

    async def read_system_if_there(self, path: str) -> Reply | None:
        """The same of one that may be gone: None, and it is forgotten."""
        try:
            return await self.read_system(path)
        except NotFound:
            self.poller.forget_system(path)
            return None

    async def new_systems(self) -> list[str]:
        """Systems that are listed now and of which nothing is known."""
        problems = Problems()
        collections = Collections(self.session, self.deadline, problems, login=self.login)
        listing = await collections.listing(self.service.systems)
        if not listing.whole:
            raise Transient(f"not all systems could be listed: {'; '.join(problems.texts)}")
        return [uri for uri in listing.members if not self.poller.knows_system(uri)]

    async def read_block(self, uri: str) -> Reply:
        """Read a resource block, and remember what it says."""
        reply = await self.read(uri)
        self.poller.meet(uri, reply.body)
        return reply

    async def send(self, method: str, path: str, body: Json | None, *, etag: str = "") -> Reply:
        """One change, sent at most once. Raises a FabricError for every answer but success."""
        return await self.session.write(
            method,
            path,
            body,
            headers={OPERATION_HEADER: self.key, **({"If-Match": etag} if etag else {})},
            deadline=self.deadline,
            login=self.login,
        )

    async def send_if(self, was: Reply, meaning: Meaning, send: Callable[[str], Awaitable[Reply]]) -> Reply:
        """A change that depends on the resource `was` being as it was read; `send` makes it on condition of an ETag.

        Where the manager does not take its own ETags, a fresh reading has to show the same meaning; then the change
        goes out without the condition, once. Raises Conflict where the resource has changed.
        """
        etag, fresh = was.etag, was
        for _ in range(2):
            try:
                return await send(etag)
            except Precondition as error:
                before, fresh = fresh, await self.read(was.path)
                if meaning(fresh.body) != meaning(was.body):
                    raise Conflict(str(error)) from error
                if not etag:
                    etag = fresh.etag or "*"  # it wants a condition, and gave nothing to make one of
                    continue
                # A new ETag may be a true one: something else about the resource has changed.
                is_new = before is was and fresh.etag not in ("", was.etag)
                if not is_new or fresh.etag.startswith("W/"):
                    break
                etag = fresh.etag
        self.notes[ETAGS_USELESS] = None
        return await send("")

    async def in_turn(
        self, turn: str, parts: Sequence[str], change: Callable[[str], Awaitable[Reply]]
    ) -> Operation:
        """Several changes to the host at `turn`, one after the other, each once the task of the one before has ended.

        A refusal after the first is an unknown outcome: whoever hears of a refusal takes it that nothing was done.
        """
        operation = Operation("", OperationPhase.SUCCEEDED, DONE)
        for number, part in enumerate(parts):
            try:
                operation = self.outcome(turn, await change(part))
            except FabricError as error:
                if number == 0 or isinstance(error, OutcomeUnknown):
                    raise
                text = f"{error}; {number} of {len(parts)} changes were made before"
                raise OutcomeUnknown(text) from error
            if number + 1 < len(parts):
                operation = await self.ended(operation)
            if operation.phase is not OperationPhase.SUCCEEDED:
                break
        return operation

    def outcome(self, turn: str, reply: Reply) -> Operation:
        """What an answer to a change of the resource at `turn` says: done, or a task."""
        if reply.status == 202:
            return self.tasks.accepted(turn, reply)
        return Operation("", OperationPhase.SUCCEEDED, DONE)

    async def ended(self, operation: Operation) -> Operation:
        """The operation once its task has ended, or as it is when the time of this call is up.

        Raises OutcomeUnknown when the task cannot be looked at.
        """
        pause, longest = _LOOK_SECONDS
        loop = asyncio.get_running_loop()
        while operation.id and not operation.phase.is_terminal and loop.time() + pause < self.deadline:
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            try:
                operation = await self.tasks.look(operation.id, self.deadline, login=self.login)
            except FabricError as error:
                raise OutcomeUnknown(f"{operation.id}: how it ended cannot be read: {error}") from error
        return operation

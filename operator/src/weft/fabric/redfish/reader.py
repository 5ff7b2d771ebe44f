"""Reading a Redfish manager: whole collections with pages and `$expand`, and many resources at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from weft.fabric.errors import AuthFailed, FabricError, NotFound, RateLimited, Transient
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.limits import OutOfTime
from weft.fabric.redfish.mapping import Json, Reply
from weft.fabric.redfish.session import Forbidden, Session
from weft.fabric.redfish.shapes import is_whole, link_of, members_of
from weft.fabric.redfish.transport import NoAnswer
from weft.fabric.redfish.uris import canonical, last_segment

MAX_PAGES = 1000
MAX_SILENCE = 5
"""Resources in a row that may stay without an answer before the rest is left: each costs a request timeout."""
MAX_FAILURES = 50
"""Resources in a row that may be answered with an error before the rest is left."""
EXPAND_AGAIN = 10
"""Readings after which an `$expand` that failed is tried again."""
NOT_ALL = (
    "one reading has not the time for everything: the rest follows in the next ones; a higher"
    " limits.requestsPerSecond, or a manager with $expand, shortens it"
)
AT_ONCE = 25
"""Members that came with their collection and are looked at in one go: a millisecond, in which no bind goes on."""
T = TypeVar("T")
Look = Callable[[str], Awaitable[None]]
"""Reads a resource, and what else is to be read of it; raises a FabricError."""


async def read(
    session: Session,
    link: object,
    *,
    deadline: float | None = None,
    login: int | None = None,
) -> Reply:
    """Read a resource and check that it is the one that was asked for. Raises Transient when it is not."""
    path = session.local(link)
    reply = await session.get(path, deadline=deadline, login=login)
    own = reply.body.get("@odata.id")
    if own is None and reply.body.get("Id") == last_segment(path):
        return reply  # it does not say where it is, but who it is
    if canonical(session.local(own)) != canonical(path):
        raise Transient(f"{path}: the manager answered with another resource")
    return reply


class Expansion:
    """Which `$expand` the collections of a manager get: one that failed is left out for some readings."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], int] = {}
        self._readings = 0

    def next_reading(self) -> None:
        self._readings += 1

    def usable(self, path: str, queries: Iterable[str]) -> list[str]:
        """Those of the queries that are worth a try, each once."""
        return [q for q in dict.fromkeys(queries) if q and self._until.get((path, q), 0) <= self._readings]

    def failed(self, path: str, query: str) -> None:
        self._until[path, query] = self._readings + EXPAND_AGAIN


@dataclass(frozen=True)
class Listing:
    """A collection: its members by URI, with those that the manager sent along."""

    members: dict[str, Json | None]
    whole: bool
    """Whether it was read to its end."""
    about: Json = field(default_factory=dict)
    """The collection itself, as its first page has it."""


class Collections:
    """Reads collections and their members for one reading, noting what could not be read."""

    def __init__(
        self,
        session: Session,
        deadline: float,
        problems: Problems,
        *,
        login: int | None = None,
        expansion: Expansion | None = None,
    ) -> None:
        self._session = session
        self._login = login
        self._deadline = deadline
        self._problems = problems
        self._expansion = expansion or Expansion()

    def until(self, deadline: float) -> Collections:
        """The same with another deadline."""
        return Collections(
            self._session, deadline, self._problems, login=self._login, expansion=self._expansion
        )

    async def members(
        self, link: object, expand: str = "", kept: dict[str, Json] | None = None
    ) -> list[tuple[str, Json]]:
        """All members with their paths. Raises when the first page cannot be read.

        `kept` are members that were read before and need not be read again; those that are read are added.
        """
        found = kept if kept is not None else {}
        listing = await self.listing(link, expand)
        found |= {uri: body for uri, body in listing.members.items() if body is not None}

        async def keep(uri: str) -> None:
            found[uri] = await self.read(uri)

        await self.work([uri for uri in listing.members if uri not in found], keep)
        return [(uri, found[uri]) for uri in listing.members if uri in found]

    async def listing(self, link: object, *queries: str) -> Listing:
        """The members of a collection, with the first of the `$expand` queries that works; the last resort is none.

        Raises when the first page cannot be read.
        """
        path = self._session.local(link)
        wanted = self._expansion.usable(path, queries)
        while wanted:
            query = wanted.pop(0)
            try:
                return await self._pages(path, await self._get(path, query))
            except (AuthFailed, RateLimited, OutOfTime):
                raise
            except FabricError as error:
                # What takes too long with one level would take too long with another.
                given_up = [query, *(wanted if isinstance(error, NoAnswer) else ())]
                for other in given_up:
                    self._expansion.failed(path, other)
                wanted = [q for q in wanted if q not in given_up]
                self._problems.note(f"$expand fails, so members are read one by one: {error}")
        return await self._pages(path, await self._get(path))

    async def _get(self, path: str, query: str = "") -> Reply:
        """A page. A collection need not say its own name: many carry that of another, or of their type."""
        whole = f"{path}{'&' if '?' in path else '?'}{query}" if query else path
        return await self._session.get(whole, deadline=self._deadline, login=self._login)

    async def _pages(self, path: str, first: Reply) -> Listing:
        members: dict[str, Json | None] = {}
        whole = True
        listed = 0
        seen: set[str] = set()
        reply: Reply | None = first

        def missing(text: str) -> None:
            nonlocal whole
            whole = False
            self._problems.missing(f"{path}: {text}")

        def note(text: str) -> None:
            self._problems.note(f"{path}: {text}")

        while reply is not None:
            body, reply = reply.body, None
            entries = members_of(body, note)
            if entries is None and body.get("Members@odata.count") != 0:
                missing("a collection that names no Members")
            for entry in entries or ():
                listed += 1
                if listed % AT_ONCE == 0:
                    await asyncio.sleep(0)
                try:
                    uri = canonical(self._session.local(link_of(entry)))
                except Transient as error:
                    missing(str(error))
                    continue
                if uri in members:
                    missing(f"{uri} is listed twice")
                members[uri] = entry if is_whole(entry) else members.get(uri)
            try:
                if following := self._following(body, path):
                    if following in seen or len(seen) >= MAX_PAGES:
                        raise Transient("its pages have no end")
                    seen.add(following)
                    reply = await self._get(following)
            except AuthFailed:
                raise
            except FabricError as error:
                missing(str(error))
        count = first.body.get("Members@odata.count")
        if isinstance(count, int) and count != listed and whole:
            missing(f"{listed} of {count} members were listed")
        return Listing(members, whole, first.body)

    def _following(self, body: Json, path: str) -> str:
        """Where the next page is; empty after the last."""
        for home in (body, body.get("Links")):
            for name in ("Members@odata.nextLink", "@odata.nextLink"):
                if isinstance(home, dict) and (link := home.get(name)):
                    return self._session.local(link_of(link), base=path)
        return ""

    async def read(self, uri: str) -> Json:
        """One resource. Raises a FabricError."""
        return (await read(self._session, uri, deadline=self._deadline, login=self._login)).body

    async def work(self, uris: Sequence[str], look: Look) -> None:
        """Look at the resources in this order, as many at once as the session allows.

        One whose `look` raises is noted and costs itself. The rest is left when many fail in a row, when time runs
        out, or when the manager asks for a pause.
        """
        run = _Run(iter(uris))
        workers = min(self._session.max_in_flight, len(uris))
        await together([self._work(run, look) for _ in range(workers)])

    async def _work(self, run: _Run, look: Look) -> None:
        for uri in run.uris:
            if run.left:
                self._problems.missing(run.left)
                return
            try:
                await look(uri)
                run.silent = run.failed = 0
            except Forbidden as error:
                self._problems.missing(str(error))
                run.count(silent=False)
            except AuthFailed:
                raise
            except OutOfTime:
                run.left = NOT_ALL
                self._problems.missing(run.left)
            except RateLimited as error:
                run.left = str(error)
                self._problems.missing(run.left)
            except FabricError as error:
                self._problems.missing(str(error))
                if not isinstance(error, NotFound):
                    run.count(silent=isinstance(error, NoAnswer))


@dataclass
class _Run:
    """How it goes with a number of resources."""

    uris: Iterator[str]
    silent: int = 0
    failed: int = 0
    """In a row."""
    left: str = ""
    """Why the rest is left."""

    def count(self, *, silent: bool) -> None:
        self.silent += silent
        self.failed += 1
        if self.silent >= MAX_SILENCE or self.failed >= MAX_FAILURES:
            self.left = "too many resources in a row could not be read: the rest is left for the next reading"


async def together(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run them at once (the session bounds how many are in flight); the first failure ends all."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(c) for c in coroutines]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]

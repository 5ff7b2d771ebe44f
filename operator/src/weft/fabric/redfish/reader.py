"""Reading a Redfish manager: where its services are, and whole collections with pages and `$expand`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from weft.fabric.errors import AuthFailed, FabricError, InvalidRequest, NotFound, Transient, Unsupported
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.mapping import Json, Reply, list_at, mapping_at
from weft.fabric.redfish.session import Session
from weft.fabric.redfish.uris import SERVICE_ROOT, canonical

MAX_PAGES = 1000
MAX_FAILURES = 5
"""Members of one reading that may fail before the rest is left unread."""
T = TypeVar("T")


@dataclass(frozen=True)
class Service:
    """Where the manager keeps things, and whether it expands collections."""

    blocks: str
    systems: str
    zones: str
    fabrics: str
    tasks: str
    sessions: str
    expand: str
    """Query that inlines the members of a collection; empty: unsupported."""
    expand_deep: str
    """The same, and inlines what is in the members, where two levels are supported."""


def link_at(body: Json, *keys: str) -> Any:
    """The URI of a link property, or None."""
    return mapping_at(body, *keys).get("@odata.id")


async def read(
    session: Session,
    link: object,
    *,
    deadline: float | None = None,
    login: int | None = None,
    query: str = "",
) -> Reply:
    """Read a resource and check that it is the one that was asked for. Raises Transient when it is not."""
    path = session.local(link)
    reply = await session.get(f"{path}?{query}" if query else path, deadline=deadline, login=login)
    if canonical(session.local(reply.body.get("@odata.id"))) != canonical(path):
        raise Transient(f"{path}: the manager answered with another resource")
    return reply


async def discover(session: Session, deadline: float, *, login: int | None = None) -> Service:
    """Find the collections. Raises Unsupported when the manager does not compose systems."""
    root = (await read(session, SERVICE_ROOT, deadline=deadline, login=login)).body
    composition: Json = {}
    if link := link_at(root, "CompositionService"):
        composition = (await read(session, link, deadline=deadline, login=login)).body
    blocks = link_at(composition, "ResourceBlocks") or link_at(root, "ResourceBlocks")
    systems = link_at(root, "Systems")
    if not blocks or not systems:
        raise Unsupported("the manager has no resource blocks or no systems: it does not compose systems")
    tasks = ""
    if link := link_at(root, "Tasks"):
        try:
            service = (await read(session, link, deadline=deadline, login=login)).body
            tasks = session.local(link_at(service, "Tasks"))
        except (AuthFailed, NotFound, Unsupported):
            tasks = ""  # tasks are a help, not a need
    expand, deep = _expand_queries(root)
    zones, fabrics = link_at(composition, "ResourceZones"), link_at(root, "Fabrics")
    sessions = link_at(root, "Links", "Sessions")
    return Service(
        blocks=session.local(blocks),
        systems=session.local(systems),
        zones=session.local(zones) if zones else "",
        fabrics=session.local(fabrics) if fabrics else "",
        tasks=tasks,
        sessions=session.local(sessions) if sessions else "",
        expand=expand,
        expand_deep=deep,
    )


def _expand_queries(root: Json) -> tuple[str, str]:
    feature = mapping_at(root, "ProtocolFeaturesSupported", "ExpandQuery")
    if feature.get("NoLinks") is True:
        symbol = "."
    elif feature.get("ExpandAll") is True:
        symbol = "*"
    else:
        return "", ""
    deepest = feature.get("MaxLevels")
    two = feature.get("Levels") is True and not (isinstance(deepest, int) and deepest < 2)
    return f"$expand={symbol}", f"$expand={symbol}" + ("($levels=2)" if two else "")


class Collections:
    """Reads whole collections for one reading, noting what could not be read."""

    def __init__(
        self, session: Session, deadline: float, problems: Problems, *, login: int | None = None
    ) -> None:
        self._session = session
        self._login = login
        self._deadline = deadline
        self._problems = problems
        self._failures = 0
        self._readers = asyncio.Semaphore(session.max_in_flight)

    async def members(self, link: object, expand: str) -> list[tuple[str, Json]]:
        """All members with their paths. Raises when the first page cannot be read."""
        path = self._session.local(link)
        try:
            first = await self._read(path, expand)
        except (Unsupported, InvalidRequest):
            if not expand:
                raise
            # Promised in the service root, and yet not there.
            first = await self._read(path)
        entries = await self._pages(path, first)
        whole: dict[str, Json | None] = {}
        for entry in entries:
            try:
                uri = canonical(self._session.local(mapping_at(entry).get("@odata.id")))
            except Transient as error:
                self._problems.missing(f"{path}: {error}")
                continue
            if uri in whole:
                self._problems.missing(f"{path}: {uri} is listed twice")
                continue
            whole[uri] = entry if "Id" in entry else None
        absent = [uri for uri, body in whole.items() if body is None]
        whole.update(zip(absent, await self.each(absent), strict=True))
        return [(uri, body) for uri, body in whole.items() if body is not None]

    async def _pages(self, path: str, first: Reply) -> list[Any]:
        entries: list[Any] = []
        seen: set[str] = set()
        reply: Reply | None = first
        while reply is not None:
            body = reply.body
            # Some managers keep the members under Links.
            home = body if list_at(body, "Members") is not None else mapping_at(body, "Links")
            if list_at(home, "Members") is None:
                self._problems.missing(f"{path}: a collection without Members")
            entries += list_at(home, "Members") or ()
            following = home.get("Members@odata.nextLink") or body.get("@odata.nextLink")
            if not following:
                break
            try:
                following = self._session.local(following)
                if following in seen or len(seen) >= MAX_PAGES:
                    raise Transient("its pages have no end")
                seen.add(following)
                reply = await self._session.get(following, deadline=self._deadline, login=self._login)
            except FabricError as error:
                self._problems.missing(f"{path}: {error}")
                return entries
        count = first.body.get("Members@odata.count")
        if isinstance(count, int) and count != len(entries):
            self._problems.missing(f"{path}: {len(entries)} of {count} members were listed")
        return entries

    async def _read(self, path: str, query: str = "") -> Reply:
        return await read(self._session, path, deadline=self._deadline, login=self._login, query=query)

    async def each(self, uris: Sequence[str]) -> list[Json | None]:
        """The resources at these paths; None for those that could not be read (noted)."""
        return await together([self._one(uri) for uri in uris])

    async def _one(self, uri: str) -> Json | None:
        async with self._readers:
            if self._failures >= MAX_FAILURES:
                self._problems.missing("too many resources could not be read; the others were left")
                return None
            try:
                return (await self._read(uri)).body
            except AuthFailed:
                raise
            except FabricError as error:
                self._failures += not isinstance(error, NotFound)
                self._problems.missing(str(error))
                return None


async def together(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run them at once (the session bounds how many are in flight); the first failure ends all."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(c) for c in coroutines]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]

"""Members of collections, kept from reading to reading."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from weft.fabric.errors import FabricError, RateLimited
from weft.fabric.redfish.connected import Connection
from weft.fabric.redfish.endpoints import Zone
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.limits import OutOfTime
from weft.fabric.redfish.mapping import Json
from weft.fabric.redfish.reader import AT_ONCE, Collections, Listing
from weft.fabric.redfish.resources import Block, System
from weft.fabric.redfish.shapes import Resolve

T = TypeVar("T", Block, System, Zone, Connection)


@dataclass
class Entry(Generic[T]):
    """One member of a collection, kept from reading to reading."""

    value: T | None = None
    """As it was last read; None: never."""
    read_in: int = -1
    """Number of the reading that this was."""
    failed: bool = False
    """Whether the last try to read it, or what it holds, failed."""


class Members(Generic[T]):
    """A collection's members, kept from reading to reading."""

    def __init__(self, parse: Callable[[Json, str, Resolve], T], resolve: Resolve) -> None:
        self._parse: Callable[[Json, str, Resolve], T] = parse
        self._resolve = resolve
        self.entries: dict[str, Entry[T]] = {}
        self.whole = False
        """Whether the collection was read to its end in the last reading."""

    async def take(self, listing: Listing, reading: int, problems: Problems) -> None:
        """Take a new list: members that are not in a whole one are gone.

        A manager may send all its members along: the event loop gets its turn between a few of them.
        """
        self.whole = listing.whole
        if listing.whole:
            self.entries = {uri: e for uri, e in self.entries.items() if uri in listing.members}
        for number, (uri, body) in enumerate(listing.members.items(), 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            self.entries.setdefault(uri, Entry())
            if body is not None:
                try:
                    self.put(uri, body, reading)
                except FabricError as error:
                    problems.missing(f"{uri}: {error}")

    def put(self, uri: str, body: Json, reading: int) -> T:
        """Keep a member as it was read now. Raises Transient when a link in it must not be followed."""
        entry = self.entries.setdefault(uri, Entry())
        entry.value = self._parse(body, uri, self._resolve)
        entry.read_in, entry.failed = reading, False
        return entry.value

    async def read(self, uri: str, collections: Collections, reading: int) -> T:
        """Read a member, unless it was in this reading."""
        entry = self.entries[uri]
        if entry.value is not None and entry.read_in == reading:
            return entry.value
        return self.put(uri, await collections.read(uri), reading)

    def in_order(self, first: Container[str] = (), known: Container[str] = ()) -> list[str]:
        """All members in the order in which to read them.

        `first` first; then those that are not `known` yet, then those that were read longest ago, so that all get
        their turn where one reading is not enough. What failed in its last try comes after all the others: it may
        only cost time again.
        """
        items = self.entries.items()
        waiting = sorted(items, key=lambda i: (i[1].failed, i[0] not in first, i[0] in known, i[1].read_in))
        return [uri for uri, _ in waiting]

    def values(self) -> list[T]:
        """The members of which something is known."""
        return [e.value for e in self.entries.values() if e.value is not None]


@contextlib.contextmanager
def failure_of(entry: Entry[T]) -> Iterator[None]:
    """Note that reading a member failed; what was not asked for has not failed."""
    try:
        yield
    except (OutOfTime, RateLimited):
        raise
    except FabricError:
        entry.failed = True
        raise

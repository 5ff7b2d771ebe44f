"""Reading what devices can be carved from, and what is carved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.fabric.driver import DeviceKind
from weft.fabric.errors import AuthFailed, FabricError
from weft.fabric.redfish.carving import (
    Carved,
    Source,
    bytes_of,
    carved_from,
    domain_source,
    part_uri,
    storage_source,
)
from weft.fabric.redfish.discovery import Service, link_at
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.mapping import Json
from weft.fabric.redfish.reader import Collections
from weft.fabric.redfish.resources import Block
from weft.fabric.redfish.session import Session
from weft.fabric.redfish.shapes import links_of


class Sources:
    """The sources behind endpoints, kept from reading to reading."""

    def __init__(self, session: Session, part_bytes: Mapping[DeviceKind, int]) -> None:
        self._session = session
        self._part_bytes = part_bytes
        self._sources: dict[str, Source | None] = {}
        self._lists: dict[str, list[tuple[str, Json]]] = {}
        """Members of collections of domains and storage, by the resource that names them."""
        self.carved: dict[str, Carved] = {}
        """By URI of the endpoint."""
        self.refused: dict[str, str] = {}
        """Why nothing can be carved from what is behind an endpoint."""
        self.unread: set[str] = set()
        """Endpoints whose parts could not be listed in this reading."""

    @property
    def wanted(self) -> bool:
        """Whether anything is to be carved."""
        return bool(self._part_bytes)

    @property
    def withheld(self) -> frozenset[str]:
        """Endpoints behind which nothing is given: it cannot be carved, or it is not known what is carved."""
        return frozenset(self.refused) | (self.unread - self.carved.keys())

    @property
    def aliases(self) -> dict[str, str]:
        """The devices that stand for what is carved by us, by URIs."""
        return {
            uri: part_uri(endpoint, number)
            for endpoint, carved in self.carved.items()
            for number, uri in carved.ours.items()
        }

    async def read(
        self,
        service: Service,
        collections: Collections,
        endpoints: Sequence[Block],
        problems: Problems,
        *,
        fresh: bool,
    ) -> None:
        """Find the sources behind these endpoints, and list what is carved."""
        of_interest = {b.uri: b for b in endpoints if b.kind in self._part_bytes and b.unused is None}
        for known in (self.carved, self.refused, self._sources):
            for uri in [uri for uri in known if uri not in of_interest]:
                del known[uri]
        self.unread = set()
        if fresh:
            self._sources, self._lists = {}, {}

        async def look(uri: str) -> None:
            try:
                if uri not in self._sources:
                    found = await self._find(service, collections, of_interest[uri])
                    self._sources[uri] = found
                await self.list_parts(uri, collections)
            except AuthFailed:
                raise
            except FabricError as error:
                self.unread.add(uri)
                problems.missing(f"{uri}: what is carved from it cannot be read: {error}")

        await collections.work(sorted(of_interest), look)
        self.unread |= of_interest.keys() - self._sources.keys()
        for uri, text in self.refused.items():
            problems.about(of_interest[uri].id, text)

    async def list_parts(self, endpoint: str, collections: Collections) -> None:
        """List anew what is carved from the source behind an endpoint."""
        source = self._sources.get(endpoint)
        if source is None:
            return
        size = self._part_bytes[source.kind]
        if text := source.refusal(size):
            self.refused[endpoint] = text
            return
        members = await collections.members(source.collection)
        self.carved[endpoint] = carved_from(source, size, members)

    async def _find(self, service: Service, collections: Collections, endpoint: Block) -> Source | None:
        """The source behind an endpoint; None: there is none, and the device is given as a whole."""
        local = self._session.local
        for path in endpoint.components:
            if endpoint.kind is DeviceKind.MEMORY and "/Memory/" in path:
                holder, named = path.rpartition("/Memory/")[0], "MemoryDomains"
                for _, body in await self._members(holder, named, collections):
                    if (source := domain_source(body, local, path)) is not None:
                        return source
            if endpoint.kind is DeviceKind.STORAGE and service.storage:
                for _, body in await self._listed(service.storage, collections):
                    if links_of(body, local, "Drives") == (path,):
                        return storage_source(body, local, bytes_of(await collections.read(path)))
        return None

    async def _members(self, holder: str, named: str, collections: Collections) -> list[tuple[str, Json]]:
        """The members of a collection that a resource names."""
        key = f"{holder} {named}"
        if key not in self._lists:
            link = link_at(await collections.read(holder), named)
            self._lists[key] = await collections.members(link) if link else []
        return self._lists[key]

    async def _listed(self, link: str, collections: Collections) -> list[tuple[str, Json]]:
        if link not in self._lists:
            self._lists[link] = await collections.members(link)
        return self._lists[link]

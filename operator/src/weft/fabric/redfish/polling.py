"""The inventory of a Redfish manager, read again and again at little cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from weft.fabric.driver import DeviceKind, Inventory
from weft.fabric.errors import AuthFailed, FabricError, Transient
from weft.fabric.redfish.inventory import (
    Domain,
    Problems,
    Topology,
    assemble,
    named_blocks,
    named_systems,
)
from weft.fabric.redfish.mapping import Json, list_at, mapping_at
from weft.fabric.redfish.reader import Collections, Service, link_at, together
from weft.fabric.redfish.resources import Block, Facts, System, block_of, facts_of, id_of, links_of, system_of
from weft.fabric.redfish.session import Session

STATIC_EVERY = 10
"""Zones, fabrics, and what devices without an ETag are, are read anew in every such reading."""

_DOMAIN_ATTRIBUTES = {
    "NVMeOverFabrics": "nvmeofDomain",
    "InfiniBand": "rdmaDomain",
    "RoCE": "rdmaDomain",
    "RoCEv2": "rdmaDomain",
    "iWARP": "rdmaDomain",
}
"""Others are named after the fabric's type: `nvlinkDomain`, `cxlDomain`, `pcieDomain`."""

_UNREAD = Facts({}, 0)


class Poller:
    """Reads inventories and keeps between them what does not change."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._readings = 0
        self._topology: Topology | None = None
        self._topology_of: tuple[frozenset[str], frozenset[str]] | None = None
        self._facts: dict[str, tuple[tuple[object, ...], Facts | None]] = {}
        self.blocks: dict[str, Block] = {}
        """The last reading, by URI."""
        self.systems: dict[str, System] = {}

    async def read(self, service: Service, deadline: float) -> Inventory:
        """One reading. Raises when neither blocks nor systems could be read, or on AuthFailed."""
        problems = Problems()
        collections = Collections(self._session, deadline, problems)
        found = await together(
            [
                self._first(collections, service.blocks, service.expand_deep),
                self._first(collections, service.systems, service.expand),
            ]
        )
        failures = [f for f in found if isinstance(f, FabricError)]
        if len(failures) == len(found):
            raise failures[0]
        for failure in failures:
            problems.missing(str(failure))
        members = [[] if isinstance(f, FabricError) else f for f in found]
        blocks = named_blocks(
            self._blocks(members[0], problems), {uri: b.id for uri, b in self.blocks.items()}
        )
        systems = named_systems(
            self._systems(members[1], problems), {uri: s.host.id for uri, s in self.systems.items()}
        )
        fresh = self._readings % STATIC_EVERY == 0
        self._readings += 1
        facts = await self._facts_of(blocks, collections, problems, fresh=fresh)
        topology = await self._topology_for(service, blocks, systems, collections, problems, fresh=fresh)
        # A CPU is no device.
        blocks = [replace(b, kind=None) if facts.get(b.uri, _UNREAD) is None else b for b in blocks]
        known = {uri: fact for uri, fact in facts.items() if fact is not None}
        self.blocks |= {b.uri: b for b in blocks}
        self.systems |= {s.uri: s for s in systems}
        if problems.complete:
            self.blocks = {b.uri: b for b in blocks}
            self.systems = {s.uri: s for s in systems}
            self._facts = {uri: fact for uri, fact in self._facts.items() if uri in self.blocks}
        return assemble(blocks, systems, known, topology, problems)

    async def _first(
        self, collections: Collections, link: str, expand: str
    ) -> list[tuple[str, Json]] | FabricError:
        try:
            return await collections.members(link, expand)
        except AuthFailed:
            raise
        except FabricError as error:
            return error

    def _blocks(self, members: Sequence[tuple[str, Json]], problems: Problems) -> list[Block]:
        blocks = []
        for uri, body in members:
            try:
                blocks.append(block_of(body, uri, self._session.local))
            except Transient as error:
                problems.missing(str(error))
        return blocks

    def _systems(self, members: Sequence[tuple[str, Json]], problems: Problems) -> list[System]:
        systems = []
        for uri, body in members:
            try:
                system = system_of(body, uri, self._session.local)
            except Transient as error:
                problems.missing(str(error))
            else:
                systems += [system] if system else []
        return systems

    async def _facts_of(
        self, blocks: Sequence[Block], collections: Collections, problems: Problems, *, fresh: bool
    ) -> dict[str, Facts | None]:
        """What the devices are: sent along, remembered, or read now."""
        facts: dict[str, Facts | None] = {}
        unread: list[Block] = []
        for block in blocks:
            known = self._facts.get(block.uri)
            if block.kind is None:
                continue
            if block.expanded:
                facts[block.uri] = facts_of(block.kind, block.expanded)
            elif known and known[0] == _version(block) and (block.etag or not fresh):
                facts[block.uri] = known[1]
            else:
                unread.append(block)
        components = await together([self._components(b, collections, problems) for b in unread])
        for block, bodies in zip(unread, components, strict=True):
            if bodies is not None and block.kind is not None:
                facts[block.uri] = facts_of(block.kind, bodies)
                self._facts[block.uri] = (_version(block), facts[block.uri])
        return facts

    async def _components(
        self, block: Block, collections: Collections, problems: Problems
    ) -> list[Json] | None:
        bodies = await collections.each(block.components)
        if block.kind is DeviceKind.STORAGE:
            drives: list[Json | None] = []
            for body in bodies:
                if (
                    body is not None and list_at(body, "Drives") is not None
                ):  # a Storage resource, not a drive
                    try:
                        uris = links_of(body, self._session.local, "Drives") or ()
                    except Transient as error:
                        problems.missing(f"{block.uri}: {error}")
                        return None
                    drives += await collections.each(uris)
                else:
                    drives.append(body)
            bodies = drives
        whole = [b for b in bodies if b is not None]
        return whole if len(whole) == len(bodies) else None

    async def _topology_for(
        self,
        service: Service,
        blocks: Sequence[Block],
        systems: Sequence[System],
        collections: Collections,
        problems: Problems,
        *,
        fresh: bool,
    ) -> Topology:
        """Zones and domains; they are read again when the set of blocks or systems has changed."""
        members = frozenset(b.uri for b in blocks), frozenset(s.uri for s in systems)
        if self._topology is not None and not fresh and members == self._topology_of:
            return self._topology
        try:
            zones = await self._zones(service, collections)
            domains = await self._domains(service, collections, problems)
        except AuthFailed:
            raise
        except FabricError as error:
            problems.missing(f"zones and fabrics: {error}")
            return self._topology or Topology()
        topology = Topology(zones, domains)
        if problems.complete:
            self._topology, self._topology_of = topology, members
        return topology

    async def _zones(self, service: Service, collections: Collections) -> tuple[frozenset[str], ...]:
        if not service.zones:
            return ()
        found = await collections.members(service.zones, service.expand)
        links = (links_of(body, self._session.local, "Links", "ResourceBlocks") for _, body in found)
        return tuple(frozenset(uris or ()) for uris in links)

    async def _domains(
        self, service: Service, collections: Collections, problems: Problems
    ) -> tuple[Domain, ...]:
        if not service.fabrics:
            return ()
        fabrics = [body for _, body in await collections.members(service.fabrics, service.expand)]
        attributes = [domain_attribute(f.get("FabricType")) for f in fabrics]
        domains: list[Domain] = []
        for fabric, attribute in zip(fabrics, attributes, strict=True):
            link = link_at(fabric, "Zones")
            if not link or not attribute:
                continue
            zones = await collections.members(link, service.expand)
            zones = [(uri, z) for uri, z in zones if z.get("ZoneType") in (None, "ZoneOfEndpoints")]
            entities = await self._entities(fabric, zones, service, collections)
            # Zone Ids are unique within one fabric only.
            prefix = f"{id_of(fabric)}." if attributes.count(attribute) > 1 else ""
            for _, zone in zones:
                uris = set(links_of(zone, self._session.local, "Links", "ResourceBlocks") or ())
                for endpoint in links_of(zone, self._session.local, "Links", "Endpoints") or ():
                    uris |= entities.get(endpoint, set())
                domains.append(Domain(attribute, prefix + id_of(zone), frozenset(uris)))
        return tuple(domains)

    async def _entities(
        self, fabric: Json, zones: Sequence[tuple[str, Json]], service: Service, collections: Collections
    ) -> dict[str, set[str]]:
        """What is behind each endpoint of a fabric.

        Without `$expand` this costs a request for each endpoint, so it is left out where the zones list the
        resource blocks themselves.
        """
        link = link_at(fabric, "Endpoints")
        if not link or not zones:
            return {}
        if not service.expand and all(list_at(z, "Links", "ResourceBlocks") for _, z in zones):
            return {}
        entities: dict[str, set[str]] = {}
        for uri, endpoint in await collections.members(link, service.expand):
            connected = [mapping_at(e) for e in list_at(endpoint, "ConnectedEntities") or ()]
            linked = {"links": [e["EntityLink"] for e in connected if e.get("EntityLink")]}
            entities[uri] = set(links_of(linked, self._session.local, "links") or ())
        return entities


def domain_attribute(fabric_type: object) -> str:
    """The device attribute that names the domain in a fabric of this type; empty when the type is unknown."""
    if not isinstance(fabric_type, str):
        return ""
    name = re.sub(r"[^a-z0-9]", "", fabric_type.lower())
    return _DOMAIN_ATTRIBUTES.get(fabric_type) or (f"{name}Domain" if name else "")


def _version(block: Block) -> tuple[object, ...]:
    return (block.etag, block.components)

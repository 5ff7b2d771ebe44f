"""The inventory of a Redfish manager, read again and again at little cost, over several readings where need be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from weft.fabric.driver import DeviceKind, Inventory, Unread, UnusedReason
from weft.fabric.errors import AuthFailed, FabricError, Transient
from weft.fabric.redfish.attaching import Attaching
from weft.fabric.redfish.beside import beside
from weft.fabric.redfish.carving import part_uri
from weft.fabric.redfish.composed import compose, composing
from weft.fabric.redfish.connected import Connection
from weft.fabric.redfish.contents import contents
from weft.fabric.redfish.discovery import Service
from weft.fabric.redfish.endpoints import Zone, endpoint_of
from weft.fabric.redfish.facts import Facts, facts_of
from weft.fabric.redfish.inventory import Composing, Problems, Topology, assemble, named_blocks, named_systems
from weft.fabric.redfish.mapping import Json
from weft.fabric.redfish.members import Members, failure_of
from weft.fabric.redfish.names import is_name, name_of_uri
from weft.fabric.redfish.owners import OURS, owner_in
from weft.fabric.redfish.reader import AT_ONCE, Collections, Expansion, Listing, together
from weft.fabric.redfish.resources import Block, System, block_of, system_of
from weft.fabric.redfish.session import Session
from weft.fabric.redfish.shapes import Resolve
from weft.fabric.redfish.topology import TopologyReader
from weft.fabric.redfish.uris import canonical, last_segment

_NO_RACK: tuple[frozenset[str], frozenset[str]] = frozenset(), frozenset()
MAX_SAMPLES = 20
"""Hosts that are read by themselves in one reading, to see what they take."""
STATIC_EVERY = 10
"""Zones, fabrics, and what devices without an ETag are, are read anew in every such reading."""


class Poller:
    """Reads inventories and keeps between them what was read."""

    def __init__(self, session: Session, part_bytes: Mapping[DeviceKind, int]) -> None:
        self._session = session
        self._readings = 0
        self._looked = False
        self._expansion = Expansion()
        self._topology = TopologyReader(session)
        self._blocks: Members[Block] = Members(self._parse, session.local)
        self._systems: Members[System] = Members(system_of, session.local)
        self._facts: dict[str, tuple[tuple[object, ...], int, Facts | UnusedReason]] = {}
        """What blocks hold, with the version of the block and the reading that told."""
        self.blocks: dict[str, Block] = {}
        """The last reading, by URI, with the ids that Weft uses."""
        self.systems: dict[str, System] = {}
        self._listed_at: dict[str, set[str]] = {}
        """Of `systems` those that list a block, by URIs."""
        self._block_named: dict[str, str] = {}
        self._system_named: dict[str, str] = {}
        self.attaching = Attaching(session, part_bytes)
        """What is known of fabrics, where there are no resource blocks and devices are endpoints."""
        self.offers: tuple[Composing, ...] = ()
        """Where systems can be made of blocks; empty: nowhere."""
        self.system_of: dict[str, str] = {}
        """The system that a host which is a compute block is in, by URIs."""
        self._listed_offers: tuple[Composing, ...] = ()
        self.asked: dict[str, str] = {}
        """The system that a block was last to be attached to by us, whether or not it came to that."""
        self.systems_tell = False
        """Whether a system has ever been seen to list a device: then what none lists is nowhere."""

    def _parse(self, body: Json, uri: str, resolve: Resolve) -> Block:
        return (endpoint_of if uri in self.attaching.fabric_of else block_of)(body, uri, resolve)

    def is_device(self, uri: str) -> bool:
        """Whether the block at this URI was read, and may be a device as far as that is known."""
        block = self.blocks.get(uri)
        facts = self._facts[uri][2] if uri in self._facts else None
        return (
            block is not None
            and block.unused is None
            and is_name(block.id)
            and not isinstance(facts, UnusedReason)
        )

    def meet(self, uri: str, body: Json) -> None:
        """Take a block that was read outside of a reading. Raises Transient when it makes no sense."""
        block, known = self._blocks.put(uri, body, self._readings), self.blocks.get(uri)
        if known is None or known.endpoint is not None or self.offers:
            self._name()
        else:
            self.blocks[uri] = replace(block, id=known.id)

    def meet_all(self, bodies: Mapping[str, Json]) -> None:
        """The same of several, joined with what is known once."""
        for uri, body in bodies.items():
            self._blocks.put(uri, body, self._readings)
        self._name()

    def meet_system(self, uri: str, body: Json) -> None:
        """Take a system that was read outside of a reading. Raises Transient when it makes no sense."""
        system, known = self._systems.put(uri, body, self._readings), self.systems.get(uri)
        if known is None or known.compute or self.attaching.fabric_of:
            self._name()
        else:
            self.systems[uri] = replace(system, host=replace(system.host, id=known.host.id))
            for each in known.blocks or ():
                self._listed_at[each].discard(uri)
            self._note_listed(system)
        self.systems_tell |= any(self.is_device(each) for each in system.blocks or ())

    def block_named(self, device: str) -> str:
        """The URI of the block with this id; empty: none was read."""
        return self._block_named.get(device, "")

    def system_named(self, host: str) -> str:
        """The URI of the host with this id; empty: none was read."""
        return self._system_named.get(host, "")

    def owners(self) -> dict[str, str]:
        """The owners' marks on what is attached, by the URI of the device."""
        systems = self._systems.values()
        named = [(each.name, each.blocks) for each in systems if each.blocks and each.name.startswith(OURS)]
        named += [(each.name, self.attaching.reached(each)) for each in self.attaching.connections.values()]
        marked = [(owner, uris) for name, uris in named if (owner := owner_in(name))]
        return {uri: owner for owner, uris in marked for uri in uris if self.is_device(uri)}

    def listed_at(self, uri: str) -> frozenset[str]:
        """URIs of the systems that list this block; costs what it finds, not what there is."""
        return frozenset(self._listed_at.get(uri, ()))

    def _note_listed(self, system: System) -> None:
        for each in system.blocks or ():
            self._listed_at.setdefault(each, set()).add(system.uri)

    def compute_hosts(self) -> frozenset[str]:
        """URIs of the hosts that are compute blocks."""
        return frozenset(uri for uri, host in self.systems.items() if host.compute)

    def knows_system(self, uri: str) -> bool:
        """Whether the system at this URI was ever read."""
        entry = self._systems.entries.get(uri)
        return entry is not None and entry.value is not None

    def forget_system(self, uri: str) -> None:
        """The system at this URI is gone."""
        self._systems.entries.pop(uri, None)
        self._name()

    def meet_zone(self, uri: str, body: Json) -> Zone:
        """Take a zone that was read outside of a reading. Raises Transient when it makes no sense."""
        zone = self.attaching.zones.put(uri, body, self._readings)
        self._name()
        return zone

    async def meet_connections(self, listing: Listing) -> None:
        """Take connections that were listed outside of a reading. Raises Transient when one makes no sense."""
        await self.attaching.connections.take(listing, self._readings, Problems())
        self._name()

    def meet_connection(self, uri: str, body: Json) -> Connection:
        """Take a connection that was read outside of a reading. Raises Transient when it makes no sense."""
        connection = self.attaching.connections.put(uri, body, self._readings)
        self._name()
        return connection

    def meet_parts(self) -> None:
        """What is carved was listed outside of a reading."""
        self._name()

    async def look(self, service: Service, deadline: float, login: int) -> None:
        """Read who has what, unless there was a reading before: it has to be known before a change.

        Raises Transient when the systems cannot be listed to their end.
        """
        if self._readings or self._looked:
            return
        problems = Problems()
        collections = Collections(self._session, deadline, problems, login=login, expansion=self._expansion)
        await self._list(service, collections, problems)
        if not self._systems.whole:
            raise Transient(f"not all systems could be listed: {'; '.join(problems.texts)}")
        await self._read_systems(collections)
        if self.attaching.fabric_of:
            await self.attaching.read_zones(collections, self._readings)
        may_compose = bool(self._listed_offers) or not self._systems.entries
        if may_compose:
            topology, _ = await self._topology.read(service, _NO_RACK, collections, problems, fresh=True)
            self.offers = (*self._listed_offers, *topology.offers)
        if may_compose or self.attaching.fabric_of:

            async def look(uri: str) -> None:
                await self._blocks.read(uri, collections, self._readings)

            await collections.work(self._blocks.in_order(), look)
            await self.attaching.read_parts(service, collections, self._blocks.values(), problems, True)
        self._name()
        self._looked = True

    async def read(self, service: Service, deadline: float, first: frozenset[str] = frozenset()) -> Inventory:
        """One reading. Raises when neither blocks nor systems could be listed, or on AuthFailed."""
        problems = Problems()
        self._readings += 1
        self._expansion.next_reading()
        collections = Collections(self._session, deadline, problems, expansion=self._expansion)
        await self._list(service, collections, problems)
        await self._read_systems(collections)
        await self.attaching.read_zones(collections, self._readings)
        rack = frozenset(self._blocks.entries), frozenset(self._systems.entries)
        now = asyncio.get_running_loop().time()
        # The zones of a big rack must not take the time of its devices.
        half = collections.until(max(now, now + (deadline - now) / 2))
        fresh = self._readings % STATIC_EVERY == 1
        topology, known = await self._topology.read(service, rack, half, problems, fresh=fresh)
        self.offers = (*self._listed_offers, *topology.offers)
        await self._read_blocks(collections, first)
        await self.attaching.read_parts(service, collections, self._blocks.values(), problems, fresh)
        await asyncio.sleep(0)
        self._name()
        await asyncio.sleep(0)
        if self.attaching.fabric_of:
            if service.expand and fresh:
                await self.attaching.read_samples(collections, self._readings)
            related = self.attaching.related
            domains = tuple(d for d in topology.domains if d.zone not in related.zones)
            topology = Topology(related.reach, domains)
        facts = {uri: found for uri, (_, _, found) in self._facts.items()}
        for end, carved in self.attaching.sources.carved.items():
            if isinstance(whole := facts.get(end), Facts):
                part = replace(whole, capacity_bytes=carved.part_bytes)
                facts |= {part_uri(end, number): part for number in carved.numbers}
        return await beside(
            assemble,
            list(self.blocks.values()),
            list(self.systems.values()),
            facts,
            topology,
            problems,
            unread=self._unread(facts, topology=not known),
            no_devices="" if self.attaching.fabric_of else service.no_devices,
            service=service.uuid,
        )

    async def _list(self, service: Service, collections: Collections, problems: Problems) -> None:
        """The lists of systems and blocks, with what the manager sends along."""
        systems, blocks = await together(
            [
                self._listing(collections, service, service.systems, service.expand),
                self._listing(collections, service, service.blocks, service.expand_deep, service.expand),
            ]
        )
        if isinstance(blocks, Listing) and blocks.whole and not blocks.members and service.fabrics:
            blocks = await self.attaching.list(service, collections, problems, self._readings)
        elif isinstance(blocks, Listing) and blocks.members:
            self.attaching.fabric_of = {}
        failures = [f for f in (systems, blocks) if isinstance(f, FabricError)]
        if failures and len(failures) == sum(bool(link) for link in (service.systems, service.blocks)):
            raise failures[0]
        for failure in failures:
            problems.missing(str(failure))
        self._systems.whole = self._blocks.whole = False
        if isinstance(systems, Listing):
            self._listed_offers = self._offers(service, systems.about)
            await self._systems.take(systems, self._readings, problems)
        if isinstance(blocks, Listing):
            await self._blocks.take(blocks, self._readings, problems)

    async def _listing(
        self, collections: Collections, service: Service, link: str, *queries: str
    ) -> Listing | FabricError:
        if not link:
            return Listing({}, whole=service.lasting)
        try:
            return await collections.listing(link, *queries)
        except AuthFailed:
            raise
        except FabricError as error:
            return error

    def _offers(self, service: Service, about: Json) -> tuple[Composing, ...]:
        """What the collection of systems says can be made in it, by its capabilities or by its Allow header."""
        if said := composing(about, self._session.local):
            return tuple(said)
        takes_post = bool(service.systems) and "POST" in (self._session.allowed(service.systems) or ())
        return (Composing(canonical(service.systems)),) if takes_post else ()

    async def _read_systems(self, collections: Collections) -> None:
        async def look(uri: str) -> None:
            with failure_of(self._systems.entries[uri]):
                await self._systems.read(uri, collections, self._readings)

        async def look_by_itself(uri: str) -> None:
            self._systems.put(uri, await collections.read(uri), self._readings)

        order = self._systems.in_order()
        unread = [u for u in order if self._systems.entries[u].read_in < self._readings]
        await collections.work(unread, look)
        if order and not unread and self._readings % STATIC_EVERY == 1:
            # What came along with the collection says nothing of the methods that its members take.
            hosts = sorted(system.uri for system in self._systems.values() if system.unused is None)
            await collections.work(hosts[:1], look_by_itself)
            if any("PATCH" not in (self._session.allowed(uri) or {"PATCH"}) for uri in hosts[:1]):
                # It may be the only one of its kind.
                others = [uri for uri in hosts if self._session.allowed(uri) is None]
                await collections.work(others[:MAX_SAMPLES], look_by_itself)

    async def _read_blocks(self, collections: Collections, first: frozenset[str]) -> None:
        """Each block with what it holds, so that devices appear one by one, and not all at the end."""
        claimed = {uri for uri, b in self.blocks.items() if b.id in first}
        # Of those that were never read, the URI tells most of the ids.
        unread = [uri for uri, entry in self._blocks.entries.items() if entry.value is None]
        claimed |= {uri for uri in unread if {last_segment(uri), name_of_uri(uri)} & first}
        claimed |= {uri for s in self._systems.values() for uri in s.blocks or ()}

        async def look(uri: str) -> None:
            with failure_of(self._blocks.entries[uri]):
                block = await self._blocks.read(uri, collections, self._readings)
                if not self._knows(block):
                    await self._look_into(block, collections)

        async def look_again(uri: str) -> None:
            with failure_of(self._blocks.entries[uri]):
                await self._look_into(await self._blocks.read(uri, collections, self._readings), collections)

        entries = self._blocks.entries
        for number, entry in enumerate(tuple(entries.values())):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if entry.value is not None and entry.value.expanded:
                self._learn(entry.value, entry.value.expanded)
                # Two KiB of a device's documents, of which the facts are all that anybody wants.
                entry.value = replace(entry.value, expanded=())
        order = self._blocks.in_order(claimed, self._facts)
        await asyncio.sleep(0)
        await collections.work([uri for uri in order if self._lacks(uri)], look)
        # Without an ETag nobody says that a device was exchanged: look now and then, when all the rest is read.
        old = [uri for uri in order if self._is_old(uri) and not self._lacks(uri)]
        await collections.work(old, look_again)
        parts = {uri for block in self._blocks.values() for uri, _ in _parts(block)}
        self._facts = {uri: known for uri, known in self._facts.items() if uri in entries or uri in parts}

    def _lacks(self, uri: str) -> bool:
        entry = self._blocks.entries[uri]
        return entry.value is None or entry.read_in < self._readings or not self._knows(entry.value)

    def _knows(self, block: Block) -> bool:
        held = (block.uri, *(uri for uri, _ in _parts(block)))
        versions = [known[0] if (known := self._facts.get(uri)) else None for uri in held]
        return block.unused is not None or versions == [_version(block)] * len(held)

    def _is_old(self, uri: str) -> bool:
        block, known = self._blocks.entries[uri].value, self._facts.get(uri)
        if block is None or block.etag or block.expanded or known is None:
            return False
        return self._readings - known[1] >= STATIC_EVERY

    async def _look_into(self, block: Block, collections: Collections) -> None:
        if block.unused is None:
            self._learn(block, block.expanded or await contents(block, collections, self._session.local))

        for uri, kind in _parts(block):
            # What the device is, in the size of the part.
            whole, part = self._facts[block.uri][2], facts_of(kind, (await collections.read(uri),))
            if isinstance(whole, Facts) and isinstance(part, Facts):
                part = replace(part, attributes={**whole.attributes, **part.attributes})
            self._facts[uri] = (_version(block), self._readings, part)

    def _learn(self, block: Block, held: tuple[Json, ...]) -> None:
        self._facts[block.uri] = (_version(block), self._readings, facts_of(block.kind, held))

    def _name(self) -> None:
        """Give blocks and systems the ids that Weft uses; those in use stay."""
        blocks, systems = self._blocks.values(), self._systems.values()
        others: list[Block] = []
        if self.attaching.fabric_of:
            related = self.attaching.relate(blocks, systems)
            # One device may have an endpoint of the same name in each fabric.
            others = [b for b in related.blocks if b.unused is not None]
            blocks = [b for b in related.blocks if b.unused is None]
            systems = list(related.systems)
        self.system_of = {}
        if self.offers:
            made = compose(blocks, systems)
            blocks, systems, self.system_of = list(made.blocks), list(made.systems), made.system_of
        blocks = [*others, *named_blocks(blocks, {uri: b.id for uri, b in self.blocks.items()})]
        systems = named_systems(systems, {uri: s.host.id for uri, s in self.systems.items()})
        self.blocks = {b.uri: b for b in blocks}
        self.systems = {s.uri: s for s in systems}
        self._listed_at = {}
        for system in systems:
            self._note_listed(system)
        # A host's own endpoint, or another way to a device, may have the device's name: the device goes before it.
        self._block_named = {b.id: b.uri for b in sorted(blocks, key=lambda b: b.unused is not None)[::-1]}
        self._system_named = {s.host.id: s.uri for s in reversed(systems)}
        self.systems_tell |= any(self.is_device(uri) for s in systems for uri in s.blocks or ())

    def _unread(self, facts: Mapping[str, object], *, topology: bool) -> Unread:
        """What this reading says nothing new about."""
        devices = {
            self.blocks[each].id if each in self.blocks else last_segment(each)
            for uri, entry in self._blocks.entries.items()
            if self._lacks(uri) and not (entry.value is not None and entry.value.unused)
            for each in (uri, *(part for part, _ in (_parts(entry.value) if entry.value else ())))
        }
        for uri in self.attaching.sources.unread:
            carved = self.attaching.sources.carved.get(uri)
            parts = (part_uri(uri, number) for number in (carved.numbers if carved else ()))
            devices |= {self.blocks[part].id for part in parts if part in self.blocks}
        hosts = {
            self.systems[uri].host.id if uri in self.systems else last_segment(uri)
            for uri, entry in self._systems.entries.items()
            if entry.read_in < self._readings
        }
        hosts |= {self.systems[uri].host.id for uri in self.attaching.unread_hosts(self._readings)}
        return Unread(
            devices=frozenset(devices),
            hosts=frozenset(hosts),
            device_list=not self._blocks.whole,
            host_list=not self._systems.whole,
            topology=topology,
        )


def _version(block: Block) -> tuple[object, ...]:
    return (block.etag, block.components, _parts(block))


def _parts(block: Block) -> tuple[tuple[str, DeviceKind], ...]:
    return block.endpoint.parts if block.endpoint is not None and block.unused is None else ()

"""Reading the fabrics by which hosts reach devices, where the manager has no resource blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.fabric.driver import DeviceKind
from weft.fabric.errors import AuthFailed, FabricError, NotFound, RateLimited
from weft.fabric.redfish.connected import Connection, connection_of
from weft.fabric.redfish.discovery import Service, link_at
from weft.fabric.redfish.endpoints import ATTACHING, Related, Zone, relate, zone_of
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.limits import OutOfTime
from weft.fabric.redfish.mapping import Json, mapping_at
from weft.fabric.redfish.members import Members, failure_of
from weft.fabric.redfish.reader import Collections, Listing
from weft.fabric.redfish.resources import Block, System
from weft.fabric.redfish.session import Session
from weft.fabric.redfish.sources import Sources
from weft.fabric.redfish.uris import canonical


class Attaching:
    """Endpoints, zones, and what they make of hosts and devices; kept from reading to reading."""

    def __init__(self, session: Session, part_bytes: Mapping[DeviceKind, int]) -> None:
        self._session = session
        self.fabric_of: dict[str, str] = {}
        """Fabric by endpoint, by URIs; empty: devices are resource blocks, or there are none."""
        self.zones: Members[Zone] = Members(zone_of, session.local)
        self.connections: Members[Connection] = Members(connection_of, session.local)
        self.connected: dict[str, str] = {}
        """Collection of connections by fabric, by URIs: there, zones say who could reach a device, not who has it."""
        self.marked: frozenset[str] = frozenset()
        """Fabrics that an aggregator shows for an agent (Sunfish)."""
        self.sources = Sources(session, part_bytes)
        self.related = Related((), ())

    async def list(
        self, service: Service, collections: Collections, problems: Problems, reading: int
    ) -> Listing | FabricError:
        """All endpoints of these fabrics; their zones are listed, too."""
        found: dict[str, Listing] = {}
        zones: list[Listing] = []
        connections: list[Listing] = []
        fabric_of: dict[str, str] = {}
        connected: dict[str, str] = {}
        marked: set[str] = set()
        try:
            for uri, fabric in await collections.members(service.fabrics, service.expand):
                endpoints, zone_list = link_at(fabric, "Endpoints"), link_at(fabric, "Zones")
                connection_list = link_at(fabric, "Connections")
                if fabric.get("FabricType") not in ATTACHING or not endpoints:
                    continue
                if not zone_list and not connection_list:
                    continue
                listings = [
                    await self._listing(collections, link, service.expand, problems)
                    for link in (endpoints, zone_list, connection_list)
                ]
                found[uri] = listings[0] or Listing({}, True)
                fabric_of |= dict.fromkeys(found[uri].members, uri)
                zones += [listings[1]] if listings[1] else []
                if listings[2] is not None:
                    connected[uri] = canonical(self._session.local(connection_list))
                    connections.append(listings[2])
                if mapping_at(fabric, "Oem", "Sunfish_RM"):
                    marked.add(uri)
        except AuthFailed:
            raise
        except FabricError as error:
            return error
        listing = _joined(list(found.values()))
        # Whose fabric an endpoint is does not change.
        self.fabric_of = fabric_of if listing.whole else self.fabric_of | fabric_of
        self.connected, self.marked = connected, frozenset(marked)
        await self.zones.take(_joined(zones), reading, problems)
        await self.connections.take(_joined(connections), reading, problems)
        return listing

    async def _listing(
        self, collections: Collections, link: object, expand: str, problems: Problems
    ) -> Listing | None:
        """A collection of a fabric; None: there is none, whatever the fabric says. One that fails costs itself."""
        try:
            return await collections.listing(link, expand) if link else None
        except NotFound:
            return None
        except (AuthFailed, OutOfTime, RateLimited):
            raise
        except FabricError as error:
            problems.missing(f"{link}: {error}")
            return Listing({}, False)

    async def read_zones(self, collections: Collections, reading: int) -> None:
        """Read the zones and connections that did not come along with their collection."""

        async def look(uri: str) -> None:
            with failure_of(self.zones.entries[uri]):
                await self.zones.read(uri, collections, reading)

        async def look_at_connection(uri: str) -> None:
            with failure_of(self.connections.entries[uri]):
                await self.connections.read(uri, collections, reading)

        await collections.work(self.zones.in_order(), look)
        await collections.work(self.connections.in_order(), look_at_connection)

    async def read_samples(self, collections: Collections, reading: int) -> None:
        """Read a host's zone of each fabric by itself: what comes along with a collection has no Allow header."""

        async def look(uri: str) -> None:
            self.zones.put(uri, await collections.read(uri), reading)

        samples = {uri.rpartition("/")[0]: uri for uri in sorted(self.related.zones, reverse=True)}
        await collections.work(list(samples.values()), look)

    def relate(self, endpoints: Sequence[Block], systems: Sequence[System]) -> Related:
        """Join what was read."""
        self.related = relate(
            endpoints,
            systems,
            self.zones.values(),
            self.fabric_of,
            self.connections.values(),
            frozenset(self.connected),
            self.sources.carved,
            self.sources.withheld,
        )
        return self.related

    def reached(self, connection: Connection) -> tuple[str, ...]:
        """URIs of the devices that the hosts of a connection have by it."""
        return connection.reached(self.sources.aliases, self.related.endpoint_of)

    async def read_parts(
        self,
        service: Service,
        collections: Collections,
        blocks: Sequence[Block],
        problems: Problems,
        fresh: bool,
    ) -> None:
        """List what is carved from the devices behind endpoints, where that is wanted."""
        if self.sources.wanted:
            ends = [b for b in blocks if self.fabric_of.get(b.uri) in self.connected]
            await self.sources.read(service, collections, ends, problems, fresh=fresh)

    def unread_hosts(self, reading: int) -> frozenset[str]:
        """URIs of the hosts of which this reading does not tell all that they have."""
        if not self.fabric_of:
            return frozenset()
        unread = {uri for uri, entry in self.connections.entries.items() if entry.value is None}
        if not self.zones.whole or not self.connections.whole or unread:
            return frozenset(system.uri for system in self.related.systems)
        stale = [uri for uri, entry in self.zones.entries.items() if entry.read_in < reading]
        hosts = {self.related.zones[uri] for uri in stale if uri in self.related.zones}
        for entry in self.connections.entries.values():
            if entry.value is not None and entry.read_in < reading:
                ends = entry.value.initiators
                hosts |= {self.related.host_of[uri] for uri in ends if uri in self.related.host_of}
        return frozenset(hosts)


def _joined(listings: Sequence[Listing]) -> Listing:
    members: dict[str, Json | None] = {}
    for listing in listings:
        members |= listing.members
    return Listing(members, all(listing.whole for listing in listings))

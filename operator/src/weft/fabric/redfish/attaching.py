"""Reading the fabrics by which hosts reach devices, where the manager has no resource blocks."""

from __future__ import annotations

from collections.abc import Sequence

from weft.fabric.errors import AuthFailed, FabricError
from weft.fabric.redfish.discovery import Service, link_at
from weft.fabric.redfish.endpoints import ATTACHING, Related, Zone, relate, zone_of
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.mapping import Json
from weft.fabric.redfish.members import Members, failure_of
from weft.fabric.redfish.reader import Collections, Listing
from weft.fabric.redfish.resources import Block, System
from weft.fabric.redfish.session import Session


class Attaching:
    """Endpoints, zones, and what they make of hosts and devices; kept from reading to reading."""

    def __init__(self, session: Session) -> None:
        self.fabric_of: dict[str, str] = {}
        """Fabric by endpoint, by URIs; empty: devices are resource blocks, or there are none."""
        self.zones: Members[Zone] = Members(zone_of, session.local)
        self.related = Related((), ())

    async def list(
        self, service: Service, collections: Collections, problems: Problems, reading: int
    ) -> Listing | FabricError:
        """All endpoints of these fabrics; their zones are listed, too."""
        try:
            found: dict[str, Json | None] = {}
            fabric_of: dict[str, str] = {}
            zones: dict[str, Json | None] = {}
            endpoints_whole = zones_whole = True
            for uri, fabric in await collections.members(service.fabrics, service.expand):
                endpoints, zone_list = link_at(fabric, "Endpoints"), link_at(fabric, "Zones")
                if fabric.get("FabricType") not in ATTACHING or not endpoints or not zone_list:
                    continue
                listing = await collections.listing(endpoints, service.expand)
                endpoints_whole &= listing.whole
                found |= listing.members
                fabric_of |= dict.fromkeys(listing.members, uri)
                listing = await collections.listing(zone_list, service.expand)
                zones_whole &= listing.whole
                zones |= listing.members
        except AuthFailed:
            raise
        except FabricError as error:
            return error
        if not endpoints_whole:
            # Whose fabric an endpoint is does not change.
            fabric_of = self.fabric_of | fabric_of
        self.fabric_of = fabric_of
        self.zones.take(Listing(zones, zones_whole), reading, problems)
        return Listing(found, endpoints_whole)

    async def read_zones(self, collections: Collections, reading: int) -> None:
        """Read the zones that did not come along with their collection."""

        async def look(uri: str) -> None:
            with failure_of(self.zones.entries[uri]):
                await self.zones.read(uri, collections, reading)

        await collections.work(self.zones.in_order(), look)

    async def read_samples(self, collections: Collections, reading: int) -> None:
        """Read a host's zone of each fabric by itself: what comes along with a collection has no Allow header."""

        async def look(uri: str) -> None:
            self.zones.put(uri, await collections.read(uri), reading)

        samples = {uri.rpartition("/")[0]: uri for uri in sorted(self.related.zones, reverse=True)}
        await collections.work(list(samples.values()), look)

    def relate(self, endpoints: Sequence[Block], systems: Sequence[System]) -> Related:
        """Join what was read."""
        self.related = relate(endpoints, systems, self.zones.values(), self.fabric_of)
        return self.related

    def unread_hosts(self, reading: int) -> frozenset[str]:
        """URIs of the hosts of which this reading does not tell all that they have."""
        if not self.fabric_of:
            return frozenset()
        if not self.zones.whole:
            return frozenset(system.uri for system in self.related.systems)
        stale = [uri for uri, entry in self.zones.entries.items() if entry.read_in < reading]
        return frozenset(self.related.zones[uri] for uri in stale if uri in self.related.zones)

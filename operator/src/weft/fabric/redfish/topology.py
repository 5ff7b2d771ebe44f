"""What reaches what: resource zones, and the domains of the manager's fabrics."""

from __future__ import annotations

import re
from collections.abc import Sequence

from weft.fabric.errors import AuthFailed, FabricError
from weft.fabric.redfish.composed import composing
from weft.fabric.redfish.discovery import Service, link_at
from weft.fabric.redfish.inventory import Composing, Domain, Problems, Topology
from weft.fabric.redfish.mapping import Json, mapping_at
from weft.fabric.redfish.reader import Collections
from weft.fabric.redfish.resources import id_of
from weft.fabric.redfish.session import Session
from weft.fabric.redfish.shapes import items_of, links_of

_DOMAIN_ATTRIBUTES = {
    "NVMeOverFabrics": "nvmeofDomain",
    "InfiniBand": "rdmaDomain",
    "RoCE": "rdmaDomain",
    "RoCEv2": "rdmaDomain",
    "iWARP": "rdmaDomain",
}
"""Others are named after the fabric's type: `nvlinkDomain`, `cxlDomain`, `pcieDomain`."""


class TopologyReader:
    """Reads zones and domains when the racks' members have changed, over as many readings as that takes."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._topology: Topology | None = None
        self._members: tuple[frozenset[str], frozenset[str]] | None = None
        self._kept: dict[str, Json] = {}
        """What was read for the topology to come."""

    async def read(
        self,
        service: Service,
        members: tuple[frozenset[str], frozenset[str]],
        collections: Collections,
        problems: Problems,
        *,
        fresh: bool,
    ) -> tuple[Topology, bool]:
        """The topology, and whether it is known: read now, or when the rack had the same blocks and systems."""
        if self._topology is not None and not fresh and members == self._members:
            return self._topology, True
        holes = problems.holes
        try:
            zones, offers = await self._zones(service, collections)
            domains = await self._domains(service, collections, problems)
        except AuthFailed:
            raise
        except FabricError as error:
            problems.missing(f"zones and fabrics: {error}")
        if problems.holes > holes:
            return self._topology or Topology(), False
        self._topology, self._members, self._kept = Topology(zones, domains, offers), members, {}
        return self._topology, True

    async def _zones(
        self, service: Service, collections: Collections
    ) -> tuple[tuple[frozenset[str], ...], tuple[Composing, ...]]:
        if not service.zones:
            return (), ()
        found = await collections.members(service.zones, service.expand, self._kept)
        links = (links_of(body, self._session.local, "Links", "ResourceBlocks") for _, body in found)
        offers = tuple(offer for uri, zone in found for offer in composing(zone, self._session.local, uri))
        return tuple(frozenset(uris or ()) for uris in links), offers

    async def _domains(
        self, service: Service, collections: Collections, problems: Problems
    ) -> tuple[Domain, ...]:
        if not service.fabrics:
            return ()
        fabrics = await collections.members(service.fabrics, service.expand, self._kept)
        attributes = [domain_attribute(body.get("FabricType")) for _, body in fabrics]
        domains: list[Domain] = []
        for (fabric_uri, fabric), attribute in zip(fabrics, attributes, strict=True):
            link = link_at(fabric, "Zones")
            if not link:
                continue
            zones = await collections.members(link, service.expand, self._kept)
            zones = [(uri, z) for uri, z in zones if z.get("ZoneType") in (None, "ZoneOfEndpoints")]
            if zones and not attribute:
                problems.note(f"{fabric_uri}: it does not say its FabricType: its zones are no domains")
                continue
            entities = await self._entities(fabric, zones, service, collections)
            # Zone Ids are unique within one fabric only.
            prefix = f"{id_of(fabric, fabric_uri)}." if attributes.count(attribute) > 1 else ""
            for uri, zone in zones:
                uris = set(links_of(zone, self._session.local, "Links", "ResourceBlocks") or ())
                for endpoint in links_of(zone, self._session.local, "Links", "Endpoints") or ():
                    uris |= entities.get(endpoint, set())
                domains.append(Domain(attribute, prefix + id_of(zone, uri), frozenset(uris), uri))
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
        if not service.expand and all(mapping_at(z, "Links").get("ResourceBlocks") for _, z in zones):
            return {}
        entities: dict[str, set[str]] = {}
        for uri, endpoint in await collections.members(link, service.expand, self._kept):
            connected = items_of(endpoint.get("ConnectedEntities"), "", lambda _: None) or ()
            linked = {"links": [e["EntityLink"] for e in map(mapping_at, connected) if e.get("EntityLink")]}
            entities[uri] = set(links_of(linked, self._session.local, "links") or ())
        return entities


def domain_attribute(fabric_type: object) -> str:
    """The device attribute that names the domain in a fabric of this type; empty when the type is unknown."""
    if not isinstance(fabric_type, str):
        return ""
    name = re.sub(r"[^a-z0-9]", "", fabric_type.lower())
    return _DOMAIN_ATTRIBUTES.get(fabric_type) or (f"{name}Domain" if name else "")

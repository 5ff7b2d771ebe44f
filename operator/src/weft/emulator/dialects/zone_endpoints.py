"""PATCH of `Links.Endpoints` of a fabric's zone: the host's own zone, with its endpoint and those of its devices.

So do PCIe switches: each host has a zone in each fabric by which it reaches devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from weft.emulator import redfish
from weft.emulator.dialects.base import (
    Collection,
    Route,
    body_of,
    explained,
    links_at,
    missing,
    object_at,
    only,
    refused,
)
from weft.emulator.dialects.chassis import ChassisDialect
from weft.emulator.fabrics import zone_of_host
from weft.emulator.inventory import ATTACH_FABRIC
from weft.emulator.quirks import Quirk
from weft.emulator.redfish import Document
from weft.emulator.state import RefusedError
from weft.emulator.writes import Plan, RefusedWriteError, Write

if TYPE_CHECKING:
    from weft.emulator.tree import Tree

_PREFIX = "zone-"


class ZoneEndpoints(ChassisDialect):
    """Zones of endpoints that a client fills."""

    def routes(self) -> tuple[Route, ...]:
        return (Route("PATCH", f"{redfish.FABRICS}/{{fabric}}/Zones/{_PREFIX}{{host}}", self._patch),)

    def collection(self, path: str, parts: list[str], tree: Tree) -> Collection | None:
        match parts:
            case ["Fabrics", fabric, "Zones"] if fabric in self.world.fabrics:
                own = [f"{_PREFIX}{host}" for host in self.world.hosts if self._has_zone(fabric, host)]
                return Collection.of(path, "Zone", "Zones", [*own, *self.layout.zones[fabric]])
        return super().collection(path, parts, tree)

    def find(self, parts: list[str], tree: Tree) -> Document | None:
        match parts:
            case ["Fabrics", fabric, "Zones", zone] if self._has_zone(fabric, zone.removeprefix(_PREFIX)):
                host = zone.removeprefix(_PREFIX)
                if zone != f"{_PREFIX}{host}":
                    return None
                devices = tree.visible(self._attached(fabric, host))
                return zone_of_host(fabric, zone, (redfish.host_block(host), *devices))
        return super().find(parts, tree)

    def adjust(self, parts: list[str], document: Document) -> Document:
        document = super().adjust(parts, document)
        match parts:
            case ["Fabrics", fabric, "Zones", zone] if (
                zone.startswith(_PREFIX) and Quirk.BLOCK_ONLY in self.quirks
            ):
                links = {name: value for name, value in document["Links"].items() if "Endpoints" not in name}
                return document | {"Links": links}
            case ["Fabrics", fabric, "Endpoints", name]:
                hosts = self._hosts(fabric, name)
                if Quirk.SYSTEM_ONLY in self.quirks and name not in self.layout.own_blocks:
                    hosts = ()
                zones = [item["@odata.id"] for item in document["Links"]["Zones"]]
                zones += [f"{redfish.FABRICS}/{fabric}/Zones/{_PREFIX}{host}" for host in hosts]
                return document | {"Links": document["Links"] | redfish.links("Zones", zones)}
        return document

    def _hosts(self, fabric: str, endpoint: str) -> tuple[str, ...]:
        """The hosts in whose zone an endpoint is."""
        if endpoint in self.layout.own_blocks:
            host = self.layout.own_blocks[endpoint]
            return (host,) if self._has_zone(fabric, host) else ()
        return self.state.hosts_of(endpoint) if self._attaches(fabric, endpoint) else ()

    def _has_zone(self, fabric: str, host: str) -> bool:
        attaching = fabric in ATTACH_FABRIC.values() and fabric in self.world.fabrics
        return attaching and host in self.world.hosts

    def _attaches(self, fabric: str, device: str) -> bool:
        known = self.world.devices.get(device)
        return known is not None and ATTACH_FABRIC[known.type] == fabric

    def _attached(self, fabric: str, host: str) -> list[str]:
        return [block for block in self.state.blocks_of(host) if self._attaches(fabric, block)]

    def _named(self, fabric: str, endpoint: str, tree: Tree) -> str:
        """The device whose target endpoint this is; empty: it is none that can be seen."""
        return endpoint if self._attaches(fabric, endpoint) and not tree.is_hidden(endpoint) else ""

    def _patch(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        fabric, host = named["fabric"], named["host"]
        if not self._has_zone(fabric, host):
            raise missing(write.path)
        data = body_of(write)
        only(data, ("Links",), ("Id", "Name", "ZoneType", "Status"))
        part = object_at(data, "Links")
        only(part, ("Endpoints", "Endpoints@odata.count"), where="Links/")
        uris = links_at(part, "Endpoints", "Links/")
        own = self.endpoint_path(fabric, redfish.host_block(host))
        if own not in uris:
            raise refused(400, "PropertyValueIncorrect", "Links/Endpoints", str(uris), hint=f"Keep {own}.")
        prefix = self.endpoint_path(fabric, "")
        names = {
            uri: self._named(fabric, uri.removeprefix(prefix), tree) or uri for uri in uris if uri != own
        }
        pointers = {names[uri]: f"#/Links/Endpoints/{n}" for n, uri in enumerate(uris) if uri != own}
        kept = [
            block
            for block in self.state.blocks_of(host)
            if not self._attaches(fabric, block) or tree.is_hidden(block)
        ]

        def explain(error: RefusedError) -> RefusedWriteError:
            return explained(error, host, pointers, "Links/Endpoints")

        change = self.change(host, [*kept, *names.values()], explain)
        copies = (self.endpoint_path(fabric, block) for block in (*change.attach, *change.detach))
        return Plan(change, write.path, copies=tuple(copies))

"""ZoneEndpoints: the endpoints of a host's own zone in a fabric are written as a whole, as PCIe switches take it."""

from __future__ import annotations

from collections.abc import Sequence

from weft.fabric.driver import Operation, WriteIdiom
from weft.fabric.errors import InvalidRequest
from weft.fabric.redfish.mapping import Json, Reply
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.resources import System
from weft.fabric.redfish.shapes import Resolve, links_of
from weft.fabric.redfish.uris import name_of_path
from weft.fabric.redfish.writes import Allowed, Evidence, Present, methods_of
from weft.fabric.redfish.writes.call import Call
from weft.fabric.redfish.writes.of_endpoints import OfEndpoints


class ZoneEndpoints(OfEndpoints):
    """PATCH of `Links.Endpoints` of the zone that has the host's initiator endpoint."""

    name = WriteIdiom.ZONE_ENDPOINTS

    def evidence(self, host: System, poller: Poller, allowed: Allowed) -> Evidence | str:
        """The Allow header of the host's zones, where there is one; else that nothing speaks against it."""
        zones = [zone for zone, owner in poller.attaching.related.zones.items() if owner == host.uri]
        if not zones:
            return "no zone of a fabric has its endpoint and that of no other host"
        refusing = [zone for zone in zones if "PATCH" not in (allowed(zone) or {"PATCH"})]
        if refusing:
            return f"its zones take {methods_of(allowed, refusing[0])} only (Allow header)"
        if allowed(zones[0]) is None:
            return Evidence(
                "its hosts have zones of endpoints, and it does not say how they change", said=False
            )
        return Evidence("the zones of its hosts take PATCH (Allow header)")

    async def attach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        fabric_of = call.poller.attaching.fabric_of
        zone_in = {_fabric(call, zone): zone for zone in reversed(present.read)}
        added: dict[str, list[str]] = {}
        for uri in devices:
            if (zone := zone_in.get(fabric_of.get(uri, ""))) is None:
                raise InvalidRequest(f"{name_of_path(uri)}: the host has no zone of its own in this fabric")
            added.setdefault(zone, []).append(uri)
        return await self._write(
            call,
            path,
            present,
            {zone: [*self._now(call, path, present, zone), *uris] for zone, uris in added.items()},
        )

    async def detach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        now = {zone: self._now(call, path, present, zone) for zone in present.read}
        rest = {zone: [uri for uri in uris if uri not in devices] for zone, uris in now.items()}
        return await self._write(call, path, present, {z: uris for z, uris in rest.items() if uris != now[z]})

    def _now(self, call: Call, path: str, present: Present, zone: str) -> list[str]:
        """The endpoints of a zone, also where the zone does not say: the host's and its devices'."""
        listed = _listed(present.read[zone].body, call.session.local)
        attaching = call.poller.attaching
        own = [uri for uri, host in attaching.related.host_of.items() if host == path]
        if set(own) & set(listed):
            return listed
        mine = [*own, *present.devices]
        here = [uri for uri in mine if attaching.fabric_of.get(uri) == _fabric(call, zone)]
        return list(dict.fromkeys([*listed, *here]))

    async def _write(
        self, call: Call, path: str, present: Present, wanted: dict[str, list[str]]
    ) -> Operation:
        async def one(zone: str) -> Reply:
            links = [{"@odata.id": call.session.spelled(uri)} for uri in wanted[zone]]
            return await call.send_if(
                present.read[zone],
                lambda body: _listed(body, call.session.local),
                lambda etag: call.send("PATCH", zone, {"Links": {"Endpoints": links}}, etag=etag),
            )

        return await call.in_turn(path, [*wanted], one)


def _listed(body: Json, resolve: Resolve) -> list[str]:
    return list(dict.fromkeys(links_of(body, resolve, "Links", "Endpoints") or ()))


def _fabric(call: Call, zone: str) -> str:
    """The fabric of a zone: that of the endpoints whose collection stands beside its own."""
    base = zone.rpartition("/Zones/")[0]
    return next((f for f in call.poller.attaching.fabric_of.values() if f == base), base)

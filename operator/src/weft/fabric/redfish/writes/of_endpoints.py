"""What the idioms of fabrics share: which endpoints are in the zones of a host, and which zones an endpoint is in."""

from __future__ import annotations

from collections.abc import Sequence

from weft.fabric.errors import InvalidRequest
from weft.fabric.redfish.reader import together
from weft.fabric.redfish.writes import Present
from weft.fabric.redfish.writes.call import Call


class OfEndpoints:
    """Reading where endpoints are, by the side that the manager keeps."""

    of_endpoints = True

    async def present(self, call: Call, path: str) -> Present:
        """What the zones of the host list; where one does not list even the host, what the endpoints say."""
        # That nothing is at a host says nothing of one that is gone: NotFound then.
        await call.read(path)
        related = call.poller.attaching.related
        zones = [zone for zone, host in related.zones.items() if host == path]
        for zone in zones:
            await call.tasks.await_turn(call.service, zone, call.deadline, call.login)
        replies = await together([call.read(zone) for zone in zones])
        read = dict(zip(zones, replies, strict=True))
        found: list[str] = []
        silent: set[str] = set()
        for zone, reply in read.items():
            listed = call.poller.meet_zone(zone, reply.body).endpoints or ()
            found += [uri for uri in listed if uri not in related.host_of]
            if not any(related.host_of.get(uri) == path for uri in listed):
                silent.add(zone)
        if silent:
            blocks = call.poller.blocks.values()
            said = [b.uri for b in blocks if b.endpoint and silent & set(b.endpoint.zones or ())]
            asked = [uri for uri, host in call.poller.asked.items() if host == path]
            maybe = [u for u in dict.fromkeys([*said, *asked]) if u not in found and u not in related.host_of]
            await self._read(call, maybe)
            found += [uri for uri in maybe if path in self._hosts(call, uri)]
        return Present(read, list(dict.fromkeys(found)))

    async def elsewhere(self, call: Call, path: str, devices: Sequence[str]) -> dict[str, set[str]]:
        """The hosts in whose zones each endpoint is: as it says, and as zones say that have listed it."""
        await self._read(call, devices)
        attaching = call.poller.attaching
        owners: dict[str, set[str]] = {}
        for uri in devices:
            block = call.poller.blocks[uri]
            if block.unused is not None:
                raise InvalidRequest(f"{uri}: the manager does not have {block.id} there as a device")
            asked = call.poller.asked.get(uri, path)
            listing = [zone.uri for zone in attaching.zones.values() if uri in (zone.endpoints or ())]
            listing += [zone for zone, host in attaching.related.zones.items() if host == asked]
            others = [z for z in dict.fromkeys(listing) if attaching.related.zones.get(z, path) != path]
            replies = await together([call.read(zone) for zone in others])
            still = {
                attaching.related.zones[zone]
                for zone, reply in zip(others, replies, strict=True)
                if uri in (call.poller.meet_zone(zone, reply.body).endpoints or ())
            }
            owners[uri] = self._hosts(call, uri) | still
        return owners

    async def _read(self, call: Call, uris: Sequence[str]) -> None:
        replies = await together([call.read(uri) for uri in uris])
        call.poller.meet_all({uri: reply.body for uri, reply in zip(uris, replies, strict=True)})

    def _hosts(self, call: Call, uri: str) -> set[str]:
        """The hosts in whose zones the endpoint says it is, as it was last read."""
        endpoint = call.poller.blocks[uri].endpoint
        zones = call.poller.attaching.related.zones
        return {zones[zone] for zone in (endpoint.zones or () if endpoint else ()) if zone in zones}

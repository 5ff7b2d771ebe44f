"""ComposeByPost: a system is made of resource blocks by POST and ended by DELETE (DSP2050, specific composition)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from weft.fabric.driver import Operation, OperationPhase, WriteIdiom
from weft.fabric.errors import (
    Conflict,
    FabricError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Unsupported,
)
from weft.fabric.redfish.composed import offers_for
from weft.fabric.redfish.inventory import Composing
from weft.fabric.redfish.mapping import Json, list_at, mapping_at
from weft.fabric.redfish.owners import prefix
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.reader import together
from weft.fabric.redfish.resources import System
from weft.fabric.redfish.shapes import links_of
from weft.fabric.redfish.uris import last_segment
from weft.fabric.redfish.writes import Allowed, Evidence, Present
from weft.fabric.redfish.writes.call import Call
from weft.fabric.redfish.writes.of_blocks import OfBlocks, listed

_MAX_NAME = 64


class ComposeByPost(OfBlocks):
    """The host is a compute block; with its first devices it becomes a system, which goes with the last ones."""

    name = WriteIdiom.COMPOSE_BY_POST

    def evidence(self, host: System, poller: Poller, allowed: Allowed) -> Evidence | str:
        """What the manager says of its collection of systems; of hosts, those that are compute blocks."""
        if not poller.offers:
            return "it says of no collection of systems that a POST makes one"
        if not host.compute:
            return "its systems are not made of compute blocks by POST"
        block = poller.blocks.get(host.uri)
        if block is not None and block.reserved and host.uri not in poller.system_of:
            return "its compute block is reserved by another client of the manager"
        if any(offer.request for offer in poller.offers):
            return Evidence("systems can be composed of its blocks (@Redfish.CollectionCapabilities)")
        return Evidence("its collection of systems takes POST, and it has compute blocks")

    async def present(self, call: Call, path: str) -> Present:
        """What the system has that was made of this compute block, if there is one."""
        await self._look_for_system(call, path)
        system = call.poller.system_of.get(path)
        if system is None:
            return Present({})
        found = await super().present(call, system)
        return Present(found.read, [uri for uri in found.devices if uri != path])

    async def _look_for_system(self, call: Call, path: str) -> None:
        """Read the compute block, and the systems that it names or that were not there before."""
        collections = {offer.target for offer in call.poller.offers} | {call.service.systems}
        for collection in sorted(collections - {""}):
            await call.tasks.await_turn(call.service, collection, call.deadline, call.login)
        block = await call.read_block(path)
        named = links_of(block.body, call.session.local, "Links", "ComputerSystems") or ()
        known = call.poller.system_of.get(path, "")
        new = await call.new_systems()
        await together([call.read_system_if_there(uri) for uri in {*named, *new, known} - {""}])

    async def elsewhere(self, call: Call, path: str, devices: Sequence[str]) -> dict[str, set[str]]:
        """The hosts that have each block: the compute blocks of their systems."""
        owners = await super().elsewhere(call, path, devices)
        host_of = {system: host for host, system in call.poller.system_of.items()}
        return {uri: {host_of.get(each, each) for each in systems} for uri, systems in owners.items()}

    async def attach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        if path in call.poller.system_of:
            system = call.poller.system_of[path]
            name = last_segment(system)
            if present.read[system].body.get("Name") == system_name(call.key, call.session.owner):
                raise OutcomeUnknown(self._lacking(call, name, present, devices))
            raise Conflict(f"{last_segment(path)} is system {name} already, and that can only be made anew")
        offer = await self._offer(call, path)
        required = await self._required(call, offer)
        blocks = [path, *devices, *(await self._blocks_required(call, required, (path, *devices)))]
        links = [{"@odata.id": call.session.spelled(uri)} for uri in blocks]
        body = {
            "Name": system_name(call.key, call.session.owner),
            "Links": {"ResourceBlocks": links},
            **required,
        }
        try:
            reply = await call.send("POST", offer.target, body)
        except InvalidRequest as first:
            if "Id" in body:
                raise
            # Some want an Id, which others refuse; a refusal has no effect.
            try:
                reply = await call.send("POST", offer.target, {"Id": body["Name"], **body})
            except (InvalidRequest, Unsupported):
                # It was not for want of an Id.
                raise first from None
        return call.outcome(path, reply)

    def _lacking(self, call: Call, name: str, present: Present, devices: Sequence[str]) -> str:
        """What is said of the system that this operation has made: its devices come later, or others came."""
        blocks, found = call.poller.blocks, [uri for uri in present.devices if call.poller.is_device(uri)]
        absent, shown = (", ".join(sorted(blocks[uri].id for uri in uris)) for uris in (devices, found))
        return f"system {name} was made for this and does not show {absent} yet" + (
            f", but {shown}" if shown else ""
        )

    async def detach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        system = call.poller.system_of[path]
        blocks = call.poller.blocks
        rest = [
            blocks[uri].id for uri in present.devices if uri not in devices and call.poller.is_device(uri)
        ]
        if rest:
            text = f"{last_segment(system)} also has {', '.join(sorted(rest))}"
            raise Conflict(f"{text}: a system that was made by POST is released as a whole")
        try:
            reply = await call.send_if(
                present.read[system],
                lambda body: listed(body, call.session.local),
                lambda etag: call.send("DELETE", system, None, etag=etag),
            )
        except NotFound:
            # It was there a moment ago: the HTTP library repeats a DELETE whose connection broke.
            return Operation("", OperationPhase.SUCCEEDED, "the system is gone")
        return call.outcome(path, reply)

    async def _offer(self, call: Call, path: str) -> Composing:
        """Where to POST: in the collection that is meant for the zone of the compute block."""
        offers = call.poller.offers
        zones: set[str] = set()
        for zone in sorted({zone for offer in offers for zone in offer.zones} if len(offers) > 1 else ()):
            body = (await call.read(zone)).body
            if path in (links_of(body, call.session.local, "Links", "ResourceBlocks") or ()):
                zones.add(zone)
        fitting = offers_for(offers, zones) or list(offers)
        return fitting[0]

    async def _required(self, call: Call, offer: Composing) -> dict[str, object]:
        """The Id that a request must have, where the manager says so and leaves one choice."""
        if not offer.request:
            return {}
        body = await _object(call, offer.request)
        values = list_at(body, "Id@Redfish.AllowableValues") or ()
        needed = body.get("Id@Redfish.RequiredOnCreate") is True
        return {"Id": str(values[0])} if needed and len(values) == 1 else {}

    async def _blocks_required(
        self, call: Call, required: dict[str, object], others: Sequence[str]
    ) -> list[str]:
        """The block that the required Id stands for: OneView's templates are resource blocks of that Id."""
        meant = [b.uri for b in call.poller.blocks.values() if last_segment(b.uri) == required.get("Id")]
        return [uri for uri in meant if uri not in others]


async def _object(call: Call, path: str) -> Json:
    """A capabilities object. It may not be there to be read, and says little then."""
    try:
        return (await call.read(path)).body
    except FabricError:
        return mapping_at({})


def system_name(key: str, owner: str = "") -> str:
    """The name of the system that is made for the operation with this key: the same each time."""
    begin = prefix(owner)
    plain = re.sub(r"[^A-Za-z0-9-]", "-", key)
    if plain == key and len(begin + plain) <= _MAX_NAME:
        return begin + plain
    return f"{begin}{plain[:20]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

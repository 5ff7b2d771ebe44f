"""Memory chunks and volumes of ours: carved before they are connected, given back when they are no longer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from weft.fabric.driver import OperationPhase
from weft.fabric.errors import Conflict, NotFound, OutcomeUnknown
from weft.fabric.redfish.carving import bytes_of, number_in, part_name, request_for
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.mapping import Json
from weft.fabric.redfish.reader import Collections, together
from weft.fabric.redfish.shapes import link_of
from weft.fabric.redfish.uris import canonical
from weft.fabric.redfish.writes.call import Call


async def list_again(call: Call, endpoints: Iterable[str]) -> None:
    """List anew what is carved from the devices behind these endpoints."""
    sources = call.poller.attaching.sources
    known = sorted(set(endpoints) & sources.carved.keys())
    reader = Collections(call.session, call.deadline, Problems(), login=call.login)
    await together([sources.list_parts(endpoint, reader) for endpoint in known])
    if known:
        call.poller.meet_parts()


async def carve(call: Call, device: str) -> str:
    """The URI of what is carved for a part: as it is there, or made now.

    Raises OutcomeUnknown where the manager says that it made it, and does not show it.
    """
    endpoint, number = number_in(device)
    sources = call.poller.attaching.sources
    carved = sources.carved.get(endpoint)
    if carved is None or number not in carved.numbers:
        raise Conflict(f"there is no room for {call.poller.blocks[device].id} any more")
    if number in carved.ours:
        return carved.ours[number]
    try:
        reply = await call.send("POST", carved.source.collection, request_for(carved, number))
        operation = await call.ended(call.outcome(endpoint, reply))
        if operation.phase is not OperationPhase.SUCCEEDED:
            raise OutcomeUnknown(f"{part_name(number)}: {operation.message}")
        if link := reply.location if reply.status == 201 else link_of(reply.body):
            with contextlib.suppress(NotFound):  # it is listed, then, or not there
                made = await call.read(link)
                if (made.body.get("Name"), bytes_of(made.body)) == (part_name(number), carved.part_bytes):
                    return canonical(made.path)
    except (Conflict, OutcomeUnknown):
        await list_again(call, [endpoint])
        if number not in sources.carved[endpoint].ours:
            raise
    else:
        await list_again(call, [endpoint])
    if (uri := sources.carved[endpoint].ours.get(number)) is None:
        raise OutcomeUnknown(f"the manager says that it made {part_name(number)}, and does not show it")
    return uri


def carved_for(call: Call, devices: Sequence[str]) -> list[str]:
    """What is carved for these devices, by URIs."""
    carved = call.poller.attaching.sources.carved
    found = []
    for device in devices:
        endpoint, number = number_in(device)
        if endpoint in carved and number in carved[endpoint].ours:
            found.append(carved[endpoint].ours[number])
    return found


def meaning(body: Json) -> object:
    """What of a part its deletion depends on."""
    return body.get("Name"), bytes_of(body)

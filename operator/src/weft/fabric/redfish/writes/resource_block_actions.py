"""AddResourceBlock: the actions AddResourceBlock and RemoveResourceBlock of a ComputerSystem (v1.6 and later)."""

from __future__ import annotations

from collections.abc import Sequence

from weft.fabric.driver import Operation, WriteIdiom
from weft.fabric.errors import FabricError, InvalidRequest, Unsupported
from weft.fabric.redfish.mapping import Json, Reply, list_at, mapping_at
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.resources import System, target_of
from weft.fabric.redfish.shapes import items_of, link_of
from weft.fabric.redfish.uris import canonical
from weft.fabric.redfish.writes import Allowed, Evidence, Present
from weft.fabric.redfish.writes.call import Call
from weft.fabric.redfish.writes.of_blocks import OfBlocks, listed

ADD, REMOVE = "ComputerSystem.AddResourceBlock", "ComputerSystem.RemoveResourceBlock"
_ETAGS = frozenset({"ComputerSystemETag", "ResourceBlockETag"})
"""Optional parameters of both actions."""


class AddResourceBlock(OfBlocks):
    """One action for each block, one after the other."""

    name = WriteIdiom.ADD_RESOURCE_BLOCK

    def evidence(self, host: System, poller: Poller, allowed: Allowed) -> Evidence | str:
        """Both actions are advertised, with a target each: what could not be removed must not be added."""
        if not host.compute and {ADD, REMOVE} <= host.actions:
            return Evidence("its systems advertise the actions AddResourceBlock and RemoveResourceBlock")
        return "its systems advertise no actions AddResourceBlock and RemoveResourceBlock"

    async def attach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        return await self._each(call, ADD, path, present, devices)

    async def detach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        return await self._each(call, REMOVE, path, present, devices)

    async def _each(
        self, call: Call, action: str, path: str, present: Present, devices: Sequence[str]
    ) -> Operation:
        system = present.read[path]

        async def one(uri: str) -> Reply:
            nonlocal system
            if uri != devices[0]:
                system = await call.read_system(path)  # each change made a new ETag
            return await self._one(call, action, system, uri)

        return await call.in_turn(path, devices, one)

    async def _one(self, call: Call, action: str, system: Reply, uri: str) -> Reply:
        offered = mapping_at(system.body, "Actions", f"#{action}")
        target = target_of(offered)
        if not target:
            raise Unsupported(f"{system.path}: the manager no longer advertises the action {action}")
        parameters = await self._parameters(call, offered)
        link = {"@odata.id": call.session.spelled(uri)}
        if (known := parameters.get("ResourceBlock")) and not _is_among(call, uri, known):
            raise InvalidRequest(f"{uri}: the manager does not allow it for {action} at {system.path}")
        block = await call.read_block(uri)
        tags = {"ResourceBlockETag": block.etag} if block.etag else {}

        async def send(etag: str) -> Reply:
            optional = {**tags, **({"ComputerSystemETag": etag} if etag not in ("", "*") else {})}
            if not etag:
                optional = {}
            optional = {name: tag for name, tag in optional.items() if not parameters or name in parameters}
            try:
                return await call.send("POST", target, {"ResourceBlock": link, **optional})
            except InvalidRequest:
                if not optional:
                    raise
                # Managers of before these parameters refuse what they do not know; a refusal has no effect.
                return await call.send("POST", target, {"ResourceBlock": link})

        return await call.send_if(system, lambda body: listed(body, call.session.local), send)

    async def _parameters(self, call: Call, offered: Json) -> dict[str, list[object]]:
        """The parameters that it takes, with the values that it allows (empty: any); empty: it does not say."""
        inline = items_of(offered.get("ResourceBlock@Redfish.AllowableValues"), "", lambda _: None)
        link = offered.get("@Redfish.ActionInfo")
        if not link:
            return {"ResourceBlock": list(inline), **{name: [] for name in _ETAGS}} if inline else {}
        info = (await call.read(link_of(link))).body
        named = [mapping_at(entry) for entry in list_at(info, "Parameters") or ()]
        return {str(each.get("Name")): list(list_at(each, "AllowableValues") or ()) for each in named}


def _is_among(call: Call, uri: str, values: Sequence[object]) -> bool:
    paths = set()
    for value in values:
        try:
            paths.add(canonical(call.session.local(link_of(value))))
        except FabricError:
            continue  # no link: a name, or something of the manager's own
    return not paths or uri in paths

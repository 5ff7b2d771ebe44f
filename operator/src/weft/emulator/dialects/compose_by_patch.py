"""PATCH of `Links.ResourceBlocks` of a ComputerSystem: the whole new list (DSP2050)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from weft.emulator import redfish
from weft.emulator.dialects.base import (
    Dialect,
    Route,
    block_names,
    body_of,
    explained,
    links_at,
    missing,
    object_at,
    only,
)
from weft.emulator.writes import Plan, Write

if TYPE_CHECKING:
    from weft.emulator.tree import Tree

READ_ONLY = frozenset({"Id", "Name", "SystemType", "HostName", "Manufacturer", "Model", "SerialNumber"}) | {
    "UUID",
    "PowerState",
    "Status",
}


class ComposeByPatch(Dialect):
    """Today's usual: resource blocks, and systems whose list of them can be written."""

    def routes(self) -> tuple[Route, ...]:
        return (Route("PATCH", f"{redfish.SYSTEMS}/{{host}}", self._patch),)

    def _patch(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        host = named["host"]
        if host not in self.world.hosts:
            raise missing(write.path)
        data = body_of(write)
        only(data, ("Links",), READ_ONLY)
        part = object_at(data, "Links")
        only(part, ("ResourceBlocks", "ResourceBlocks@odata.count"), where="Links/")
        uris = links_at(part, "ResourceBlocks", "Links/")
        names = block_names(uris, tree)
        # A block that a fault hides can be neither asked for nor given up.
        hidden = [block for block in self.state.blocks_of(host) if tree.is_hidden(block)]
        pointers = {names[uri]: f"#/Links/ResourceBlocks/{n}" for n, uri in enumerate(uris)}
        change = self.change(
            host,
            [*(names[uri] for uri in uris), *hidden],
            lambda error: explained(error, host, pointers, "Links/ResourceBlocks"),
        )
        blocks = (f"{redfish.BLOCKS}/{block}" for block in (*change.attach, *change.detach))
        return Plan(change, write.path, copies=tuple(blocks))

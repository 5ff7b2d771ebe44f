"""ComposeByPatch: the list of a system's resource blocks is written as a whole (DSP2050, PATCH for modifying)."""

from __future__ import annotations

from collections.abc import Sequence

from weft.fabric.driver import Operation, WriteIdiom
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.resources import System
from weft.fabric.redfish.writes import Allowed, Evidence, Present, methods_of
from weft.fabric.redfish.writes.call import Call
from weft.fabric.redfish.writes.of_blocks import OfBlocks, listed


class ComposeByPatch(OfBlocks):
    """PATCH of `Links.ResourceBlocks` of an existing system."""

    name = WriteIdiom.COMPOSE_BY_PATCH

    def evidence(self, host: System, poller: Poller, allowed: Allowed) -> Evidence | str:
        """The Allow header of a system, where there is one; else that nothing speaks against it."""
        if host.compute:
            return "its compute blocks are no systems"
        methods = allowed(host.uri)
        if methods is None:
            return Evidence(
                "its systems can be composed of resource blocks, and it does not say how", said=False
            )
        if "PATCH" in methods:
            return Evidence("its systems take PATCH (Allow header)")
        return f"its systems take {methods_of(allowed, host.uri)} only (Allow header)"

    async def attach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        return await self._write(call, path, present, [*present.devices, *devices])

    async def detach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        rest = [uri for uri in present.devices if uri not in devices]
        return await self._write(call, path, present, rest)

    async def _write(self, call: Call, path: str, present: Present, blocks: Sequence[str]) -> Operation:
        """Write the list of blocks, on condition that the system is still as it was read."""
        body = {"Links": {"ResourceBlocks": [{"@odata.id": call.session.spelled(uri)} for uri in blocks]}}
        reply = await call.send_if(
            present.read[path],
            lambda body: listed(body, call.session.local),
            lambda etag: call.send("PATCH", path, body, etag=etag),
        )
        return call.outcome(path, reply)

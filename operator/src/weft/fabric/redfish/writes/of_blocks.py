"""What the idioms of composition share: which resource blocks a system has, and which systems a block."""

from __future__ import annotations

from collections.abc import Sequence

from weft.fabric.errors import InvalidRequest
from weft.fabric.redfish.mapping import Json, Reply
from weft.fabric.redfish.names import name_of_uri
from weft.fabric.redfish.reader import together
from weft.fabric.redfish.resources import block_of
from weft.fabric.redfish.shapes import Resolve, links_of
from weft.fabric.redfish.writes import Present
from weft.fabric.redfish.writes.call import Call


def listed(body: Json, resolve: Resolve) -> list[str]:
    """The resource blocks that a system lists, each once."""
    return list(dict.fromkeys(links_of(body, resolve, "Links", "ResourceBlocks") or ()))


class OfBlocks:
    """Reading where resource blocks are, by the side that the manager keeps."""

    of_endpoints = False

    async def present(self, call: Call, path: str) -> Present:
        """What the system lists; where no system lists any device, also what the blocks say of themselves."""
        reply = await call.read_system(path)
        found = listed(reply.body, call.session.local)
        await together([call.read_block(uri) for uri in found if uri not in call.poller.blocks])
        if not call.poller.systems_tell:
            # A host's own block may say whose it is, and is not composed into it.
            blocks = call.poller.blocks.values()
            hosts = {path, *(host for host, system in call.poller.system_of.items() if system == path)}
            said = [b.uri for b in blocks if b.unused is None and hosts & set(b.systems or ())]
            asked = [uri for uri, host in call.poller.asked.items() if host in hosts]
            maybe = [uri for uri in dict.fromkeys([*said, *asked]) if uri not in found]
            replies = await together([call.read_block(uri) for uri in maybe])
            pairs = zip(maybe, replies, strict=True)
            found += [uri for uri, block in pairs if path in self._systems(call, uri, block)]
        return Present({path: reply}, found)

    async def elsewhere(self, call: Call, path: str, devices: Sequence[str]) -> dict[str, set[str]]:
        """The systems that have each block: as the block says, and other systems that say so themselves.

        Managers that keep one side only, or that permit what should be refused, must not give it to two hosts. Systems
        are asked that have listed it, or that we have asked to take it.
        """
        owners = await together([self._owners(call, path, uri) for uri in devices])
        return dict(zip(devices, owners, strict=True))

    async def _owners(self, call: Call, path: str, uri: str) -> set[str]:
        reply = await call.read_block(uri)
        block, name = block_of(reply.body, uri, call.session.local), call.poller.blocks[uri].id
        if name not in (block.id, name_of_uri(uri)) or block.unused is not None:
            raise InvalidRequest(f"{uri}: the manager does not have {name} there as a device")
        poller = call.poller
        shown = poller.listed_at(uri) | {poller.asked.get(uri, path)}
        owners = set(block.systems or ())
        if not (elsewhere := shown - {path}):
            return owners
        # A host that is a compute block lists nothing itself, but the system that was made of it.
        others = sorted({poller.system_of.get(host, host) for host in elsewhere} - poller.compute_hosts())
        systems = await together([call.read_system_if_there(other) for other in others])
        still = {
            other
            for other, system in zip(others, systems, strict=True)
            if system is not None and uri in listed(system.body, call.session.local)
        }
        return owners | still

    def _systems(self, call: Call, uri: str, reply: Reply) -> set[str]:
        return set(block_of(reply.body, uri, call.session.local).systems or ())

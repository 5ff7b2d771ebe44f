"""POST of a ComputerSystem with the blocks that it is to have, and DELETE of it (DSP2050, specific composition).

There is no system before: a host is a block of type Compute. The system that appears has that block and the devices'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from weft.emulator import redfish
from weft.emulator.dialects.base import (
    Collection,
    Dialect,
    Route,
    block_names,
    body_of,
    explained,
    links_at,
    missing,
    object_at,
    only,
    refused,
    text_at,
)
from weft.emulator.inventory import Host
from weft.emulator.messages import message, refusal
from weft.emulator.quirks import Quirk
from weft.emulator.redfish import Document
from weft.emulator.state import Change, Reason, Record, RefusedError
from weft.emulator.writes import Plan, RefusedWriteError, Write

if TYPE_CHECKING:
    from weft.emulator.tree import Tree

_CAPABILITIES = f"{redfish.SYSTEMS}/Capabilities"
_HOST_GIBIBYTES = 256


class ComposeByPost(Dialect):
    """Systems that a client makes of blocks, and ends."""

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", redfish.SYSTEMS, self._post),
            Route("DELETE", f"{redfish.SYSTEMS}/{{system}}", self._delete),
        )

    def collection(self, path: str, parts: list[str], tree: Tree) -> Collection | None:
        match parts:
            case ["Systems"]:
                return Collection("ComputerSystem", "Systems", tuple(self.state.records), _capabilities())
        return None

    def find(self, parts: list[str], tree: Tree) -> Document | None:
        match parts:
            case ["Systems", "Capabilities"]:
                return _capability()
            case ["Systems", name]:
                record = self.state.records.get(f"{redfish.SYSTEMS}/{name}")
                return self._system(f"{redfish.SYSTEMS}/{name}", record, tree) if record else None
            case ["CompositionService", "ResourceBlocks", block, *rest] if block in self.layout.own_blocks:
                return self._compute(self.world.hosts[self.layout.own_blocks[block]], rest)
        return None

    def hides(self, parts: list[str]) -> bool:
        """Hosts are no systems here."""
        if parts[0] == "Systems" and len(parts) > 1 and parts[1] != "Capabilities":
            return f"{redfish.SYSTEMS}/{parts[1]}" not in self.state.records
        return super().hides(parts)

    def adjust(self, parts: list[str], document: Document) -> Document:
        match parts:
            case ["CompositionService", "ResourceBlocks", block] if block not in self.layout.own_blocks:
                systems = [path for path, record in self.state.records.items() if block in record.blocks]
                links = document["Links"] | redfish.links("ComputerSystems", systems)
                document = document | {"Links": links}
            case ["CompositionService", "ResourceZones", _]:
                document = document | _capabilities()
            case ["Chassis", host] if host in self.world.hosts:
                document = document | {"Links": redfish.links("ComputerSystems", self._systems_of(host))}
            case ["Fabrics", _, "Endpoints", endpoint] if endpoint in self.layout.own_blocks:
                systems = self._systems_of(self.layout.own_blocks[endpoint])
                entity = dict(document["ConnectedEntities"][0])
                del entity["EntityLink"]
                more = {"EntityLink": redfish.link(systems[0])} if systems else {}
                document = document | {"ConnectedEntities": [entity | more]}
        return super().adjust(parts, document)

    def is_cacheable(self, path: str) -> bool:
        return super().is_cacheable(path) and path.startswith(redfish.BLOCKS) and "/host-" not in path

    def _systems_of(self, host: str) -> list[str]:
        return [path for path, record in self.state.records.items() if record.host == host]

    def _system(self, path: str, record: Record, tree: Tree) -> Document:
        blocks = (redfish.host_block(record.host), *tree.visible(record.blocks))
        host = redfish.system(self.world.hosts[record.host], blocks)
        mine = {"@odata.id": path, "Id": path.rpartition("/")[2], "SystemType": "Composed"}
        return host | mine | record.document

    def _compute(self, host: Host, rest: list[str]) -> Document | None:
        """A host's own block: a CPU and memory that a system can be made of."""
        block = f"{redfish.BLOCKS}/{redfish.host_block(host.id)}"
        match rest:
            case []:
                return redfish.block_of_compute(host, self._systems_of(host.id))
            case ["Processors", "cpu-0"]:
                return redfish.resource(
                    f"{block}/Processors/cpu-0",
                    "Processor.v1_18_0",
                    "CPU",
                    ProcessorType="CPU",
                    Status=redfish.status(),
                )
            case ["Memory", "dimm-0"]:
                return redfish.resource(
                    f"{block}/Memory/dimm-0",
                    "Memory.v1_17_0",
                    "Memory",
                    MemoryType="DRAM",
                    MemoryDeviceType="DDR5",
                    CapacityMiB=_HOST_GIBIBYTES * 1024,
                    Status=redfish.status(),
                )
        return None

    def _post(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        data = body_of(write)
        only(data, ("Name", "Description", "Links", "Oem"), ("Id", "SystemType", "UUID", "Status"))
        name = text_at(data, "Name")
        part = object_at(data, "Links")
        only(part, ("ResourceBlocks", "ResourceBlocks@odata.count"), where="Links/")
        uris = links_at(part, "ResourceBlocks", "Links/")
        names = block_names(uris, tree)
        hosts = [self.layout.own_blocks[names[uri]] for uri in uris if names[uri] in self.layout.own_blocks]
        if len(hosts) != 1:
            raise refused(
                400,
                "PropertyValueIncorrect",
                "Links/ResourceBlocks",
                str(uris),
                hint="List one block of type Compute.",
            )
        host = hosts[0]
        self._unique(name, host)
        devices = tuple(dict.fromkeys(names[uri] for uri in uris if names[uri] not in self.layout.own_blocks))
        pointers = {names[uri]: f"#/Links/ResourceBlocks/{n}" for n, uri in enumerate(uris)}

        def explain(error: RefusedError) -> RefusedWriteError:
            return explained(error, host, pointers, "Links/ResourceBlocks")

        taken = self._systems_of(host) or self.state.is_composing(redfish.host_block(host))
        if taken and not self.state.permissive:
            raise explain(RefusedError(Reason.IN_USE, (redfish.host_block(host),)))
        now = self.state.blocks_of(host)
        change = self.change(host, (*now, *devices), explain)
        path = f"{redfish.SYSTEMS}/composed-{self.state.next_id()}"
        document: Document = {key: data[key] for key in ("Name", "Description", "Oem") if key in data}
        return Plan(
            change,
            path,
            status=201,
            creates={path: Record(document, host, devices)},
            copies=tuple(f"{redfish.BLOCKS}/{block}" for block in devices),
        )

    def _unique(self, name: str, host: str) -> None:
        """Names need not be unique by the specification, and services differ in it. Raises RefusedWriteError."""
        if Quirk.PERMIT_DUPLICATES in self.quirks:
            return
        if any(record.document["Name"] == name for record in self.state.records.values()):
            reply = refusal(409, message("ResourceAlreadyExists", "ComputerSystem", "Name", name))
            raise RefusedWriteError(reply, "duplicate", host=host, duplicate=True)

    def _delete(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        record = self.state.records.get(write.path)
        if record is None:
            raise missing(write.path)
        blocks = tuple(block for block in record.blocks if block in self.state.blocks_of(record.host))
        copies = (*(f"{redfish.BLOCKS}/{block}" for block in blocks), write.path)
        return Plan(Change(record.host, (), blocks), write.path, 204, deletes=(write.path,), copies=copies)


def _capabilities() -> Document:
    """The annotation by which a collection or zone says what can be created of it."""
    return {
        "@Redfish.CollectionCapabilities": {
            "@odata.type": "#CollectionCapabilities.v1_4_0.CollectionCapabilities",
            "Capabilities": [
                {
                    "CapabilitiesObject": redfish.link(_CAPABILITIES),
                    "UseCase": "ComputerSystemComposition",
                    "Links": {"TargetCollection": redfish.link(redfish.SYSTEMS)},
                }
            ],
        }
    }


def _capability() -> Document:
    """What a POST to the collection has to hold, as DSP2050 has it."""
    return redfish.resource(
        _CAPABILITIES,
        "ComputerSystem.v1_22_0",
        "Capabilities of composed systems",
        **{
            "Name@Redfish.RequiredOnCreate": True,
            "Name@Redfish.SetOnlyOnCreate": True,
            "Description@Redfish.OptionalOnCreate": True,
            "Description@Redfish.SetOnlyOnCreate": True,
            "Links": {
                "ResourceBlocks@Redfish.RequiredOnCreate": True,
                "ResourceBlocks@Redfish.SetOnlyOnCreate": True,
            },
        },
    )

"""POST and DELETE of `Fabrics/{id}/Connections`: an initiator's endpoint, the targets', and what is reached there.

A connection to a target alone gives the whole device; with `MemoryChunkInfo` or `VolumeInfo`, a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weft.emulator import redfish
from weft.emulator.dialects.base import (
    Collection,
    Route,
    body_of,
    explained,
    link_at,
    links_at,
    missing,
    object_at,
    only,
    refused,
)
from weft.emulator.dialects.carving import STORAGE, Carving
from weft.emulator.dialects.chassis import ChassisDialect
from weft.emulator.inventory import ATTACH_FABRIC, DeviceType, World
from weft.emulator.messages import message, refusal
from weft.emulator.quirks import Quirk, Quirks
from weft.emulator.redfish import Document
from weft.emulator.state import Change, Record, RefusedError, State
from weft.emulator.writes import Plan, RefusedWriteError, Write

if TYPE_CHECKING:
    from weft.emulator.tree import Tree

_INFO = {"MemoryChunkInfo": ("MemoryChunk", "Memory"), "VolumeInfo": ("Volume", "Storage")}
"""The property that says what is reached, the reference in it, and the ConnectionType that goes with it."""
_ENTITY = {DeviceType.CXL: "MemoryChunk", DeviceType.NVME: "Volume"}
_READ_ONLY = ("Id", "Status", "Actions")


class Connections(ChassisDialect):
    """Fabrics in which a client connects initiators and targets."""

    def __init__(self, world: World, state: State, quirks: Quirks) -> None:
        super().__init__(world, state, quirks)
        self.carving = Carving(world, state, quirks)

    def routes(self) -> tuple[Route, ...]:
        path = f"{redfish.FABRICS}/{{fabric}}/Connections"
        own = (
            Route("POST", path, self._connect),
            Route("DELETE", f"{path}/{{connection}}", self._disconnect),
        )
        return (*own, *self.carving.routes())

    def collection(self, path: str, parts: list[str], tree: Tree) -> Collection | None:
        match parts:
            case ["Fabrics", fabric, "Connections"] if self.attaches(fabric):
                return Collection("Connection", "Connections", tuple(self.connections_of(fabric)))
        return self.carving.collection(path, parts, tree) or super().collection(path, parts, tree)

    def find(self, parts: list[str], tree: Tree) -> Document | None:
        match parts:
            case ["Fabrics", fabric, "Connections", name]:
                path = f"{redfish.FABRICS}/{fabric}/Connections/{name}"
                record = self.connections_of(fabric).get(path)
                if record is None:
                    return None
                head = redfish.resource(path, "Connection.v1_2_0", name, Status=redfish.status())
                return head | record.document
        return self.carving.find(parts, tree) or super().find(parts, tree)

    def adjust(self, parts: list[str], document: Document) -> Document:
        document = super().adjust(parts, document)
        match parts:
            case [""]:
                return document | {"Storage": redfish.link(STORAGE)}
            case ["Chassis", group] if self._has(group, DeviceType.CXL):
                return document | {"MemoryDomains": redfish.link(f"{redfish.CHASSIS}/{group}/MemoryDomains")}
            case ["Fabrics", fabric] if self.attaches(fabric):
                return document | {"Connections": redfish.link(f"{redfish.FABRICS}/{fabric}/Connections")}
            case ["Fabrics", fabric, "Endpoints", name]:
                return self._endpoint(fabric, name, document)
        return document

    def attaches(self, fabric: str) -> bool:
        """Whether hosts reach devices by this fabric."""
        return fabric in self.world.fabrics and fabric in ATTACH_FABRIC.values()

    def connections_of(self, fabric: str) -> dict[str, Record]:
        """The connections of a fabric, by path."""
        prefix = f"{redfish.FABRICS}/{fabric}/Connections/"
        return {path: record for path, record in self.state.records.items() if path.startswith(prefix)}

    def _has(self, group: str, kind: DeviceType) -> bool:
        return any(device.type is kind for device in self.layout.groups.get(group, ()))

    def _endpoint(self, fabric: str, name: str, document: Document) -> Document:
        """An endpoint with its connections and, of a device, its parts."""
        own = redfish.link(document["@odata.id"])
        is_host = name in self.layout.own_blocks
        hidden = Quirk.BLOCK_ONLY if is_host else Quirk.SYSTEM_ONLY
        if self.attaches(fabric) and hidden not in self.quirks:
            side = "InitiatorEndpoints" if is_host else "TargetEndpoints"
            known = self.connections_of(fabric)
            paths = [path for path, record in known.items() if own in record.document["Links"][side]]
            document = document | {"Links": document["Links"] | redfish.links("Connections", paths)}
        if not is_host and self._is_target(fabric, name):
            parts = [self.carving.part_path(record.blocks[0]) for record in self.state.parts_of(name)]
            kind = _ENTITY.get(self.world.devices[name].type)
            more = [
                {"EntityType": kind, "EntityRole": "Target", "EntityLink": redfish.link(path)}
                for path in parts
            ]
            document = document | {"ConnectedEntities": [*document["ConnectedEntities"], *more]}
        return document

    def _is_target(self, fabric: str, name: str) -> bool:
        device = self.world.devices.get(name)
        return device is not None and ATTACH_FABRIC[device.type] == fabric

    def _connect(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        fabric = named["fabric"]
        if not self.attaches(fabric):
            raise missing(write.path)
        data = body_of(write)
        only(
            data,
            ("Name", "Description", "ConnectionType", "Links", "Oem", *self.writable(), *_INFO),
            self.read_only(),
        )
        ends = object_at(data, "Links")
        only(ends, ("InitiatorEndpoints", "TargetEndpoints"), where="Links/")
        host = self._initiator(fabric, links_at(ends, "InitiatorEndpoints", "Links/"))
        targets = self._targets(fabric, links_at(ends, "TargetEndpoints", "Links/"), tree)
        parts = self._parts(data, targets)
        divided = {self.state.device_of(part) for part in parts}
        blocks = (*(name for name in targets if name not in divided), *parts)
        now = self.state.blocks_of(host)
        if not set(blocks).isdisjoint(now) and Quirk.PERMIT_DUPLICATES not in self.quirks:
            raise _again(f"{', '.join(blocks)}", "Links", host, blocks)
        path = self.path_of_new(write, data)
        name = data.get("Name", f"Connection {path.rpartition('/')[2]}")
        same = [r for r in self.connections_of(fabric).values() if r.document["Name"] == name]
        if (
            (same and Quirk.PERMIT_DUPLICATES not in self.quirks)
            or path in self.state.records
            or self.state.is_composing(path)
        ):
            raise _again(name, "Name", host, blocks)

        def explain(error: RefusedError) -> RefusedWriteError:
            return explained(error, host, {}, "Links/TargetEndpoints")

        change = self.change(host, (*now, *blocks), explain)
        kept = ("Name", "Description", "ConnectionType", "Links", "Oem", *_INFO)
        document: Document = {"Name": name} | {key: data[key] for key in kept if key in data}
        ours = [self.endpoint_path(fabric, end) for end in (redfish.host_block(host), *targets)]
        copies = (*ours, write.path)
        return Plan(change, path, self.created, {path: Record(document, host, blocks)}, copies=copies)

    created = 201
    """How a creation is answered."""
    deleted = 204

    def writable(self) -> tuple[str, ...]:
        """What a new connection may have beside the usual."""
        return ()

    def read_only(self) -> tuple[str, ...]:
        """What a client cannot choose."""
        return _READ_ONLY

    def path_of_new(self, write: Write, data: Document) -> str:
        """Where a new connection will be. Raises RefusedWriteError."""
        return f"{write.path}/{self.state.next_id()}"

    def _initiator(self, fabric: str, uris: tuple[str, ...]) -> str:
        prefix = self.endpoint_path(fabric, "")
        hosts = [
            self.layout.own_blocks.get(uri.removeprefix(prefix), "") for uri in uris if uri.startswith(prefix)
        ]
        if len(uris) != 1 or len(hosts) != 1 or not hosts[0]:
            raise refused(400, "PropertyValueNotInList", ", ".join(uris), "Links/InitiatorEndpoints")
        return hosts[0]

    def _targets(self, fabric: str, uris: tuple[str, ...], tree: Tree) -> tuple[str, ...]:
        prefix = self.endpoint_path(fabric, "")
        for uri in uris:
            name = uri.removeprefix(prefix)
            if not uri.startswith(prefix) or not self._is_target(fabric, name) or tree.is_hidden(name):
                raise refused(400, "PropertyValueNotInList", uri, "Links/TargetEndpoints")
        if not uris:
            raise refused(400, "PropertyMissing", "Links/TargetEndpoints")
        return tuple(dict.fromkeys(uri.removeprefix(prefix) for uri in uris))

    def _parts(self, data: Document, targets: tuple[str, ...]) -> tuple[str, ...]:
        """The parts that the connection reaches. Raises RefusedWriteError."""
        found: list[str] = []
        for name, (reference, kind) in _INFO.items():
            entries: Any = data.get(name, [])
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise refused(400, "PropertyValueTypeError", str(entries), name)
            if entries and data.get("ConnectionType", kind) != kind:
                raise refused(400, "PropertyValueConflict", name, "ConnectionType")
            for entry in entries:
                path = link_at(entry.get(reference), f"{name}/{reference}")
                record = self.state.records.get(path)
                if record is None or record.device not in targets or self.state.is_composing(path):
                    raise refused(400, "PropertyValueNotInList", path, f"{name}/{reference}")
                found += record.blocks
        return tuple(dict.fromkeys(found))

    def _disconnect(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        known = self.connections_of(named["fabric"])
        record = known.get(write.path)
        if record is None:
            raise missing(write.path)
        others = [r for path, r in known.items() if path != write.path and r.host == record.host]
        still = {block for other in others for block in other.blocks}
        has = self.state.blocks_of(record.host)
        blocks = tuple(block for block in record.blocks if block in has and block not in still)
        ends = record.document["Links"]
        ours = [
            link["@odata.id"] for side in ("InitiatorEndpoints", "TargetEndpoints") for link in ends[side]
        ]
        copies = (*ours, write.path, write.path.rpartition("/")[0])
        return Plan(
            Change(record.host, (), blocks), write.path, self.deleted, deletes=(write.path,), copies=copies
        )


def _again(value: str, name: str, host: str, blocks: tuple[str, ...]) -> RefusedWriteError:
    reply = refusal(409, message("ResourceAlreadyExists", "Connection", name, value))
    return RefusedWriteError(reply, "duplicate", blocks, host, duplicate=True)

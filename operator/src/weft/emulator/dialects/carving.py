"""Parts of devices that clients carve: MemoryChunks from a MemoryDomain (CXL), Volumes from a Storage (NVMe-oF).

A MemoryDomain is one memory device, in the chassis of its group; a Storage is one drive. Sizes are whole multiples of
the device's granularity, which a MemoryDomain shows as `MemoryChunkIncrementMiB`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from weft.emulator import redfish
from weft.emulator.dialects.base import Collection, Route, body_of, missing, number_at, only, refused, text_at
from weft.emulator.inventory import Device, DeviceType, World
from weft.emulator.messages import message, refusal
from weft.emulator.quirks import Quirk, Quirks
from weft.emulator.redfish import MIB, Document
from weft.emulator.state import Change, Reason, Record, State
from weft.emulator.writes import Plan, RefusedWriteError, Write

if TYPE_CHECKING:
    from weft.emulator.tree import Tree

STORAGE = f"{redfish.ROOT}/Storage"
_RANGES = ("Volatile", "PMEM", "Block")
_KEPT = ("Name", "Description", "Oem")


class Carving:
    """The parts of devices: what is shown of them, and how they are made and ended."""

    def __init__(self, world: World, state: State, quirks: Quirks) -> None:
        self._world = world
        self._state = state
        self._quirks = quirks

    def routes(self) -> tuple[Route, ...]:
        """How parts are made and ended."""
        chunks, volumes = (
            f"{redfish.CHASSIS}/{{group}}/MemoryDomains/{{device}}/MemoryChunks",
            f"{STORAGE}/{{device}}/Volumes",
        )
        return (
            Route("POST", chunks, self._carve_chunk),
            Route("DELETE", f"{chunks}/{{part}}", self._end),
            Route("POST", volumes, self._carve_volume),
            Route("DELETE", f"{volumes}/{{part}}", self._end),
        )

    def collection(self, path: str, parts: list[str], tree: Tree) -> Collection | None:
        """The collections of domains, storages and parts."""
        match parts:
            case ["Chassis", group, "MemoryDomains"] if devices := self._of(DeviceType.CXL, group):
                return Collection.of(
                    path, "MemoryDomain", "Memory domains", tree.visible(d.id for d in devices)
                )
            case ["Chassis", group, "MemoryDomains", device, "MemoryChunks"] if self._is(
                device, DeviceType.CXL, group, tree
            ):
                return Collection("MemoryChunks", "Memory chunks", self._below(path))
            case ["Storage"]:
                return Collection.of(
                    path, "Storage", "Storage", tree.visible(d.id for d in self._of(DeviceType.NVME))
                )
            case ["Storage", device, "Volumes"] if self._is(device, DeviceType.NVME, "", tree):
                return Collection("Volume", "Volumes", self._below(path))
        return None

    def find(self, parts: list[str], tree: Tree, drive_path: str = "") -> Document | None:
        """A domain, a storage or a part."""
        match parts:
            case ["Chassis", group, "MemoryDomains", device, *rest] if self._is(
                device, DeviceType.CXL, group, tree
            ):
                if rest:
                    return self._part(parts)
                return _memory_domain(self._world.devices[device])
            case ["Storage", device, *rest] if self._is(device, DeviceType.NVME, "", tree):
                if rest:
                    return self._part(parts)
                return _storage(self._world.devices[device])
        return None

    def part_path(self, block: str) -> str:
        """Where the part with this block id is."""
        return next(
            path
            for path, record in self._state.records.items()
            if record.device and record.blocks == (block,)
        )

    def _of(self, kind: DeviceType, group: str = "") -> list[Device]:
        return [d for d in self._world.devices.values() if d.type is kind and group in ("", d.group)]

    def _is(self, name: str, kind: DeviceType, group: str, tree: Tree) -> bool:
        device = self._world.devices.get(name)
        return device in self._of(kind, group) and not tree.is_hidden(name)

    def _below(self, path: str) -> tuple[str, ...]:
        return tuple(known for known in self._state.records if known.startswith(f"{path}/"))

    def _part(self, parts: list[str]) -> Document | None:
        path = "/".join((redfish.ROOT, *parts))
        record = self._state.records.get(path)
        if record is None:
            return None
        kind = "MemoryChunks.v1_6_0" if "MemoryChunks" in parts else "Volume.v1_10_0"
        return (
            redfish.resource(path, kind, str(record.document["Name"]), Status=redfish.status())
            | record.document
        )

    def _carve_chunk(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        if not self._is(named["device"], DeviceType.CXL, named["group"], tree):
            raise missing(write.path)
        data = body_of(write)
        known = (*_KEPT, "MemoryChunkSizeMiB", "AddressRangeType", "InterleaveSets", "MediaLocation")
        only(data, (*known, "RequestedOperationalState", "Links"), ("Id", "Status"))
        kind = text_at(data, "AddressRangeType")
        if kind not in _RANGES:
            raise refused(400, "PropertyValueNotInList", kind, "AddressRangeType")
        size = number_at(data, "MemoryChunkSizeMiB")
        device = self._world.devices[named["device"]]
        offset = self._room(write, device, size * MIB, str(size), "MemoryChunkSizeMiB")
        own = {"MemoryChunkSizeMiB": size, "AddressRangeOffsetMiB": offset // MIB, "AddressRangeType": kind}
        own |= {"MediaLocation": "Remote", "RequestedOperationalState": "Online"}
        return self._made(write, data, device, size * MIB, offset, own)

    def _carve_volume(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        if not self._is(named["device"], DeviceType.NVME, "", tree):
            raise missing(write.path)
        data = body_of(write)
        only(data, (*_KEPT, "CapacityBytes", "Links", "DisplayName"), ("Id", "Status", "Identifiers"))
        size = number_at(data, "CapacityBytes")
        device = self._world.devices[named["device"]]
        offset = self._room(write, device, size, str(size), "CapacityBytes")
        own = {"CapacityBytes": size, "BlockSizeBytes": 4096}
        return self._made(write, data, device, size, offset, own)

    def _room(self, write: Write, device: Device, size: int, given: str, name: str) -> int:
        """Where in the device a part of this size fits. Raises RefusedWriteError."""
        step = device.granularity_bytes
        if size <= 0 or size % step:
            raise refused(400, "PropertyValueIncorrect", name, given, hint=f"Use a multiple of {step} bytes.")
        if (
            self._state.hosts_of(device.id) or self._state.is_composing(device.id)
        ) and not self._state.permissive:
            reply = refusal(409, message("ResourceInUse"))
            raise RefusedWriteError(reply, Reason.IN_USE, (device.id,))
        start = 0
        for offset, length in sorted((r.offset, r.bytes) for r in self._state.parts_of(device.id)):
            if offset - start >= size:
                return start
            start = offset + length
        if device.capacity_bytes - start < size:
            reply = refusal(507, message("ResourceExhaustion", write.path))
            raise RefusedWriteError(reply, "no-room", (device.id,))
        return start

    def _made(
        self, write: Write, data: Document, device: Device, size: int, offset: int, own: Document
    ) -> Plan:
        number = self._state.next_id()
        name = data.get("Name", f"Part {number} of {device.id}")
        below = (self._state.records[path] for path in self._below(write.path))
        if Quirk.PERMIT_DUPLICATES not in self._quirks and any(r.document["Name"] == name for r in below):
            reply = refusal(
                409, message("ResourceAlreadyExists", write.path.rpartition("/")[2], "Name", name)
            )
            raise RefusedWriteError(reply, "duplicate", (device.id,), duplicate=True)
        path = f"{write.path}/{number}"
        kept = {key: data[key] for key in _KEPT if key in data}
        record = Record({"Name": name} | kept | own, "", (f"{device.id}.{number}",), device.id, size, offset)
        return Plan(Change(""), path, 201, {path: record}, device=device.id, copies=(write.path,))

    def _end(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        record = self._state.records.get(write.path)
        if record is None:
            raise missing(write.path)
        block = record.blocks[0]
        if (self._state.hosts_of(block) or self._state.is_composing(block)) and not self._state.permissive:
            raise RefusedWriteError(refusal(409, message("ResourceInUse")), Reason.IN_USE, (block,))
        copies = (write.path, write.path.rpartition("/")[0])
        return Plan(Change(""), write.path, 204, deletes=(write.path,), device=record.device, copies=copies)


def _memory_domain(device: Device) -> Document:
    path = f"{redfish.CHASSIS}/{device.group}/MemoryDomains/{device.id}"
    memory = redfish.link(f"{redfish.CHASSIS}/{device.group}/Memory/{device.id}")
    step = device.granularity_bytes // MIB
    return redfish.resource(
        path,
        "MemoryDomain.v1_5_0",
        device.id,
        AllowsMemoryChunkCreation=True,
        AllowsBlockProvisioning=False,
        MemorySizeMiB=device.capacity_bytes // MIB,
        MinMemoryChunkSizeMiB=step,
        MemoryChunkIncrementMiB=step,
        InterleavableMemorySets=[{"MemorySet": [memory]}],
        MemoryChunks=redfish.link(f"{path}/MemoryChunks"),
        Status=redfish.status(),
    )


def _storage(device: Device) -> Document:
    path = f"{STORAGE}/{device.id}"
    return redfish.resource(
        path,
        "Storage.v1_16_0",
        device.id,
        Drives=[redfish.link(f"{redfish.CHASSIS}/{device.group}/Drives/{device.id}")],
        Volumes=redfish.link(f"{path}/Volumes"),
        Status=redfish.status(),
    )

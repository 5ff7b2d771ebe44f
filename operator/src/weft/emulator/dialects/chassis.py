"""Managers without resource blocks: devices are in chassis, and clients attach by what fabrics have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.emulator import redfish
from weft.emulator.dialects.base import Collection, Dialect
from weft.emulator.inventory import Device, DeviceType
from weft.emulator.redfish import Document

if TYPE_CHECKING:
    from weft.emulator.tree import Tree

_KIND = {DeviceType.GPU: "Processor", DeviceType.CXL: "Memory", DeviceType.NVME: "Drive"}


class ChassisDialect(Dialect):
    """What such managers have in common."""

    composes = False

    def collection(self, path: str, parts: list[str], tree: Tree) -> Collection | None:
        match parts:
            case ["Chassis", group, part] if devices := self._devices(group, part):
                visible = tree.visible(device.id for device in devices)
                return Collection.of(path, _KIND[devices[0].type], part, visible)
        return None

    def find(self, parts: list[str], tree: Tree) -> Document | None:
        match parts:
            case ["Chassis", group, part, name]:
                device = next((d for d in self._devices(group, part) if d.id == name), None)
                return tree.device(device) if device else None
        return None

    def adjust(self, parts: list[str], document: Document) -> Document:
        match parts:
            case ["Systems", host]:
                fabrics = (
                    name for name, ids in self.layout.endpoints.items() if redfish.host_block(host) in ids
                )
                paths = (self.endpoint_path(fabric, redfish.host_block(host)) for fabric in fabrics)
                chassis = redfish.links("Chassis", [f"{redfish.CHASSIS}/{host}"])
                return document | {"Links": redfish.links("Endpoints", paths) | chassis}
            case ["Chassis", group] if group in self.layout.groups:
                types = dict.fromkeys(device.type for device in self.layout.groups[group])
                parts_of = {
                    redfish.PART[kind]: redfish.link(f"{redfish.CHASSIS}/{group}/{redfish.PART[kind]}")
                    for kind in types
                }
                return document | parts_of
            case ["Fabrics", _, "Zones", _]:
                links = {
                    name: value for name, value in document["Links"].items() if "ResourceBlocks" not in name
                }
                return document | {"Links": links}
        return document

    def is_cacheable(self, path: str) -> bool:
        return False

    def endpoint_path(self, fabric: str, endpoint: str) -> str:
        """Where the endpoint of a host or device is."""
        return f"{redfish.FABRICS}/{fabric}/Endpoints/{endpoint}"

    def _devices(self, group: str, part: str) -> list[Device]:
        return [d for d in self.layout.groups.get(group, ()) if redfish.PART[d.type] == part]

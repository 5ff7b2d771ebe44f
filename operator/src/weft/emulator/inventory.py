"""The emulated world: read from YAML, checked, and expanded into hosts and devices."""

from __future__ import annotations

import enum
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from weft.emulator.faults import Fault

_GROUPED = {
    "nvlink": ("NVLink",),
    "rdma": ("InfiniBand", "RoCE", "RoCEv2", "iWARP"),
    "cxl": ("CXL",),
    "pcie": ("PCIe",),
    "nvmeof": ("NVMeOverFabrics",),
    "ethernet": ("Ethernet",),
}
_OTHERS = frozenset({"AHCI", "UHCI", "SAS", "SATA", "USB", "NVMe", "FC", "iSCSI", "FCoE", "FCP", "FICON"}) | {
    *("SMB", "NFSv3", "NFSv4", "HTTP", "HTTPS", "FTP", "SFTP", "I2C", "TCP", "UDP", "TFTP", "GenZ"),
    *("MultiProtocol", "OEM", "DisplayPort", "HDMI", "VGA", "DVI", "UPI", "QPI", "eMMC", "UET", "UALink"),
}
FABRIC_TYPES = _GROUPED | {kind.lower(): (kind,) for kind in sorted(_OTHERS)}
"""Fabric id -> what its FabricType may be (all of Redfish's Protocol enumeration), the default first."""

MAX_HOSTS = 2_000
MAX_DEVICES = 20_000

_SUFFIXES = {"": 1} | {
    letter + mark: base**power
    for mark, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate("kMGTP" if not mark else "KMGTP", start=1)
}
_QUANTITY = re.compile(r"(\d+)([A-Za-z]{0,2})")


class InventoryError(Exception):
    """The inventory cannot be used; the text says where and why."""


class DeviceType(enum.StrEnum):
    """What can be attached."""

    GPU = "GPU"
    CXL = "CXL"
    NVME = "NVMe"


ATTACH_FABRIC = {DeviceType.GPU: "pcie", DeviceType.CXL: "cxl", DeviceType.NVME: "nvmeof"}
"""The fabric by which a host reaches a device of this type."""


@dataclass(frozen=True)
class Host:
    """A server; `domains` maps a fabric's id to the zone that the host is in."""

    id: str
    vendor: str
    model: str
    zones: tuple[str, ...]
    domains: dict[str, str]


@dataclass(frozen=True)
class Device:
    """One attachable device; `domains` maps a fabric's id to the zone that the device is in."""

    id: str
    type: DeviceType
    vendor: str
    model: str
    capacity_bytes: int
    group: str
    zones: tuple[str, ...]
    domains: dict[str, str]
    processor: str = "GPU"
    """ProcessorType, where it is one."""
    granularity_bytes: int = 1024**3
    """The sizes of parts are multiples of it, where clients can carve parts."""


@dataclass(frozen=True)
class World:
    """Everything that does not change while the emulator runs."""

    uuid: str
    hosts: dict[str, Host]
    devices: dict[str, Device]
    zones: tuple[str, ...]
    """Resource zones: which hosts and devices can be composed."""
    fabrics: dict[str, str]
    """Fabric id -> FabricType."""
    faults: tuple[Fault, ...] = ()
    zone_members: dict[str, tuple[frozenset[str], frozenset[str]]] = field(default_factory=dict)
    """Resource zone -> its hosts, its devices."""

    def reaches(self, host: str, device: str) -> bool:
        """Whether some resource zone holds both."""
        return bool(set(self.hosts[host].zones) & set(self.devices[device].zones))


def stable_uuid(name: str) -> str:
    """The same UUID for the same name, in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"weft-emulator/{name}"))


def parse_bytes(value: object) -> int:
    """Bytes from `80Gi`, `4T` or a whole number. Raises ValueError."""
    match = _QUANTITY.fullmatch(str(value).strip()) if isinstance(value, int | str) else None
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{value!r} is not a size; write for example 80Gi, 512Gi or 4T")
    size: int = int(match[1]) * _SUFFIXES[match[2]]
    return size


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,47}$")]
Text = Annotated[str, Field(min_length=1, max_length=64)]
Size = Annotated[int, BeforeValidator(parse_bytes), Field(ge=1024**2, le=1024**5)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DomainSeries(_Strict):
    """Members 0..size-1 of a group are in `<prefix>-<first>`, the next in the following one, and so on."""

    prefix: Name
    size: int = Field(ge=1, le=MAX_DEVICES)
    first: int = Field(default=0, ge=0, le=MAX_DEVICES)


class _Group(_Strict):
    name: Name
    count: int | None = Field(default=None, ge=1, le=MAX_DEVICES)
    first: int = Field(default=0, ge=0, le=1_000_000)
    zones: tuple[Name, ...] = Field(default=("default",), min_length=1, max_length=16)
    domains: dict[str, Name | DomainSeries] = Field(default_factory=dict, max_length=8)

    @model_validator(mode="after")
    def _known_domains(self) -> Self:
        known = [f"{fabric}Domain" for fabric in FABRIC_TYPES]
        for attribute in self.domains:
            if attribute not in known:
                raise ValueError(f"unknown domain {attribute!r}; known: {', '.join(known)}")
        return self

    def ids(self) -> list[str]:
        """The members' ids: the name itself, or numbered when there is a count."""
        if self.count is None:
            return [self.name]
        return [f"{self.name}-{number}" for number in range(self.first, self.first + self.count)]

    def domains_of(self, position: int) -> dict[str, str]:
        """The domains of the group's member at this position."""
        found = {}
        for attribute, domain in self.domains.items():
            if isinstance(domain, DomainSeries):
                domain = f"{domain.prefix}-{domain.first + position // domain.size}"
            found[attribute.removesuffix("Domain")] = domain
        return found


class HostGroup(_Group):
    """Hosts that are alike."""

    vendor: Text = "Generic"
    model: Text = "Server"


class DeviceGroup(_Group):
    """Devices that are alike. `memory` for GPUs and CXL memory, `size` for NVMe; `granularity` of their parts."""

    type: DeviceType
    vendor: Text = "Generic"
    model: Text
    processor: Literal["GPU", "Accelerator", "FPGA", "DSP", "OEM"] = "GPU"
    """ProcessorType of a device of type GPU: Redfish has no TPU, such a one is an Accelerator."""
    memory: Size | None = None
    size: Size | None = None
    granularity: Size = 1024**3

    @model_validator(mode="after")
    def _has_its_size(self) -> Self:
        needed, other = ("size", "memory") if self.type is DeviceType.NVME else ("memory", "size")
        if getattr(self, needed) is None or getattr(self, other) is not None:
            raise ValueError(f"a device of type {self.type} has `{needed}` and no `{other}`")
        return self


class InventoryFile(_Strict):
    """The YAML file."""

    name: Text = "emulator"
    hosts: tuple[HostGroup, ...] = Field(min_length=1, max_length=1_000)
    devices: tuple[DeviceGroup, ...] = Field(min_length=1, max_length=1_000)
    fabrics: dict[str, str] = Field(default_factory=dict)
    faults: tuple[Fault, ...] = Field(default=(), max_length=100)

    @model_validator(mode="after")
    def _known_fabrics(self) -> Self:
        for fabric, kind in self.fabrics.items():
            if kind not in FABRIC_TYPES.get(fabric, ()):
                allowed = FABRIC_TYPES.get(fabric) or tuple(FABRIC_TYPES)
                raise ValueError(f"fabrics: {fabric}: {kind} is not known; known: {', '.join(allowed)}")
        return self


def _unique(ids: list[str], what: str, limit: int) -> None:
    repeated = sorted(name for name, times in Counter(ids).items() if times > 1)
    if repeated:
        raise InventoryError(f"{what} appear twice: {', '.join(repeated[:5])}")
    if len(ids) > limit:
        raise InventoryError(f"{len(ids)} {what} are more than the {limit} that are allowed")


def expand(file: InventoryFile) -> World:
    """Make the groups into single hosts and devices. Raises InventoryError."""
    _unique([name for group in file.hosts for name in group.ids()], "hosts", MAX_HOSTS)
    _unique([name for group in file.devices for name in group.ids()], "devices", MAX_DEVICES)
    hosts = {
        name: Host(name, group.vendor, group.model, group.zones, group.domains_of(position))
        for group in file.hosts
        for position, name in enumerate(group.ids())
    }
    devices = {
        name: Device(
            id=name,
            type=group.type,
            vendor=group.vendor,
            model=group.model,
            capacity_bytes=group.memory or group.size or 0,
            group=group.name,
            zones=group.zones,
            domains=group.domains_of(position),
            processor=group.processor,
            granularity_bytes=group.granularity,
        )
        for group in file.devices
        for position, name in enumerate(group.ids())
    }
    for device in devices:
        if device.removeprefix("host-") in hosts and device.startswith("host-"):
            raise InventoryError(f"the device {device} has the name of a host's own block")
    items: list[Host | Device] = [*hosts.values(), *devices.values()]
    zones = tuple(dict.fromkeys(zone for item in items for zone in item.zones))
    used = {ATTACH_FABRIC[device.type] for device in devices.values()}
    used |= {fabric for item in items for fabric in item.domains}
    return World(
        uuid=stable_uuid(file.name),
        hosts=hosts,
        devices=devices,
        zones=zones,
        fabrics={
            name: file.fabrics.get(name, FABRIC_TYPES[name][0]) for name in FABRIC_TYPES if name in used
        },
        faults=file.faults,
        zone_members={
            zone: (
                frozenset(name for name, host in hosts.items() if zone in host.zones),
                frozenset(name for name, device in devices.items() if zone in device.zones),
            )
            for zone in zones
        },
    )


def parse(data: Any) -> World:
    """Check an inventory that was read from YAML. Raises InventoryError, naming each field that is wrong."""
    if isinstance(data, dict) and {"apiVersion", "kind"} <= data.keys():
        raise InventoryError(
            f"it is a Kubernetes object, a {data['kind']}, and no inventory of a fabric manager: docs/emulator.md says"
            " what one has"
        )
    try:
        return expand(InventoryFile.model_validate(data))
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc'])) or 'inventory'}: {item['msg']}" for item in error.errors()
        ]
        raise InventoryError("\n".join(lines)) from error


def load(path: Path) -> World:
    """Read an inventory file. Raises InventoryError."""
    try:
        return parse(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InventoryError(f"{path}: {error}") from error

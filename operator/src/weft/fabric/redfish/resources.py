"""From the JSON of single Redfish resources to values. No I/O.

Hosts are ComputerSystems; devices are ResourceBlocks of the CompositionService (DMTF DSP2050), one block each.
Links are passed as canonical paths; `Resolve` makes one of what the manager gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from weft.fabric.driver import DeviceKind, Host
from weft.fabric.errors import Transient
from weft.fabric.redfish.mapping import Json, list_at, mapping_at, text_of
from weft.fabric.redfish.uris import canonical

Resolve = Callable[[object], str]

_MIB = 1024 * 1024
_MAX_BYTES = 1 << 60
_HOST_SYSTEMS = frozenset({None, "Physical", "Composed", "PhysicallyPartitioned", "VirtuallyPartitioned"})
_OUT_OF_ORDER_STATES = frozenset({"Absent", "UnavailableOffline", "Disabled"})
_CACHE_TYPES = frozenset(
    {"Cache", "L1Cache", "L2Cache", "L3Cache", "L4Cache", "L5Cache", "L6Cache", "L7Cache"}
)
_TYPE_OF_KIND = {
    DeviceKind.ACCELERATOR: "Processor",
    DeviceKind.MEMORY: "Memory",
    DeviceKind.STORAGE: "Storage",
}
_COMPONENTS = {
    DeviceKind.ACCELERATOR: "Processors",
    DeviceKind.MEMORY: "Memory",
    DeviceKind.STORAGE: "Drives",
}


@dataclass(frozen=True)
class Block:
    """A resource block, as far as it can be read without its components."""

    uri: str
    id: str
    kind: DeviceKind | None
    """None: not a device (a host's own block, a network card...)."""
    healthy: bool
    systems: tuple[str, ...] | None
    """Hosts that have it, as the block says; None: it does not say."""
    components: tuple[str, ...]
    """URIs of the resources that tell what the device is."""
    expanded: tuple[Json, ...]
    """The same resources, where the manager sent them along; else empty."""
    own_systems: tuple[str, ...]
    """The systems inside a host's own block."""
    etag: str


@dataclass(frozen=True)
class System:
    """A computer system."""

    uri: str
    host: Host
    blocks: tuple[str, ...] | None
    """Its resource blocks, as the system says; None: it does not say."""


@dataclass(frozen=True)
class Facts:
    """What a device is: it does not change while the device stays in its block."""

    attributes: Mapping[str, str]
    capacity_bytes: int


def links_of(body: Json, resolve: Resolve, *keys: str) -> tuple[str, ...] | None:
    """The canonical paths of an array of links; None when the property is missing.

    Raises Transient when one of them must not be followed.
    """
    entries = list_at(body, *keys)
    if entries is None:
        return None
    # null pads arrays of a fixed size.
    return tuple(canonical(resolve(mapping_at(e).get("@odata.id"))) for e in entries if e is not None)


def id_of(body: Json) -> str:
    """The Id of a resource. Raises Transient when it is missing."""
    value = body.get("Id")
    if not isinstance(value, str) or not value:
        raise Transient(f"{body.get('@odata.id')!s:.80}: no Id")
    return value


def block_of(body: Json, uri: str, resolve: Resolve) -> Block:
    """Parse a ResourceBlock. Raises Transient when it makes no sense."""
    listed = list_at(body, "ResourceBlockType")
    if listed is None:
        raise Transient(f"{uri}: no ResourceBlockType")
    types = {str(t) for t in listed}
    kind: DeviceKind | None = None
    if not types & {"ComputerSystem", "Compute"}:
        kind = next((k for k in DeviceKind if _TYPE_OF_KIND[k] in types), None)
    components: tuple[str, ...] = ()
    expanded: tuple[Json, ...] = ()
    if kind is not None:
        key = _COMPONENTS[kind]
        if kind is DeviceKind.STORAGE and not list_at(body, key):
            key = "Storage"
        components = links_of(body, resolve, key) or ()
        bodies = [mapping_at(e) for e in list_at(body, key) or ()]
        if key != "Storage" and bodies and all("Id" in b for b in bodies):
            expanded = tuple(bodies)
    composition = mapping_at(body, "CompositionStatus")
    own = links_of(body, resolve, "ComputerSystems") or ()
    if "Compute" in types:
        own += links_of(body, resolve, "Links", "ComputerSystems") or ()
    etag = body.get("@odata.etag")
    return Block(
        uri=uri,
        id=id_of(body),
        kind=kind,
        healthy=is_healthy(body) and composition.get("CompositionState") not in ("Failed", "Unavailable"),
        systems=links_of(body, resolve, "Links", "ComputerSystems"),
        components=components,
        expanded=expanded,
        own_systems=own if kind is None else (),
        etag=etag if isinstance(etag, str) else "",
    )


def is_healthy(body: Json) -> bool:
    """Whether Status lets the resource be used: not Critical, and there."""
    status = mapping_at(body, "Status")
    critical = "Critical" in (status.get("Health"), status.get("HealthRollup"))
    return not critical and status.get("State") not in _OUT_OF_ORDER_STATES


def system_of(body: Json, uri: str, resolve: Resolve) -> System | None:
    """Parse a ComputerSystem; None when it is no host (a virtual machine, a DPU). Raises Transient."""
    kind = body.get("SystemType")
    if not isinstance(kind, str | None) or kind not in _HOST_SYSTEMS:
        return None
    attributes = _attributes(vendor=body.get("Manufacturer"), model=body.get("Model"), type=kind)
    host = Host(id=id_of(body), attributes=attributes, healthy=is_healthy(body))
    return System(uri=uri, host=host, blocks=links_of(body, resolve, "Links", "ResourceBlocks"))


def facts_of(kind: DeviceKind, components: Sequence[Json]) -> Facts | None:
    """What the components of a block make of the device; None when it is no device for Weft (a CPU)."""
    if kind is DeviceKind.ACCELERATOR:
        components = [c for c in components if c.get("ProcessorType") not in ("CPU", "Core", "Thread")]
    if not components:
        return None
    first = components[0]
    if kind is DeviceKind.ACCELERATOR:
        type_, medium, size = first.get("ProcessorType"), None, _processor_bytes
    elif kind is DeviceKind.MEMORY:
        media = list_at(first, "MemoryMedia") or [first.get("MemoryType")]
        type_ = "CXL" if isinstance(first.get("CXL"), Mapping) else first.get("MemoryDeviceType")
        medium, size = media[0], _memory_bytes
    else:
        type_, size = first.get("Protocol"), _drive_bytes
        medium = "NVMe" if type_ in ("NVMe", "NVMeOverFabrics") else first.get("MediaType")
    attributes = _attributes(
        type=type_, medium=medium, vendor=first.get("Manufacturer"), model=first.get("Model")
    )
    return Facts(attributes, min(sum(size(c) for c in components), _MAX_BYTES))


def _attributes(**values: object) -> dict[str, str]:
    return {key: text_of(value) for key, value in values.items() if isinstance(value, str) and value}


def _size(value: object, unit: int = _MIB) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value * unit) if is_number and 0 < value < _MAX_BYTES else 0  # type: ignore[operator]  # is_number


def _processor_bytes(body: Json) -> int:
    if total := _size(mapping_at(body, "MemorySummary").get("TotalMemorySizeMiB")):
        return total
    parts = [mapping_at(m) for m in list_at(body, "ProcessorMemory") or ()]
    return sum(_size(m.get("CapacityMiB")) for m in parts if str(m.get("MemoryType")) not in _CACHE_TYPES)


def _memory_bytes(body: Json) -> int:
    return _size(body.get("CapacityMiB"))


def _drive_bytes(body: Json) -> int:
    return _size(body.get("CapacityBytes"), unit=1)

"""What a device is, from the resources that its block holds. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.fabric.driver import DeviceKind, UnusedReason
from weft.fabric.redfish.mapping import Json, list_at, mapping_at
from weft.fabric.redfish.resources import attributes_of
from weft.fabric.redfish.shapes import Note, ignore, items_of, number_of

_MIB = 1024 * 1024
_MAX_BYTES = 1 << 60
_CPU_TYPES = frozenset({"CPU", "Core", "Thread"})
_CACHE_TYPES = frozenset(
    {"Cache", "L1Cache", "L2Cache", "L3Cache", "L4Cache", "L5Cache", "L6Cache", "L7Cache"}
)
_KIND_OF_CLASS = {
    "DisplayController": DeviceKind.ACCELERATOR,
    "ProcessingAccelerators": DeviceKind.ACCELERATOR,
    "Coprocessor": DeviceKind.ACCELERATOR,
    "Processor": DeviceKind.ACCELERATOR,
    "MemoryController": DeviceKind.MEMORY,
    "MassStorageController": DeviceKind.STORAGE,
}
"""PCIe device classes (PCIeFunction.DeviceClass)."""
_TYPE_OF_CLASS = {"DisplayController": "GPU", "ProcessingAccelerators": "Accelerator"}


@dataclass(frozen=True)
class Facts:
    """What a device is: it does not change while the device stays in its block."""

    kind: DeviceKind
    attributes: Mapping[str, str]
    capacity_bytes: int
    notes: tuple[str, ...] = ()
    """What is odd about it, for people."""


def facts_of(kind: DeviceKind | None, components: Sequence[Json]) -> Facts | UnusedReason:
    """What the components of a block make of the device, or why it is none.

    `kind` None: the components are PCIe devices, each with the functions it has under `functions`.
    """
    notes: list[str] = []
    if kind is None:
        return _of_pcie(components)
    if kind is DeviceKind.ACCELERATOR:
        components = [c for c in components if str(c.get("ProcessorType")) not in _CPU_TYPES]
        if not components:
            return UnusedReason.CPUS
    if kind is DeviceKind.STORAGE:
        # A SimpleStorage lists its drives itself.
        listed = [(c, items_of(c.get("Devices"), "Devices", notes.append)) for c in components]
        components = [mapping_at(d) for c, inside in listed for d in (inside or (c,))]
    if not components:
        return UnusedReason.EMPTY
    first = components[0]
    type_: object
    medium: object
    if kind is DeviceKind.ACCELERATOR:
        type_, medium, size = first.get("ProcessorType"), None, _processor_bytes
    elif kind is DeviceKind.MEMORY:
        media = list_at(first, "MemoryMedia") or [first.get("MemoryType")]
        is_cxl = isinstance(first.get("CXL"), Mapping) or "MemoryChunkSizeMiB" in first
        type_ = "CXL" if is_cxl else first.get("MemoryDeviceType")
        medium, size = media[0], _memory_bytes
    else:
        type_, size = first.get("Protocol"), _storage_bytes
        medium = "NVMe" if type_ in ("NVMe", "NVMeOverFabrics") else first.get("MediaType")
    for key, value in (("its type", type_), ("Manufacturer", first.get("Manufacturer"))):
        if value is not None and not isinstance(value, str):
            notes.append(f"{key} is no text")
    attributes = attributes_of(
        type=type_, medium=medium, vendor=first.get("Manufacturer"), model=first.get("Model")
    )
    sizes = [size(c, notes.append) for c in components]
    if not any(sizes):
        notes.append("it does not say its size: it counts as 0 bytes")
    if len(components) > 1:
        notes.append(f"{len(components)} components in one block count as one device")
    capacity = min(sum(s or 0 for s in sizes), _MAX_BYTES)
    return Facts(kind, attributes, capacity, tuple(dict.fromkeys(notes)))


def _of_pcie(devices: Sequence[Json]) -> Facts | UnusedReason:
    """A block of PCIe devices is what their functions are."""
    functions = [mapping_at(f) for d in devices for f in items_of(d.get("functions"), "", ignore) or ()]
    classes = [str(f.get("DeviceClass")) for f in functions]
    kind = next((_KIND_OF_CLASS[c] for c in classes if c in _KIND_OF_CLASS), None)
    notes: list[str] = []
    # A CXL logical device tells what memory it has.
    sizes = [_bytes(d, "MemorySizeMiB", _MIB, notes.append) for d in devices]
    if kind is None and (any(sizes) or any(mapping_at(d, "CXLDevice") for d in devices)):
        kind = DeviceKind.MEMORY
    if kind is None:
        network = bool(classes) and set(classes) <= {"NetworkController", "WirelessController"}
        return UnusedReason.NETWORK if network else UnusedReason.UNKNOWN
    first = devices[0]
    type_ = "CXL" if kind is DeviceKind.MEMORY else _TYPE_OF_CLASS.get(next(iter(classes), ""))
    attributes = attributes_of(type=type_, vendor=first.get("Manufacturer"), model=first.get("Model"))
    if not any(sizes):
        notes.append("it is known by its PCIe device only, which does not say its size: it counts as 0 bytes")
    return Facts(kind, attributes, min(sum(sizes), _MAX_BYTES), tuple(dict.fromkeys(notes)))


def _bytes(body: Json, key: str, unit: int, note: Note) -> int:
    value = number_of(body, key, note)
    return 0 if value is None else int(min(value * unit, _MAX_BYTES))


def _processor_bytes(body: Json, note: Note) -> int:
    if total := _bytes(mapping_at(body, "MemorySummary"), "TotalMemorySizeMiB", _MIB, note):
        return total
    parts = items_of(body.get("ProcessorMemory"), "ProcessorMemory", note) or ()
    counted = [mapping_at(m) for m in parts if str(mapping_at(m).get("MemoryType")) not in _CACHE_TYPES]
    return sum(_bytes(m, "CapacityMiB", _MIB, note) for m in counted)


def _memory_bytes(body: Json, note: Note) -> int:
    chunk = "MemoryChunkSizeMiB"
    return _bytes(body, chunk if chunk in body else "CapacityMiB", _MIB, note)


def _storage_bytes(body: Json, note: Note) -> int:
    return _bytes(body, "CapacityBytes", 1, note)

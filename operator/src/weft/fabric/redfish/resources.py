"""From the JSON of single Redfish resources to values. No I/O.

Hosts are ComputerSystems; devices are ResourceBlocks (DMTF DSP2050), one block each, told by what they hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.fabric.driver import DeviceKind, Host, UnusedReason
from weft.fabric.redfish.mapping import Json, mapping_at, text_of
from weft.fabric.redfish.shapes import (
    Note,
    Resolve,
    ignore,
    is_whole,
    items_of,
    link_of,
    links_of,
    text_at,
    words_of,
)
from weft.fabric.redfish.uris import canonical, last_segment

_HOST_SYSTEMS = frozenset({"", "Physical", "Composed", "PhysicallyPartitioned", "VirtuallyPartitioned"})
_OUT_OF_ORDER_STATES = frozenset({"Absent", "UnavailableOffline", "Disabled"})
_HOST_TYPES = frozenset({"ComputerSystem", "Compute"})
_KIND_OF = {
    "Processors": DeviceKind.ACCELERATOR,
    "Memory": DeviceKind.MEMORY,
    "Drives": DeviceKind.STORAGE,
    "Storage": DeviceKind.STORAGE,
    "SimpleStorage": DeviceKind.STORAGE,
}
"""What a block is by the property that lists what it holds; the first that is there, unless its type says another."""
_TYPE_OF = {
    DeviceKind.ACCELERATOR: "Processor",
    DeviceKind.MEMORY: "Memory",
    DeviceKind.STORAGE: "Storage",
}
_PCIE = "PCIeDevices"
_NETWORK = ("NetworkInterfaces", "EthernetInterfaces")


@dataclass(frozen=True)
class Endpoint:
    """What makes of an endpoint of a fabric a device, or a part of a host."""

    initiator: bool
    """Whether it is a host's."""
    entities: tuple[str, ...]
    """URIs of what is behind it."""
    zones: tuple[str, ...] | None
    """The zones that it is in, as it says; None: it does not say."""
    parts: tuple[tuple[str, DeviceKind], ...] = ()
    """URIs of memory chunks and volumes that are carved from what is behind it, and what they are."""


@dataclass(frozen=True)
class Block:
    """A resource block, or an endpoint of a fabric, as far as it can be read without what it holds."""

    uri: str
    id: str
    unused: UnusedReason | None
    """Why it is no device; None: it is one, if what it holds agrees."""
    kind: DeviceKind | None
    """None also where only what it holds can tell (PCIe devices)."""
    healthy: bool
    systems: tuple[str, ...] | None
    """Hosts that have it, as the block says; None: it does not say."""
    components: tuple[str, ...]
    """URIs of the resources that tell what the device is."""
    expanded: tuple[Json, ...]
    """The same resources, where the manager sent them along; else empty."""
    own_systems: tuple[str, ...]
    """The systems inside a host's own block."""
    compute: bool
    """Whether it is the part of a machine that a system can be made of."""
    etag: str
    endpoint: Endpoint | None = None
    """None: it is a resource block."""
    reserved: bool = False
    """Whether a client says that it is going to use it, and no system is being made of it yet: Weft never says so."""
    notes: tuple[str, ...] = ()
    """What is odd about it, for people."""

    @property
    def thing(self) -> str:
        """What it is, in the singular."""
        return "block" if self.endpoint is None else "endpoint"


@dataclass(frozen=True)
class System:
    """A computer system."""

    uri: str
    host: Host
    unused: UnusedReason | None
    """Why it is no host."""
    blocks: tuple[str, ...] | None
    """Its resource blocks, as the system says; None: it does not say."""
    actions: frozenset[str] = frozenset()
    """Names of the actions that it advertises: `ComputerSystem.Reset`."""
    name: str = ""
    composed: bool = False
    """Whether it consists of resource blocks."""
    compute: bool = False
    """Whether this is no system yet, but the compute block that one is made of."""
    notes: tuple[str, ...] = ()


def id_of(body: Json, uri: str, note: Note = ignore) -> str:
    """The Id of a resource, as it is; by the specification it is the last segment of its URI, where there is none."""
    value = body.get("Id")
    if isinstance(value, str) and value:
        return value
    if value is not None and (digits := text_at(body, "Id", note)):
        return digits
    note("it has no Id: it is named after its URI")
    return last_segment(uri)


def block_of(body: Json, uri: str, resolve: Resolve) -> Block:
    """Parse a ResourceBlock. Raises Transient when one of its links must not be followed."""
    notes: list[str] = []
    note = notes.append
    types = words_of(body.get("ResourceBlockType"), "ResourceBlockType", note)
    held = {
        key: found
        for key in ("ComputerSystems", *_KIND_OF, _PCIE, *_NETWORK)
        if (found := items_of(body.get(key), key, note))
    }
    source, unused = _judged(types, frozenset(held))
    entries = held.get(source, ())
    whole = [entry for entry in entries if is_whole(entry)]
    links = [link_of(entry) for entry in entries]
    own = tuple(canonical(resolve(link_of(entry))) for entry in held.get("ComputerSystems", ()))
    # What stands beneath the block is no system yet: HPE's OneView toolkit shows a blade so.
    own = tuple(path for path in own if not path.startswith(f"{canonical(uri)}/"))
    compute = bool(types & _HOST_TYPES) and not own
    systems = links_of(body, resolve, "Links", "ComputerSystems", note=note)
    if "Compute" in types:
        own += systems or ()
    composition = mapping_at(body, "CompositionStatus")
    state = composition.get("CompositionState")
    etag = body.get("@odata.etag")
    return Block(
        uri=uri,
        id=id_of(body, uri, note),
        unused=unused,
        kind=None if unused else _KIND_OF.get(source),
        healthy=is_healthy(body) and state not in ("Failed", "Unavailable"),
        systems=systems,
        components=tuple(canonical(resolve(link)) for link in links if link is not None),
        expanded=tuple(whole) if len(whole) == len(entries) and source not in ("Storage", _PCIE) else (),
        own_systems=own if unused is UnusedReason.OF_HOST else (),
        compute=compute,
        etag=etag if isinstance(etag, str) else "",
        reserved=composition.get("Reserved") is True and state in (None, "Unused"),
        notes=tuple(notes),
    )


def _judged(types: frozenset[str], held: frozenset[str]) -> tuple[str, UnusedReason | None]:
    """The property that tells what the device is, or why the block is none."""
    if types & _HOST_TYPES or "ComputerSystems" in held:
        return "", UnusedReason.OF_HOST
    sources = [key for key in _KIND_OF if key in held]
    # A drive's block may also list its controller's processor: the type tells which of them is meant.
    meant = [key for key in sources if _TYPE_OF[_KIND_OF[key]] in types]
    if source := next(iter((*meant, *sources)), ""):
        return source, None
    if _PCIE in held:
        return _PCIE, None
    network = "Network" in types or held & frozenset(_NETWORK)
    return "", UnusedReason.NETWORK if network else UnusedReason.EMPTY


def is_healthy(body: Json) -> bool:
    """Whether Status lets the resource be used: not Critical, and there."""
    status = mapping_at(body, "Status")
    critical = "Critical" in (status.get("Health"), status.get("HealthRollup"))
    return not critical and str(status.get("State")) not in _OUT_OF_ORDER_STATES


def system_of(body: Json, uri: str, resolve: Resolve) -> System:
    """Parse a ComputerSystem. Raises Transient when one of its links must not be followed."""
    notes: list[str] = []
    kind = text_at(body, "SystemType", notes.append)
    attributes = attributes_of(
        vendor=body.get("Manufacturer"), model=body.get("Model"), type=body.get("SystemType")
    )
    return System(
        uri=uri,
        host=Host(
            id=id_of(body, uri, notes.append),
            attributes=attributes,
            healthy=is_healthy(body),
            uuid=text_at(body, "UUID", notes.append),
        ),
        unused=None if kind in _HOST_SYSTEMS else UnusedReason.NO_SERVER,
        blocks=links_of(body, resolve, "Links", "ResourceBlocks", note=notes.append),
        actions=frozenset(
            name.removeprefix("#")
            for name, action in mapping_at(body, "Actions").items()
            if target_of(action)
        ),
        name=text_at(body, "Name", ignore),
        composed=kind == "Composed",
        notes=tuple(notes),
    )


def target_of(action: object) -> str:
    """Where an action is invoked; empty where it is only named: some services list all that the schema has."""
    target = mapping_at(action).get("target")
    return target if isinstance(target, str) else ""


def attributes_of(**values: object) -> dict[str, str]:
    """The attributes that have a value which is text."""
    return {key: text_of(value) for key, value in values.items() if isinstance(value, str) and value}

"""Managers without resource blocks: devices are endpoints of fabrics, and a host has those of its zones. No I/O."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from weft.fabric.driver import DeviceKind, Host, UnusedReason
from weft.fabric.redfish.carving import Carved, part_uri
from weft.fabric.redfish.connected import Connection, owners_of
from weft.fabric.redfish.mapping import Json, mapping_at
from weft.fabric.redfish.resources import Block, Endpoint, System, id_of, is_healthy
from weft.fabric.redfish.shapes import Resolve, items_of, link_of, links_of
from weft.fabric.redfish.uris import canonical, name_of_path

ATTACHING = frozenset({"PCIe", "CXL", "GenZ", "NVMeOverFabrics", "SAS"})
"""Types of fabrics by whose zones hosts reach devices; others (NVLink, InfiniBand...) connect what is attached."""
_KIND_OF = {
    "Processor": DeviceKind.ACCELERATOR,
    "AccelerationFunction": DeviceKind.ACCELERATOR,
    "DisplayController": DeviceKind.ACCELERATOR,
    "Memory": DeviceKind.MEMORY,
    "MemoryChunk": DeviceKind.MEMORY,
    "MediaController": DeviceKind.MEMORY,
    "CXLDevice": DeviceKind.MEMORY,
    "Drive": DeviceKind.STORAGE,
    "Volume": DeviceKind.STORAGE,
    "StoragePool": DeviceKind.STORAGE,
    "StorageSubsystem": DeviceKind.STORAGE,
}
"""What a device is by EntityType."""
_BY_FUNCTION = frozenset({"CXLDevice", "PCIeDevice"})
"""What such a device is its functions say, where nothing beside it does."""
_TYPE_IN = {
    "Processors": "Processor",
    "Memory": "Memory",
    "MemoryChunks": "MemoryChunk",
    "Drives": "Drive",
    "Volumes": "Volume",
    "PCIeDevices": "PCIeDevice",
}
"""EntityType by the name of a collection."""
_PARTS = {"MemoryChunk": DeviceKind.MEMORY, "Volume": DeviceKind.STORAGE}
"""What is carved from a device, by EntityType."""
_OF_HOSTS = frozenset({"RootComplex", "StorageInitiator", "NetworkController", "ComputerSystem"})
_PCIE = "PCIeDevice"


@dataclass(frozen=True)
class Zone:
    """A zone of endpoints."""

    uri: str
    endpoints: tuple[str, ...] | None
    """As the zone says; None: it does not say."""


def zone_of(body: Json, uri: str, resolve: Resolve) -> Zone:
    """Parse a Zone. Raises Transient when one of its links must not be followed."""
    if body.get("ZoneType") not in (None, "ZoneOfEndpoints"):
        return Zone(uri, ())
    return Zone(uri, links_of(body, resolve, "Links", "Endpoints"))


def endpoint_of(body: Json, uri: str, resolve: Resolve) -> Block:
    """Parse an Endpoint. Raises Transient when one of its links must not be followed."""
    notes: list[str] = []
    entities = [
        mapping_at(e)
        for e in items_of(body.get("ConnectedEntities"), "ConnectedEntities", notes.append) or ()
    ]
    paths_of = [
        "" if (link := link_of(e.get("EntityLink"))) is None else canonical(resolve(link)) for e in entities
    ]
    types = [_type(e, path) for e, path in zip(entities, paths_of, strict=True)]
    roles = {_role(e, type_) for e, type_ in zip(entities, types, strict=True)}
    linked = [(path, type_) for path, type_ in zip(paths_of, types, strict=True) if path]
    paths = tuple(path for path, _ in linked)
    # What is carved from a device is not to be counted beside the device.
    wholes = tuple(path for path, type_ in linked if type_ not in _PARTS)
    kinds = [_KIND_OF[type_] for type_ in types if type_ in _KIND_OF]
    # A CXL device with a processor is that processor: it says more of itself than its functions do.
    telling = [
        (path, _KIND_OF[type_])
        for path, type_ in linked
        if type_ in _KIND_OF and type_ not in _BY_FUNCTION | _PARTS.keys() and "/PCIeDevices/" not in path
    ]
    if telling:
        kinds = [telling[0][1]]
        wholes = tuple(path for path, kind in telling if kind is kinds[0])
    is_pcie = not telling and (_PCIE in types or any("/PCIeDevices/" in path for path in paths))
    # An accelerator's own memory goes with it.
    parts = (
        ()
        if DeviceKind.ACCELERATOR in kinds
        else tuple((path, _PARTS[type_]) for path, type_ in linked if type_ in _PARTS)
    )
    unused: UnusedReason | None = None
    if "Initiator" in roles:
        unused = UnusedReason.OF_HOST
    elif not entities:
        unused = UnusedReason.EMPTY
    elif not (kinds or is_pcie):
        unused = UnusedReason.UNKNOWN
    etag = body.get("@odata.etag")
    return Block(
        uri=uri,
        id=id_of(body, uri, notes.append),
        unused=unused,
        kind=None if unused or is_pcie else kinds[0],
        healthy=is_healthy(body),
        systems=None,
        components=() if unused else wholes or paths,
        expanded=(),
        own_systems=(),
        compute=False,
        etag=etag if isinstance(etag, str) else "",
        endpoint=Endpoint(
            "Initiator" in roles,
            paths,
            links_of(body, resolve, "Links", "Zones"),
            parts,
        ),
        notes=tuple(notes),
    )


def _type(entity: Json, path: str) -> str:
    """The EntityType; where it says none, what the collection holds in which it is (Intel's RSD)."""
    said = entity.get("EntityType")
    collection = path.rpartition("/")[0].rpartition("/")[2]
    return str(said) if said is not None else _TYPE_IN.get(collection, "")


def _role(entity: Json, type_: str) -> str:
    """What an entity does in the fabric: its role, or what entities of its type do."""
    role = entity.get("EntityRole")
    if role in ("Initiator", "Target"):
        return str(role)
    return "Initiator" if type_ in _OF_HOSTS else "Target"


@dataclass(frozen=True)
class Related:
    """Who has what, by the zones."""

    blocks: tuple[Block, ...]
    """The endpoints, with the hosts that have them as they say themselves."""
    systems: tuple[System, ...]
    """The hosts, with the endpoints that their zones list."""
    host_of: Mapping[str, str] = field(default_factory=dict)
    """The host of each initiator endpoint, by URIs."""
    zones: Mapping[str, str] = field(default_factory=dict)
    """The host of each zone that is one host's, by URIs."""
    reach: tuple[frozenset[str], ...] = ()
    """Endpoints that can be in one zone, and what is carved from devices behind them: those of one fabric."""
    endpoint_of: Mapping[str, str] = field(default_factory=dict)
    """The endpoint of each part of a device, by URIs."""


def relate(
    endpoints: Sequence[Block],
    systems: Sequence[System],
    zones: Sequence[Zone],
    fabric_of: Mapping[str, str],
    connections: Sequence[Connection] = (),
    connected: frozenset[str] = frozenset(),
    carved: Mapping[str, Carved] = MappingProxyType({}),
    refused: Container[str] = (),
) -> Related:
    """Join endpoints, hosts, zones and connections. `fabric_of` is the fabric of each endpoint, by URIs.

    In the fabrics that are `connected`, connections say who has what, and zones who could. `carved` is what is carved
    from the devices behind endpoints, and `refused` are those from which it cannot be.
    """
    known = {system.uri for system in systems}
    host_of = {b.uri: _host(b, known) for b in endpoints if b.endpoint is not None and b.endpoint.initiator}
    found = [*systems, *(_of_endpoint(b) for b in endpoints if host_of.get(b.uri) == b.uri)]
    reaching = [zone for zone in zones if _base(zone) in connected]
    zones = [zone for zone in zones if _base(zone) not in connected]
    aliases = {uri: part_uri(end, n) for end, parts in carved.items() for n, uri in parts.ours.items()}
    divided = {part.uri for b in endpoints for part in _parts(b, carved.get(b.uri))}
    reached, having = owners_of(connections, host_of, aliases, divided)
    _, wholly = owners_of([c for c in connections if not c.parts], host_of, aliases, divided)
    owners: dict[str, set[str]] = {zone.uri: set() for zone in zones}
    for zone in zones:
        owners[zone.uri] |= {host_of[uri] for uri in zone.endpoints or () if uri in host_of}
    for b in endpoints:
        if b.uri in host_of and b.endpoint is not None:
            for uri in () if fabric_of.get(b.uri) in connected else b.endpoint.zones or ():
                owners.setdefault(uri, set()).add(host_of[b.uri])
    # A zone of several hosts tells who is near whom.
    host_zones = {uri: next(iter(hosts)) for uri, hosts in owners.items() if len(hosts) == 1}
    # Every host of such a fabric is known to have what its connections say, and no more.
    listed = {
        host: list(reached.get(host, ())) for e, host in host_of.items() if fabric_of.get(e) in connected
    }
    for zone in zones:
        if zone.uri in host_zones and zone.endpoints is not None:
            devices = [uri for uri in zone.endpoints if uri not in host_of]
            listed.setdefault(host_zones[zone.uri], []).extend(devices)
    served = {fabric_of.get(uri, "") for uri in host_of}
    first = _first_ways(endpoints, fabric_of, served)
    told: list[Block] = []
    hosts = {s.uri for s in found}
    endpoint_of: dict[str, str] = {}
    for b in endpoints:
        if b.uri in host_of:
            told.append(replace(b, own_systems=(host_of[b.uri],)))
        elif b.unused is None and b.uri not in first:
            told.append(replace(b, unused=UnusedReason.OTHER_WAY))
        elif fabric_of.get(b.uri) in connected and b.endpoint is not None:
            whole = wholly.get(b.uri, set())
            parts = [p for p in _parts(b, carved.get(b.uri)) if endpoint_of.setdefault(p.uri, b.uri) == b.uri]
            if b.unused is None and (parts or b.uri in refused):
                reason = UnusedReason.DIVIDED if parts else UnusedReason.UNCARVED
                told.append(replace(b, unused=reason))
            else:
                told.append(_held(b, having.get(b.uri, set()) & hosts))
            told += [_held(p, (whole | having.get(p.uri, set())) & hosts) for p in parts]
        elif b.endpoint is None or b.endpoint.zones is None:
            told.append(b)
        else:
            told.append(_held(b, {host_zones[z] for z in b.endpoint.zones if z in host_zones}))
    fabrics: dict[str, set[str]] = {}
    for uri, fabric in fabric_of.items():
        fabrics.setdefault(fabric, set()).add(uri)
    for part, uri in endpoint_of.items():
        fabrics[fabric_of[uri]].add(part)
    return Related(
        blocks=tuple(told),
        systems=tuple(
            replace(s, blocks=tuple(dict.fromkeys(listed[s.uri])) if s.uri in listed else None) for s in found
        ),
        host_of=host_of,
        zones=host_zones,
        endpoint_of=endpoint_of,
        reach=tuple(
            zones_of
            for fabric, uris in fabrics.items()
            for zones_of in _reach(fabric, uris, reaching, host_of, endpoint_of)
        ),
    )


def _held(block: Block, hosts: set[str]) -> Block:
    return replace(block, systems=tuple(sorted(hosts)))


def _parts(endpoint: Block, carved: Carved | None) -> list[Block]:
    """The parts of the device behind an endpoint, as devices of their own: what others carved, and what we may."""
    if endpoint.endpoint is None or endpoint.unused is not None:
        return []
    ours = set(carved.ours.values()) if carved else set()
    found = [
        replace(endpoint, uri=uri, id=name_of_path(uri), kind=kind, components=(uri,), etag="", notes=())
        for uri, kind in endpoint.endpoint.parts
        if uri not in ours
    ]
    for number in carved.numbers if carved else ():
        uri = part_uri(endpoint.uri, number)
        found.append(replace(endpoint, uri=uri, id=f"{endpoint.id}.{number}", etag="", notes=()))
    return found


def _base(zone: Zone) -> str:
    """The fabric of a zone: its collection stands beneath it."""
    return zone.uri.rpartition("/Zones/")[0]


def _reach(
    fabric: str,
    endpoints: set[str],
    zones: Sequence[Zone],
    host_of: Mapping[str, str],
    endpoint_of: Mapping[str, str],
) -> list[frozenset[str]]:
    """Endpoints of a fabric that can meet, with their parts: those of a zone with a host in it, or all where there
    are no such zones."""
    own = [frozenset(zone.endpoints or ()) for zone in zones if _base(zone) == fabric]
    own = [members | {part for part, uri in endpoint_of.items() if uri in members} for members in own]
    with_hosts = [members for members in own if members & host_of.keys()]
    return with_hosts or [frozenset(endpoints)]


def _host(endpoint: Block, systems: set[str]) -> str:
    """The system behind an initiator endpoint; the endpoint itself, where the manager knows no more of the host."""
    for entity in endpoint.endpoint.entities if endpoint.endpoint else ():
        path = entity
        while path:
            if path in systems:
                return path
            path = path.rpartition("/")[0]
    return endpoint.uri


def _of_endpoint(endpoint: Block) -> System:
    host = Host(endpoint.id, {"type": "Endpoint"}, endpoint.healthy)
    return System(uri=endpoint.uri, host=host, unused=None, blocks=None)


def _first_ways(endpoints: Iterable[Block], fabric_of: Mapping[str, str], served: set[str]) -> frozenset[str]:
    """Of several endpoints of one thing the one by which it is attached: in a fabric where hosts are."""
    ways: dict[tuple[str, ...], list[str]] = {}
    for b in endpoints:
        if b.unused is None:
            ways.setdefault(b.components or (b.uri,), []).append(b.uri)
    return frozenset(
        min(uris, key=lambda uri: (fabric_of.get(uri, "") not in served, uri)) for uris in ways.values()
    )

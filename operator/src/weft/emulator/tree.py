"""The resource tree: which resource is at a path, its ETag, expansion and paging.

The JSON of a resource is kept until its host or block changes or a standing fault comes or goes, so that
reading thousands of blocks in one expanded collection is mostly joining bytes.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from weft.emulator import fabrics, redfish
from weft.emulator.faults import FaultKind, Faults
from weft.emulator.inventory import ATTACH_FABRIC, World
from weft.emulator.redfish import Document
from weft.emulator.state import State

Source = Callable[[], Mapping[str, Document]]
"""Resources that come and go, by id: sessions, tasks."""

_EXPAND = re.compile(r"([.*~])(?:\(\$levels=(\d+)\))?")
MAX_LEVELS = 2


class BadQueryError(ValueError):
    """A query parameter has a value that means nothing; args: value, parameter."""


@dataclass(frozen=True)
class Expand:
    """What `$expand` asked for: `.` without what is in Links, `~` only that, `*` both."""

    kind: str
    levels: int

    @classmethod
    def parse(cls, value: str) -> Expand:
        """Read the parameter's value. Raises BadQueryError."""
        match = _EXPAND.fullmatch(value)
        levels = int(match[2] or 1) if match else 0
        if match is None or not 1 <= levels <= MAX_LEVELS:
            raise BadQueryError(value, "$expand")
        return cls(match[1], levels)

    def deeper(self) -> Expand | None:
        """For the resources that were put in place of links."""
        return Expand(self.kind, self.levels - 1) if self.levels > 1 else None


@dataclass(frozen=True)
class Page:
    """Which members of a collection: from `skip`, at most `top`."""

    skip: int = 0
    top: int | None = None


def encode(document: Document) -> bytes:
    """JSON as it is sent."""
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True)
class _Collection:
    kind: str
    name: str
    members: tuple[str, ...]


class Tree:
    """Reads resources by path. Paths have no trailing slash."""

    def __init__(self, world: World, state: State, faults: Faults, session_timeout_seconds: int) -> None:
        self._world = world
        self._state = state
        self._faults = faults
        self._session_timeout_seconds = session_timeout_seconds
        self._cache: dict[tuple[str, Expand | None], tuple[tuple[int, int], bytes, str]] = {}
        self._standing = -1
        self._hidden: frozenset[str] = frozenset()
        self._sick: frozenset[str] = frozenset()
        self._sources: dict[str, tuple[str, str, Source]] = {}
        self._own_blocks = {redfish.host_block(host): host for host in world.hosts}
        self._zones: dict[str, dict[str, tuple[list[str], list[str]]]] = {name: {} for name in world.fabrics}
        self._endpoints: dict[str, dict[str, str]] = {name: {} for name in world.fabrics}
        """Fabric -> endpoint id -> id of the host or device."""
        attach = [name for name in world.fabrics if name in ATTACH_FABRIC.values()]
        for host in world.hosts.values():
            for fabric in redfish.fabrics_of(host, attach):
                self._endpoints[fabric][redfish.host_block(host.id)] = host.id
            for fabric, zone in host.domains.items():
                self._zones[fabric].setdefault(zone, ([], []))[0].append(host.id)
        for device in world.devices.values():
            for fabric in redfish.fabrics_of(device):
                self._endpoints[fabric][device.id] = device.id
            for fabric, zone in device.domains.items():
                self._zones[fabric].setdefault(zone, ([], []))[1].append(device.id)
        self._groups = tuple(dict.fromkeys(device.group for device in world.devices.values()))

    def add_source(self, path: str, kind: str, name: str, source: Source) -> None:
        """Show these resources as the members of a collection."""
        self._sources[path] = (kind, name, source)

    def is_hidden(self, block: str) -> bool:
        """Whether a fault has made the block vanish."""
        self._refresh()
        return block in self._hidden

    def etag(self, path: str) -> str | None:
        """The current ETag of a resource, quotes included."""
        found = self.read(path)
        return found[1] if found else None

    def read(
        self, path: str, expand: Expand | None = None, page: Page | None = None
    ) -> tuple[bytes, str] | None:
        """The body and the ETag, or None where there is nothing."""
        self._refresh()
        collection = self._collection(path)
        if collection is not None:
            return self._read_collection(path, collection, expand, page or Page())
        return self._read_one(path, expand)

    def _read_one(self, path: str, expand: Expand | None) -> tuple[bytes, str] | None:
        stamp = self._stamp(path)
        kept = self._cache.get((path, expand))
        if kept is not None and kept[0] == stamp:
            return kept[1], kept[2]
        document = self.document(path)
        if document is None:
            return None
        etag = document["@odata.etag"]
        body = encode(self._expand(document, expand) if expand else document)
        if stamp is not None and (expand is None or expand.kind == "."):
            self._cache[path, expand] = (stamp, body, etag)
        return body, etag

    def _read_collection(
        self, path: str, collection: _Collection, expand: Expand | None, page: Page
    ) -> tuple[bytes, str]:
        members = collection.members
        top = len(members) if page.top is None else page.top
        chosen = members[page.skip : page.skip + top]
        head = self._collection_head(path, collection)
        if page.skip + top < len(members):
            query = "" if expand is None else f"$expand={expand.kind}($levels={expand.levels})&"
            head["Members@odata.nextLink"] = f"{path}?{query}$skip={page.skip + top}&$top={top}"
        if expand is None or expand.kind == "~":
            pieces: Iterable[bytes] = (encode(redfish.link(member)) for member in chosen)
        else:
            found = (self._read_one(member, expand.deeper()) for member in chosen)
            pieces = (piece[0] for piece in found if piece is not None)
        return encode(head)[:-1] + b',"Members":[' + b",".join(pieces) + b"]}", head["@odata.etag"]

    @staticmethod
    def _collection_head(path: str, collection: _Collection) -> Document:
        kind = f"{collection.kind}Collection"
        return {
            "@odata.id": path,
            "@odata.type": f"#{kind}.{kind}",
            "@odata.etag": f'"{zlib.crc32("".join(collection.members).encode()):08x}"',
            "Name": collection.name,
            "Members@odata.count": len(collection.members),
        }

    def document(self, path: str) -> Document | None:
        """The resource or collection at this path, unexpanded, with its ETag."""
        collection = self._collection(path)
        if collection is not None:
            members = [redfish.link(member) for member in collection.members]
            return self._collection_head(path, collection) | {"Members": members}
        found = self._find(path.removeprefix(redfish.ROOT).strip("/").split("/"))
        if found is None:
            return None
        version = (self._stamp(path) or (0, 0))[0]
        return {"@odata.etag": f'"{version:x}-{zlib.crc32(encode(found)):08x}"'} | found

    def _expand(self, document: Document, expand: Expand) -> Document:
        return {key: self._expand_value(key, value, expand, False) for key, value in document.items()}

    def _expand_value(self, key: str, value: Any, expand: Expand, in_links: bool) -> Any:
        if isinstance(value, list):
            return [self._expand_value(key, item, expand, in_links) for item in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"@odata.id"}:
            if expand.kind == ("." if in_links else "~"):
                return value
            document = self.document(value["@odata.id"])
            deeper = expand.deeper()
            return value if document is None else self._expand(document, deeper) if deeper else document
        in_links = in_links or key == "Links"
        return {name: self._expand_value(name, item, expand, in_links) for name, item in value.items()}

    def _refresh(self) -> None:
        if self._standing != self._faults.generation:
            self._standing = self._faults.generation
            self._hidden = self._faults.standing(FaultKind.VANISH, self._world.devices)
            self._sick = self._faults.standing(FaultKind.UNHEALTHY, self._world.devices)

    def _stamp(self, path: str) -> tuple[int, int] | None:
        """Changes whenever the resource may have; None: not to be kept."""
        if path.rsplit("/", 1)[0] in self._sources:
            return None
        name = ""
        if path.startswith(f"{redfish.BLOCKS}/") or path.startswith(f"{redfish.SYSTEMS}/"):
            name = path.removeprefix(f"{redfish.BLOCKS}/").removeprefix(f"{redfish.SYSTEMS}/").split("/")[0]
            name = self._own_blocks.get(name, name)
        return self._state.version(name), self._standing

    def _visible(self, blocks: Iterable[str]) -> list[str]:
        return [block for block in blocks if block not in self._hidden]

    def _collection(self, path: str) -> _Collection | None:
        world = self._world

        def of(kind: str, name: str, ids: Iterable[str]) -> _Collection:
            return _Collection(kind, name, tuple(f"{path}/{member}" for member in ids))

        if path in self._sources:
            kind, name, source = self._sources[path]
            return of(kind, name, source())
        match path.removeprefix(redfish.ROOT).strip("/").split("/"):
            case ["Systems"]:
                return of("ComputerSystem", "Systems", world.hosts)
            case ["Chassis"]:
                return of("Chassis", "Chassis", dict.fromkeys((*world.hosts, *self._groups)))
            case ["Fabrics"]:
                return of("Fabric", "Fabrics", world.fabrics)
            case ["CompositionService", "ResourceBlocks"]:
                return of(
                    "ResourceBlock", "Resource blocks", (*self._own_blocks, *self._visible(world.devices))
                )
            case ["CompositionService", "ResourceZones"]:
                return of("Zone", "Resource zones", world.zones)
            case ["Fabrics", fabric, "Zones"] if fabric in world.fabrics:
                return of("Zone", "Zones", self._zones[fabric])
            case ["Fabrics", fabric, "Endpoints"] if fabric in world.fabrics:
                return of("Endpoint", "Endpoints", self._visible(self._endpoints[fabric]))
            case ["Fabrics", fabric, "Switches"] if fabric in world.fabrics:
                return of("Switch", "Switches", ["switch-0"])
        return None

    def _find(self, parts: list[str]) -> Document | None:
        world = self._world
        for path, (_, _, source) in self._sources.items():
            if len(parts) == path.count("/") - 1 and "/".join([redfish.ROOT, *parts[:-1]]) == path:
                return source().get(parts[-1])
        match parts:
            case [""]:
                return redfish.service_root(world)
            case ["SessionService"]:
                return redfish.session_service(self._session_timeout_seconds)
            case ["TaskService"]:
                return redfish.task_service()
            case ["CompositionService"]:
                return redfish.composition_service()
            case ["Systems", host] if host in world.hosts:
                return redfish.system(world.hosts[host], self._visible(self._state.blocks_of(host)))
            case ["Chassis", name] if name in world.hosts or name in self._groups:
                return redfish.chassis(world, name)
            case ["CompositionService", "ResourceZones", zone] if zone in world.zones:
                hosts, devices = world.zone_members[zone]
                return redfish.resource_zone(
                    zone,
                    (host for host in world.hosts if host in hosts),
                    self._visible(device for device in world.devices if device in devices),
                )
            case ["CompositionService", "ResourceBlocks", *rest]:
                return self._find_block(rest)
            case ["Fabrics", fabric, *rest] if fabric in world.fabrics:
                return self._find_in_fabric(fabric, rest)
        return None

    def _find_block(self, parts: list[str]) -> Document | None:
        name = parts[0]
        if name in self._own_blocks:
            return (
                redfish.block_of_host(self._world.hosts[self._own_blocks[name]]) if len(parts) == 1 else None
            )
        device = self._world.devices.get(name)
        if device is None or name in self._hidden:
            return None
        healthy = name not in self._sick
        if len(parts) == 1:
            return redfish.block_of_device(device, self._state, healthy)
        if parts[1:] == [redfish.PART[device.type], device.id]:
            return redfish.device_document(device, healthy)
        return None

    def _find_in_fabric(self, fabric: str, parts: list[str]) -> Document | None:
        kind = self._world.fabrics[fabric]
        match parts:
            case []:
                return fabrics.fabric(fabric, kind)
            case ["Switches", "switch-0"]:
                return fabrics.switch(fabric, kind)
            case ["Zones", zone] if zone in self._zones[fabric]:
                hosts, devices = self._zones[fabric][zone]
                return fabrics.fabric_zone(fabric, zone, hosts, self._visible(devices))
            case ["Endpoints", name] if name in self._endpoints[fabric] and name not in self._hidden:
                owner = self._endpoints[fabric][name]
                if name in self._own_blocks:
                    return fabrics.endpoint(fabric, kind, self._world.hosts[owner])
                return fabrics.endpoint(fabric, kind, self._world.devices[owner], owner not in self._sick)
        return None

"""The resource tree: which resource is at a path, its ETag, expansion and paging.

The JSON of a resource is kept until its host or block changes or a standing fault comes or goes, so that
reading thousands of blocks in one expanded collection is mostly joining bytes.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from weft.emulator import fabrics, metadata, redfish
from weft.emulator.dialects.base import Collection, Dialect
from weft.emulator.faults import FaultKind, Faults
from weft.emulator.inventory import Device, World
from weft.emulator.quirks import Quirk
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


class Tree:
    """Reads resources by path. Paths have no trailing slash."""

    def __init__(
        self, world: World, state: State, faults: Faults, dialect: Dialect, session_timeout_seconds: int
    ) -> None:
        self._world = world
        self._state = state
        self._faults = faults
        self._dialect = dialect
        self._layout = dialect.layout
        self._session_timeout_seconds = session_timeout_seconds
        self._cache: dict[tuple[str, Expand | None], tuple[tuple[int, int], bytes, str]] = {}
        self._standing = -1
        self._hidden: frozenset[str] = frozenset()
        self._sick: frozenset[str] = frozenset()
        self._sources: dict[str, tuple[str, str, Source]] = {}
        self._kept: dict[str, tuple[float, Collection | None, Document | None]] = {}
        """Path -> until when, in seconds of the monotonic clock, it is shown as it was, and how."""
        self._reads = 0

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
        self._reads += 1
        collection = self._collection(path)
        if collection is not None:
            return self._read_collection(path, collection, expand, page or Page())
        return self._read_one(path, expand)

    def keep(self, paths: Iterable[str], seconds: float) -> None:
        """Show these resources for so long as they are now."""
        until = time.monotonic() + seconds
        self._kept = {path: kept for path, kept in self._kept.items() if kept[0] > time.monotonic()}
        for path in paths:
            if path not in self._kept:
                collection = self._collection(path)
                self._kept[path] = (until, collection, None if collection else self.document(path))

    def _kept_now(self, path: str) -> tuple[float, Collection | None, Document | None] | None:
        kept = self._kept.get(path)
        return kept if kept is not None and kept[0] > time.monotonic() else None

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
        self, path: str, collection: Collection, expand: Expand | None, page: Page
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

    def _collection_head(self, path: str, collection: Collection) -> Document:
        kind = f"{collection.kind}Collection"
        return {
            "@odata.id": path,
            "@odata.type": f"#{kind}.{kind}",
            "@odata.etag": self._tag(f"{zlib.crc32(''.join(collection.members).encode()):08x}"),
            "Name": collection.name,
            "Members@odata.count": len(collection.members),
            **collection.more,
        }

    def document(self, path: str) -> Document | None:
        """The resource or collection at this path, unexpanded, with its ETag."""
        collection = self._collection(path)
        if collection is not None:
            members = [redfish.link(member) for member in collection.members]
            return self._collection_head(path, collection) | {"Members": members}
        if (kept := self._kept_now(path)) is not None:
            return kept[2]
        parts = _parts(path)
        found = None if self._dialect.hides(parts) else self._find(parts)
        if found is None:
            return None
        found = self._dialect.adjust(parts, found)
        version = (self._stamp(path) or (0, 0))[0]
        return {"@odata.etag": self._tag(f"{version:x}-{zlib.crc32(encode(found)):08x}")} | found

    def _tag(self, text: str) -> str:
        """The ETag of a resource in this state, as the service spells it."""
        if Quirk.CHANGING_ETAGS in self._dialect.quirks:
            text += f"-{self._reads:x}"
        return f'W/"{text}"' if Quirk.WEAK_ETAGS in self._dialect.quirks else f'"{text}"'

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
        if path.rsplit("/", 1)[0] in self._sources or self._kept or not self._dialect.is_cacheable(path):
            return None
        name = ""
        if path.startswith(f"{redfish.BLOCKS}/") or path.startswith(f"{redfish.SYSTEMS}/"):
            name = path.removeprefix(f"{redfish.BLOCKS}/").removeprefix(f"{redfish.SYSTEMS}/").split("/")[0]
            name = self._layout.own_blocks.get(name, name)
        return self._state.version(name), self._standing

    def visible(self, blocks: Iterable[str]) -> list[str]:
        """Those that no fault has made vanish."""
        self._refresh()
        return [block for block in blocks if block not in self._hidden]

    def _collection(self, path: str) -> Collection | None:
        if (kept := self._kept_now(path)) is not None:
            return kept[1]
        if path in self._sources:
            kind, name, source = self._sources[path]
            return Collection.of(path, kind, name, source())
        parts = _parts(path)
        if self._dialect.hides(parts):
            return None
        return self._dialect.collection(path, parts, self) or self._common_collection(path, parts)

    def _common_collection(self, path: str, parts: list[str]) -> Collection | None:
        world, layout = self._world, self._layout
        of = Collection.of
        match parts:
            case ["Systems"]:
                return of(path, "ComputerSystem", "Systems", world.hosts)
            case ["Chassis"]:
                return of(path, "Chassis", "Chassis", dict.fromkeys((*world.hosts, *layout.groups)))
            case ["Fabrics"]:
                return of(path, "Fabric", "Fabrics", world.fabrics)
            case ["CompositionService", "ResourceBlocks"]:
                blocks = (*layout.own_blocks, *self.visible(world.devices))
                return of(path, "ResourceBlock", "Resource blocks", blocks)
            case ["CompositionService", "ResourceZones"]:
                return of(path, "Zone", "Resource zones", world.zones)
            case ["Fabrics", fabric, "Zones"] if fabric in world.fabrics:
                return of(path, "Zone", "Zones", layout.zones[fabric])
            case ["Fabrics", fabric, "Endpoints"] if fabric in world.fabrics:
                return of(path, "Endpoint", "Endpoints", self.visible(layout.endpoints[fabric]))
            case ["Fabrics", fabric, "Switches"] if fabric in world.fabrics:
                return of(path, "Switch", "Switches", ["switch-0"])
        return None

    def _find(self, parts: list[str]) -> Document | None:
        for path, (_, _, source) in self._sources.items():
            if len(parts) == path.count("/") - 1 and "/".join([redfish.ROOT, *parts[:-1]]) == path:
                return source().get(parts[-1])
        return self._dialect.find(parts, self) or self._find_common(parts)

    def _find_common(self, parts: list[str]) -> Document | None:
        world = self._world
        match parts:
            case [""]:
                return redfish.service_root(world, self._dialect.composes)
            case ["SessionService"]:
                return redfish.session_service(self._session_timeout_seconds)
            case ["TaskService"]:
                return redfish.task_service()
            case ["AccountService"]:
                return metadata.account_service()
            case ["CompositionService"]:
                return redfish.composition_service()
            case ["Systems", host] if host in world.hosts:
                return redfish.system(world.hosts[host], self.visible(self._state.blocks_of(host)))
            case ["Chassis", name] if name in world.hosts or name in self._layout.groups:
                return redfish.chassis(world, name)
            case ["CompositionService", "ResourceZones", zone] if zone in world.zones:
                hosts, devices = world.zone_members[zone]
                return redfish.resource_zone(
                    zone,
                    (host for host in world.hosts if host in hosts),
                    self.visible(device for device in world.devices if device in devices),
                )
            case ["CompositionService", "ResourceBlocks", *rest]:
                return self._find_block(rest)
            case ["Fabrics", fabric, *rest] if fabric in world.fabrics:
                return self._find_in_fabric(fabric, rest)
        return None

    def _find_block(self, parts: list[str]) -> Document | None:
        name = parts[0]
        if name in self._layout.own_blocks and len(parts) == 1:
            return redfish.block_of_host(self._world.hosts[self._layout.own_blocks[name]])
        device = self._world.devices.get(name)
        if device is None or name in self._hidden:
            return None
        if len(parts) == 1:
            return redfish.block_of_device(device, self._state, name not in self._sick)
        return self.device(device) if parts[1:] == [redfish.PART[device.type], device.id] else None

    def device(self, device: Device) -> Document | None:
        """The Processor, Memory or Drive itself."""
        self._refresh()
        if device.id in self._hidden:
            return None
        path = self._layout.device_path(device)
        return redfish.device_document(device, path, device.id not in self._sick)

    def _find_in_fabric(self, fabric: str, parts: list[str]) -> Document | None:
        kind, layout = self._world.fabrics[fabric], self._layout
        match parts:
            case []:
                return fabrics.fabric(fabric, kind)
            case ["Switches", "switch-0"]:
                return fabrics.switch(fabric, kind)
            case ["Zones", zone] if zone in layout.zones[fabric]:
                hosts, devices = layout.zones[fabric][zone]
                return fabrics.fabric_zone(fabric, zone, hosts, self.visible(devices))
            case ["Endpoints", name] if name in layout.endpoints[fabric] and name not in self._hidden:
                owner = layout.owner(fabric, name)
                path = layout.device_path(owner) if isinstance(owner, Device) else ""
                return fabrics.endpoint(fabric, kind, owner, path, owner.id not in self._sick)
        return None


def _parts(path: str) -> list[str]:
    return path.removeprefix(redfish.ROOT).strip("/").split("/")

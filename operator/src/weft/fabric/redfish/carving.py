"""Parts of devices, of a size that the administrator chose: carved from memory domains and storage when they are
attached, and given back when they are detached. No I/O.

A part has a number; what is carved for it has its name, so that the device stays the same while it comes and goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weft.fabric.driver import DeviceKind
from weft.fabric.redfish.mapping import Json, list_at, mapping_at
from weft.fabric.redfish.shapes import Resolve, ignore, link_of, links_of, number_of
from weft.fabric.redfish.uris import canonical

MIB = 1 << 20
_NAME = re.compile(r"weft-part-([1-9][0-9]{0,5})")
_UNITS = (("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", MIB))
_MOST = 10_000


@dataclass(frozen=True)
class Source:
    """Something that parts are carved from."""

    kind: DeviceKind
    collection: str
    """URI of its memory chunks or volumes."""
    total_bytes: int
    step_bytes: int
    """Sizes are multiples of it."""
    least_bytes: int

    def refusal(self, size: int) -> str:
        """Why parts of this size cannot be carved, with sizes that can; empty: they can."""
        if size <= self.total_bytes and size >= self.least_bytes and size % self.step_bytes == 0:
            return ""
        least = -(-self.least_bytes // self.step_bytes) * self.step_bytes
        below, above = (
            size // self.step_bytes * self.step_bytes,
            -(-size // self.step_bytes) * self.step_bytes,
        )
        most = self.total_bytes // self.step_bytes * self.step_bytes
        nearest = sorted({min(max(each, least), most) for each in (below, above)})
        sizes = " and ".join(size_text(each) for each in nearest)
        return (
            f"it cannot be carved into parts of {size_text(size)}: sizes are multiples of {size_text(self.step_bytes)}"
            f" from {size_text(least)} to {size_text(most)}; nearest: {sizes}"
        )


@dataclass(frozen=True)
class Carved:
    """A source, and what is carved from it."""

    source: Source
    part_bytes: int
    ours: Mapping[int, str] = field(default_factory=dict)
    """URIs by number, of what has a name and size of ours."""
    taken: frozenset[int] = frozenset()
    """Numbers whose name something else has."""
    used_bytes: int = 0

    @property
    def numbers(self) -> tuple[int, ...]:
        """The parts that are there or for which there is room."""
        room = max(0, min((self.source.total_bytes - self.used_bytes) // self.part_bytes, _MOST))
        used = self.ours.keys() | self.taken
        free = [n for n in range(1, len(used) + room + 1) if n not in used]
        return tuple(sorted([*self.ours, *free[:room]]))


def part_name(number: int) -> str:
    """The name of what is carved for a part."""
    return f"weft-part-{number}"


def part_uri(endpoint: str, number: int) -> str:
    """What stands for a part of the device behind an endpoint, whether or not it is carved: no URI of the manager."""
    return f"{endpoint}#{part_name(number)}"


def number_in(uri: str) -> tuple[str, int]:
    """The endpoint and number of a part; 0: it is none."""
    endpoint, _, name = uri.partition("#")
    found = _NAME.fullmatch(name)
    return endpoint, int(found[1]) if found else 0


def domain_source(body: Json, resolve: Resolve, memory: str) -> Source | None:
    """A MemoryDomain as a source; None: it is not of this memory alone, or clients carve nothing from it."""
    sets = [mapping_at(each) for each in list_at(body, "InterleavableMemorySets") or ()]
    members = {uri for each in sets for uri in links_of(each, resolve, "MemorySet") or ()}
    chunks = link_of(body.get("MemoryChunks"))
    if members != {memory} or chunks is None or body.get("AllowsMemoryChunkCreation") is False:
        return None
    step = int(number_of(body, "MemoryChunkIncrementMiB", ignore) or 1) * MIB
    least = int(number_of(body, "MinMemoryChunkSizeMiB", ignore) or 1) * MIB
    total = int(number_of(body, "MemorySizeMiB", ignore) or 0) * MIB
    return Source(DeviceKind.MEMORY, canonical(resolve(chunks)), total, step, least)


def storage_source(body: Json, resolve: Resolve, drive_bytes: int) -> Source | None:
    """A Storage of one drive as a source; None: it has no volumes."""
    volumes = link_of(body.get("Volumes"))
    if volumes is None:
        return None
    return Source(DeviceKind.STORAGE, canonical(resolve(volumes)), drive_bytes, MIB, MIB)


def carved_from(source: Source, part_bytes: int, members: Sequence[tuple[str, Json]]) -> Carved:
    """What the members of the source's collection are: ours by name and size, or others'."""
    ours: dict[int, str] = {}
    taken: set[int] = set()
    used = 0
    for uri, body in members:
        size = bytes_of(body)
        used += size
        found = _NAME.fullmatch(str(body.get("Name")))
        if found and size == part_bytes:
            ours.setdefault(int(found[1]), uri)
        elif found:
            taken.add(int(found[1]))
    return Carved(source, part_bytes, ours, frozenset(taken - ours.keys()), used)


def bytes_of(part: Json) -> int:
    """The size of a memory chunk, volume or drive."""
    if (mebibytes := number_of(part, "MemoryChunkSizeMiB", ignore)) is not None:
        return int(mebibytes) * MIB
    return int(number_of(part, "CapacityBytes", ignore) or 0)


def request_for(carved: Carved, number: int) -> Json:
    """What is sent to carve a part."""
    if carved.source.kind is DeviceKind.MEMORY:
        return {
            "@odata.type": "#MemoryChunks.v1_5_0.MemoryChunks",
            "Name": part_name(number),
            "AddressRangeType": "Volatile",
            "MemoryChunkSizeMiB": carved.part_bytes // MIB,
        }
    return {
        "@odata.type": "#Volume.v1_8_0.Volume",
        "Name": part_name(number),
        "CapacityBytes": carved.part_bytes,
    }


def size_text(size: int) -> str:
    """A size as Kubernetes writes it."""
    return next((f"{size // unit}{name}" for name, unit in _UNITS if size and size % unit == 0), str(size))

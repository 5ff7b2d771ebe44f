"""One reading of a Redfish manager as Weft sees it: from parsed resources to an Inventory. No I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from weft.fabric.driver import Device, Host, Inventory
from weft.fabric.redfish.mapping import text_of
from weft.fabric.redfish.names import is_name, names_of
from weft.fabric.redfish.resources import Block, Facts, System

MAX_PROBLEMS = 100


@dataclass
class Problems:
    """What went wrong during one reading, for people."""

    texts: list[str] = field(default_factory=list)
    complete: bool = True

    def note(self, text: str) -> None:
        """Something the administrator should know; nothing is missing because of it."""
        if len(self.texts) < MAX_PROBLEMS and (line := text_of(text)) not in self.texts:
            self.texts.append(line)

    def missing(self, text: str) -> None:
        """Something that could not be read: the picture has a hole."""
        self.complete = False
        self.note(text)


@dataclass(frozen=True)
class Domain:
    """One interconnect domain: a zone of a fabric."""

    attribute: str
    value: str
    members: frozenset[str]
    """URIs of blocks, of components in blocks, and of systems."""


@dataclass(frozen=True)
class Topology:
    """What can be attached where, and which devices are near to each other."""

    zones: tuple[frozenset[str], ...] = ()
    """Resource zones: URIs of blocks that can be composed together."""
    domains: tuple[Domain, ...] = ()


def assemble(
    blocks: Sequence[Block],
    systems: Sequence[System],
    facts: Mapping[str, Facts],
    topology: Topology,
    problems: Problems,
) -> Inventory:
    """Join what was read. `facts` by block URI: those that could be read."""
    hosts = [s for s in systems if _has_name(s.host.id, s.uri, "system", problems)]
    devices = [b for b in blocks if b.kind is not None and _has_name(b.id, b.uri, "resource block", problems)]
    host_ids = {s.uri: s.host.id for s in hosts}
    reach = _reach(blocks, host_ids, topology)
    places = _places(topology)
    found = []
    for block in devices:
        known = facts.get(block.uri)
        if known is None or block.kind is None:
            continue
        if len(block.components) > 1:
            problems.note(f"{block.id}: {len(block.components)} components in one block count as one device")
        place = _place(block.id, (block.uri, *block.components), places, problems)
        found.append(
            Device(
                id=block.id,
                kind=block.kind,
                attributes={**known.attributes, **place},
                capacity_bytes=known.capacity_bytes,
                healthy=block.healthy,
                reachable_hosts=None if reach is None else reach.get(block.uri, frozenset()),
            )
        )
    placed = [
        Host(
            s.host.id, {**s.host.attributes, **_place(s.host.id, (s.uri,), places, problems)}, s.host.healthy
        )
        for s in hosts
    ]
    attachments = _attachments(devices, hosts, problems)
    return Inventory(
        devices=tuple(sorted(found, key=lambda d: d.id)),
        hosts=tuple(sorted(placed, key=lambda h: h.id)),
        attachments=attachments,
        complete=problems.complete,
        problems=tuple(problems.texts),
    )


def named_blocks(blocks: Sequence[Block], earlier: Mapping[str, str]) -> list[Block]:
    """The blocks with ids that are theirs alone; `earlier` are ids by URI that are in use."""
    names = names_of({b.uri: b.id for b in blocks}, earlier)
    return [replace(b, id=names[b.uri]) for b in blocks]


def named_systems(systems: Sequence[System], earlier: Mapping[str, str]) -> list[System]:
    """The systems with ids that are theirs alone; `earlier` are ids by URI that are in use."""
    names = names_of({s.uri: s.host.id for s in systems}, earlier)
    return [replace(s, host=replace(s.host, id=names[s.uri])) for s in systems]


def _has_name(id: str, uri: str, what: str, problems: Problems) -> bool:
    if not is_name(id):
        problems.note(
            f"{what} {uri} is not used: its Id is no name of up to 256 printable characters: {id[:40]!r}"
        )
    return is_name(id)


def _reach(
    blocks: Sequence[Block], hosts: Mapping[str, str], topology: Topology
) -> dict[str, frozenset[str]] | None:
    """Hosts by URI of the blocks in a zone with them; None when the zones say nothing about hosts."""
    hosts_of = {b.uri: {hosts[s] for s in b.own_systems if s in hosts} for b in blocks if b.own_systems}
    reach: dict[str, set[str]] = defaultdict(set)
    for zone in topology.zones:
        members = set().union(*(hosts_of.get(uri, ()) for uri in zone))
        for uri in zone if members else ():
            reach[uri] |= members
    return {uri: frozenset(names) for uri, names in reach.items()} if reach else None


def _places(topology: Topology) -> dict[str, list[Domain]]:
    places: dict[str, list[Domain]] = defaultdict(list)
    for domain in topology.domains:
        for uri in domain.members:
            places[uri].append(domain)
    return places


def _place(
    name: str, uris: Sequence[str], places: Mapping[str, Sequence[Domain]], problems: Problems
) -> dict[str, str]:
    """The domain attributes of a device or host that has these URIs."""
    place: dict[str, str] = {}
    for domain in sorted((d for uri in uris for d in places.get(uri, ())), key=lambda d: d.value):
        if place.setdefault(domain.attribute, domain.value) != domain.value:
            problems.note(f"{name} is in more than one {domain.attribute}")
    return place


def _attachments(
    devices: Sequence[Block], hosts: Sequence[System], problems: Problems
) -> tuple[tuple[str, str], ...]:
    """Pairs of both sides, systems and blocks. Where both speak and differ, one is stale: not complete."""
    block_by_uri = {b.uri: b for b in devices}
    host_by_uri = {s.uri: s for s in hosts}
    by_system = {(uri, s.uri) for s in hosts for uri in s.blocks or () if uri in block_by_uri}
    by_block = {(b.uri, uri) for b in devices for uri in b.systems or () if uri in host_by_uri}
    for block_uri, system_uri in by_system ^ by_block:
        block, system = block_by_uri[block_uri], host_by_uri[system_uri]
        if block.systems is not None and system.blocks is not None:
            told = "the host" if (block_uri, system_uri) in by_system else "the device"
            problems.missing(
                f"{block.id} at {system.host.id}: only {told} says so; one of them is out of date"
            )
    pairs = by_system | by_block
    return tuple(sorted((block_by_uri[b].id, host_by_uri[s].host.id) for b, s in pairs))

"""One reading of a Redfish manager as Weft sees it: from parsed resources to an Inventory. No I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from weft.fabric.driver import Device, Inventory, Unread, Unused, UnusedReason
from weft.fabric.redfish.facts import Facts
from weft.fabric.redfish.mapping import text_of
from weft.fabric.redfish.names import is_name, names_of
from weft.fabric.redfish.resources import Block, System

MAX_PROBLEMS = 100
NAMED = 3
"""How many of those with the same oddity are named."""


_ALL_READ = Unread()


@dataclass
class Problems:
    """What went wrong during one reading, for people."""

    holes: int = 0
    """How often something could not be read."""
    _missing: dict[str, None] = field(default_factory=dict)
    _notes: dict[str, None] = field(default_factory=dict)
    _about: dict[str, list[str]] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Something the administrator should know; nothing is missing because of it."""
        if len(self._notes) < MAX_PROBLEMS:
            self._notes[text_of(text)] = None

    def about(self, name: str, text: str) -> None:
        """The same about one of many: those of whom the same is said are told together."""
        self._about.setdefault(text, []).append(name)

    def missing(self, text: str) -> None:
        """Something that could not be read: the picture has a hole."""
        self.holes += 1
        if len(self._missing) < MAX_PROBLEMS:
            self._missing[text_of(text)] = None

    @property
    def complete(self) -> bool:
        return not self.holes

    @property
    def texts(self) -> list[str]:
        """What is missing, then what is odd."""
        told = []
        for text, names in self._about.items():
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            told.append(text_of(f"{', '.join(names[:NAMED])}{more}: {text}"))
        return list(dict.fromkeys([*self._missing, *told[:MAX_PROBLEMS], *self._notes]))


@dataclass(frozen=True)
class Domain:
    """One interconnect domain: a zone of a fabric."""

    attribute: str
    value: str
    members: frozenset[str]
    """URIs of blocks, of components in blocks, and of systems."""
    zone: str = ""
    """URI of the zone."""


@dataclass(frozen=True)
class Composing:
    """A collection in which a POST makes a system of resource blocks, as the manager says."""

    target: str
    """Path of the collection."""
    request: str = ""
    """Path of the resource that says what a request must hold; empty: there is none."""
    zones: frozenset[str] = frozenset()
    """Paths of the resource zones whose blocks are meant; empty: all."""


@dataclass(frozen=True)
class Topology:
    """What can be attached where, and which devices are near to each other."""

    zones: tuple[frozenset[str], ...] = ()
    """Resource zones: URIs of blocks that can be composed together."""
    domains: tuple[Domain, ...] = ()
    offers: tuple[Composing, ...] = ()
    """What resource zones say can be composed of them."""


def assemble(
    blocks: Sequence[Block],
    systems: Sequence[System],
    facts: Mapping[str, Facts | UnusedReason],
    topology: Topology,
    problems: Problems,
    *,
    unread: Unread = _ALL_READ,
    no_devices: str = "",
    service: str = "",
) -> Inventory:
    """Join what was read. `facts` by block URI: those that could be read."""
    unused: Counter[tuple[str, UnusedReason]] = Counter()
    hosts: list[System] = []
    devices: list[Block] = []
    for system in systems:
        if reason := system.unused or (None if is_name(system.host.id) else UnusedReason.NAME):
            unused["system", reason] += 1
        else:
            hosts.append(system)
            _tell(problems, system.host.id, system.notes)
    for block in blocks:
        known = facts.get(block.uri)
        reason = block.unused or (known if isinstance(known, UnusedReason) else None)
        if reason := reason or (None if is_name(block.id) else UnusedReason.NAME):
            unused[block.thing, reason] += 1
        else:
            devices.append(block)
            _tell(problems, block.id, block.notes)
    host_ids = {s.uri: s.host.id for s in hosts}
    reach = _reach(blocks, host_ids, topology)
    places = _places(topology)
    attachments, disputed = _attachments(devices, hosts, problems)
    attached = {device for device, _ in attachments}
    found = []
    for block in devices:
        known = facts.get(block.uri)
        if not isinstance(known, Facts):
            continue
        _tell(problems, block.id, known.notes)
        place = _place(block.id, (block.uri, *block.components), places, problems)
        found.append(
            Device(
                id=block.id,
                kind=known.kind,
                attributes={**known.attributes, **place},
                capacity_bytes=known.capacity_bytes,
                healthy=block.healthy,
                reachable_hosts=None if reach is None else reach.get(block.uri, frozenset()),
                reserved=block.reserved and block.id not in attached,
            )
        )
    placed = [
        replace(
            s.host,
            attributes={**s.host.attributes, **_place(s.host.id, (s.uri,), places, problems)},
        )
        for s in hosts
    ]
    if reserved := sum(device.reserved for device in found):
        unused["device", UnusedReason.RESERVED] = reserved
    unread = replace(unread, devices=unread.devices | disputed)
    return Inventory(
        devices=tuple(sorted(found, key=lambda d: d.id)),
        hosts=tuple(sorted(placed, key=lambda h: h.id)),
        attachments=attachments,
        complete=not unread,
        problems=tuple(problems.texts),
        unread=unread,
        unused=tuple(
            Unused(thing, reason, count)
            for (thing, reason), count in sorted(unused.items(), key=lambda item: item[0][1].name)
        ),
        no_devices=no_devices,
        service=service,
    )


def _tell(problems: Problems, name: str, notes: Sequence[str]) -> None:
    for note in notes:
        problems.about(name, note)


def named_blocks(blocks: Sequence[Block], earlier: Mapping[str, str]) -> list[Block]:
    """The blocks with ids that are theirs alone; `earlier` are ids by URI that are in use."""
    names = names_of({b.uri: b.id for b in blocks}, earlier)
    return [b if b.id == names[b.uri] else replace(b, id=names[b.uri]) for b in blocks]


def named_systems(systems: Sequence[System], earlier: Mapping[str, str]) -> list[System]:
    """The systems with ids that are theirs alone; `earlier` are ids by URI that are in use."""
    names = names_of({s.uri: s.host.id for s in systems}, earlier)
    return [replace(s, host=replace(s.host, id=names[s.uri])) for s in systems]


def _reach(
    blocks: Sequence[Block], hosts: Mapping[str, str], topology: Topology
) -> dict[str, frozenset[str]] | None:
    """Hosts by URI of the blocks in a zone with them; None when the zones say nothing about hosts."""
    hosts_of = {b.uri: {hosts[s] for s in b.own_systems if s in hosts} for b in blocks if b.own_systems}
    members = [frozenset[str]().union(*(hosts_of.get(uri, ()) for uri in zone)) for zone in topology.zones]
    zones_of: dict[str, list[int]] = defaultdict(list)
    for number, zone in enumerate(topology.zones):
        for uri in zone if members[number] else ():
            zones_of[uri].append(number)
    # One set for all blocks of the same zones: a rack's devices all reach its hundreds of hosts.
    shared: dict[tuple[int, ...], frozenset[str]] = {}
    reach: dict[str, frozenset[str]] = {}
    for uri, numbers in zones_of.items():
        zones = tuple(numbers)
        if zones not in shared:
            shared[zones] = frozenset[str]().union(*(members[number] for number in zones))
        reach[uri] = shared[zones]
    return reach or None


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
) -> tuple[tuple[tuple[str, str], ...], frozenset[str]]:
    """Pairs of both sides, systems and blocks, and the devices about which the sides differ: one is out of date.

    A manager that keeps one side only says nothing with the other.
    """
    block_by_uri = {b.uri: b for b in devices}
    host_by_uri = {s.uri: s for s in hosts}
    by_system = {(uri, s.uri) for s in hosts for uri in s.blocks or () if uri in block_by_uri}
    by_block = {(b.uri, uri) for b in devices for uri in b.systems or () if uri in host_by_uri}
    disputed = set()
    for block_uri, system_uri in by_system ^ by_block if by_system and by_block else ():
        block, system = block_by_uri[block_uri], host_by_uri[system_uri]
        if block.systems is not None and system.blocks is not None:
            told = "the host" if (block_uri, system_uri) in by_system else "the device"
            problems.missing(
                f"{block.id} at {system.host.id}: only {told} says so; one of them is out of date"
            )
            disputed.add(block.id)
    pairs = by_system | by_block
    attachments = tuple(sorted((block_by_uri[b].id, host_by_uri[s].host.id) for b, s in pairs))
    return attachments, frozenset(disputed)

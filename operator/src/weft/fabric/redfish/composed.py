"""Systems that are made of resource blocks by POST: the host is the compute block, before and after. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from weft.fabric.driver import Host
from weft.fabric.errors import Transient
from weft.fabric.redfish.inventory import Composing
from weft.fabric.redfish.mapping import Json, mapping_at
from weft.fabric.redfish.owners import OURS
from weft.fabric.redfish.resources import Block, System
from weft.fabric.redfish.shapes import Resolve, ignore, items_of, link_of, links_of
from weft.fabric.redfish.uris import canonical, last_segment

_USE_CASE = "ComputerSystemComposition"


def composing(body: Json, resolve: Resolve, zone: str = "") -> list[Composing]:
    """What a collection of systems, or a resource zone, says can be composed (`@Redfish.CollectionCapabilities`)."""
    entries = items_of(mapping_at(body, "@Redfish.CollectionCapabilities").get("Capabilities"), "", ignore)
    found = []
    for entry in map(mapping_at, entries or ()):
        links = mapping_at(entry, "Links")
        target, request = link_of(links.get("TargetCollection")), link_of(entry.get("CapabilitiesObject"))
        if entry.get("UseCase") != _USE_CASE or not target:
            continue
        try:
            zones = frozenset(links_of(links, resolve, "RelatedItem") or ()) or frozenset({zone} - {""})
            path = canonical(resolve(request)) if request else ""
            found.append(Composing(canonical(resolve(target)), path, zones))
        except Transient:
            continue  # leads elsewhere: no offer
    return found


@dataclass(frozen=True)
class Composed:
    """Blocks and hosts, where systems can be made of blocks."""

    blocks: tuple[Block, ...]
    systems: tuple[System, ...]
    system_of: dict[str, str] = field(default_factory=dict)
    """The system that a compute block is in, by URIs; blocks that are in none are absent."""


def compose(blocks: Sequence[Block], systems: Sequence[System]) -> Composed:
    """Make hosts of compute blocks that are in no system, or in one that was made of it."""
    compute = {b.uri: b for b in blocks if b.compute}
    holders: dict[str, set[str]] = {uri: set(b.systems or ()) for uri, b in compute.items()}
    for system in systems:
        for uri in system.blocks or ():
            if uri in compute:
                holders[uri].add(system.uri)
    parts: dict[str, set[str]] = {}
    for uri, inside in holders.items():
        for path in inside:
            parts.setdefault(path, set()).add(uri)
    by_uri = {system.uri: system for system in systems}
    system_of: dict[str, str] = {}
    hosts = []
    for uri, block in compute.items():
        found = [by_uri[path] for path in sorted(holders[uri]) if path in by_uri]
        if len(found) != len(holders[uri]) or len(found) > 1:
            continue  # in a system that was not read, or in two
        if found and not (_is_made(found[0]) and len(parts[found[0].uri]) == 1):
            continue
        if found:
            system_of[uri] = found[0].uri
        hosts.append(_host(block, found[0] if found else None))
    host_of = {path: uri for uri, path in system_of.items()}
    own = {host.uri for host in hosts}
    return Composed(
        blocks=tuple(
            replace(
                b,
                systems=None if b.systems is None else tuple(host_of.get(path, path) for path in b.systems),
                own_systems=(b.uri,) if b.uri in own else b.own_systems,
            )
            for b in blocks
        ),
        systems=(*(s for s in systems if s.uri not in host_of), *hosts),
        system_of=system_of,
    )


def _is_made(system: System) -> bool:
    """Whether a system was made of blocks: it says so, or has a name that Weft gave."""
    return system.composed or system.name.startswith(OURS)


def _host(block: Block, system: System | None) -> System:
    attributes = {"type": "Compute"}
    healthy, uuid = block.healthy, ""
    if system is not None:
        attributes = {**system.host.attributes, "system": last_segment(system.uri)}
        healthy, uuid = healthy and system.host.healthy, system.host.uuid
    return System(
        uri=block.uri,
        host=Host(block.id, attributes, healthy, uuid, made=True),
        unused=None,
        blocks=system.blocks if system is not None else (),
        compute=True,
    )


def offers_for(offers: Iterable[Composing], zones: Iterable[str]) -> list[Composing]:
    """The offers that concern blocks of these zones, those that name a zone first."""
    inside = set(zones)
    fitting = [offer for offer in offers if not offer.zones or offer.zones & inside]
    return sorted(fitting, key=lambda offer: not offer.zones)

"""Connections of fabrics: who reaches what, where a manager takes connections of initiators and targets. No I/O."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from weft.fabric.redfish.mapping import Json, mapping_at
from weft.fabric.redfish.shapes import Resolve, ignore, items_of, link_of, links_of
from weft.fabric.redfish.uris import canonical

PART_INFO = {"MemoryChunkInfo": ("MemoryChunk", "Memory"), "VolumeInfo": ("Volume", "Storage")}
"""Properties that say what is reached behind the targets: the link in them, and the ConnectionType for it."""


@dataclass(frozen=True)
class Connection:
    """One connection of a fabric."""

    uri: str
    name: str
    initiators: tuple[str, ...]
    """Endpoints of hosts; empty: it names none, and some host that cannot be told has it."""
    targets: tuple[str, ...]
    """Endpoints of devices."""
    parts: tuple[str, ...]
    """What is reached behind the targets; empty: all that is there."""

    def reached(self, aliases: Mapping[str, str], divided: Container[str]) -> tuple[str, ...]:
        """URIs of the devices that the initiators have by it; `aliases` stand for what was carved by us.

        A part that is none of those that are `divided` off as devices of their own is the whole.
        """
        parts = [aliases.get(uri, uri) for uri in self.parts]
        known = [uri for uri in parts if uri in divided]
        return tuple(dict.fromkeys((*known, *(self.targets if len(known) < len(parts) or not parts else ()))))


def connection_of(body: Json, uri: str, resolve: Resolve) -> Connection:
    """Parse a Connection. Raises Transient when one of its links must not be followed."""
    entries = [
        link_of(mapping_at(entry).get(name))
        for info, (name, _) in PART_INFO.items()
        for entry in items_of(body.get(info), info, ignore) or ()
    ]
    return Connection(
        uri=uri,
        name=str(body.get("Name") or ""),
        initiators=links_of(body, resolve, "Links", "InitiatorEndpoints") or (),
        targets=links_of(body, resolve, "Links", "TargetEndpoints") or (),
        parts=tuple(canonical(resolve(link)) for link in entries if link is not None),
    )


def hosts_of(connection: Connection, host_of: Mapping[str, str]) -> set[str]:
    """The hosts of a connection; empty: they cannot be told."""
    return {host_of[uri] for uri in connection.initiators if uri in host_of}


def owners_of(
    connections: Iterable[Connection],
    host_of: Mapping[str, str],
    aliases: Mapping[str, str],
    divided: Container[str],
) -> tuple[dict[str, list[str]], dict[str, set[str]]]:
    """What each host reaches, and who has each device or something of it, by URIs.

    A connection whose host cannot be told stands for one: what it reaches is in use.
    """
    reached: dict[str, list[str]] = {}
    owners: dict[str, set[str]] = {}
    for connection in connections:
        hosts = hosts_of(connection, host_of)
        for host in hosts:
            reached.setdefault(host, []).extend(connection.reached(aliases, divided))
        # Who has a part of what is behind a target has the whole in use.
        for device in (*connection.reached(aliases, divided), *connection.targets):
            owners.setdefault(device, set()).update(hosts or {connection.uri})
    return reached, owners

"""Which Node runs on which of a fabric's hosts. Pure.

Whatever could mean two Nodes, or two hosts, means none: devices would go to one machine and pods to another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from weft.api.fabric import HostMatching
from weft.cluster import Object
from weft.fabric.driver import Host


@dataclass(frozen=True)
class Matched:
    """The hosts whose Node is known."""

    nodes: Mapping[str, str] = field(default_factory=dict)
    """Name of the Node, which need not exist, by the name of the host."""
    problems: tuple[str, ...] = ()
    """What cannot be told apart, for people."""


def match(fabric: Object, hosts: Iterable[Host], nodes: Iterable[Object]) -> Matched:
    """The Nodes of a fabric's hosts, by the list that its administrator wrote or by the machines' UUIDs."""
    if fabric["spec"].get("hostMatching") == HostMatching.SYSTEM_UUID:
        return _by_uuid(hosts, nodes)
    pairs = [(str(one["host"]), str(one["nodeName"])) for one in fabric["spec"].get("hosts", [])]
    times = Counter(node for _, node in pairs)
    return Matched(
        {host: node for host, node in pairs if times[node] == 1},
        tuple(f"Node {node} stands at several hosts" for node in sorted(times) if times[node] > 1),
    )


def unknown(fabric: Object, hosts: Iterable[Host], nodes: Iterable[Object]) -> tuple[str, ...]:
    """What a Fabric's list names that is not there, for people; the order is that of the list."""
    known_hosts = {host.id for host in hosts}
    known_nodes = {node["metadata"]["name"] for node in nodes}
    listed = fabric["spec"].get("hosts", [])
    no_host = [one["host"] for one in listed if one["host"] not in known_hosts]
    no_node = [one["nodeName"] for one in listed if one["nodeName"] not in known_nodes]
    found = []
    if no_host:
        found.append(f"the manager has no host {', no '.join(no_host[:3])}{_more(no_host)}")
    if no_node:
        found.append(f"there is no Node {', no '.join(no_node[:3])}{_more(no_node)}")
    return tuple(found)


def _more(names: list[str]) -> str:
    return " and others that are listed" if len(names) > 3 else ""


def _by_uuid(hosts: Iterable[Host], nodes: Iterable[Object]) -> Matched:
    host_of: dict[str, list[str]] = {}
    for host in hosts:
        if uuid := canonical(host.uuid):
            host_of.setdefault(uuid, []).append(host.id)
    node_of: dict[str, list[str]] = {}
    for node in nodes:
        if uuid := canonical(system_uuid(node)):
            node_of.setdefault(uuid, []).append(node["metadata"]["name"])
    problems = [
        f"{what} {' and '.join(sorted(names)[:3])} have the same machine UUID {uuid}"
        for what, table in (("hosts", host_of), ("Nodes", node_of))
        for uuid, names in table.items()
        if len(names) > 1
    ]
    matched = {
        names[0]: node_of[uuid][0]
        for uuid, names in host_of.items()
        if len(names) == 1 and len(node_of.get(uuid, ())) == 1
    }
    return Matched(matched, tuple(sorted(problems)))


def system_uuid(node: Object) -> str:
    """The machine UUID that a Node's kubelet reports."""
    return str(node.get("status", {}).get("nodeInfo", {}).get("systemUUID", ""))


def canonical(uuid: str) -> str:
    """A UUID in the one form in which they are compared; empty for none, and for those that say nothing."""
    text = uuid.strip().lower()
    # Firmware that was never given a UUID reports all zeros or all ones.
    return "" if set(text) - {"-"} <= {"0"} or set(text) - {"-"} <= {"f"} else text

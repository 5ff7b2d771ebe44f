"""Which hosts are places: healthy, with a ready Node, and carrying nothing. For one thread."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from weft.api.names import TAINT_LOGICAL_NODE
from weft.api.quantity import parse_bytes, parse_decimal
from weft.binding.holdings import Holdings
from weft.binding.hosts import match
from weft.binding.inventory import Picture
from weft.binding.objects import is_ready, logical_node_taint
from weft.binding.parsed import Parsed
from weft.binding.plan import HostOffer, Taint
from weft.cluster import Object

NOT_WRITABLE = "nothing can be attached there: the condition Writable of its Fabric says why"

_LIFE_CYCLE = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})
"""Taints by which Kubernetes says that a machine is not there."""


@dataclass(frozen=True, eq=False)
class _Node:
    """What matters of a Kubernetes Node."""

    raw: Object
    name: str
    usable: bool
    """Ready, and without Weft's taint."""

    @classmethod
    def of(cls, raw: Object) -> _Node:
        usable = is_ready(raw) and not logical_node_taint(raw)
        return cls(raw, raw["metadata"]["name"], usable)


def _before_it_is_made(name: str, node: _Node | None) -> _Node:
    """A Node whose machine is there only while devices are attached: it need be neither ready nor there."""
    if node is None:
        return _Node({"metadata": {"name": name}}, name, usable=True)
    spec = node.raw["spec"]
    taints = [taint for taint in spec.get("taints", []) if taint["key"] not in _LIFE_CYCLE]
    raw = {**node.raw, "spec": {**spec, "taints": taints}}
    return _Node(raw, name, usable=not logical_node_taint(raw))


class Hosting:
    """Reads Nodes; those that did not change are not read again."""

    def __init__(self) -> None:
        self._nodes = Parsed(_Node.of)
        self._offers: dict[tuple[str, str], tuple[_Node, bool, HostOffer]] = {}

    def hosts(
        self,
        fabrics: Iterable[tuple[Object, Picture]],
        nodes: tuple[Object, ...],
        holdings: Holdings,
        promised: Collection[str],
    ) -> tuple[HostOffer, ...]:
        """The hosts of fabrics that Weft may bind on, one offer for each Node whatever number of fabrics it is at.

        `promised` are Nodes that were given away and need not show it yet.
        """
        node_of = {node.name: node for node in self._nodes.all(nodes)}
        known, self._offers = self._offers, {}
        found: list[HostOffer] = []
        not_alone: set[str] = set()
        for raw, picture in fabrics:
            hosts, shared = self._of_fabric(raw, picture, holdings, node_of, known)
            found += [host for host in hosts if host.node_name not in promised]
            not_alone |= shared
        return _machines(found, not_alone)

    def _of_fabric(
        self,
        fabric: Object,
        picture: Picture,
        holdings: Holdings,
        node_of: Mapping[str, _Node],
        known: Mapping[tuple[str, str], tuple[_Node, bool, HostOffer]],
    ) -> tuple[list[HostOffer], set[str]]:
        """Hosts that are healthy, have a ready Node, and carry no logical node; also those that take no pods.

        And the Nodes at whose host there is somebody else's device, or one that is not given back yet.
        """
        name = fabric["metadata"]["name"]
        attached = set(picture.inventory.attachments)
        taken = set(holdings.hosts.get(name, ()))
        # A quarantined device that is not at its host withholds itself alone, not the whole host.
        taken |= {host for device, host in attached & holdings.quarantined.get(name, {}).keys()}
        # A device that nobody here claims would come to the next tenant with the host: an administrator sees to it
        # first.
        unclaimed = {host for device, host in attached - holdings.pairs.get(name, {}).keys()}
        taken |= unclaimed - set(fabric["spec"].get("hostsWithUnclaimedDevices", ()))
        healthy = {host.id: host for host in picture.inventory.hosts if host.healthy}
        nodes = match(fabric, picture.inventory.hosts, (node.raw for node in node_of.values())).nodes
        offers: list[HostOffer] = []
        for host, node_name in nodes.items():
            if host not in healthy or host in taken:
                continue
            node = node_of.get(node_name)
            if healthy[host].made:
                node = _before_it_is_made(node_name, node)
            if node is None or not node.usable:
                continue
            closed = bool(healthy[host].closed)
            before = known.get((name, host))
            if before is None or before[0] is not node or before[1] != closed:
                offer = host_offer(name, host, node.raw)
                if closed and not offer.closed:
                    offer = replace(offer, closed=NOT_WRITABLE)
                before = node, closed, offer
            self._offers[name, host] = before
            offers.append(before[2])
        return offers, {nodes[host] for host in taken if host in nodes}


def host_offer(fabric: str, host: str, node: Object) -> HostOffer:
    """A host of a fabric, with what the Node that runs on it has."""
    allocatable = node.get("status", {}).get("allocatable", {})
    return HostOffer(
        fabric,
        host,
        node["metadata"]["name"],
        node["metadata"].get("labels", {}),
        parse_decimal(allocatable.get("cpu", "0")),
        parse_bytes(allocatable.get("memory", "0")),
        "cordoned" if node.get("spec", {}).get("unschedulable") else "",
        taints(node),
    )


def _machines(hosts: Iterable[HostOffer], not_alone: set[str]) -> tuple[HostOffer, ...]:
    """One offer for each Node, whatever number of fabrics it is at.

    A device that one of them has there keeps the Node from being offered at all: pods would get it, too.
    """
    by_node: dict[str, HostOffer] = {}
    for host in sorted(hosts, key=lambda host: host.fabric):
        if host.node_name in not_alone:
            continue
        known = by_node.get(host.node_name)
        if known is None or known.closed == NOT_WRITABLE:
            by_node[host.node_name] = host
        elif host.closed != NOT_WRITABLE:
            by_node[host.node_name] = replace(known, also=(*known.also, (host.fabric, host.host)))
    return tuple(by_node.values())


def taints(node: Object) -> tuple[Taint, ...]:
    """The taints that keep pods off a Node. Weft's own does not count."""
    return tuple(
        sorted(
            Taint(taint["key"], taint.get("value", ""), taint["effect"])
            for taint in node.get("spec", {}).get("taints", [])
            if taint["key"] != TAINT_LOGICAL_NODE and taint["effect"] in ("NoSchedule", "NoExecute")
        )
    )

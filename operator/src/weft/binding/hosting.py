"""Which hosts are places: healthy, with a ready Node, and carrying nothing. For one thread."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from weft.api.fabric import HostMatching
from weft.api.names import OWN_TAINTS
from weft.api.quantity import parse_bytes, parse_decimal
from weft.binding.holdings import Holdings
from weft.binding.hosts import match
from weft.binding.inventory import Picture
from weft.binding.objects import is_ready, logical_node_taint
from weft.binding.parsed import Parsed, Same
from weft.binding.stock import HostOffer, Taint
from weft.cluster import Object

NOT_WRITABLE = "nothing can be attached there: the condition Writable of its Fabric says why"

IN_MAINTENANCE = "in maintenance"

_LIFE_CYCLE = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})
"""Taints by which Kubernetes says that a machine is not there."""


@dataclass(frozen=True, eq=False)
class _Node:
    """What matters of a Kubernetes Node."""

    raw: Object
    name: str
    ready: bool
    carries: bool
    """Whether it has Weft's taint."""

    @classmethod
    def of(cls, raw: Object) -> _Node:
        return cls(raw, raw["metadata"]["name"], is_ready(raw), bool(logical_node_taint(raw)))


def _before_it_is_made(name: str, node: _Node | None) -> _Node:
    """A Node whose machine is there only while devices are attached: it need be neither ready nor there."""
    if node is None:
        return _Node({"metadata": {"name": name}}, name, ready=True, carries=False)
    spec = node.raw["spec"]
    taints = [taint for taint in spec.get("taints", []) if taint["key"] not in _LIFE_CYCLE]
    raw = {**node.raw, "spec": {**spec, "taints": taints}}
    return _Node(raw, name, ready=True, carries=bool(logical_node_taint(raw)))


class Hosting:
    """Reads Nodes; those that did not change are not read again."""

    def __init__(self) -> None:
        self._nodes = Parsed(_Node.of)
        self._offers: dict[tuple[str, str], tuple[_Node, bool, HostOffer]] = {}
        self._listed: dict[str, tuple[Same, Mapping[str, str]]] = {}
        """By fabric, the Nodes of the hosts that its administrator listed, and the spec that they were read from."""
        self.busy: tuple[HostOffer, ...] = ()
        """Those that the last call found to carry a logical node, and that are places again when it is released."""

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
        carrying = {node.name for node in node_of.values() if node.carries} | set(promised)
        foreign: set[str] = set()
        out: set[str] = set()
        for raw, picture in fabrics:
            hosts, claimed, shared = self._of_fabric(raw, picture, holdings, node_of, known)
            # A machine that is taken out of service at one fabric is a place at none.
            names = raw["spec"].get("maintenance", {}).get("hosts", ())
            out |= {host.node_name for host in hosts if host.host in names}
            found += hosts
            carrying |= claimed
            foreign |= shared
        machines = tuple(
            replace(host, closed=IN_MAINTENANCE) if host.node_name in out else host
            for host in _machines(found, foreign)
        )
        self.busy = tuple(host for host in machines if host.node_name in carrying)
        return tuple(host for host in machines if host.node_name not in carrying)

    def _of_fabric(
        self,
        fabric: Object,
        picture: Picture,
        holdings: Holdings,
        node_of: Mapping[str, _Node],
        known: Mapping[tuple[str, str], tuple[_Node, bool, HostOffer]],
    ) -> tuple[list[HostOffer], set[str], set[str]]:
        """Hosts that are healthy and have a ready Node; also those that take no pods.

        And of them the Nodes that claims name, and those at whose host there is a device that is no logical node's.
        """
        name = fabric["metadata"]["name"]
        attached = set(picture.inventory.attachments)
        claimed = set(holdings.hosts.get(name, ()))
        # A quarantined device that is not at its host withholds itself alone, not the whole host.
        foreign = {host for device, host in attached & holdings.quarantined.get(name, {}).keys()}
        # A device that nobody here claims would come to the next tenant with the host: an administrator sees to it
        # first.
        unclaimed = {host for device, host in attached - holdings.pairs.get(name, {}).keys()}
        foreign |= unclaimed - set(fabric["spec"].get("hostsWithUnclaimedDevices", ()))
        healthy = {host.id: host for host in picture.inventory.hosts if host.healthy}
        nodes = self._nodes_of(fabric, picture, node_of)
        offers: list[HostOffer] = []
        for host, node_name in nodes.items():
            if host not in healthy:
                continue
            node = node_of.get(node_name)
            if healthy[host].made:
                node = _before_it_is_made(node_name, node)
            if node is None or not node.ready:
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
        return offers, _nodes(claimed, nodes), _nodes(foreign, nodes)

    def _nodes_of(self, fabric: Object, picture: Picture, node_of: Mapping[str, _Node]) -> Mapping[str, str]:
        """The Nodes by host; where an administrator listed them found anew when the list is another."""
        hosts = picture.inventory.hosts
        if fabric["spec"].get("hostMatching") == HostMatching.SYSTEM_UUID:
            return match(fabric, hosts, (node.raw for node in node_of.values())).nodes
        spec, before = Same(fabric["spec"]), self._listed.get(fabric["metadata"]["name"])
        if before is None or before[0] != spec:
            before = spec, match(fabric, hosts, ()).nodes
            self._listed[fabric["metadata"]["name"]] = before
        return before[1]


def _nodes(hosts: Iterable[str], nodes: Mapping[str, str]) -> set[str]:
    return {nodes[host] for host in hosts if host in nodes}


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


def _machines(hosts: Iterable[HostOffer], foreign: set[str]) -> tuple[HostOffer, ...]:
    """One offer for each Node, whatever number of fabrics it is at.

    A device that one of them has there keeps the Node from being offered at all: pods would get it, too.
    """
    by_node: dict[str, HostOffer] = {}
    for host in sorted(hosts, key=lambda host: host.fabric):
        if host.node_name in foreign:
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
            if taint["key"] not in OWN_TAINTS and taint["effect"] in ("NoSchedule", "NoExecute")
        )
    )

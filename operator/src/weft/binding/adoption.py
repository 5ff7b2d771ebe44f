"""Places for logical nodes that take over devices as they are attached. Pure, a part of placement.

Nothing is moved: the devices, their host and its Node are given, and only whether they may be had is decided. What
would come along without being named (another device at the same machine) keeps it from being had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from weft.api.fabric import FabricMode, OrphanPolicy
from weft.binding.asked import Waiting
from weft.binding.hosting import host_offer
from weft.binding.hosts import match
from weft.binding.objects import is_ready, logical_node_taint
from weft.binding.offers import Snapshot
from weft.binding.plan import Assignment, Refusal
from weft.binding.search import place
from weft.binding.stock import HostOffer, Offer, Stock

Named = tuple[str, str]
"""Fabric and device."""


@dataclass(frozen=True)
class _Fabric:
    """What is attached at one fabric that Weft manages."""

    adoptable: bool
    hosts: Mapping[str, frozenset[str]]
    """By device: where it is shown."""
    node_of: Mapping[str, str]
    other_owners: Mapping[str, str]
    """Marks of other clusters, by device."""
    closed: frozenset[str]
    """Hosts at which the manager takes no changes."""


class _CannotError(Exception):
    """Why it cannot be taken over, for people."""


def adopt(
    waiting: Iterable[Waiting], snapshot: Snapshot, stock: Stock
) -> tuple[list[Assignment | Refusal], Stock]:
    """The outcomes of those that name devices, oldest first, and what is left for the others."""
    asking = sorted(
        (each for each in waiting if each.adopt), key=lambda each: (each.created, each.namespace, each.name)
    )
    if not asking:
        return [], stock
    fabrics = _fabrics(snapshot)
    offers = {(offer.fabric, offer.device.id): offer for offer in stock.offers}
    claimed = {(claim["spec"]["fabric"], claim["spec"]["device"]) for claim in snapshot.claims}
    for assignment in snapshot.outstanding:
        claimed |= {(each.offer.fabric, each.offer.device.id) for each in assignment.devices}
    left, hosts_left = dict(stock.quota_left), dict(stock.hosts_left)
    outcomes: list[Assignment | Refusal] = []
    for request in asking:
        closed = [
            stock.closed[name] for name in sorted({name for name, _ in request.adopt} & stock.closed.keys())
        ]
        if closed:
            outcomes.append(Refusal(request, closed[0].reason, "; ".join(each.words for each in closed)))
            continue
        try:
            machine = _machine(request.adopt, fabrics, claimed, snapshot)
            mine = tuple(_offer(named, offers, snapshot) for named in sorted(request.adopt))
            assignment = _fit(request, Stock(mine, (machine,), left, hosts_left))
        except _CannotError as error:
            outcomes.append(Refusal(request, "CannotAdopt", f"spec.adopt: {error}"))
            continue
        claimed |= request.adopt
        for chosen in assignment.devices:
            limited = (request.namespace, chosen.offer.pool)
            if limited in left:
                left[limited] -= chosen.offer.quota_units
        if request.namespace in hosts_left:
            hosts_left[request.namespace] -= 1
        outcomes.append(assignment)
    return outcomes, replace(stock, quota_left=left, hosts_left=hosts_left)


def _fabrics(snapshot: Snapshot) -> dict[str, _Fabric]:
    """The fabrics that Weft manages, as they were read last."""
    found = {}
    for raw in snapshot.fabrics:
        name, spec = raw["metadata"]["name"], raw["spec"]
        picture = snapshot.pictures.get(name)
        if picture is None or spec.get("mode") != FabricMode.MANAGE:
            continue
        hosts: dict[str, set[str]] = {}
        for device, host in picture.inventory.attachments:
            hosts.setdefault(device, set()).add(host)
        leaving = "deletionTimestamp" in raw["metadata"]
        found[name] = _Fabric(
            spec.get("orphanPolicy") == OrphanPolicy.ADOPT and not leaving,
            {device: frozenset(at) for device, at in hosts.items()},
            match(raw, picture.inventory.hosts, snapshot.nodes).nodes,
            picture.inventory.other_owners,
            frozenset(host.id for host in picture.inventory.hosts if host.closed),
        )
    return found


def _machine(
    names: frozenset[Named],
    fabrics: Mapping[str, _Fabric],
    claimed: set[Named],
    snapshot: Snapshot,
) -> HostOffer:
    """The one machine at which all of the devices are, and no others."""
    places: dict[str, tuple[str, str]] = {}
    for fabric, device in sorted(names):
        host, node = _place(fabric, device, fabrics, claimed)
        for _, elsewhere in places.values():
            if elsewhere != node:
                text = f"{device} of Fabric {fabric} is at Node {node}, and others are at {elsewhere}"
                raise _CannotError(text)
        places[fabric] = host, node
    node = next(iter(places.values()))[1]
    raw = next((raw for raw in snapshot.nodes if raw["metadata"]["name"] == node), None)
    if raw is None or not is_ready(raw) or logical_node_taint(raw):
        raise _CannotError(f"Node {node} is not there, not ready, or carries a logical node")
    for fabric, known in sorted(fabrics.items()):
        for device, hosts in sorted(known.hosts.items()):
            if (fabric, device) not in names and any(known.node_of.get(host) == node for host in hosts):
                raise _CannotError(f"{device} of Fabric {fabric} is at Node {node}, too, and is not named")
    (fabric, (host, _)), *more = places.items()
    # Nothing is placed there: a Node that takes no new pods may keep what it has.
    also = tuple((name, at) for name, (at, _) in more)
    return replace(host_offer(fabric, host, raw), closed="", taints=(), also=also)


def _place(fabric: str, device: str, fabrics: Mapping[str, _Fabric], claimed: set[Named]) -> tuple[str, str]:
    """The host and the Node of a device that may be taken over."""
    known = fabrics.get(fabric)
    if known is None or not known.adoptable:
        raise _CannotError(f"Fabric {fabric} is not there, cannot be read, or its orphanPolicy is not Adopt")
    if (fabric, device) in claimed:
        raise _CannotError(f"{device} of Fabric {fabric} has a DeviceAttachment")
    if owner := known.other_owners.get(device):
        raise _CannotError(f"{device} of Fabric {fabric} carries the mark of another owner, {owner}")
    hosts = sorted(known.hosts.get(device, ()))
    if len(hosts) != 1:
        where = f"at {' and '.join(hosts)}" if hosts else "attached to no host"
        raise _CannotError(f"{device} of Fabric {fabric} is {where}; it has to be at one host")
    node = known.node_of.get(hosts[0])
    if not node:
        raise _CannotError(f"{device} of Fabric {fabric} is at {hosts[0]}, where no Node is known to run")
    if hosts[0] in known.closed:
        raise _CannotError(
            f"{device} of Fabric {fabric} could not be given back: its manager takes no changes"
        )
    return hosts[0], node


def _offer(named: Named, offers: Mapping[Named, Offer], snapshot: Snapshot) -> Offer:
    """The device as a pool has it, free for this one request."""
    fabric, device = named
    offer = offers.get(named)
    if offer is None or not offer.device.healthy:
        raise _CannotError(f"{device} of Fabric {fabric} is in no pool, or is faulty")
    for raw in (*snapshot.gpu_pools, *snapshot.memory_pools, *snapshot.storage_pools):
        spec = raw["spec"]
        out = spec.get("maintenance", {})
        mine = raw["metadata"]["name"] == offer.pool[1] and out.get("allDevices")
        if spec["fabricRef"]["name"] == fabric and (mine or device in out.get("devices", ())):
            raise _CannotError(f"{device} of Fabric {fabric} is in maintenance")
        if raw["metadata"]["name"] == offer.pool[1] and "deletionTimestamp" in raw["metadata"]:
            raise _CannotError(f"the pool of {device} of Fabric {fabric} is being deleted")
    return replace(offer, free=True)


def _fit(request: Waiting, stock: Stock) -> Assignment:
    """The requests met from all that is named."""
    placement = place([request], stock)
    if placement.refusals:
        raise _CannotError(f"what it names does not meet the requests: {placement.refusals[0].message}")
    (assignment,) = placement.assignments
    if extra := sorted(
        request.adopt - {(each.offer.fabric, each.offer.device.id) for each in assignment.devices}
    ):
        text = ", ".join(f"{device} of Fabric {fabric}" for fabric, device in extra)
        raise _CannotError(f"no request asks for {text}")
    return assignment

"""What placement decides on, from the objects and the fabrics' pictures: what waits, and what there is. Pure.

`Snapshot.take` runs on the event loop and copies references only; the rest runs beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from weft.api import DeviceAttachment, DeviceQuota, Fabric, GPUPool, LogicalNode, MemoryPool, StoragePool
from weft.api.devices import DeviceSelector
from weft.api.logical_node import AcceleratorRequest, ByteRequest, ConstraintPolicy
from weft.api.names import TAINT_LOGICAL_NODE
from weft.api.quantity import parse_bytes, parse_decimal
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    DEVICE_QUOTAS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    NAMESPACES,
    NODES,
    STORAGE_POOLS,
)
from weft.binding.assignments import Assignments
from weft.binding.decide import wants_place
from weft.binding.hosts import match
from weft.binding.inventory import Picture
from weft.binding.membership import Membership, Pool, PoolKey, key_of, members, pool_key
from weft.binding.objects import is_quarantined, is_ready, logical_node_taint, parse_node
from weft.binding.parsed import Parsed, Same
from weft.binding.plan import (
    Assignment,
    Choice,
    Constraint,
    HostOffer,
    Need,
    Offer,
    Selector,
    Shape,
    Stock,
    Waiting,
)
from weft.cluster import Cluster, Object
from weft.fabric.driver import DeviceKind

log = logging.getLogger(__name__)

GIBIBYTE = 2**30
NOT_WRITABLE = "nothing can be attached there: the condition Writable of its Fabric says why"

Objects = tuple[Object, ...]


@dataclass(frozen=True)
class Snapshot:
    """All that placement and the counts of pools depend on, at one moment. Objects are never changed in place."""

    logical_nodes: Objects
    claims: Objects
    gpu_pools: Objects
    memory_pools: Objects
    storage_pools: Objects
    quotas: Objects
    fabrics: Objects
    namespaces: Objects
    nodes: Objects
    pictures: Mapping[str, Picture]
    """The last picture of each fabric."""
    outstanding: tuple[Assignment, ...] = ()
    """Assignments that may not have their claims yet."""
    avoided: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Hosts to pass over, by the uid of a logical node."""

    @classmethod
    def take(
        cls, cluster: Cluster, pictures: Mapping[str, Picture], assignments: Assignments | None = None
    ) -> Snapshot:
        logical_nodes = tuple(cluster.list(LOGICAL_NODES)) if assignments else ()
        uids = [raw["metadata"]["uid"] for raw in logical_nodes]
        return cls(
            logical_nodes=logical_nodes,
            claims=tuple(cluster.list(DEVICE_ATTACHMENTS)),
            gpu_pools=tuple(cluster.list(GPU_POOLS)),
            memory_pools=tuple(cluster.list(MEMORY_POOLS)),
            storage_pools=tuple(cluster.list(STORAGE_POOLS)),
            quotas=tuple(cluster.list(DEVICE_QUOTAS)),
            fabrics=tuple(cluster.list(FABRICS)),
            namespaces=tuple(cluster.list(NAMESPACES)),
            nodes=tuple(cluster.list(NODES)),
            pictures=pictures,
            outstanding=assignments.outstanding() if assignments else (),
            avoided={uid: hosts for uid in uids if (hosts := assignments.avoided(uid))}
            if assignments
            else {},
        )


@dataclass(frozen=True)
class Request:
    """What one LogicalNode asks for, whoever it is open to."""

    node: LogicalNode
    shape: Shape
    """Without the pools that are open to its namespace."""


class Reader:
    """Reads snapshots one after the other; objects that did not change are not parsed again. For one thread."""

    def __init__(self) -> None:
        self._requests = Parsed(_request)
        self._claims = Parsed(DeviceAttachment.model_validate)
        self._pools: tuple[Parsed[Pool], ...] = (
            Parsed(GPUPool.model_validate),
            Parsed(MemoryPool.model_validate),
            Parsed(StoragePool.model_validate),
        )
        self._quotas = Parsed(DeviceQuota.model_validate)
        self._fabrics = Parsed(Fabric.model_validate)
        self._known: dict[str, tuple[Request, Waiting]] = {}
        self._members: dict[str, tuple[object, Mapping[PoolKey, Membership]]] = {}

    def claims(self, snapshot: Snapshot) -> list[DeviceAttachment]:
        return self._claims.all(snapshot.claims)

    def pools(self, snapshot: Snapshot) -> list[Pool]:
        """All pools, in the order GPU, memory, storage."""
        raws = (snapshot.gpu_pools, snapshot.memory_pools, snapshot.storage_pools)
        return [pool for parsed, these in zip(self._pools, raws, strict=True) for pool in parsed.all(these)]

    def quotas(self, snapshot: Snapshot) -> list[DeviceQuota]:
        return self._quotas.all(snapshot.quotas)

    def members(self, fabric: str, pools: Sequence[Pool], picture: Picture) -> Mapping[PoolKey, Membership]:
        """The membership of a fabric's pools; found anew where its devices or a pool changed."""
        devices = picture.inventory.devices
        specs = [(pool.kind, pool.metadata.uid, pool.metadata.generation) for pool in pools]
        before = self._members.get(fabric)
        if before is None or before[0] != (Same(devices), specs):
            before = (Same(devices), specs), members(pools, fabric, devices)
            self._members[fabric] = before
        return before[1]

    def waiting(self, snapshot: Snapshot, now: datetime) -> list[Waiting]:
        """The logical nodes that want a place."""
        claimed: dict[tuple[str, str], list[DeviceAttachment]] = {}
        for claim in self.claims(snapshot):
            claimed.setdefault((claim.spec.claim_ref.namespace, claim.spec.claim_ref.name), []).append(claim)
        assigned = {item.waiting.uid for item in snapshot.outstanding}
        labels = {raw["metadata"]["name"]: raw["metadata"].get("labels", {}) for raw in snapshot.namespaces}
        pools = self.pools(snapshot)
        open_pools: dict[str, frozenset[PoolKey]] = {}
        waiting: list[Waiting] = []
        known, self._known = self._known, {}
        shapes: dict[Shape, Shape] = {}
        for request in self._requests.all(snapshot.logical_nodes):
            if request is None:
                continue
            meta = request.node.metadata
            claims = claimed.get((meta.namespace, meta.name), ())
            if meta.uid in assigned or not wants_place(request.node, claims, now):
                continue
            if meta.namespace not in open_pools:
                open_pools[meta.namespace] = _open(pools, labels.get(meta.namespace, {}))
            avoid = snapshot.avoided.get(meta.uid, frozenset())
            before, pools_here = known.get(meta.uid), open_pools[meta.namespace]
            if (
                before is not None
                and before[0] is request
                and before[1].shape.allowed_pools == pools_here
                and before[1].shape.avoid_hosts == avoid
            ):
                item = before[1]
                shapes.setdefault(item.shape, item.shape)
            else:
                item = _waiting(request, pools_here, avoid)
                # One object for all equal shapes: they are compared in every pass.
                item = replace(item, shape=shapes.setdefault(item.shape, item.shape))
            self._known[meta.uid] = request, item
            waiting.append(item)
        return waiting

    def stock(self, snapshot: Snapshot) -> Stock:
        """All devices and hosts of the fabrics that can be read, and what is left of quotas."""
        pools, claims = self.pools(snapshot), self.claims(snapshot)
        node_by_name = {raw["metadata"]["name"]: raw for raw in snapshot.nodes}
        # What was promised is not free, although no claim says so yet.
        promised = {
            (each.offer.fabric, each.offer.device.id): (item.waiting.namespace, each.offer)
            for item in snapshot.outstanding
            for each in item.devices
        }
        taken_nodes = {item.host.node_name for item in snapshot.outstanding}
        claimed = {(claim.spec.fabric, claim.spec.device) for claim in claims}
        used = held(claims)
        for place, (namespace, offer) in promised.items():
            if place not in claimed:
                used[namespace, offer.pool] = used.get((namespace, offer.pool), 0) + offer.quota_units
        offers: list[Offer] = []
        hosts: list[HostOffer] = []
        not_alone: set[str] = set()
        observed_only: list[str] = []
        for raw, fabric in zip(snapshot.fabrics, self._fabrics.all(snapshot.fabrics), strict=True):
            name = fabric.metadata.name
            if fabric.spec.mode != "Manage":
                observed_only.append(name)
            picture = snapshot.pictures.get(name)
            if picture is None or fabric.metadata.deletion_timestamp is not None:
                continue
            membership = self.members(name, pools, picture)
            offers += _offers(name, pools, membership, picture, claimed | promised.keys())
            if fabric.spec.mode == "Manage":
                found, shared = _hosts(raw, picture, claims, node_by_name)
                hosts += [host for host in found if host.node_name not in taken_nodes]
                not_alone |= shared
        left = quota_left(self.quotas(snapshot), used)
        return Stock(tuple(offers), _machines(hosts, not_alone), left, tuple(observed_only))


def _request(raw: Object) -> Request | None:
    try:
        node = parse_node(raw)
    except ValueError as error:
        # One object that cannot be read must not stop the others.
        log.warning("LogicalNode %s cannot be read: %s", raw["metadata"]["name"], error)
        return None
    spec = node.spec
    needs = [_need(item, DeviceKind.ACCELERATOR, count=item.count) for item in spec.accelerators]
    for kind, requests in ((DeviceKind.MEMORY, spec.memory), (DeviceKind.STORAGE, spec.storage)):
        needs += [_need(item, kind, size_bytes=parse_bytes(item.size)) for item in requests]
    accelerators = frozenset(item.name for item in spec.accelerators)
    constraints = tuple(
        Constraint(
            each.attribute,
            frozenset(each.requests) or accelerators,
            each.policy is ConstraintPolicy.REQUIRED,
        )
        for each in spec.placement.constraints
    )
    shape = Shape(
        needs=tuple(needs),
        allowed_pools=frozenset(),
        node_selector=Selector.of_labels(spec.host.node_selector),
        cpu=parse_decimal(spec.host.requests.cpu or 0),
        memory_bytes=parse_bytes(spec.host.requests.memory or 0),
        constraints=constraints,
        jurisdictions=frozenset(spec.placement.jurisdictions),
    )
    return Request(node, shape)


def _need(
    request: AcceleratorRequest | ByteRequest, kind: DeviceKind, *, count: int = 0, size_bytes: int = 0
) -> Need:
    choices = tuple(_choice(each.selector, each.name) for each in request.first_available)
    return Need(request.name, kind, count, size_bytes, choices or (_choice(request.selector),))


def _choice(selector: DeviceSelector, name: str = "") -> Choice:
    equal = tuple(sorted(selector.match_attributes.items()))
    return Choice(Selector(equal, selector.match_expressions), selector.least_bytes, name)


def _waiting(request: Request, pools: frozenset[PoolKey], avoid: frozenset[str]) -> Waiting:
    meta = request.node.metadata
    shape = replace(request.shape, allowed_pools=pools, avoid_hosts=avoid)
    adopt = frozenset((each.fabric, each.device) for each in request.node.spec.adopt)
    return Waiting(meta.uid, meta.namespace, meta.name, str(meta.creation_timestamp), shape, adopt)


def _open(pools: Iterable[Pool], labels: Mapping[str, str]) -> frozenset[PoolKey]:
    return frozenset(
        pool_key(pool)
        for pool in pools
        if pool.spec.allowed_namespaces is not None and pool.spec.allowed_namespaces.matches(labels)
    )


def _offers(
    fabric: str,
    pools: Iterable[Pool],
    membership_of: Mapping[PoolKey, Membership],
    picture: Picture,
    taken: set[tuple[str, str]],
) -> list[Offer]:
    """The fabric's devices that pools offer, free or not."""
    attached = {device for device, _ in picture.inventory.attachments}
    by_key = {pool_key(pool): pool for pool in pools}
    offers: list[Offer] = []
    for key, membership in membership_of.items():
        pool = by_key[key]
        withheld = set(pool.spec.maintenance.devices)
        open_ = pool.metadata.deletion_timestamp is None
        price = cost_per_hour(pool)
        for device in membership.devices:
            free = (
                open_
                and device.healthy
                and (fabric, device.id) not in taken
                and device.id not in attached
                and device.id not in withheld
            )
            cost = price if key[0] is DeviceKind.ACCELERATOR else price * device.capacity_bytes / GIBIBYTE
            offers.append(Offer(fabric, key, device, cost, pool.spec.jurisdiction or "", free))
    return offers


def cost_per_hour(pool: Pool) -> Decimal:
    """What one accelerator, or one gibibyte, of a pool costs; 0 where the pool does not say."""
    if pool.spec.cost is None:
        return Decimal(0)
    if isinstance(pool, GPUPool):
        assert pool.spec.cost is not None
        return parse_decimal(pool.spec.cost.per_device_hour)
    return parse_decimal(pool.spec.cost.per_gibibyte_hour)


def _hosts(
    fabric: Object,
    picture: Picture,
    claims: Iterable[DeviceAttachment],
    node_by_name: Mapping[str, Object],
) -> tuple[list[HostOffer], set[str]]:
    """Hosts that are healthy, have a ready Node, and carry no logical node; also those that take no pods.

    And the Nodes at whose host there is somebody else's device, or one that is not given back yet.
    """
    name = fabric["metadata"]["name"]
    healthy = {host.id: host for host in picture.inventory.hosts if host.healthy}
    attached = set(picture.inventory.attachments)
    # A quarantined device that is not at its host withholds itself alone, not the whole host.
    taken = {
        claim.spec.host
        for claim in claims
        if claim.spec.fabric == name
        and (not is_quarantined(claim) or (claim.spec.device, claim.spec.host) in attached)
    }
    # A device that nobody here claims would come to the next tenant with the host: an administrator sees to it first.
    claimed = {(claim.spec.device, claim.spec.host) for claim in claims if claim.spec.fabric == name}
    taken |= {host for device, host in attached - claimed}
    offers = []
    nodes = match(fabric, picture.inventory.hosts, node_by_name.values()).nodes
    for host, node_name in nodes.items():
        raw = node_by_name.get(node_name)
        if (
            raw is None
            or host not in healthy
            or host in taken
            or not is_ready(raw)
            or logical_node_taint(raw)
        ):
            continue
        offer = host_offer(name, host, raw)
        if healthy[host].closed and not offer.closed:
            offer = replace(offer, closed=NOT_WRITABLE)
        offers.append(offer)
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
        why_closed(node),
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


def why_closed(node: Object) -> str:
    """Why pods are not placed on a Node; empty: they are. Weft's own taint does not count."""
    spec = node.get("spec", {})
    if spec.get("unschedulable"):
        return "cordoned"
    taints = sorted(
        f"{taint['key']}:{taint['effect']}"
        for taint in spec.get("taints", [])
        if taint["key"] != TAINT_LOGICAL_NODE and taint["effect"] in ("NoSchedule", "NoExecute")
    )
    return f"tainted {', '.join(taints)}" if taints else ""


def held(claims: Iterable[DeviceAttachment]) -> dict[tuple[str, PoolKey], int]:
    """What namespaces hold of pools: accelerators, or bytes. Quarantined devices are held by nobody."""
    used: dict[tuple[str, PoolKey], int] = {}
    for claim in claims:
        if is_quarantined(claim):
            continue
        key = key_of(claim.spec.pool_ref)
        units = 1 if key[0] is DeviceKind.ACCELERATOR else parse_bytes(claim.spec.capacity or 0)
        holder = (claim.spec.claim_ref.namespace, key)
        used[holder] = used.get(holder, 0) + units
    return used


def quota_left(
    quotas: Iterable[DeviceQuota], used: Mapping[tuple[str, PoolKey], int]
) -> dict[tuple[str, PoolKey], int]:
    """What is left of each limit; of several limits of one pool the lowest holds."""
    left: dict[tuple[str, PoolKey], int] = {}
    for quota in quotas:
        for limit in quota.spec.limits:
            holder = (quota.metadata.namespace, key_of(limit))
            units = limit.units - used.get(holder, 0)
            left[holder] = min(units, left.get(holder, units))
    return left

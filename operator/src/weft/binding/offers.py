"""What placement decides on, from the objects and the fabrics' pictures: what waits, and what there is. Pure.

`Snapshot.take` runs on the event loop and copies references only; the rest runs beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property

from weft.api import DeviceAttachment, DeviceQuota, Fabric, GPUPool, MemoryPool, StoragePool
from weft.api.quantity import parse_decimal
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    DEVICE_QUOTAS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    NAMESPACES,
    NODES,
    POOLS,
    PRIORITY_CLASSES,
    STORAGE_POOLS,
    ResourceType,
)
from weft.binding.asked import Waiting
from weft.binding.assignments import Assignments, Outcome
from weft.binding.closed import closed
from weft.binding.grants import Grants
from weft.binding.holders import holders
from weft.binding.holdings import Holdings, Owner
from weft.binding.hosting import Hosting
from weft.binding.inventory import Picture
from weft.binding.membership import Membership, Pool, PoolKey, key_of, members, pool_key
from weft.binding.objects import keeps_owner
from weft.binding.parsed import Parsed, Same
from weft.binding.plan import Assignment
from weft.binding.stock import HostOffer, Offer, Stock
from weft.binding.wishes import Terms, Wishes
from weft.cluster import Cluster, Object
from weft.fabric.driver import Device, DeviceKind

GIBIBYTE = 2**30

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
    priority_classes: Objects = ()
    outcomes: tuple[Outcome, ...] = ()
    """What placement has said and is still known."""
    avoided: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Hosts to pass over, by the uid of a logical node."""
    yielding: frozenset[str] = frozenset()
    """Uids of the logical nodes that were asked to give way."""
    at: datetime | None = None
    """The moment for which fabrics' windows count; None: they do not."""
    gangs: tuple[Waiting, ...] = ()
    """The places in the queue of logical nodes that are made when there is room for all of them."""

    @classmethod
    def take(
        cls,
        cluster: Cluster,
        pictures: Mapping[str, Picture],
        assignments: Assignments | None = None,
        at: datetime | None = None,
        gangs: tuple[Waiting, ...] = (),
    ) -> Snapshot:
        return cls(
            logical_nodes=tuple(cluster.list(LOGICAL_NODES)) if assignments else (),
            claims=tuple(cluster.list(DEVICE_ATTACHMENTS)),
            gpu_pools=tuple(cluster.list(GPU_POOLS)),
            memory_pools=tuple(cluster.list(MEMORY_POOLS)),
            storage_pools=tuple(cluster.list(STORAGE_POOLS)),
            quotas=tuple(cluster.list(DEVICE_QUOTAS)),
            fabrics=tuple(cluster.list(FABRICS)),
            namespaces=tuple(cluster.list(NAMESPACES)),
            nodes=tuple(cluster.list(NODES)),
            pictures=pictures,
            priority_classes=tuple(cluster.list(PRIORITY_CLASSES)) if assignments else (),
            outcomes=assignments.outcomes() if assignments else (),
            avoided=assignments.avoided_hosts() if assignments else {},
            yielding=assignments.yielding if assignments else frozenset(),
            at=at,
            gangs=gangs,
        )

    @cached_property
    def outstanding(self) -> tuple[Assignment, ...]:
        """Assignments that may not have their claims yet: their devices and hosts are not free."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Assignment))


class Reader:
    """Reads snapshots one after the other; what did not change is not read again. For one thread."""

    def __init__(self) -> None:
        self._wishes = Wishes()
        self._pools: tuple[Parsed[Pool], ...] = (
            Parsed(GPUPool.model_validate),
            Parsed(MemoryPool.model_validate),
            Parsed(StoragePool.model_validate),
        )
        self._quotas = Parsed(DeviceQuota.model_validate)
        self._fabrics = Parsed(Fabric.model_validate)
        self._holdings = Holdings()
        self._hosting = Hosting()
        self._more: tuple[Snapshot, Mapping[Owner, tuple[DeviceAttachment, ...]]] | None = None
        self._if_managed = Hosting()
        self._members: dict[str, tuple[object, Mapping[PoolKey, Membership]]] = {}
        self._offers: dict[str, tuple[object, _FabricOffers]] = {}
        self._open: dict[str, tuple[object, frozenset[PoolKey]]] = {}

    def holdings(self, snapshot: Snapshot) -> Holdings:
        """What the claims hold; of those that did not change nothing is read."""
        return self._holdings.update(snapshot.claims)

    def pools(self, snapshot: Snapshot) -> list[Pool]:
        """All pools, in the order GPU, memory, storage."""
        return [pool for _, _, pool in self.pool_objects(snapshot)]

    def pool_objects(self, snapshot: Snapshot) -> list[tuple[ResourceType, Object, Pool]]:
        """The same with the objects."""
        raws = (snapshot.gpu_pools, snapshot.memory_pools, snapshot.storage_pools)
        kinds = zip(POOLS, self._pools, raws, strict=True)
        return [(kind, *pair) for kind, parsed, these in kinds for pair in parsed.pairs(these)]

    def quotas(self, snapshot: Snapshot) -> list[tuple[Object, DeviceQuota]]:
        """All DeviceQuotas, with the objects."""
        return self._quotas.pairs(snapshot.quotas)

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
        wishes = self.wishes(snapshot, now)
        return [*wishes.groups.waiting.values(), *wishes.adopting.values()]

    def wishes(self, snapshot: Snapshot, now: datetime) -> Wishes:
        """The same in groups, kept up to date: valid until the next snapshot is read."""
        terms = Terms(
            self.holdings(snapshot).owners.keys(),
            {item.waiting.uid for item in snapshot.outstanding},
            snapshot.avoided,
            self._open_pools(snapshot),
            self._grants(snapshot),
            self._growing(snapshot),
            lambda claims: self.devices(snapshot, claims),
        )
        wishes = self._wishes.update(terms, now)
        wishes.lay_gangs(snapshot.gangs)
        return wishes

    def _growing(self, snapshot: Snapshot) -> Mapping[Owner, tuple[DeviceAttachment, ...]]:
        """The claims of the logical nodes that say that they have not what they ask for."""
        if self._more is None or self._more[0] is not snapshot:
            self._wishes.look(snapshot.logical_nodes)
            more: dict[Owner, list[DeviceAttachment]] = {owner: [] for owner in self._wishes.wanting_more}
            for raw in snapshot.claims if more else ():
                ref = raw["spec"]["claimRef"]
                here = more.get((ref["namespace"], ref["name"]))
                if here is not None and (claim := _readable(raw)) is not None and keeps_owner(claim):
                    here.append(claim)
            self._more = snapshot, {owner: tuple(claims) for owner, claims in more.items() if claims}
        return self._more[1]

    def devices(
        self, snapshot: Snapshot, claims: Iterable[DeviceAttachment]
    ) -> dict[tuple[str, str], Device]:
        """What is known of the claimed devices, by fabric and name."""
        wanted = {(claim.spec.fabric, claim.spec.device) for claim in claims}
        return {
            (fabric, device.id): device
            for fabric in {fabric for fabric, _ in wanted}
            if (picture := snapshot.pictures.get(fabric)) is not None
            for device in picture.inventory.devices
            if (fabric, device.id) in wanted
        }

    def _grants(self, snapshot: Snapshot) -> Grants:
        return Grants([quota for _, quota in self.quotas(snapshot)], snapshot.priority_classes)

    def _next_release(self, snapshot: Snapshot) -> dict[tuple[str, PoolKey], str]:
        """The logical node of each namespace that is known to release devices of a pool first."""
        first: dict[tuple[str, PoolKey], tuple[str, str]] = {}
        self._wishes.look(snapshot.logical_nodes)
        for request in self._wishes.ending:
            if request.ends is not None:
                namespace, name = request.owner
                for pool in request.pools:
                    ends = request.ends, name
                    first[namespace, pool] = min(ends, first.get((namespace, pool), ends))
        return {key: name for key, (_, name) in first.items()}

    def _open_pools(self, snapshot: Snapshot) -> Mapping[str, frozenset[PoolKey]]:
        """The pools that are open to each namespace: the same object while neither changes."""
        pools = self.pools(snapshot)
        specs = tuple(map(id, pools))
        known, self._open = self._open, {}
        for raw in snapshot.namespaces:
            name, labels = raw["metadata"]["name"], raw["metadata"].get("labels", {})
            before = known.get(name)
            if before is None or before[0] != (specs, labels):
                found = _open(pools, labels)
                before = (specs, labels), before[1] if before and before[1] == found else found
            self._open[name] = before
        return {name: found for name, (_, found) in self._open.items()}

    def stock(self, snapshot: Snapshot) -> Stock:
        """All devices and hosts of the fabrics that can be read, and what is left of quotas."""
        pools, holdings = self.pools(snapshot), self.holdings(snapshot)
        # What was promised is not free, although no claim says so yet.
        used = Counter(holdings.used)
        promised: dict[str, set[str]] = {}
        for item in snapshot.outstanding:
            for each in item.devices:
                fabric, device = each.offer.fabric, each.offer.device.id
                here = promised.setdefault(fabric, set())
                if device not in here and device not in holdings.devices.get(fabric, ()):
                    used[item.waiting.namespace, each.offer.pool] += each.offer.quota_units
                here.add(device)
        offers: list[Offer] = []
        readable: list[tuple[Object, Picture]] = []
        managed: list[tuple[Object, Picture]] = []
        observed_only: list[str] = []
        gives_nothing = closed(snapshot.fabrics, snapshot.at)
        for raw, parsed in self._fabrics.pairs(snapshot.fabrics):
            name = parsed.metadata.name
            if parsed.spec.mode != "Manage":
                observed_only.append(name)
                gives_nothing.pop(name, None)
            elif name in gives_nothing:
                observed_only.append(name)
            picture = snapshot.pictures.get(name)
            if picture is None or parsed.metadata.deletion_timestamp is not None:
                continue
            claimed = holdings.devices.get(name, {}).keys() | promised.get(name, set())
            out = {device for device, _ in holdings.quarantined.get(name, ())}
            offers += self._offers_of(name, pools, picture).without(claimed, out, picture)
            readable.append((raw, picture))
            if parsed.spec.mode == "Manage":
                managed.append((raw, picture))
        promised_nodes = {item.host.node_name for item in snapshot.outstanding}
        hosts = self._hosting.hosts(managed, snapshot.nodes, holdings, promised_nodes)
        hosts, busy = _giving(hosts, gives_nothing), _giving(self._hosting.busy, gives_nothing)
        own = {claims[0].spec.node_name for claims in self._growing(snapshot).values()}
        if own:
            # Who has a host may have more there, also of a fabric whose window is not open.
            suspended = {name for name, each in gives_nothing.items() if each.reason == "Suspended"}
            may_have_more = _giving(self._hosting.busy, suspended)
            hosts += tuple(replace(host, carries=True) for host in may_have_more if host.node_name in own)
        if_managed: tuple[HostOffer, ...] = ()
        if observed_only:
            if_managed = self._if_managed.hosts(readable, snapshot.nodes, holdings, promised_nodes)
        held: Counter[tuple[str, DeviceKind]] = Counter()
        for (namespace, (kind, _)), units in used.items():
            held[namespace, kind] += units
        # What a pool without a Fabric would offer is nothing that could come to be known.
        unread = {raw["metadata"]["name"] for raw in snapshot.fabrics}
        unread -= {raw["metadata"]["name"] for raw, _ in readable}
        quotas = [quota for _, quota in self.quotas(snapshot)]
        nodes: dict[str, set[str]] = {}
        for item in snapshot.outstanding:
            nodes.setdefault(item.waiting.namespace, set()).add(item.host.node_name)
        left = hosts_left(
            quotas, lambda namespace: holdings.nodes_of(namespace) | nodes.get(namespace, set())
        )
        # A limit that cannot be read is not known to be kept.
        read = {id(raw) for raw, _ in self.quotas(snapshot)}
        left |= {raw["metadata"]["namespace"]: 0 for raw in snapshot.quotas if id(raw) not in read}
        return Stock(
            tuple(offers),
            hosts,
            quota_left(quotas, used),
            left,
            tuple(observed_only),
            gives_nothing,
            busy,
            held,
            self._grants(snapshot).weights,
            tuple(sorted(unread & {pool.spec.fabric_ref.name for pool in pools})),
            self._next_release(snapshot),
            if_managed,
            holders(pools, holdings, snapshot.logical_nodes, self._grants(snapshot), snapshot.yielding),
        )

    def _offers_of(self, fabric: str, pools: Sequence[Pool], picture: Picture) -> _FabricOffers:
        membership = self.members(fabric, pools, picture)
        # Not the objects: what is counted of a pool is written into its status again and again.
        specs = tuple(
            (each.kind, each.metadata.uid, each.metadata.generation, each.metadata.deletion_timestamp is None)
            for each in pools
            if each.spec.fabric_ref.name == fabric
        )
        key = Same(membership), specs
        before = self._offers.get(fabric)
        if before is None or before[0] != key:
            before = key, _FabricOffers(fabric, pools, membership)
            self._offers[fabric] = before
        return before[1]


class _FabricOffers:
    """What the pools of a fabric offer, made once, free and not free."""

    def __init__(
        self, fabric: str, pools: Iterable[Pool], membership_of: Mapping[PoolKey, Membership]
    ) -> None:
        by_key = {pool_key(pool): pool for pool in pools}
        self._offers: list[tuple[str, Offer, Offer, Offer]] = []
        """Name, as it is while nobody has the device, while a logical node has it, and while it is out of service."""
        for key, membership in membership_of.items():
            pool = by_key[key]
            open_ = pool.metadata.deletion_timestamp is None
            price, power = cost_per_hour(pool), pool.spec.power
            watts = power.busy_watts - power.idle_watts if power else 0
            for device in membership.devices:
                cost = price if key[0] is DeviceKind.ACCELERATOR else price * device.capacity_bytes / GIBIBYTE
                facts = fabric, key, device, cost, pool.spec.jurisdiction or ""
                offer = free = held = Offer(*facts, free=False, added_watts=watts)
                usable = open_ and device.healthy and not pool.spec.maintenance.means(device.id)
                if usable and not device.reserved:
                    free = Offer(*facts, added_watts=watts)
                    held = Offer(*facts, free=False, held=True, added_watts=watts)
                self._offers.append((device.id, free, held, offer))

    def without(self, claimed: Collection[str], out: Collection[str], picture: Picture) -> list[Offer]:
        """All offers; those of devices that are claimed or attached are not free, and those of devices that are
        quarantined (`out`) or attached without a claim are not when others release theirs."""
        taken = set(claimed)
        foreign = {device for device, _ in picture.inventory.attachments} - taken
        out = foreign.union(out)
        return [
            not_free if device in out else held if device in taken else free
            for device, free, held, not_free in self._offers
        ]


def _giving(hosts: tuple[HostOffer, ...], gives_nothing: Collection[str]) -> tuple[HostOffer, ...]:
    """The hosts at none of whose fabrics nothing is given."""
    if not gives_nothing:
        return hosts
    return tuple(host for host in hosts if not any(fabric in gives_nothing for fabric, _ in host.places))


def _readable(raw: Object) -> DeviceAttachment | None:
    try:
        return DeviceAttachment.model_validate(raw)
    except ValueError:
        # What withholds its device is said by Holdings.
        return None


def _open(pools: Iterable[Pool], labels: Mapping[str, str]) -> frozenset[PoolKey]:
    return frozenset(
        pool_key(pool)
        for pool in pools
        if pool.spec.allowed_namespaces is not None and pool.spec.allowed_namespaces.matches(labels)
    )


def cost_per_hour(pool: Pool) -> Decimal:
    """What one accelerator, or one gibibyte, of a pool costs; 0 where the pool does not say."""
    if pool.spec.cost is None:
        return Decimal(0)
    if isinstance(pool, GPUPool):
        assert pool.spec.cost is not None
        return parse_decimal(pool.spec.cost.per_device_hour)
    return parse_decimal(pool.spec.cost.per_gibibyte_hour)


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


def hosts_left(quotas: Iterable[DeviceQuota], nodes_of: Callable[[str], Collection[str]]) -> dict[str, int]:
    """What is left of each limit of hosts; of several of one namespace the lowest holds."""
    left: dict[str, int] = {}
    for quota in quotas:
        if quota.spec.hosts is not None:
            namespace = quota.metadata.namespace
            hosts = quota.spec.hosts - len(nodes_of(namespace))
            left[namespace] = min(hosts, left.get(namespace, hosts))
    return left

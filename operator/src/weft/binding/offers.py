"""Gathers from the cache and the fabrics' pictures what placement decides on: who waits, and what is free."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from weft.api import DeviceAttachment, DeviceQuota, Fabric, GPUPool, LogicalNode
from weft.api.quantity import parse_bytes, parse_decimal
from weft.api.resources import (
    DEVICE_QUOTAS,
    FABRICS,
    LOGICAL_NODES,
    NAMESPACES,
    NODES,
)
from weft.binding.assignments import Assignments
from weft.binding.decide import wants_place
from weft.binding.inventory import Picture
from weft.binding.membership import Pool, PoolKey, key_of, members, pool_key
from weft.binding.objects import (
    all_claims,
    all_pools,
    is_quarantined,
    is_ready,
    logical_node_taint,
    parse_node,
)
from weft.binding.plan import HostOffer, Need, Offer, Waiting
from weft.cluster import Cluster
from weft.fabric.driver import DeviceKind

log = logging.getLogger(__name__)

GIBIBYTE = 2**30


@dataclass(frozen=True)
class Observed:
    """The inputs of one placement pass."""

    waiting: tuple[Waiting, ...]
    offers: tuple[Offer, ...]
    hosts: tuple[HostOffer, ...]
    quota_left: Mapping[tuple[str, PoolKey], int]


def all_quotas(cluster: Cluster) -> list[DeviceQuota]:
    return [DeviceQuota.model_validate(raw) for raw in cluster.list(DEVICE_QUOTAS)]


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


def gather(
    cluster: Cluster,
    pictures: Mapping[str, Picture],
    assignments: Assignments,
    now: datetime,
) -> Observed:
    """Everything waiting and everything free; what an assignment withholds is neither."""

    pools = all_pools(cluster)
    claims = all_claims(cluster)
    fabrics = {raw["metadata"]["name"]: Fabric.model_validate(raw) for raw in cluster.list(FABRICS)}
    namespaces = {
        raw["metadata"]["name"]: raw["metadata"].get("labels", {}) for raw in cluster.list(NAMESPACES)
    }
    by_node: dict[tuple[str, str], list[DeviceAttachment]] = {}
    for claim in claims:
        by_node.setdefault((claim.spec.claim_ref.namespace, claim.spec.claim_ref.name), []).append(claim)

    outstanding = assignments.outstanding()
    assigned = {item.waiting.uid for item in outstanding}
    waiting: list[Waiting] = []
    for raw in cluster.list(LOGICAL_NODES):
        try:
            node = parse_node(raw)
        except ValueError as error:
            # One object that cannot be read must not stop the others.
            log.warning("LogicalNode %s cannot be read: %s", raw["metadata"]["name"], error)
            continue
        meta = node.metadata
        if meta.uid in assigned or not wants_place(node, by_node.get((meta.namespace, meta.name), ()), now):
            continue
        open_pools = frozenset(
            pool_key(pool)
            for pool in pools
            if pool.spec.allowed_namespaces is not None
            and pool.spec.allowed_namespaces.matches(namespaces.get(meta.namespace, {}))
        )
        waiting.append(_waiting(node, open_pools, assignments.avoided(meta.uid)))

    offers: list[Offer] = []
    hosts: list[HostOffer] = []
    for name, fabric in fabrics.items():
        picture = pictures.get(name)
        if picture is None or fabric.metadata.deletion_timestamp is not None:
            continue
        here = [claim for claim in claims if claim.spec.fabric == name]
        offers += _offers(name, pools, picture, here)
        hosts += _hosts(cluster, fabric, picture, here)
    taken = {(item.host.fabric, item.host.host) for item in outstanding}
    promised = {
        (each.offer.fabric, each.offer.device.id): (item.waiting.namespace, each.offer)
        for item in outstanding
        for each in item.devices
    }
    claimed = {(claim.spec.fabric, claim.spec.device) for claim in claims}
    used = held(claims)
    for place, (namespace, offer) in promised.items():
        if place not in claimed:
            used[namespace, offer.pool] = used.get((namespace, offer.pool), 0) + offer.quota_units
    return Observed(
        tuple(waiting),
        tuple(each for each in offers if (each.fabric, each.device.id) not in promised),
        tuple(each for each in hosts if (each.fabric, each.host) not in taken),
        _quota_left(all_quotas(cluster), used),
    )


def _waiting(node: LogicalNode, pools: frozenset[PoolKey], avoid: frozenset[str]) -> Waiting:
    spec = node.spec
    needs = [
        Need(item.name, DeviceKind.ACCELERATOR, count=item.count, selector=item.selector)
        for item in spec.accelerators
    ]
    for kind, requests in ((DeviceKind.MEMORY, spec.memory), (DeviceKind.STORAGE, spec.storage)):
        needs += [
            Need(item.name, kind, size_bytes=parse_bytes(item.size), selector=item.selector)
            for item in requests
        ]
    domain = spec.placement.domain
    return Waiting(
        uid=node.metadata.uid,
        namespace=node.metadata.namespace,
        name=node.metadata.name,
        created=str(node.metadata.creation_timestamp),
        needs=tuple(needs),
        allowed_pools=pools,
        node_selector=spec.host.node_selector,
        cpu=parse_decimal(spec.host.requests.cpu or 0),
        memory_bytes=parse_bytes(spec.host.requests.memory or 0),
        domain=domain.attribute if domain else "",
        domain_required=domain is not None and domain.policy == "Required",
        jurisdictions=frozenset(spec.placement.jurisdictions),
        avoid_hosts=avoid,
    )


def _offers(
    fabric: str,
    pools: Iterable[Pool],
    picture: Picture,
    claims: Iterable[DeviceAttachment],
) -> list[Offer]:
    """The fabric's free devices."""
    pools = list(pools)
    claimed = {claim.spec.device for claim in claims}
    attached = {device for device, _ in picture.inventory.attachments}
    by_key = {pool_key(pool): pool for pool in pools}
    offers: list[Offer] = []
    for key, membership in members(pools, fabric, picture.inventory.devices).items():
        pool = by_key[key]
        withheld = set(pool.spec.maintenance.devices)
        for device in membership.devices:
            offer = Offer(
                fabric, key, device, _cost_per_hour(pool, device.capacity_bytes), pool.spec.jurisdiction or ""
            )
            if (
                device.id not in claimed
                and pool.metadata.deletion_timestamp is None
                and device.healthy
                and device.id not in attached
                and device.id not in withheld
            ):
                offers.append(offer)
    return offers


def _cost_per_hour(pool: Pool, capacity_bytes: int) -> Decimal:
    if pool.spec.cost is None:
        return Decimal(0)
    if isinstance(pool, GPUPool):
        assert pool.spec.cost is not None
        return parse_decimal(pool.spec.cost.per_device_hour)
    return parse_decimal(pool.spec.cost.per_gibibyte_hour) * capacity_bytes / GIBIBYTE


def _hosts(
    cluster: Cluster, fabric: Fabric, picture: Picture, claims: Iterable[DeviceAttachment]
) -> list[HostOffer]:
    """Hosts that are healthy, have a ready Node, and carry no logical node. Only managed fabrics offer any."""
    if fabric.spec.mode != "Manage":
        return []
    healthy = {host.id for host in picture.inventory.hosts if host.healthy}
    attached = set(picture.inventory.attachments)
    # A quarantined device that is not at its host withholds itself alone, not the whole host.
    taken = {
        claim.spec.host
        for claim in claims
        if not is_quarantined(claim) or (claim.spec.device, claim.spec.host) in attached
    }
    offers = []
    for mapped in fabric.spec.hosts:
        raw = cluster.get(NODES, mapped.node_name)
        if (
            raw is None
            or mapped.host not in healthy
            or mapped.host in taken
            or not is_ready(raw)
            or logical_node_taint(raw)
        ):
            continue
        allocatable = raw.get("status", {}).get("allocatable", {})
        offers.append(
            HostOffer(
                fabric.metadata.name,
                mapped.host,
                mapped.node_name,
                raw["metadata"].get("labels", {}),
                parse_decimal(allocatable.get("cpu", "0")),
                int(parse_decimal(allocatable.get("memory", "0"))),
            )
        )
    return offers


def _quota_left(
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

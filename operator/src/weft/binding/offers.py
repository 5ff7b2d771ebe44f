"""Gathers from the cache and the fabrics' pictures what placement decides on: who waits, and what is free."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from weft.api import DeviceAttachment, Fabric, GPUPool, LogicalNode
from weft.api.logical_node import Sharing
from weft.api.quantity import parse_bytes, parse_decimal
from weft.api.resources import (
    FABRICS,
    LOGICAL_NODES,
    NAMESPACES,
    NODES,
)
from weft.binding.inventory import Picture
from weft.binding.lifecycle import Intent, decide, is_quarantined
from weft.binding.membership import KIND_OF_POOL, Pool, members
from weft.binding.objects import all_claims, all_pools, is_ready, logical_node_taint, parse_node
from weft.binding.plan import HostOffer, Need, Offer, PoolKey, Waiting
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
    unsupported: Mapping[str, str]
    """Why, by the uid of a logical node that asks for something this version cannot do."""


def gather(
    cluster: Cluster,
    pictures: Mapping[str, Picture],
    avoid: Mapping[str, frozenset[str]],
    busy: frozenset[str],
    now: datetime,
) -> Observed:
    """Everything waiting and everything free. `avoid` are hosts by uid; `busy` uids are being claimed already."""

    pools = all_pools(cluster)
    claims = all_claims(cluster)
    fabrics = {raw["metadata"]["name"]: Fabric.model_validate(raw) for raw in cluster.list(FABRICS)}
    namespaces = {
        raw["metadata"]["name"]: raw["metadata"].get("labels", {}) for raw in cluster.list(NAMESPACES)
    }
    by_node: dict[tuple[str, str], list[DeviceAttachment]] = {}
    for claim in claims:
        by_node.setdefault((claim.spec.claim_ref.namespace, claim.spec.claim_ref.name), []).append(claim)

    waiting: list[Waiting] = []
    unsupported: dict[str, str] = {}
    for raw in cluster.list(LOGICAL_NODES):
        try:
            node = parse_node(raw)
        except ValueError as error:
            # One object that cannot be read must not stop the others.
            log.warning("LogicalNode %s cannot be read: %s", raw["metadata"]["name"], error)
            continue
        meta = node.metadata
        if (
            meta.uid in busy
            or decide(node, by_node.get((meta.namespace, meta.name), ()), now).intent is not Intent.PLACE
        ):
            continue
        if node.spec.host.sharing is Sharing.SHARED:
            unsupported[meta.uid] = (
                "sharing: Shared needs Dynamic Resource Allocation, which this version does not have; use Exclusive"
            )
            continue
        open_pools = frozenset(
            (KIND_OF_POOL[type(pool)], pool.metadata.name)
            for pool in pools
            if pool.spec.allowed_namespaces is not None
            and pool.spec.allowed_namespaces.matches(namespaces.get(meta.namespace, {}))
        )
        waiting.append(_waiting(node, open_pools, avoid.get(meta.uid, frozenset())))

    offers: list[Offer] = []
    hosts: list[HostOffer] = []
    used: dict[tuple[str, PoolKey], int] = {}
    for name, fabric in fabrics.items():
        picture = pictures.get(name)
        if picture is None or fabric.metadata.deletion_timestamp is not None:
            continue
        here = [claim for claim in claims if claim.spec.fabric == name]
        offers += _offers(name, pools, picture, here, used)
        hosts += _hosts(cluster, fabric, picture, here)
    return Observed(
        tuple(waiting), tuple(offers), tuple(hosts), _quota_left(pools, waiting, used), unsupported
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
        cpu=parse_decimal(spec.host.requests.get("cpu", "0")),
        memory_bytes=int(parse_decimal(spec.host.requests.get("memory", "0"))),
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
    used: dict[tuple[str, PoolKey], int],
) -> list[Offer]:
    """The fabric's free devices; adds what namespaces hold to `used`."""
    pools = list(pools)
    claimed = {claim.spec.device: claim for claim in claims}
    attached = {device for device, _ in picture.inventory.attachments}
    by_key = {(KIND_OF_POOL[type(pool)], pool.metadata.name): pool for pool in pools}
    offers: list[Offer] = []
    for key, membership in members(pools, fabric, picture.inventory.devices).items():
        pool = by_key[key]
        withheld = set(pool.spec.maintenance.devices)
        for device in membership.devices:
            offer = Offer(
                fabric, key, device, _cost_per_hour(pool, device.capacity_bytes), pool.spec.jurisdiction or ""
            )
            claim = claimed.get(device.id)
            if claim is not None:
                holder = (claim.spec.claim_ref.namespace, key)
                used[holder] = used.get(holder, 0) + offer.quota_units
            elif (
                pool.metadata.deletion_timestamp is None
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
    pools: Iterable[Pool], waiting: Iterable[Waiting], used: Mapping[tuple[str, PoolKey], int]
) -> dict[tuple[str, PoolKey], int]:
    left: dict[tuple[str, PoolKey], int] = {}
    spaces = {item.namespace for item in waiting}
    for pool in pools:
        key = (KIND_OF_POOL[type(pool)], pool.metadata.name)
        for namespace in spaces:
            limit = pool.spec.quota.limit(namespace)
            if limit is not None:
                units = limit if isinstance(limit, int) else parse_bytes(limit)
                left[namespace, key] = units - used.get((namespace, key), 0)
    return left

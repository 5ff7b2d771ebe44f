"""Keeps the pools' counts and conditions true, and a pool that is in use from going."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from weft.api import DeviceQuota
from weft.api.names import FINALIZER
from weft.api.resources import DEVICE_QUOTAS, FABRICS, POOLS
from weft.binding.fabrics import Fabrics
from weft.binding.membership import key_of, members, pool_key
from weft.binding.objects import all_claims, all_pools
from weft.binding.offers import held
from weft.binding.status import Fact, pool_status, quota_status
from weft.cluster import Cluster, add_finalizer, drop_finalizer


async def reconcile_pools(cluster: Cluster, fabrics: Fabrics, now: datetime) -> None:
    """Bring the counts and conditions of every pool and DeviceQuota up to date."""
    raws = [(resource, raw) for resource in POOLS for raw in cluster.list(resource)]
    pools = all_pools(cluster)
    claims = all_claims(cluster)
    by_fabric: dict[str, dict[Any, Any]] = {}
    # all_pools has the same order.
    for (resource, raw), pool in zip(raws, pools, strict=True):
        fabric = pool.spec.fabric_ref.name
        in_use = any(key_of(claim.spec.pool_ref) == pool_key(pool) for claim in claims)
        ready = _reachable(cluster, fabric)
        if pool.metadata.deletion_timestamp is not None:
            if not in_use:
                await drop_finalizer(cluster, resource, raw)
                continue
            message = "being deleted: offers nothing and goes when its last DeviceAttachment is released"
            ready = ("Ready", False, "InUse", message)
        elif in_use and FINALIZER not in pool.metadata.finalizers:
            raw = await add_finalizer(cluster, resource, raw)
            pool = type(pool).model_validate(raw)
        session = fabrics.session(fabric)
        picture = session.picture if session else None
        membership = None
        if picture is not None:
            if fabric not in by_fabric:
                by_fabric[fabric] = dict(members(pools, fabric, picture.inventory.devices))
            membership = by_fabric[fabric].get(pool_key(pool))
        here = {claim.spec.device: claim for claim in claims if claim.spec.fabric == fabric}
        attached = {device for device, _ in picture.inventory.attachments} if picture else set()
        status = pool_status(pool, membership, here, frozenset(attached - set(here)), ready, now)
        await cluster.write_status(resource, raw, status)
    used = held(claims)
    for raw in cluster.list(DEVICE_QUOTAS):
        quota = DeviceQuota.model_validate(raw)
        here_used = {key: units for (space, key), units in used.items() if space == quota.metadata.namespace}
        status = quota_status(quota, here_used, {pool_key(pool) for pool in pools}, now)
        await cluster.write_status(DEVICE_QUOTAS, raw, status)


def _reachable(cluster: Cluster, fabric: str) -> Fact:
    raw = cluster.get(FABRICS, fabric)
    if raw is None:
        return (
            "Ready",
            False,
            "FabricNotFound",
            f"there is no Fabric {fabric}; create it or correct spec.fabricRef",
        )
    conditions = {item["type"]: item for item in raw.get("status", {}).get("conditions", [])}
    connected = conditions.get("Connected", {})
    if connected.get("status") != "True":
        message = f"Fabric {fabric} is not connected: {connected.get('message', 'not read yet')}"
        return "Ready", False, "FabricUnreachable", message
    complete = conditions.get("InventoryComplete", {})
    if complete.get("status") == "False":
        return "Ready", False, str(complete.get("reason")), str(complete.get("message"))
    return "Ready", True, "FabricRead", "the counts follow the fabric"

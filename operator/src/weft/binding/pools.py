"""Keeps the counts and conditions of pools and DeviceQuotas true, and a pool that is in use from going."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    DEVICE_QUOTAS,
    POOLS,
    ResourceType,
)
from weft.binding.assignments import Assignments
from weft.binding.fabrics import Fabrics
from weft.binding.holdings import Holding
from weft.binding.inputs import Inputs
from weft.binding.keys import PoolsKey
from weft.binding.membership import DEVICES_OF, Membership, Pool, PoolKey, pool_key
from weft.binding.offers import Reader, Snapshot
from weft.binding.plan import Unused
from weft.binding.status import Fact, Status, Tally, pool_status, quota_status, tally
from weft.cluster import Cluster, ClusterError, ConflictError, Object, add_finalizer, drop_finalizer
from weft.controllers import Now, Watch
from weft.fabric.driver import Device

GATHER_SECONDS = 2.0
"""How long changes of claims are gathered: all claims are counted, and a burst of binds makes many."""
LEAVING_SECONDS = 5.0
"""How often it is looked whether a deleted pool may go: somebody waits for that, and a watch may be silent."""


@dataclass(frozen=True)
class Release:
    """A pool that is being deleted and that nothing refers to."""

    resource: ResourceType
    raw: Object


@dataclass(frozen=True)
class Write:
    """An object's status as it should be."""

    resource: ResourceType
    raw: Object
    status: Status
    hold: bool = False
    """Whether the object needs the finalizer, because something refers to it."""
    tally: Tally | None = None
    """Of a pool whose fabric was read."""


class PoolsController:
    """Counts the devices of all pools, beside the event loop."""

    def __init__(self, cluster: Cluster, fabrics: Fabrics, assignments: Assignments) -> None:
        self._cluster = cluster
        self._fabrics = fabrics
        self._assignments = assignments
        self._reader = Reader()
        self._inputs = Inputs()
        self.tallies: dict[tuple[str, str], Tally] = {}
        """By kind and name of the pool: what was counted last."""
        self.watches: tuple[Watch[Any], ...] = (
            *(Watch(resource, self._if_changed(resource)) for resource in (*POOLS, DEVICE_QUOTAS)),
            Watch(DEVICE_ATTACHMENTS, _pools, after_seconds=GATHER_SECONDS),
        )

    def _if_changed(self, resource: ResourceType) -> Callable[[Cluster, Object], Iterable[PoolsKey]]:
        """Otherwise than by what is counted here, which would be counted again for it."""

        def keys(cluster: Cluster, changed: Object) -> Iterable[PoolsKey]:
            return (PoolsKey(),) if self._inputs.changed(cluster, resource, changed) else ()

        return keys

    async def reconcile(self, key: PoolsKey, now: Now) -> float | None:
        """Bring all pools and quotas up to date. Raises the last error; one does not keep the others from theirs."""
        snapshot = Snapshot.take(self._cluster, self._fabrics.last_pictures())
        steps = await asyncio.to_thread(count, self._reader, snapshot, now.wall, self._assignments.unused)
        # At once: who reads them while statuses are written must find every pool.
        self.tallies.clear()
        for step in steps:
            if isinstance(step, Write) and step.tally is not None:
                self.tallies[step.resource.kind, step.raw["metadata"]["name"]] = step.tally
        failure: ClusterError | None = None
        for step in steps:
            try:
                await self._apply(step)
            except ConflictError as error:
                failure = error
                # It may have been deleted without our hearing of it. Unread it is tried again, like any other.
                metadata = step.raw["metadata"]
                with contextlib.suppress(ClusterError):
                    await self._cluster.refresh(
                        step.resource,
                        metadata.get("namespace", ""),
                        field="metadata.name",
                        value=metadata["name"],
                    )
            except ClusterError as error:
                failure = error
        if failure is not None:
            raise failure
        pools = (*snapshot.gpu_pools, *snapshot.memory_pools, *snapshot.storage_pools)
        leaving = any("deletionTimestamp" in raw["metadata"] for raw in pools)
        return LEAVING_SECONDS if leaving else None

    async def _apply(self, step: Release | Write) -> None:
        match step:
            case Release(resource, raw):
                # A claim may have been made meanwhile; it brings the key back.
                if not self._is_referred_to(resource, raw):
                    await drop_finalizer(self._cluster, resource, raw)
            case Write(resource, raw, status, hold):
                if hold:
                    raw = await add_finalizer(self._cluster, resource, raw)
                elif resource in POOLS and not self._is_referred_to(resource, raw):
                    # Held only while something refers to it: its deletion then needs nobody to hear of it.
                    await drop_finalizer(self._cluster, resource, raw)
                    raw = self._cluster.get(resource, raw["metadata"]["name"]) or raw
                await self._cluster.write_status(resource, raw, status)

    def _is_referred_to(self, resource: ResourceType, raw: Object) -> bool:
        pool = DEVICES_OF[resource.kind], raw["metadata"]["name"]
        return bool(self._cluster.select(DEVICE_ATTACHMENTS, _pool_of, pool))


def count(
    reader: Reader, snapshot: Snapshot, now: datetime, unused: Mapping[PoolKey, Unused]
) -> list[Release | Write]:
    """What has to be written about the pools and quotas of a snapshot. Pure but for what the reader remembers."""
    objects, claims = reader.pool_objects(snapshot), tuple(reader.holdings(snapshot).all())
    pools = [pool for _, _, pool in objects]
    fabrics = {raw["metadata"]["name"]: raw for raw in snapshot.fabrics}
    referred_to = {claim.pool for claim in claims}
    claims_of: dict[str, dict[str, Holding]] = {}
    for claim in claims:
        claims_of.setdefault(claim.fabric, {})[claim.device] = claim
    memberships: dict[str, Mapping[PoolKey, Membership]] = {}
    steps: list[Release | Write] = []
    for resource, raw, pool in objects:
        fabric, in_use = pool.spec.fabric_ref.name, pool_key(pool) in referred_to
        ready = _reachable(fabric, fabrics.get(fabric))
        leaving = pool.metadata.deletion_timestamp is not None
        if leaving and not in_use:
            steps.append(Release(resource, raw))
            continue
        if leaving:
            text = "being deleted: offers nothing and goes when its last DeviceAttachment is released"
            ready = ("Ready", False, "InUse", text)
        picture = snapshot.pictures.get(fabric)
        if picture is not None and fabric not in memberships:
            memberships[fabric] = reader.members(fabric, pools, picture)
        here = claims_of.get(fabric, {})
        attached = frozenset(picture.inventory.attachments if picture else ())
        membership = memberships.get(fabric, {}).get(pool_key(pool))
        if picture is not None and membership == Membership(()) and ready[2] == "FabricRead":
            ready = _nothing_selected(pool, picture.inventory.devices)
        counted = tally(pool, membership, here, attached) if membership is not None else None
        status = pool_status(
            pool, membership, counted, here, attached, ready, now, unused.get(pool_key(pool), Unused())
        )
        steps.append(Write(resource, raw, status, in_use and not leaving, counted))
    return [*steps, *_quotas(reader, snapshot, pools, now)]


def _quotas(
    reader: Reader,
    snapshot: Snapshot,
    pools: Iterable[Pool],
    now: datetime,
) -> list[Write]:
    used_by: dict[str, dict[PoolKey, int]] = {}
    holdings = reader.holdings(snapshot)
    for (namespace, key), units in holdings.used.items():
        used_by.setdefault(namespace, {})[key] = units
    known = {pool_key(pool) for pool in pools}
    steps = []
    for raw, quota in reader.quotas(snapshot):
        namespace = quota.metadata.namespace
        hosts = len(holdings.nodes_of(namespace))
        status = quota_status(quota, used_by.get(namespace, {}), hosts, known, now)
        steps.append(Write(DEVICE_QUOTAS, raw, status))
    return steps


def _pool_of(claim: Object) -> Hashable:
    """Index of DeviceAttachments: kind of device and name of their pool."""
    ref = claim["spec"]["poolRef"]
    return DEVICES_OF[ref["kind"]], ref["name"]


def _reachable(fabric: str, raw: Object | None) -> Fact:
    if raw is None:
        text = f"there is no Fabric {fabric}; create it, or make the pool anew with another fabricRef"
        return "Ready", False, "FabricNotFound", text
    conditions = {item["type"]: item for item in raw.get("status", {}).get("conditions", [])}
    connected = conditions.get("Connected", {})
    if connected.get("status") != "True":
        message = f"Fabric {fabric} is not connected: {connected.get('message', 'not read yet')}"
        return "Ready", False, "FabricUnreachable", message
    complete = conditions.get("InventoryComplete", {})
    if complete.get("status") == "False":
        return "Ready", False, str(complete.get("reason")), str(complete.get("message"))
    return "Ready", True, "FabricRead", "the counts follow the fabric"


def _nothing_selected(pool: Pool, devices: Iterable[Device]) -> Fact:
    """The API server cannot know a misspelt attribute, and a pool without devices else looks like any other."""
    count = sum(device.kind == DEVICES_OF[pool.kind] for device in devices)
    text = f"selects none of the {count} devices of its kind at Fabric {pool.spec.fabric_ref.name}"
    return "Ready", True, "NoDevices", f"spec.selector {text}"


def _pools(cluster: Cluster, changed: Object) -> Iterable[PoolsKey]:
    return (PoolsKey(),)

"""Carries a logical node forward (claim, reserve the Node, attach, verify) or back (detach, verify, give up).

Both directions are sagas for `weft.saga.engine`; which one it is, is stored in the claims (lifecycle.py). Every
action may run again after a crash at any point.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from weft.api import DeviceAttachment
from weft.api.attachment import attachment_name
from weft.api.names import FINALIZER, TAINT_LOGICAL_NODE
from weft.api.quantity import format_bytes
from weft.api.resources import DEVICE_ATTACHMENTS, LOGICAL_NODES, NODES, PODS
from weft.binding.lifecycle import is_attached, is_deleting, is_quarantined
from weft.binding.membership import POOL_KIND
from weft.binding.objects import logical_node_taint, taint_value
from weft.binding.plan import Assignment, Chosen
from weft.binding.session import FabricSession
from weft.binding.status import with_facts
from weft.cluster import AlreadyExistsError, Cluster, Object, drop_finalizer
from weft.fabric.driver import DeviceKind
from weft.fabric.errors import (
    Conflict,
    DeviceFault,
    FabricError,
    InvalidRequest,
    OutcomeUnknown,
    PartialFailure,
)
from weft.saga.engine import Step

log = logging.getLogger(__name__)


class ClaimLost(Exception):
    """Somebody else holds a device or the Node: give up what is claimed and look for another place."""


class DevicesFailed(Exception):
    """Devices that the manager could not attach, with its reasons by device."""

    def __init__(self, failed: dict[str, str]) -> None:
        super().__init__("; ".join(f"{device}: {why}" for device, why in sorted(failed.items())))
        self.failed = failed


async def claim(cluster: Cluster, session: FabricSession, assignment: Assignment) -> list[DeviceAttachment]:
    """Create one DeviceAttachment per device: the intention, in etcd before the first call.

    Raises ClaimLost when one of the names is taken; the others are then being deleted.
    """
    waiting, host = assignment.waiting, assignment.host
    operation = hashlib.sha256(
        f"{waiting.uid}/{host.fabric}/{host.host}/{datetime.now(UTC).isoformat()}".encode()
    ).hexdigest()[:20]

    def body(chosen: Chosen) -> Object:
        device, (kind, pool) = chosen.offer.device, chosen.offer.pool
        spec = {
            "fabric": host.fabric,
            "device": device.id,
            "poolRef": {"kind": POOL_KIND[kind].value, "name": pool},
            "host": host.host,
            "operation": operation,
            "request": chosen.need,
            "claimSize": len(assignment.devices),
            "claimRef": {
                "kind": LOGICAL_NODES.kind,
                "namespace": waiting.namespace,
                "name": waiting.name,
                "uid": waiting.uid,
            },
        }
        if kind is not DeviceKind.ACCELERATOR and device.capacity_bytes:
            spec["capacity"] = format_bytes(device.capacity_bytes)
        return {
            "metadata": {"name": attachment_name(host.fabric, device.id), "finalizers": [FINALIZER]},
            "spec": spec,
        }

    created = await asyncio.gather(
        *(cluster.create(DEVICE_ATTACHMENTS, body(chosen)) for chosen in assignment.devices),
        return_exceptions=True,
    )
    made = [DeviceAttachment.model_validate(item) for item in created if isinstance(item, dict)]
    session.claimed(frozenset(item.metadata.uid for item in made))
    for failure in created:
        if isinstance(failure, AlreadyExistsError):
            await turn_back(cluster, made)
            raise ClaimLost(failure.message) from failure
    for failure in created:
        if isinstance(failure, BaseException):
            # Whatever was created is found incomplete and released.
            raise failure
    return made


async def turn_back(cluster: Cluster, claims: Iterable[DeviceAttachment]) -> None:
    """Ask for the deletion of claims: from now on the way leads back, also after a restart."""
    await asyncio.gather(
        *(
            cluster.delete(DEVICE_ATTACHMENTS, item.metadata.name, uid=item.metadata.uid)
            for item in claims
            if not is_deleting(item)
        )
    )


async def quarantine(cluster: Cluster, claims: Iterable[DeviceAttachment], failed: dict[str, str]) -> None:
    """Mark the claims of failed devices: they stay, so that the devices are not offered again."""
    for item in claims:
        if item.spec.device not in failed or is_quarantined(item):
            continue
        raw = cluster.get(DEVICE_ATTACHMENTS, item.metadata.name)
        if raw is None:
            continue
        message = (
            f"{failed[item.spec.device]}; delete this DeviceAttachment when the device may be used again"
        )
        facts = [("Quarantined", True, "AttachFailed", message)]
        status = with_facts(item, item.status.dump(), facts, datetime.now(UTC))
        await cluster.write_status(DEVICE_ATTACHMENTS, raw, status)


def forward(
    cluster: Cluster, session: FabricSession, node: Object, claims: Sequence[DeviceAttachment], node_name: str
) -> list[Step]:
    """The steps that make complete claims a bound logical node."""
    namespace, name = node["metadata"]["namespace"], node["metadata"]["name"]
    value = taint_value(namespace, name)
    carrier = cluster.get(NODES, node_name)
    host = claims[0].spec.host
    pending = [item for item in claims if not is_attached(item)]
    devices = frozenset(item.spec.device for item in claims)

    async def reserve() -> None:
        if carrier is None:
            raise ClaimLost(f"Node {node_name} does not exist")
        if logical_node_taint(carrier):
            raise ClaimLost(f"Node {node_name} carries logical node {logical_node_taint(carrier)}")
        # An earlier attempt may have reserved another Node.
        await clear_taint(cluster, namespace, name)
        await reserve_node(cluster, carrier, namespace, name)

    async def attach() -> None:
        there = await session.attached(host)
        missing = devices - there
        problem: FabricError | None = None
        for batch in _batches(session, missing):
            try:
                await _attach(session, claims, host, batch)
            except (OutcomeUnknown, InvalidRequest) as error:
                problem = error
        if missing:
            there = await session.attached(host)
            session.succeeded(devices & there)
            session.failed(missing - there)
        absent = devices - there
        at_fault = {device: str(problem) for device in absent if session.is_at_fault(device)}
        if at_fault:
            raise DevicesFailed(at_fault)
        if absent:
            raise problem or OutcomeUnknown(
                f"the manager does not show {', '.join(sorted(absent))} at {host} yet"
            )
        await asyncio.gather(*(_mark_attached(cluster, item) for item in pending))

    return [
        Step("ReserveNode", carrier is not None and logical_node_taint(carrier) == value, reserve),
        Step("Attach", not pending, attach),
    ]


def _batches(session: FabricSession, devices: frozenset[str]) -> list[frozenset[str]]:
    if not devices:
        return []
    if session.try_alone(devices):
        return [frozenset({device}) for device in sorted(devices)]
    return [devices]


async def _attach(
    session: FabricSession, claims: Sequence[DeviceAttachment], host: str, devices: frozenset[str]
) -> None:
    uids = frozenset(item.metadata.uid for item in claims)
    key = claims[0].spec.operation
    if len(devices) < len(claims):
        key = f"{key}-{'-'.join(sorted(devices))}"[:128]
    try:
        operation = await session.attach(key, host, devices, uids)
    except DeviceFault as error:
        raise DevicesFailed({error.device: str(error)}) from error
    except PartialFailure as error:
        raise DevicesFailed(error.failed) from error
    if operation.failed:
        raise DevicesFailed(dict(operation.failed))


async def _mark_attached(cluster: Cluster, item: DeviceAttachment) -> None:
    raw = cluster.get(DEVICE_ATTACHMENTS, item.metadata.name)
    if raw is None or raw["metadata"]["uid"] != item.metadata.uid:
        raise Conflict(f"DeviceAttachment {item.metadata.name} is gone")
    facts = [("Attached", True, "Verified", f"seen at {item.spec.host}")]
    status = with_facts(item, item.status.dump(), facts, datetime.now(UTC))
    await cluster.write_status(DEVICE_ATTACHMENTS, raw, status)


def users_of(cluster: Cluster, namespace: str, name: str) -> list[str]:
    """Pods that use the logical node's devices: its namespace's, on the Node that carries it, tolerating its taint."""
    value = taint_value(namespace, name)
    carriers = {raw["metadata"]["name"] for raw in carriers_of(cluster, namespace, name)}
    return sorted(
        pod["metadata"]["name"]
        for pod in cluster.list(PODS, namespace)
        if pod["spec"].get("nodeName") in carriers
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        and any(_tolerates(toleration, value) for toleration in pod["spec"].get("tolerations", []))
        # An agent that runs on every Node tolerates everything and uses nothing of the logical node.
        and not any(owner["kind"] == "DaemonSet" for owner in pod["metadata"].get("ownerReferences", []))
    )


def _tolerates(toleration: Object, value: str) -> bool:
    # Without a key it tolerates every taint.
    key = toleration.get("key") or TAINT_LOGICAL_NODE
    return key == TAINT_LOGICAL_NODE and toleration.get("value", value) == value


def back(
    cluster: Cluster,
    session: FabricSession,
    claims: Sequence[DeviceAttachment],
    users: Sequence[str],
) -> list[Step]:
    """The steps that free the devices of these claims: no user left, detached, seen to be detached, given up."""
    host = claims[0].spec.host
    untouched = all(session.is_untouched(item.metadata.uid) for item in claims)
    unsettled: list[DeviceAttachment] = []

    async def detach() -> None:
        await turn_back(cluster, claims)
        free = list(claims)
        if not untouched:
            free = await _detach(session, host, claims)
            unsettled.extend(item for item in claims if item not in free)
        await asyncio.gather(*(_give_up(cluster, item) for item in free))
        if not unsettled:
            session.forget(claims[0].spec.operation, frozenset(item.metadata.uid for item in claims))
        if unsettled:
            left = ", ".join(item.spec.device for item in unsettled)
            raise OutcomeUnknown(
                f"{left}: not attached now, but an earlier call may still take effect; "
                f"kept until complete inventories {session.settle_seconds:g} s apart agree"
            )

    return [
        Step("Drain", not users, None, f"pods still use the devices: {', '.join(users[:5])}"),
        Step("Detach", not claims, detach),
    ]


async def _detach(
    session: FabricSession, host: str, claims: Sequence[DeviceAttachment]
) -> list[DeviceAttachment]:
    """Detach what is there; returns the claims whose devices are certainly free now.

    A device that was there before our detach and is not there after it, is free. One that was not there to
    begin with may have a call under way, of ours or of an earlier leader, that still attaches it.
    """
    devices = frozenset(item.spec.device for item in claims)
    before = await session.attached(host) & devices
    after = before
    if before:
        await session.detach(f"{claims[0].spec.operation}-release", host, before)
        after = await session.attached(host) & devices
        if after:
            raise OutcomeUnknown(f"{', '.join(sorted(after))} still shown at {host} after the detach")
    return [
        item
        for item in claims
        if item.spec.device in before - after or session.settled_absent(item.spec.device, host)
    ]


async def _give_up(cluster: Cluster, item: DeviceAttachment) -> None:
    raw = cluster.get(DEVICE_ATTACHMENTS, item.metadata.name)
    if raw is not None and raw["metadata"]["uid"] == item.metadata.uid:
        await drop_finalizer(cluster, DEVICE_ATTACHMENTS, raw)


def carriers_of(cluster: Cluster, namespace: str, name: str) -> list[Object]:
    """The Nodes with the logical node's taint: one, or several when a crash or an edit came in between."""
    value = taint_value(namespace, name)
    return [raw for raw in cluster.list(NODES) if logical_node_taint(raw) == value]


async def reserve_node(cluster: Cluster, carrier: Object, namespace: str, name: str) -> None:
    """Taint a Node: the guard makes that a claim as exclusive as a DeviceAttachment's name."""
    value = taint_value(namespace, name)
    taint = {"key": TAINT_LOGICAL_NODE, "value": value, "effect": "NoSchedule"}
    await _write_taints(cluster, carrier, [taint])


async def clear_taint(cluster: Cluster, namespace: str, name: str) -> None:
    """Take the logical node's taint off the Node that carries it, if any."""
    for raw in carriers_of(cluster, namespace, name):
        await _write_taints(cluster, raw, [])


async def _write_taints(cluster: Cluster, node: Object, ours: list[Object]) -> None:
    """Replace Weft's taint of a Node and keep the others: the list is written whole, guarded by resourceVersion."""
    others = [item for item in node["spec"].get("taints", []) if item["key"] != TAINT_LOGICAL_NODE]
    metadata = node["metadata"]
    body = {
        "metadata": {"resourceVersion": metadata["resourceVersion"]},
        "spec": {"taints": [*others, *ours]},
    }
    await cluster.patch(NODES, metadata["name"], "", body)

"""Statuses as they are written: pure functions from objects and facts to conditions and counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from weft.api import DeviceAttachment, DeviceQuota, Fabric, LogicalNode
from weft.api.conditions import MAX_CONDITIONS, find, with_condition
from weft.api.quantity import format_bytes
from weft.binding.holdings import Holding
from weft.binding.hosts import Matched
from weft.binding.inventory import Picture
from weft.binding.membership import POOL_KIND, Membership, Pool, PoolKey, key_of
from weft.binding.plan import Assignment, Chosen, Unused
from weft.fabric.driver import not_used

Status = dict[str, Any]
Fact = tuple[str, bool | None, str, str]
"""Condition type, status (None: unknown), reason, message."""


def dump_conditions(conditions: Iterable[Any]) -> list[Any]:
    return [condition.dump() for condition in conditions]


def with_facts(obj: Any, status: Mapping[str, Any], facts: Iterable[Fact], now: datetime) -> Status:
    """`status` with the facts folded into the object's conditions."""
    conditions = obj.status.conditions
    for kind, value, reason, message in facts:
        conditions = with_condition(conditions, kind, value, reason, message, obj.metadata.generation, now)
    # Others may have filled the list up; the API server refuses one that is longer.
    return {**status, "conditions": dump_conditions(conditions[-MAX_CONDITIONS:])}


def fabric_status(
    fabric: Fabric,
    picture: Picture | None,
    matched: Matched,
    epoch: int,
    facts: Iterable[Fact],
    now: datetime,
) -> Status:
    """Counts of the picture; a reading that is not believed leaves the counts as they were."""
    status = fabric.status.dump()
    status.pop("conditions", None)
    status["observedGeneration"] = fabric.metadata.generation
    if picture is not None:
        # One block that never answers must not keep the rest of the rack from being counted. What is missing from such
        # a reading lowers nothing: the counts tell the next operator how much was there.
        status["devices"] = max(len(picture.inventory.devices), fabric.status.devices or 0)
        status["hosts"] = max(len(picture.inventory.hosts), fabric.status.hosts or 0)
    status.pop("notUsed", None)
    if picture is not None and (sentence := not_used(picture.inventory)):
        status["notUsed"] = sentence
    if picture is not None and not picture.problem:
        status["devices"] = len(picture.inventory.devices)
        status["hosts"] = len(picture.inventory.hosts)
        status["nodes"] = len(matched.nodes.keys() & {host.id for host in picture.inventory.hosts})
    if epoch:
        status["epoch"] = epoch
    return with_facts(fabric, status, facts, now)


def device_view(claims: Iterable[DeviceAttachment]) -> list[dict[str, Any]]:
    return [
        {
            "request": claim.spec.request,
            **({"alternative": claim.spec.alternative} if claim.spec.alternative else {}),
            "poolRef": claim.spec.pool_ref.dump(),
            "device": claim.spec.device,
            "attachment": claim.metadata.name,
        }
        for claim in sorted(claims, key=lambda claim: (claim.spec.request, claim.metadata.name))
    ]


def bound_status(
    node: LogicalNode,
    claims: Iterable[DeviceAttachment],
    node_name: str,
    facts: Iterable[Fact],
    now: datetime,
    queue_place: str = "",
    drain_timeout_seconds: int | None = None,
) -> Status:
    """The one write that makes a logical node Bound. `queue_place`: of what it lacks since."""
    claims = tuple(claims)
    status = node.status.dump()
    hosts = {claim.spec.host for claim in claims}
    # The fabrics of one machine may call it differently; its Node has one name.
    for key in ("host", "queuePlace", "drainTimeoutSeconds", "plan"):
        status.pop(key, None)
    if len(hosts) == 1:
        status["host"] = hosts.pop()
    status.update(
        observedGeneration=node.metadata.generation,
        devices=device_view(claims),
        deviceCount=len(claims),
    )
    if node_name:
        status["nodeName"] = node_name
    if queue_place:
        status["queuePlace"] = queue_place
    if drain_timeout_seconds is not None:
        status["drainTimeoutSeconds"] = drain_timeout_seconds
    return with_facts(node, status, facts, now)


def unbound_status(
    node: LogicalNode,
    facts: Iterable[Fact],
    now: datetime,
    queue_place: str = "",
    plan: Assignment | None = None,
) -> Status:
    """A logical node that has no devices, or not all of them yet."""
    status = node.status.dump()
    for key in ("nodeName", "host", "devices", "deviceCount", "queuePlace", "drainTimeoutSeconds", "plan"):
        status.pop(key, None)
    if queue_place:
        status["queuePlace"] = queue_place
    if plan is not None:
        status["plan"] = {
            "nodeName": plan.host.node_name,
            "devices": [_planned(each) for each in plan.devices],
        }
    status["observedGeneration"] = node.metadata.generation
    # Those are about what a bound one has.
    kept = tuple(each for each in node.status.conditions if each.type not in ("Resized", "Draining"))
    node = node.with_changes(status=node.status.with_changes(conditions=kept))
    return with_facts(node, status, facts, now)


def _planned(chosen: Chosen) -> dict[str, Any]:
    kind, name = chosen.offer.pool
    return {
        "request": chosen.need,
        **({"alternative": chosen.alternative} if chosen.alternative else {}),
        "poolRef": {"kind": POOL_KIND[kind].value, "name": name},
        "fabric": chosen.offer.fabric,
        "device": chosen.offer.device.id,
    }


STATES = ("free", "bound", "reserved", "quarantined", "unavailable")
"""What is done with a pool's devices."""


@dataclass
class Tally:
    """What a pool has."""

    devices: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    """By state."""
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    """By state: the memory of accelerators, the sizes of others."""
    causes: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("Maintenance", "AttachedByOthers", "ReservedByOthers", "Unhealthy"), 0
        )
    )
    """The unavailable devices by why; one that is it for several reasons counts for the first of them."""


def tally(
    pool: Pool,
    membership: Membership,
    claims: Mapping[str, Holding],
    attached: frozenset[tuple[str, str]],
) -> Tally:
    """What is done with the pool's devices. `claims` are the claims by device, `attached` the pairs of device and host
    that the fabric shows."""
    foreign = {device for device, _ in attached} - claims.keys()
    found = Tally()
    for device in membership.devices:
        claim, state = claims.get(device.id), "unavailable"
        if claim is not None and claim.quarantined:
            state = "quarantined"
        elif claim is not None:
            state = "bound" if (device.id, claim.host) in attached else "reserved"
        elif pool.spec.maintenance.means(device.id):
            found.causes["Maintenance"] += 1
        elif device.id in foreign:
            found.causes["AttachedByOthers"] += 1
        elif device.reserved:
            found.causes["ReservedByOthers"] += 1
        elif not device.healthy:
            found.causes["Unhealthy"] += 1
        else:
            state = "free"
        found.devices[state] += 1
        found.bytes[state] += device.capacity_bytes
    return found


def pool_status(
    pool: Pool,
    membership: Membership | None,
    counted: Tally | None,
    claims: Mapping[str, Holding],
    attached: frozenset[tuple[str, str]],
    reachable: Fact,
    now: datetime,
    unused: Unused,
) -> Status:
    """Counts of a pool's devices; `membership` and `counted` None: the fabric was never read, the last counts stay.

    `claims` are the claims by device, `attached` the pairs of device and host that the fabric shows.
    """
    status = {**pool.status.dump(), "observedGeneration": pool.metadata.generation}
    for key in ("kept", "stranded"):
        status.pop(key, None)
    if unused.kept:
        status["kept"] = unused.kept
    if unused.stranded:
        status["stranded"] = [{"reason": reason, "devices": count} for reason, count in unused.stranded]
    facts: list[Fact] = [reachable]
    if membership is not None and counted is not None:
        excluded = set(pool.spec.maintenance.devices)
        status["devices"] = {"total": len(membership.devices), **counted.devices}
        facts += _maintenance(pool, excluded - {device.id for device in membership.devices})
        facts += _drained(pool, membership, claims, attached)
        if membership.overlapping:
            taken = ", ".join(f"{count} by {name}" for name, count in sorted(membership.overlapping.items()))
            facts.append(
                (
                    "Overlapping",
                    True,
                    "SelectedTwice",
                    f"devices selected here are already in an older pool: {taken}",
                )
            )
        else:
            facts.append(("Overlapping", False, "NoOverlap", "no device is selected by an older pool"))
    return with_facts(pool, status, facts, now)


def _maintenance(pool: Pool, unknown: Collection[str]) -> list[Fact]:
    """Whether the pool has what is to be withheld; nothing where nothing is, or ever was."""
    if not pool.spec.maintenance.devices and find(pool.status.conditions, "MaintenanceMatched") is None:
        return []
    if not unknown:
        return [("MaintenanceMatched", True, "DevicesFound", "")]
    named = sorted(unknown)
    more = " and others" if len(named) > 3 else ""
    text = f"the pool has no device {', no '.join(named[:3])}{more}: correct spec.maintenance.devices"
    return [("MaintenanceMatched", False, "DeviceNotFound", text)]


def _drained(
    pool: Pool, membership: Membership, claims: Mapping[str, Holding], attached: frozenset[tuple[str, str]]
) -> list[Fact]:
    """Whether what is in maintenance is in nobody's hands any more; nothing where nothing is, or ever was."""
    out = [device.id for device in membership.devices if pool.spec.maintenance.means(device.id)]
    if not out:
        before = find(pool.status.conditions, "Drained")
        return [] if before is None else [("Drained", False, "NoMaintenance", "nothing is in maintenance")]
    shown = {device for device, _ in attached}
    # A quarantined device that is not shown anywhere is in a drawer already.
    owner = {
        device: "/".join(claims[device].owner)
        for device in out
        if device in claims and not claims[device].quarantined
    }
    used = [device for device in sorted(out) if device in owner or device in shown]
    if not used:
        return [
            ("Drained", True, "Drained", "safe to pull: all that is in maintenance is free and not offered")
        ]
    named = ", ".join(f"{device} ({owner.get(device, 'attached without a claim')})" for device in used[:3])
    more = " and others" if len(used) > 3 else ""
    how = "" if pool.spec.maintenance.drain else "; set spec.maintenance.drain to have them freed"
    return [("Drained", False, "InUse", f"still in use: {named}{more}{how}")]


def hosts_drained(fabric: Fabric, picture: Picture | None, owners: Mapping[str, str]) -> list[Fact]:
    """Whether the hosts that are in maintenance carry nothing any more; `owners` of claims, by host."""
    wanted = fabric.spec.maintenance
    names = wanted.hosts if wanted is not None else ()
    if wanted is None or not names:
        before = find(fabric.status.conditions, "HostsDrained")
        return (
            [] if before is None else [("HostsDrained", False, "NoMaintenance", "nothing is in maintenance")]
        )
    if picture is None:
        return []
    known = {host.id for host in picture.inventory.hosts}
    if not picture.problem and (unknown := sorted(set(names) - known)):
        text = f"the manager has no host {', no '.join(unknown[:3])}: correct spec.maintenance.hosts"
        return [("HostsDrained", False, "HostNotFound", text)]
    used = [name for name in sorted(names) if name in owners or picture.by_host.get(name)]
    if picture.problem:
        text = "the last reading of the manager was not whole: see the condition InventoryComplete"
        return [("HostsDrained", False, "NotRead", text)]
    if not used:
        text = f"safe to pull: {', '.join(sorted(names)[:3])}{' and others' if len(names) > 3 else ''}"
        return [("HostsDrained", True, "Drained", text)]
    named = ", ".join(f"{name} ({owners.get(name, 'attached without a claim')})" for name in used[:3])
    more = " and others" if len(used) > 3 else ""
    how = "" if wanted.drain else "; set spec.maintenance.drain to have them freed"
    return [("HostsDrained", False, "InUse", f"still in use: {named}{more}{how}")]


def quota_status(
    quota: DeviceQuota,
    used: Mapping[PoolKey, int],
    hosts: int,
    pools: Collection[PoolKey],
    now: datetime,
) -> Status:
    """What the quota's namespace holds: `hosts`, and of each limited pool `used` devices, or bytes."""
    amounts: list[Status] = []
    over: list[str] = []
    unknown: list[str] = []
    for limit in quota.spec.limits:
        held = used.get(key_of(limit), 0)
        amount = {"count": held} if limit.count is not None else {"capacity": format_bytes(held)}
        amounts.append({"kind": limit.kind.value, "name": limit.name, **amount})
        if held > limit.units:
            over.append(f"{limit.kind} {limit.name}")
        if key_of(limit) not in pools:
            unknown.append(f"{limit.kind} {limit.name}")
    if quota.spec.hosts is not None and hosts > quota.spec.hosts:
        over.append("hosts")
    facts: list[Fact] = [
        ("WithinLimits", True, "WithinLimits", "")
        if not over
        else (
            "WithinLimits",
            False,
            "LimitLowered",
            f"more is held than the limit allows, and stays until it is released: {', '.join(over)}",
        ),
        ("PoolsFound", True, "PoolsFound", "")
        if not unknown
        else (
            "PoolsFound",
            False,
            "PoolNotFound",
            f"there is no {', no '.join(unknown)}: correct spec.limits",
        ),
    ]
    status = {"observedGeneration": quota.metadata.generation, "used": amounts}
    if quota.spec.hosts is not None:
        status["hosts"] = hosts
    return with_facts(quota, status, facts, now)

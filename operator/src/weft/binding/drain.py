"""What has to leave a bound logical node for others' reasons: maintenance, a fault, a Node that is gone. Pure.

Pods go first, while the node is still bound: they are evicted, as their budgets allow, and only when none is left the
direction of the devices is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import find
from weft.api.logical_node import DeviceFailurePolicy, MaintenancePolicy
from weft.api.maintenance import AfterTimeout, Drain
from weft.api.names import LABEL_ROLE
from weft.binding.objects import by_place
from weft.binding.observe import HostView, LogicalNodePicture
from weft.binding.release import PODS_SECONDS
from weft.binding.status import Fact
from weft.binding.steps import Claims, Evict, LookAtNode, Step, TurnBack

MAINTENANCE, FAILED, HOST_FAILED, PREEMPTED = "Maintenance", "DeviceFailed", "HostFailed", "Preempted"
OWNERS_OWN = Drain()
"""Of what the owner wants replaced: evictions, and never force."""


@dataclass(frozen=True)
class Draining:
    """What is said while pods are waited for."""

    facts: tuple[Fact, ...] = ()
    again: float | None = None
    timeout_seconds: int | None = None
    """How long a group has to move its replica, of which an administrator takes devices out of service."""


def unwanted(picture: LogicalNodePicture, node: LogicalNode, claims: Claims) -> dict[str, Claims]:
    """The devices that are to be replaced while the node stays, by why."""
    found: dict[str, Claims] = {}
    for claim in claims:
        view, device = picture.hosts[claim.spec.fabric, claim.spec.host], claim.spec.device
        if view.withheld.get(device) is not None:
            found[MAINTENANCE] = (*found.get(MAINTENANCE, ()), claim)
        elif (
            node.spec.on_device_failure is DeviceFailurePolicy.REPLACE
            and view.failed_seconds.get(device, -1.0) >= view.settle_seconds
        ):
            found[FAILED] = (*found.get(FAILED, ()), claim)
    return found


def next_look(picture: LogicalNodePicture, node: LogicalNode) -> float | None:
    """When a fault that is watched will have lasted long enough."""
    left = [
        view.settle_seconds - seconds
        for view in picture.hosts.values()
        for seconds in view.failed_seconds.values()
        if node.spec.on_device_failure is DeviceFailurePolicy.REPLACE
    ]
    limit = node.spec.release_after_not_ready_seconds
    if limit is not None and picture.not_ready_seconds is not None:
        left.append(limit - picture.not_ready_seconds)
    waits = [each for each in left if each > 0]
    return min(waits) + 0.1 if waits else None


def is_replica(node: LogicalNode) -> bool:
    """Whether an InferenceGroup made it, and moves what runs on it."""
    return LABEL_ROLE in node.metadata.labels


def evacuate(
    picture: LogicalNodePicture, node: LogicalNode, claims: Claims, out: Claims
) -> Step | Draining | None:
    """The next step of a node all of whose devices have to leave; None: it may stay. `out`: devices in maintenance with
    which all leave."""
    views = [picture.hosts[place] for place, _ in by_place(claims)]
    drains = [view.drain for view in views if view.drain is not None]
    limit = node.spec.release_after_not_ready_seconds
    if drains:
        names = ", ".join(f"{view.host} of Fabric {view.fabric}" for view in views if view.drain is not None)
        why, text = MAINTENANCE, f"{names} is taken out of service"
    elif out:
        drains = [each for view in views for each in view.withheld.values() if each is not None]
        devices = ", ".join(sorted(claim.spec.device for claim in out))
        some = f"of its devices, with which a replica gives back all, {devices}"
        which = some if is_replica(node) and len(out) < len(claims) else "all its devices"
        why, text = MAINTENANCE, f"taken out of service: {which}"
    elif picture.preempted is not None:
        drains = [picture.preempted]
        why, text = PREEMPTED, "a LogicalNode of a greater priority needs its devices"
    elif limit is not None and (picture.not_ready_seconds or 0.0) >= limit:
        why, text = HOST_FAILED, "its Node is not ready for releaseAfterNotReadySeconds"
    else:
        return None
    timeout_seconds: int | None = None
    users = sorted({user for view in views for user in view.users})
    if why == HOST_FAILED and (unknown := [view for view in views if not view.node_known]):
        return LookAtNode(unknown[0].fabric, unknown[0].host, unknown[0].node.name)
    if not users:
        return TurnBack(claims, why, text)
    if drains:
        # Of several the one that is done soonest.
        drain = min(
            drains, key=lambda each: (each.after_timeout is not AfterTimeout.FORCE, each.timeout_seconds)
        )
        if (step := evict(views, node, drain, picture.draining_seconds, why)) is not None:
            return step
        if is_replica(node) and why == MAINTENANCE:
            timeout_seconds = drain.timeout_seconds
        if is_replica(node) and picture.draining_seconds < drain.timeout_seconds:
            text += f"; its InferenceGroup makes another and drains it, for at most {drain.timeout_seconds} s"
    return Draining((said_of(why, f"{text}; {words(views, users)}"),), PODS_SECONDS, timeout_seconds)


def evict(
    views: Iterable[HostView], node: LogicalNode, drain: Drain, seconds: float, why: str
) -> Evict | None:
    """Ask the pods of a Node to go, once in a pass; None: not now. `seconds`: for how long that has been wanted."""
    late = seconds >= drain.timeout_seconds
    force = late and drain.after_timeout is AfterTimeout.FORCE
    if why == MAINTENANCE and node.spec.on_maintenance is MaintenancePolicy.WAIT and not force:
        return None
    if is_replica(node) and why in (MAINTENANCE, PREEMPTED) and not late:
        # Its group drains the replica, and makes another, before its engine has to end.
        return None
    for view in views:
        if view.users and not view.evicted:
            return Evict(view.fabric, view.host, node.metadata.namespace, view.users, force)
    return None


def evict_for(picture: LogicalNodePicture, node: LogicalNode, claims: Claims) -> Step | None:
    """The same for devices that leave alone, by what is known of each."""
    for claim in claims:
        marked = find(claim.status.conditions, "Leaving")
        view = picture.hosts[claim.spec.fabric, claim.spec.host]
        if marked is None or marked.reason not in (MAINTENANCE, FAILED):
            continue
        drain = OWNERS_OWN if marked.reason == FAILED else view.withheld.get(claim.spec.device)
        if drain is None:
            # The maintenance has ended: nobody is asked to go for it any more.
            continue
        seconds = view.leaving_seconds.get(claim.spec.device, 0.0)
        step = evict([view], node, drain, seconds, marked.reason)
        if step is not None:
            return step
    return None


def words(views: Iterable[HostView], users: Iterable[str]) -> str:
    """Which pods are waited for, and which of them a budget keeps."""
    kept = sorted({pod for view in views for pod in view.kept})
    budget = f"; a PodDisruptionBudget keeps {', '.join(kept[:5])}" if kept else ""
    return f"pods still use the devices: {', '.join(list(users)[:5])}{budget}"


def said_of(why: str, text: str) -> Fact:
    return "Draining", True, why, text


def reason_of(claim: DeviceAttachment) -> str:
    """Why a device leaves; empty: it does not."""
    marked = find(claim.status.conditions, "Leaving")
    return marked.reason if marked is not None and marked.status == "True" else ""

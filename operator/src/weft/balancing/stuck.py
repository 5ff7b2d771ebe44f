"""Replicas that get no further by themselves. Pure.

One of them costs no more than itself: it is named with what keeps it, and nothing else waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from weft.balancing.replicas import Replica
from weft.balancing.state import Finding
from weft.balancing.targets import Target

OVERDUE = timedelta(seconds=60)
"""A pod that is there so long after its grace: the kubelet that would end it does not answer."""
PENDING = timedelta(seconds=120)
"""A pod that does not run by then has no room, or no image."""
STARTING = timedelta(seconds=600)
"""An engine that runs and is not ready by then will not be: as for Deployments (progressDeadlineSeconds)."""

ENDS = 3
"""So many pods that end before one runs are no chance: a kubelet that was just started refuses one."""


def ends_again(one: Replica) -> bool:
    """Whether pod after pod of a replica ends by itself before it runs: its kubelet refuses it, or evicts it."""
    return one.pods_ended >= ENDS


def lost(one: Replica, now: datetime) -> bool:
    """Whether a pod that was to end is still there long after its grace: another one may take its place."""
    return one.pod_deleting and one.pod_ends_at is not None and now - one.pod_ends_at > OVERDUE


def failing(one: Replica, now: datetime) -> bool:
    """Whether a pod has not become ready in the time that it may take."""
    if not one.has_pod or one.pod_deleting or one.containers_ready or one.created_at is None:
        return False
    if one.waits_for_hardware:
        return False
    since = max(one.created_at, one.ready_changed_at or one.created_at)
    limit = PENDING if not one.pod_running or one.waits_for else STARTING
    return now - since > limit


def lacks_pods(target: Target, decided_at: datetime | None, now: datetime) -> bool:
    """Whether a workload has had the time to make its pods and has fewer than it is to have: a quota, a webhook.

    Its own controller's delay is no failure, and nobody dates it: so long after the last decision there is none.
    """
    return len(target.pods) < target.replicas and decided_at is not None and now - decided_at > PENDING


def short_of_pods(
    targets: Mapping[str, Target], decided_at: datetime | None, now: datetime
) -> Finding | None:
    """Which workload makes fewer pods than it is to have; None where none does."""
    for role, target in sorted(targets.items()):
        if lacks_pods(target, decided_at, now):
            text = (
                f"{target} of role {role} has fewer pods than replicas: its own events and conditions say why"
            )
            return Finding(False, "ReplicaStuck", f"{text}; it gets no more replicas until it has them")
    return None


def stuck(replicas: Iterable[Replica], now: datetime) -> Finding | None:
    """Which replica gets no further, and what to do; None where all do."""
    for one in sorted(replicas, key=lambda one: (one.number, one.name)):
        who = f"pod {one.name} of role {one.role}"
        if lost(one, now):
            text = f"{who} was to end and is still there (Terminating): where its machine is surely off, delete it"
            rest = "with --force; another takes its place where accelerators.maximum has room"
            return Finding(False, "ReplicaStuck", f"{text} {rest}")
        if ends_again(one):
            why = f" ({one.ended_for})" if one.ended_for else ""
            text = f"{who} ends again and again before it is ready{why}: kubectl describe pod {one.name} says more"
            rest = "it is made anew ever more rarely, every 5 minutes in the end"
            return Finding(False, "ReplicaStuck", f"{text}; {rest}")
        if failing(one, now):
            why = f" ({one.waits_for})" if one.waits_for else ""
            state = "ready" if one.pod_running else "running"
            text = f"{who} is not {state} in time{why}: kubectl describe pod {one.name} says more"
            rest = "a template that is rolled goes no further until it serves, and one that is set back replaces it"
            return Finding(False, "ReplicaStuck", f"{text}; {rest}")
    return None

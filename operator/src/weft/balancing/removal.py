"""Taking replicas away: out of the router, drained, pod deleted, then its logical node. Pure.

Nothing is recorded: where a removal stands is read from the replica, beginning with the reason for which it is out of
the router. It has no way back.
"""

from __future__ import annotations

import enum
from datetime import datetime

from weft.api import Drain, Stage
from weft.balancing.drain import may_stop
from weft.balancing.observe import GroupPicture
from weft.balancing.replicas import Replica
from weft.balancing.steps import DeleteNode, DeletePod, GateReason, LeaveRouter, Step


class RemovalStage(enum.StrEnum):
    """Where the removal of a replica stands."""

    SERVING = "Serving"
    """Not begun: the router may still send it requests."""
    DRAINING = "Draining"
    """Out of the router; it finishes what it has, and decode replicas read its KV caches."""
    ENDING = "Ending"
    """Its pod is being deleted."""
    BARE = "Bare"
    """Only its logical node is left."""
    RELEASING = "Releasing"
    """Its logical node gives the devices back."""


def stage_of(replica: Replica) -> RemovalStage:
    """Where the removal of this replica stands."""
    if replica.has_pod:
        if replica.pod_deleting:
            return RemovalStage.ENDING
        out = replica.gate is False and replica.gate_reason == GateReason.REMOVING
        return RemovalStage.DRAINING if out else RemovalStage.SERVING
    return RemovalStage.RELEASING if replica.node_deleting else RemovalStage.BARE


def next_step(replica: Replica, picture: GroupPicture, now: datetime) -> Step | None:
    """The next step of a removal that is wanted; None: wait."""
    stage = stage_of(replica)
    if stage is RemovalStage.BARE:
        return DeleteNode(replica.name, "its pod is gone")
    if stage in (RemovalStage.ENDING, RemovalStage.RELEASING):
        return None
    if may_end(replica, picture, now):
        return DeletePod(replica.name, "nothing needs it any more, or its drain timed out")
    if stage is RemovalStage.SERVING:
        reason = "finishes its requests before it is removed"
        return LeaveRouter(replica.name, reason, GateReason.REMOVING)
    return None


def may_end(replica: Replica, picture: GroupPicture, now: datetime) -> bool:
    """Whether its engine may be ended now."""
    loads = picture.reading.loads
    others = [one for one in picture.running if one.name != replica.name and one.pod_running]
    reading = (loads.get(one.name) for one in others if one.stage == Stage.PREFILL.label)
    return may_stop(
        replica,
        loads.get(replica.name),
        [loads.get(one.name) for one in others],
        any(one is not None and one.waiting > 0 for one in reading),
        picture.windows.scrape_seconds,
        picture.kv_hold_seconds,
        picture.kv_use_tells_reads,
        drain_seconds(replica, picture),
        now,
    )


def drain_seconds(replica: Replica, picture: GroupPicture) -> int:
    """How long the replica's drain may take; a role that is gone is kept to what it promised."""
    role = picture.roles.get(replica.role)
    if role is not None:
        return role.spec.drain.timeout_seconds
    if replica.drain_timeout_seconds is not None:
        return replica.drain_timeout_seconds
    return Drain().timeout_seconds

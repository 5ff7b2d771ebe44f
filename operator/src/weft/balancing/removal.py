"""Taking replicas away: out of the router, drained, pod deleted, then its logical node."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from weft.api import Drain
from weft.api.resources import INFERENCE_GROUPS
from weft.balancing.actions import Actions
from weft.balancing.drain import may_stop
from weft.balancing.observe import Metrics, World
from weft.balancing.replicas import GATE_REMOVING, Replica
from weft.cluster import Cluster, drop_finalizer


async def remove_replicas(
    actions: Actions, world: World, metrics: Metrics, names: Iterable[str], now: datetime
) -> None:
    """Take each of these replicas one step further out. Raises ClusterError."""
    for name in names:
        replica = world.replica(name)
        if replica is not None:
            await _step(actions, world, metrics, replica, now)


async def dissolve(cluster: Cluster, world: World, metrics: Metrics, now: datetime) -> bool:
    """Take the whole group's replicas away, then let the group go. Returns whether nothing is left to do."""
    actions = Actions(cluster, world, now)
    await remove_replicas(actions, world, metrics, [one.name for one in world.replicas], now)
    if world.replicas:
        return False
    await drop_finalizer(cluster, INFERENCE_GROUPS, world.raw)
    return True


async def _step(actions: Actions, world: World, metrics: Metrics, replica: Replica, now: datetime) -> None:
    if not replica.has_pod:
        if replica.has_node and not replica.node_deleting:
            await actions.delete_node(replica)
        return
    if replica.pod_deleting:
        return
    role = world.roles.get(replica.role)
    if role is not None:
        timeout = role.spec.drain.timeout_seconds
    elif replica.drain_timeout_seconds is not None:
        timeout = replica.drain_timeout_seconds
    else:
        timeout = Drain().timeout_seconds
    loads = metrics.reading.loads
    others = [loads.get(one.name) for one in world.replicas if one.name != replica.name and one.pod_running]
    stop = may_stop(
        replica,
        loads.get(replica.name),
        others,
        metrics.windows.scrape_seconds,
        metrics.kv_hold_seconds,
        timeout,
        now,
    )
    if stop:
        await actions.delete_pod(replica)
    elif replica.gate is not False or replica.gate_reason != GATE_REMOVING:
        await actions.set_gate(replica, False, GATE_REMOVING)

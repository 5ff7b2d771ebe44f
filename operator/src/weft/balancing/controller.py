"""One pass over one inference group: observe, carry on what is recorded, decide, write the status once.

What is decided in a pass is written at its end and carried out by later ones, so that a restart at any point
finds the intention in etcd: replicas follow `status.allocation`, flips follow `status.transfers`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping
from datetime import datetime

from weft.api import InferenceGroup, InferenceRole, Transfer, TransferStep
from weft.api.conditions import find
from weft.api.names import FINALIZER, LABEL_GROUP
from weft.api.resources import ENGINE_PROFILES, INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS
from weft.balancing.actions import Actions
from weft.balancing.keys import GroupKey
from weft.balancing.observe import Metrics, World, gather, measure
from weft.balancing.presets import Preset
from weft.balancing.prometheus import PrometheusSource
from weft.balancing.removal import dissolve, remove_replicas
from weft.balancing.replicas import GATE_IN, GATE_REMOVING, Replica
from weft.balancing.roster import Roster, plan_roster
from weft.balancing.state import Finding, Split
from weft.balancing.status import (
    Carried,
    Notes,
    dissolving_status,
    events_of,
    group_status,
    role_statuses,
    settle,
)
from weft.balancing.transfers import SHOWN, backward, forward, reason_to_turn_back
from weft.cluster import Cluster, ConflictError, InvalidError, Object, add_finalizer
from weft.controllers import Now, Watch
from weft.saga.engine import advance

LOOK_SECONDS = 2.0
"""How often a group is looked at when nothing happens to it."""
MOVING_SECONDS = 0.5
"""The same while something drains or is on its way."""
RETRY_SECONDS = 0.2
"""After a write that lost to another one."""


class GroupController:
    """Brings InferenceGroups nearer to what they should be."""

    def __init__(
        self, cluster: Cluster, sources: Mapping[str, PrometheusSource], presets: Mapping[str, Preset]
    ) -> None:
        self._cluster = cluster
        self._sources = sources
        self._presets = presets

    @property
    def watches(self) -> tuple[Watch[GroupKey], ...]:
        """A group's objects: itself, its roles with their profiles, its replicas."""
        return (
            Watch(INFERENCE_GROUPS, lambda _, group: [_key(group, group["metadata"]["name"])]),
            Watch(INFERENCE_ROLES, lambda _, role: [_key(role, role["spec"]["groupRef"]["name"])]),
            Watch(ENGINE_PROFILES, _groups_with_profile),
            Watch(LOGICAL_NODES, _group_that_owns),
            Watch(PODS, _group_in_label),
        )

    async def reconcile(self, key: GroupKey, now: Now) -> float | None:
        """Bring one group one step nearer to what it should be.

        Returns in how many seconds to look again, or None when the group is gone. Raises ClusterError when the API
        server refuses or is not there: repeat later.
        """
        raw = self._cluster.get(INFERENCE_GROUPS, key.name, key.namespace)
        if raw is None:
            return None
        try:
            return await _reconcile(self._cluster, self._sources, self._presets, raw, now.wall)
        except ConflictError:
            return RETRY_SECONDS


def _key(obj: Object, group_name: str) -> GroupKey:
    return GroupKey(obj["metadata"]["namespace"], group_name)


def _groups_with_profile(cluster: Cluster, profile: Object) -> Iterator[GroupKey]:
    name, namespace = profile["metadata"]["name"], profile["metadata"]["namespace"]
    for role in cluster.list(INFERENCE_ROLES, namespace):
        if role["spec"].get("profileRef", {}).get("name") == name:
            yield _key(role, role["spec"]["groupRef"]["name"])


def _group_that_owns(cluster: Cluster, node: Object) -> Iterator[GroupKey]:
    for owner in node["metadata"].get("ownerReferences", ()):
        if owner.get("kind") == INFERENCE_GROUPS.kind:
            yield _key(node, owner["name"])


def _group_in_label(cluster: Cluster, pod: Object) -> Iterator[GroupKey]:
    if name := pod["metadata"].get("labels", {}).get(LABEL_GROUP):
        yield _key(pod, name)


async def _reconcile(
    cluster: Cluster,
    sources: Mapping[str, PrometheusSource],
    presets: Mapping[str, Preset],
    raw: Object,
    now: datetime,
) -> float | None:
    world = gather(cluster, raw)
    group = world.group
    metrics = await measure(world, sources, presets, now)
    if group.metadata.deletion_timestamp is not None:
        if await dissolve(cluster, world, metrics, now):
            return None
        await cluster.write_status(INFERENCE_GROUPS, raw, dissolving_status(world, metrics, now))
        return MOVING_SECONDS
    if FINALIZER not in group.metadata.finalizers:
        # Before the first replica: the group must not vanish while something of it runs.
        await add_finalizer(cluster, INFERENCE_GROUPS, raw)
        return RETRY_SECONDS
    actions = Actions(cluster, world, now)
    notes = Notes()
    carried = await _carry_on(actions, world, metrics, notes, now)
    recorded = Split.read(group.status.allocation)
    if recorded:
        roster = _roster(world, recorded, carried, now)
        await _follow(actions, world, metrics, roster, carried, notes, now)
    else:
        roster = Roster()
    settlement = settle(world, metrics, carried, roster.obstacle, now)
    await cluster.write_status(INFERENCE_GROUPS, raw, group_status(world, metrics, settlement, now))
    for role_name, status in role_statuses(world, settlement, notes.invalid, now).items():
        await cluster.write_status(INFERENCE_ROLES, world.raw_roles[role_name], status)
    for warning, reason, message in [*notes.events, *events_of(world, settlement)]:
        cluster.event(raw, "Warning" if warning else "Normal", reason, message)
    if settlement.transfers or roster.remove or roster.nodes or roster.pods:
        return MOVING_SECONDS
    return LOOK_SECONDS


async def _carry_on(actions: Actions, world: World, metrics: Metrics, notes: Notes, now: datetime) -> Carried:
    """Take every recorded transfer one step further."""
    still: list[Transfer] = []
    returned: list[Transfer] = []
    for transfer in world.group.status.transfers:
        replica = world.replica(transfer.replica)
        if replica is None or not replica.has_pod or replica.removing:
            notes.add(
                "TransferEnded", f"{transfer.replica} is gone before it served {transfer.to}", warning=True
            )
            continue
        acts = actions.acts(replica, world.roles.get(transfer.from_), world.roles.get(transfer.to))
        if transfer.step is TransferStep.ROLLING_BACK:
            progress = await advance(backward(replica, acts))
            (returned if progress.finished else still).append(transfer)
            continue
        why = reason_to_turn_back(transfer, replica, world.replicas, world.roles, now)
        if why:
            # Recorded first, carried out by the next pass: a restart in between must not begin the drain anew.
            still.append(transfer.with_changes(step=TransferStep.ROLLING_BACK))
            notes.add(
                "TransferRolledBack",
                f"{transfer.replica} stays with {transfer.from_} instead of {transfer.to}: {why}",
                warning=True,
            )
            continue
        load = metrics.reading.loads.get(replica.name)
        progress = await advance(forward(transfer, replica, load, metrics.windows.scrape_seconds, acts))
        if progress.finished:
            seconds = (now - transfer.start_time).total_seconds()
            notes.add(
                "TransferFinished",
                f"{transfer.replica} serves {transfer.to}, {seconds:.0f} s after it was taken from {transfer.from_}",
            )
        else:
            still.append(transfer.with_changes(step=SHOWN[progress.at]))
    return Carried(tuple(still), tuple(returned))


def _roster(world: World, allocation: Split, carried: Carried, now: datetime) -> Roster:
    return plan_roster(
        world.group.metadata.name,
        world.roles,
        world.kinds,
        allocation,
        world.replicas,
        {one.replica: one.to for one in carried.open if one.step is not TransferStep.ROLLING_BACK},
        world.taken,
        world.group.spec.accelerators.maximum,
        now,
    )


async def _follow(
    actions: Actions,
    world: World,
    metrics: Metrics,
    roster: Roster,
    carried: Carried,
    notes: Notes,
    now: datetime,
) -> None:
    """Let the replicas follow the recorded allocation."""
    known_invalid = {
        name: finding
        for name, role in world.roles.items()
        if (finding := _refused_before(world.group, role)) is not None
    }
    notes.invalid |= known_invalid
    for new_pod in roster.pods:
        if new_pod.role not in notes.invalid:
            await _unless_invalid(actions.create_pod(world.roles[new_pod.role], new_pod), new_pod.role, notes)
    for name in sorted({new.role for new in roster.nodes} - set(notes.invalid)):
        # Before hardware is bound for it.
        first = next(new.name for new in roster.nodes if new.role == name)
        await _unless_invalid(actions.validate(world.roles[name], first), name, notes)
    for new_node in roster.nodes:
        if new_node.role not in notes.invalid:
            await actions.create_node(world.roles[new_node.role], new_node)
    moving = {one.replica for one in carried.open}
    for replica in world.replicas:
        if replica.name not in moving and replica.name not in roster.remove and _belongs_in(replica):
            await actions.set_gate(replica, True, GATE_IN)
    for name in roster.replace:
        replica_to_replace = world.replica(name)
        if replica_to_replace is not None:
            await actions.delete_pod(replica_to_replace)
    for name, role_name in roster.relabel:
        await actions.relabel_node(name, role_name)
    await remove_replicas(actions, world, metrics, roster.remove, now)


def _belongs_in(replica: Replica) -> bool:
    """Whether a replica is out of the router although nobody wants it out."""
    return (
        replica.has_pod
        and replica.pod_running
        and not replica.pod_deleting
        and replica.gate is not True
        and replica.gate_reason != GATE_REMOVING
    )


async def _unless_invalid(act: Awaitable[None], role_name: str, notes: Notes) -> None:
    """Carry an act out; a template that the API server refuses is noted for the role's condition."""
    try:
        await act
    except InvalidError as error:
        message = f"the API server refuses the pod made from the template: {error.message}"
        notes.invalid[role_name] = Finding(False, "TemplateInvalid", message)


def _refused_before(group: InferenceGroup, role: InferenceRole) -> Finding | None:
    """The refusal of this very template, if it was refused: asking again would give the same answer."""
    known = find(role.status.conditions, "Ready")
    if group.status.observed_generation != group.metadata.generation:
        return None  # the group's template may be another one now
    if (
        known is None
        or known.reason != "TemplateInvalid"
        or known.observed_generation != role.metadata.generation
    ):
        return None
    return Finding(False, known.reason, known.message)

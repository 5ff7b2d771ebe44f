"""Gathers what is known about a group: its objects from the cache, its metrics from Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from weft.api import InferenceGroup, InferenceRole, RebalanceMode, Stage
from weft.api.conditions import find
from weft.api.names import LABEL_GROUP
from weft.api.resources import ENGINE_PROFILES, INFERENCE_ROLES, LOGICAL_NODES, PODS
from weft.balancing.bodies import with_template
from weft.balancing.capacity import corrections
from weft.balancing.demand import offered
from weft.balancing.presets import Preset, Windows
from weft.balancing.profile import Profile, Unusable, profile_of
from weft.balancing.prometheus import PrometheusSource, SourceError
from weft.balancing.replicas import Replica, kind_of, replica, serving_in
from weft.balancing.signals import SCRAPES_UNTIL_STALE, Reading, read
from weft.balancing.state import (
    NO_SPLIT,
    Corrections,
    Hold,
    PodLoad,
    RoleState,
    Split,
    SplitInputs,
    Traffic,
)
from weft.cluster import Cluster, Object


@dataclass(frozen=True)
class World:
    """A group's objects at one instant."""

    group: InferenceGroup
    raw: Object
    roles: Mapping[str, InferenceRole]
    """Roles with the template that their pods are made from, by name, without those that are being deleted."""
    kinds: Mapping[str, str]
    all_roles: Mapping[str, InferenceRole]
    """Also those that have no template, and whose group has none."""
    raw_roles: Mapping[str, Object]
    profiles: Mapping[str, Profile | Unusable]
    replicas: tuple[Replica, ...]
    taken: frozenset[str]
    """Names of replicas that pods and logical nodes of others have."""

    def replica(self, name: str) -> Replica | None:
        """The replica of this name, or None."""
        return next((one for one in self.replicas if one.name == name), None)


@dataclass(frozen=True)
class Metrics:
    """What the metrics say about a group now."""

    reading: Reading
    windows: Windows
    kv_hold_seconds: float


def gather(cluster: Cluster, raw: Object) -> World:
    """The group's objects, from the cache."""
    group = InferenceGroup.model_validate(raw)
    name, namespace, uid = group.metadata.name, group.metadata.namespace, group.metadata.uid
    roles: dict[str, InferenceRole] = {}
    raw_roles: dict[str, Object] = {}
    for one in cluster.list(INFERENCE_ROLES, namespace):
        role = InferenceRole.model_validate(one)
        if role.spec.group_ref.name == name and role.metadata.deletion_timestamp is None:
            roles[role.metadata.name], raw_roles[role.metadata.name] = role, one
    runnable = {
        key: whole for key in sorted(roles) if (whole := with_template(group, roles[key])) is not None
    }
    profiles: dict[str, Profile | Unusable] = {}
    for key, role in runnable.items():
        wanted = role.spec.profile_ref.name
        profiles[key] = profile_of(cluster.get(ENGINE_PROFILES, wanted, namespace), wanted)
    pods = {one["metadata"]["name"]: one for one in cluster.list(PODS, namespace)}
    nodes = {one["metadata"]["name"]: one for one in cluster.list(LOGICAL_NODES, namespace)}
    own_pods = {key: pod for key, pod in pods.items() if _owned(pod, name, uid)}
    own_nodes = {key: node for key, node in nodes.items() if _owned(node, name, uid)}
    replicas: list[Replica] = []
    for key in sorted({*own_pods, *own_nodes}):
        found = replica(key, own_pods.get(key), own_nodes.get(key))
        if not found.has_node:
            served = runnable.get(found.role)
            # Of a role that is gone nothing is known; a plain pod counts as one accelerator, as by default.
            count = served.spec.accelerators_counted if served is not None else 1
            found = replace(found, accelerators=count)
        replicas.append(found)
    return World(
        group=group,
        raw=raw,
        roles=runnable,
        kinds={key: kind_of(role, group.spec.rebalance.flip) for key, role in runnable.items()},
        all_roles=roles,
        raw_roles=raw_roles,
        profiles=profiles,
        replicas=tuple(sorted(replicas, key=lambda one: (one.number, one.name))),
        taken=frozenset({*pods, *nodes} - {*own_pods, *own_nodes}),
    )


async def measure(
    world: World, sources: Mapping[str, PrometheusSource], presets: Mapping[str, Preset], now: datetime
) -> Metrics:
    """The group's metrics; whatever is wrong with them is a hold with its reason, never an exception."""
    wanted = world.group.spec.metrics
    source, preset = sources.get(wanted.source), presets.get(wanted.preset)
    if source is None or preset is None:
        missing = f"source {wanted.source!r}" if source is None else f"preset {wanted.preset!r}"
        hold = Hold(
            "SourceNotFound" if source is None else "PresetNotFound",
            f"the operator's settings have no metrics {missing}: ask its administrator",
        )
        return Metrics(Reading(None, {}, hold), Windows(15.0), 0.0)
    return Metrics(await _read(world, source, preset, now), source.windows, preset.kv_hold_seconds)


async def _read(world: World, source: PrometheusSource, preset: Preset, now: datetime) -> Reading:
    try:
        snapshot = await source.read(preset)
    except SourceError as error:
        return Reading(None, {}, Hold("SourceUnavailable", str(error)))
    # A replica that entered service just now may not have been scraped yet: nothing is wrong with that.
    settled = now - timedelta(seconds=SCRAPES_UNTIL_STALE * source.windows.scrape_seconds)
    expected = {
        one.name
        for one in world.replicas
        if one.serving and one.ready_changed_at is not None and one.ready_changed_at <= settled
    }
    return read(
        snapshot,
        world.group.metadata.namespace,
        world.group.spec.metrics.models,
        {one.name for one in world.replicas if one.has_pod},
        expected,
        source.windows.scrape_seconds,
    )


def split_inputs(
    world: World,
    metrics: Metrics,
    allocation: Split,
    decided_at: datetime | None,
    settled: bool,
    moving: tuple[tuple[str, str], ...],
    now: datetime,
) -> SplitInputs:
    """All that the planner may know."""
    spec, status = world.group.spec, world.group.status
    reading = metrics.reading
    generated = _generated(world, reading.loads)
    balanced = find(status.conditions, "Balanced")
    alternatives = status.decision.alternatives if status.decision is not None else ()
    recommends = spec.rebalance.mode is RebalanceMode.RECOMMEND and alternatives
    return SplitInputs(
        mode=spec.rebalance.mode,
        flip=spec.rebalance.flip,
        objectives=spec.objectives,
        budget_accelerators=spec.accelerators.maximum,
        cooldown_seconds=spec.rebalance.cooldown_seconds,
        roles=tuple(_role_state(world, role) for role in world.roles.values()),
        now=now,
        allocation=allocation,
        recommended=Split.read(alternatives[0].allocation) if recommends else NO_SPLIT,
        decided_at=decided_at,
        moved_at=balanced.last_transition_time
        if balanced is not None and balanced.status == "True"
        else None,
        settled=settled,
        moving=moving,
        traffic=reading.traffic,
        generated_tokens_per_second=generated,
        corrections=_corrections(world, reading.loads, reading.traffic, generated, metrics.windows, now),
        hold=reading.hold,
    )


def _role_state(world: World, role: InferenceRole) -> RoleState:
    profile = world.profiles[role.metadata.name]
    return RoleState(
        name=role.metadata.name,
        stage=role.spec.stage,
        minimum=role.spec.min_replicas,
        maximum=role.spec.max_replicas,
        spec_replicas=role.spec.replicas_asked,
        accelerators_per_replica=role.spec.accelerators_counted,
        kind=world.kinds[role.metadata.name],
        profile=profile if isinstance(profile, Profile) else None,
        profile_error=profile.why if isinstance(profile, Unusable) else "",
        serving=len(serving_in(world.replicas, role.metadata.name)),
    )


def _generated(world: World, loads: Mapping[str, PodLoad]) -> float:
    """Tokens per second at which answers are written. Draining replicas write too; prefill's one token is not of it."""
    return sum(
        loads[one.name].generated_tokens_per_second or 0.0
        for one in world.replicas
        if one.stage != Stage.PREFILL.label and one.name in loads
    )


def _corrections(
    world: World,
    loads: Mapping[str, PodLoad],
    traffic: Traffic | None,
    generated: float,
    windows: Windows,
    now: datetime,
) -> Corrections:
    """Observed speed against the profile, from replicas that had one role during the whole long window.

    Where a stage has several roles, they are compared with the first one's profile.
    """
    demand = offered(traffic, generated) if traffic is not None else None
    if demand is None:
        return Corrections()
    since = now - timedelta(seconds=windows.long_seconds)
    steady = [
        one for one in world.replicas if one.serving and (one.role_since is None or one.role_since <= since)
    ]

    def of(stage: Stage) -> tuple[Profile | None, list[PodLoad]]:
        profiles = [world.profiles[name] for name, role in world.roles.items() if role.spec.stage is stage]
        first = next((one for one in profiles if isinstance(one, Profile)), None)
        return first, [loads[one.name] for one in steady if one.stage == stage.label and one.name in loads]

    return corrections(of(Stage.PREFILL), of(Stage.DECODE), demand.prompt_tokens, windows.long_seconds)


def _owned(obj: Object, group_name: str, group_uid: str) -> bool:
    """Whether the group controls the object: a label alone can be written by anyone."""
    metadata = obj["metadata"]
    return (metadata.get("labels") or {}).get(LABEL_GROUP) == group_name and any(
        owner.get("controller") and owner.get("uid") == group_uid
        for owner in metadata.get("ownerReferences") or ()
    )

"""One frozen picture of a group: its objects from the cache, its readings from Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from weft.api import FlipMethod, InferenceGroup, InferenceRole, RebalanceMode, Stage
from weft.api.conditions import is_false
from weft.api.inference import MOST_ROLES
from weft.api.names import LABEL_GROUP
from weft.api.resources import ENGINE_PROFILES, INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS
from weft.balancing.answers import present
from weft.balancing.bodies import with_template
from weft.balancing.drain import idle
from weft.balancing.engine_calls import EngineCalls, EngineRole
from weft.balancing.engine_calls import asked as to_ask
from weft.balancing.moments import Moments
from weft.balancing.presets import Preset, Windows
from weft.balancing.profile import Profile, Unusable, profile_of
from weft.balancing.prometheus import PrometheusSource, SourceError
from weft.balancing.refusals import Refusal, Version
from weft.balancing.replicas import Replica, kind_of, replica, revision_of, serving_in
from weft.balancing.settings import RoleSwitchSettings
from weft.balancing.signals import SCRAPES_UNTIL_STALE, Group, Reading, read
from weft.balancing.stages import by_stage, is_planned
from weft.balancing.state import Answers, Finding, Hold, Split
from weft.balancing.steps import Subject
from weft.balancing.targets import Kinds, Target, read_target
from weft.balancing.windows import minimum_at
from weft.cluster import Cluster, Object
from weft.controllers import Now
from weft.domains import domain_words


@dataclass(frozen=True)
class GroupPicture:
    """All that is known about a group at one instant: its objects, its replicas, its readings."""

    group: InferenceGroup
    raw: Object
    roles: Mapping[str, InferenceRole]
    """Roles with the template that their pods are made from, by name, without those that are being deleted."""
    kinds: Mapping[str, str]
    """By role: roles of one kind can exchange replicas."""
    revisions: Mapping[str, str]
    """By role: of its pods that are made from the present template and node."""
    all_roles: Mapping[str, InferenceRole]
    """Also those that have no template, and whose group has none."""
    raw_roles: Mapping[str, Object]
    """Also those of roles that are too many."""
    too_many: Mapping[str, InferenceRole]
    """Roles beyond those that a group can have, by name: they are in none of the above and get no replicas."""
    profiles: Mapping[str, Profile | Unusable]
    """By role that names one."""
    replicas: tuple[Replica, ...]
    taken: frozenset[str]
    """Names of replicas that pods and logical nodes of others have."""
    reading: Reading
    windows: Windows
    kv_hold_seconds: float
    kv_use_tells_reads: bool
    refusals: Mapping[Subject, Refusal]
    """What the API server refused at the last try."""
    targets: Mapping[str, Target] = field(default_factory=dict)
    """By role: the workload that its scaleTargetRef names, where it can be scaled."""
    target_problems: Mapping[str, Finding] = field(default_factory=dict)
    """By role: why that workload cannot be."""
    asked: bool | None = None
    """As the reading's, or as it was told last."""
    untold: bool = False
    """Nothing has told it for a while."""
    role_switch: RoleSwitchSettings | None = None
    """How the engines change their stage by an HTTP call, where they do."""
    engine_roles: Mapping[str, EngineRole] = field(default_factory=dict)
    """By replica: what its engine says of itself, where it was asked."""
    overrun_since: Mapping[str, datetime] = field(default_factory=dict)
    """By role of stage Encode: since when more requests wait at its replicas than they work on."""
    own_speeds: Mapping[str, float] = field(default_factory=dict)
    """By replica: how fast it was seen to write answers, over its profile's speed."""
    sent_late: frozenset[str] = frozenset()
    """Replicas on which requests went on beginning long after they had left the router, in the last minutes."""
    domain: str = ""
    """Of all replicas' devices, where the group asks for one: what is to be recorded. Empty: none is chosen."""
    no_domain: Finding | None = None
    """Why none is, where one is wanted."""
    decided_at: datetime | None = None
    recommended_at: datetime | None = None
    scaled_at: datetime | None = None
    grown_at: datetime | None = None
    minimum_accelerators: int | None = None
    """What `spec.accelerators` asks for at this time of the week; None: the size is fixed."""
    schedule_problem: Finding | None = None
    """Why its schedule cannot be read."""

    between: tuple[Replica, ...] = ()
    """Replicas of which nothing is there: their pod has just ended by itself, not for the first time."""

    def replica(self, name: str) -> Replica | None:
        """The replica of this name, or None."""
        return next((one for one in self.replicas if one.name == name), None)

    @property
    def running(self) -> tuple[Replica, ...]:
        """The replicas that Weft makes, and those of existing workloads."""
        return (*self.replicas, *(one for target in self.targets.values() for one in target.pods))

    @property
    def restarts(self) -> bool:
        """Whether a replica changes its role by a new pod on its logical node."""
        return self.group.spec.rebalance.flip is FlipMethod.RESTART

    @property
    def calls_engines(self) -> bool:
        """Whether a replica changes its role by an HTTP call to its engine."""
        return self.group.spec.rebalance.flip is FlipMethod.HTTP

    @property
    def recomposes(self) -> bool:
        """Whether a replica of one role goes with its logical node, and one of the other role is composed."""
        return self.group.spec.rebalance.flip is FlipMethod.RECOMPOSE

    @property
    def drains_first(self) -> bool:
        """Whether a replica finishes its requests before it changes its role."""
        return (
            self.restarts
            or self.calls_engines
            or self.recomposes
            or bool(self.group.spec.rebalance.drain_first)
        )

    @property
    def accelerators_held(self) -> int:
        """Accelerators of all replicas, also of those that an existing workload is about to get."""
        return sum(one.accelerators for one in self.replicas) + sum(
            self.roles[name].spec.accelerators_counted * self.held_by(name) for name in self.targets
        )

    @property
    def others_scale(self) -> bool:
        """Whether something other than Weft was seen to scale one of the existing workloads."""
        records = [self.roles[name].status.scale_target for name in self.targets]
        return any(one is not None and one.other_replicas is not None for one in records)

    @property
    def may_be_without_replicas(self) -> bool:
        """Whether it is left without any while nobody asks for anything, if its front end tells when somebody does."""
        spec = self.group.spec
        return (
            spec.rebalance.mode is RebalanceMode.AUTO
            and self.minimum_accelerators == 0
            and all(role.spec.min_replicas == 0 for role in self.all_roles.values())
        )

    def held_by(self, name: str) -> int:
        """Replicas of a role's workload that hold hardware, also those that Weft is about to ask for."""
        record = self.roles[name].status.scale_target
        return max(self.targets[name].held, record.replicas if record is not None else 0)

    def serving(self, role: str) -> int:
        """How many replicas of a role take requests."""
        return len(serving_in(self.running, role))

    def version(self, subject: Subject) -> Version:
        """The generations that steps about this subject are made from."""
        role = self.all_roles.get(subject.name) if subject.kind == "role" else None
        return self.group.metadata.generation, role.metadata.generation if role is not None else 0


async def observe(
    cluster: Cluster,
    sources: Mapping[str, PrometheusSource],
    presets: Mapping[str, Preset],
    raw: Object,
    refusals: Mapping[Subject, Refusal],
    moments: Moments,
    now: Now,
    scale_kinds: Kinds,
    engines: EngineCalls,
) -> GroupPicture:
    """The picture of the group `raw`, from the cache and from Prometheus. Times in it are as `moments` tells them.

    Whatever is wrong with the metrics is a hold with its reason, never an exception. Raises ClusterError where the API
    server does not answer for the workloads of roles that have one.
    """
    picture = await _with_targets(cluster, _objects(cluster, raw, refusals), scale_kinds)
    picture = _told(picture, moments, now)
    wanted = picture.group.spec.metrics
    source, preset = sources.get(wanted.source), presets.get(wanted.preset)
    if source is None or preset is None:
        missing = f"source {wanted.source!r}" if source is None else f"preset {wanted.preset!r}"
        hold = Hold(
            "SourceNotFound" if source is None else "PresetNotFound",
            f"the operator's settings have no metrics {missing}: ask its administrator",
        )
        return replace(picture, reading=Reading(None, {}, hold))
    alone = len(cluster.list(INFERENCE_GROUPS, picture.group.metadata.namespace)) == 1
    reading = await _read(picture, source, preset, moments, alone, now)
    asked, untold = moments.asked.of(reading.asked, now.boot)
    scrape_seconds = source.windows.scrape_seconds
    picture = replace(
        picture,
        replicas=tuple(
            replace(one, idle_since=moments.since(one.pod_uid, "idle", now))
            if idle(one, reading.loads.get(one.name), scrape_seconds)
            else one
            for one in picture.replicas
        ),
        reading=reading,
        sent_late=moments.sent_late.of(picture.running, reading.loads, now.boot),
        overrun_since={
            name: moments.since(role.metadata.uid, "overrun", now)
            for name, role in picture.roles.items()
            if role.spec.stage is Stage.ENCODE and _overrun(picture.replicas, name, reading)
        },
        asked=asked,
        untold=untold,
        windows=source.windows,
        kv_hold_seconds=preset.kv_hold_seconds,
        kv_use_tells_reads=preset.kv_use_tells_reads,
    )
    if not picture.calls_engines:
        return picture
    if preset.role_switch is None:
        return replace(picture, kinds={name: name for name in picture.kinds})
    moving = {one.replica for one in picture.group.status.transfers}
    told = await engines.read(to_ask(picture.replicas, moving), preset.role_switch, moments.calls, now.boot)
    return replace(picture, role_switch=preset.role_switch, engine_roles=told)


def _objects(cluster: Cluster, raw: Object, refusals: Mapping[Subject, Refusal]) -> GroupPicture:
    """The picture without readings."""
    group = InferenceGroup.model_validate(raw)
    name, namespace, uid = group.metadata.name, group.metadata.namespace, group.metadata.uid
    roles: dict[str, InferenceRole] = {}
    raw_roles: dict[str, Object] = {}
    for one in cluster.list(INFERENCE_ROLES, namespace):
        role = InferenceRole.model_validate(one)
        if role.spec.group_ref.name == name and role.metadata.deletion_timestamp is None:
            roles[role.metadata.name], raw_roles[role.metadata.name] = role, one
    decided = {one.role for one in group.status.allocation}
    # Whoever is there stays: one that is added must not push out another.
    order = sorted(
        roles, key=lambda key: (key not in decided, str(roles[key].metadata.creation_timestamp), key)
    )
    too_many = {key: roles.pop(key) for key in order[MOST_ROLES:]}
    runnable = {
        key: whole for key in sorted(roles) if (whole := with_template(group, roles[key])) is not None
    }
    profiles: dict[str, Profile | Unusable] = {}
    for key, role in runnable.items():
        if role.spec.profile_ref is not None:
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
            served = roles.get(found.role)
            # Of a role that is gone nothing is known; a plain pod counts as one accelerator, as by default.
            count = served.spec.accelerators_counted if served is not None else 1
            found = replace(found, accelerators=count)
        elif group.spec.placement is not None:
            found = replace(found, misplaced=_misplaced(found, group, group.spec.placement.same_domain))
        replicas.append(found)
    return GroupPicture(
        group=group,
        raw=raw,
        roles=runnable,
        kinds={key: kind_of(role, group.spec.rebalance.flip) for key, role in runnable.items()},
        revisions={key: revision_of(role) for key, role in runnable.items()},
        all_roles=roles,
        raw_roles=raw_roles,
        too_many=too_many,
        profiles=profiles,
        replicas=tuple(sorted(replicas, key=lambda one: (one.number, one.name))),
        taken=frozenset((pods.keys() - own_pods.keys()) | (nodes.keys() - own_nodes.keys())),
        reading=Reading(None, {}, None),
        windows=Windows(15.0),
        kv_hold_seconds=0.0,
        kv_use_tells_reads=False,
        refusals=refusals,
    )


def _misplaced(one: Replica, group: InferenceGroup, attribute: str) -> bool:
    if group.domain:
        return one.domain != domain_words(attribute, group.domain)
    # Without a domain for all, none is to get devices in the one that was chosen before.
    return bool(one.domain) and not one.node_bound


async def _with_targets(cluster: Cluster, picture: GroupPicture, kinds: Kinds) -> GroupPicture:
    """The picture with the workloads of roles that have a scaleTargetRef; read each time, as nothing watches them."""
    targets: dict[str, Target] = {}
    problems: dict[str, Finding] = {}
    if picture.group.metadata.deletion_timestamp is not None:
        return picture
    for name, role in picture.roles.items():
        if role.spec.scale_target_ref is None:
            continue
        found = await read_target(cluster, role, kinds)
        if isinstance(found, Finding):
            problems[name] = found
        else:
            targets[name] = found
    return replace(picture, targets=targets, target_problems=problems)


def _told(picture: GroupPicture, moments: Moments, now: Now) -> GroupPicture:
    def of(one: Replica) -> Replica:
        return replace(
            one,
            gate_changed_at=moments.told(one.pod_uid, "gate", one.gate_changed_at, now),
            ready_changed_at=moments.told(one.pod_uid, "ready", one.ready_changed_at, now),
            containers_changed_at=moments.told(one.pod_uid, "containers", one.containers_changed_at, now),
            role_since=moments.told(one.pod_uid, "role", one.role_since, now),
            created_at=moments.told(one.pod_uid, "created", one.created_at, now),
            node_created_at=moments.told(one.node_uid, "created", one.node_created_at, now),
            node_draining_since=moments.told(one.node_uid, "draining", one.node_draining_since, now),
            pod_ends_at=moments.told(one.pod_uid, "ends", one.pod_ends_at, now),
        )

    decision, recommendation = picture.group.status.decision, picture.group.status.recommendation
    minimum, problem = minimum_at(picture.group.spec.accelerators, now.wall)
    told = replace(
        picture,
        replicas=moments.ended.told(map(of, picture.replicas), now.boot),
        between=moments.ended.between(picture.replicas),
        targets={
            name: replace(target, pods=tuple(map(of, target.pods)))
            for name, target in picture.targets.items()
        },
        decided_at=moments.told("", "decided", decision.decision_time if decision else None, now),
        recommended_at=moments.told(
            "", "recommended", recommendation.decision_time if recommendation else None, now
        ),
        scaled_at=moments.told("", "scaled", picture.group.status.last_scale_time, now),
        grown_at=moments.told("", "grown", picture.group.status.last_scale_up_time, now),
        minimum_accelerators=minimum,
        schedule_problem=problem,
    )
    moments.forget_others()
    return told


async def _read(
    picture: GroupPicture,
    source: PrometheusSource,
    preset: Preset,
    moments: Moments,
    alone: bool,
    now: Now,
) -> Reading:
    scrape_seconds = source.windows.scrape_seconds

    def remember(subject: str, wrong: Hold | None) -> Hold | None:
        return moments.metrics.of(subject, wrong, now.boot, scrape_seconds)

    try:
        snapshot = await source.read(preset)
    except SourceError as error:
        return Reading(None, {}, remember("", Hold("SourceUnavailable", str(error))))
    # A replica that entered service just now may not have been scraped yet: nothing is wrong with that.
    settled = now.wall - timedelta(seconds=SCRAPES_UNTIL_STALE * scrape_seconds)
    # What encodes says nothing of the load that is divided, and engines tell of it as they please.
    serving = [one for one in picture.running if one.serving and one.stage != Stage.ENCODE.label]

    def one_role(seconds: float) -> set[str]:
        since = now.wall - timedelta(seconds=seconds)
        return {one.name for one in serving if one.had_one_role(since)}

    group = Group(
        namespace=picture.group.metadata.namespace,
        models=picture.group.spec.metrics.models,
        pods={one.name for one in picture.running if one.has_pod},
        expected={
            one.name
            for one in serving
            if one.ready_changed_at is not None and one.ready_changed_at <= settled
        },
        stages={one.name: one.stage for one in serving},
        steady=one_role(source.windows.long_seconds),
        steady_lately=one_role(source.windows.short_seconds),
        alone=alone,
    )
    reading = read(snapshot, group, scrape_seconds, preset, remember)
    if reading.traffic is None:
        return reading
    traffic = moments.load.with_history(reading.traffic, now.boot, scrape_seconds)
    traffic = moments.answers.with_answers(
        traffic, _answers(picture, reading, group), now.boot, scrape_seconds
    )
    decision = picture.group.status.decision
    written = decision.headroom_percent if decision is not None else None
    may_shrink, may_grow = _may_change(picture)
    objectives = picture.group.spec.objectives
    allocation = Split.read(picture.group.status.allocation)
    held = by_stage(
        (role.spec.stage, allocation[name] * role.spec.accelerators_counted)
        for name, role in picture.roles.items()
    )
    encoded = not any(is_false(role.status.conditions, "KeepsUp") for role in picture.roles.values())
    traffic = moments.record.with_record(
        traffic, objectives, now.boot, written, may_shrink, may_grow, held, encoded
    )
    return replace(reading, traffic=traffic)


def _answers(picture: GroupPicture, reading: Reading, group: Group) -> Answers | None:
    """What decode has to write, also on replicas that are on their way from it."""
    loads, writes = reading.loads, (Stage.DECODE.label, Stage.AGGREGATED.label)
    known = [one for one in picture.running if one.has_pod and one.name in loads]
    writing = [one for one in known if one.stage in writes]
    # Where flips overlap.
    reading_now = [one for one in known if one.stage == Stage.PREFILL.label and not picture.drains_first]
    return present(
        [loads[one.name] for one in writing if one.serving],
        sum(group.stages.get(name) in writes for name in reading.left_out),
        [loads[one.name] for one in writing if one.gate is False],
        [loads[one.name] for one in reading_now if one.name not in group.steady],
    )


def _overrun(replicas: Iterable[Replica], role: str, reading: Reading) -> bool:
    """Whether more waits at the role's replicas than they work on."""
    loads = [reading.loads[one.name] for one in serving_in(replicas, role) if one.name in reading.loads]
    return sum(one.waiting for one in loads) > sum(one.running for one in loads)


def _may_change(picture: GroupPicture) -> tuple[bool, bool]:
    """Whether the group could be smaller than it is decided to be, and whether it could be larger."""
    spec, allocation = picture.group.spec, Split.read(picture.group.status.allocation)
    least = picture.minimum_accelerators
    if least is None or spec.rebalance.mode is not RebalanceMode.AUTO:
        return False, False
    every = [(role.spec, allocation[name]) for name, role in picture.roles.items()]
    held = sum(count * role.accelerators_counted for role, count in every)
    roles = [(role, count) for role, count in every if is_planned(role.stage)]
    more = [role.accelerators_counted for role, count in roles if count < role.max_replicas]
    waits = any(one.waits_for_hardware for one in picture.replicas)
    return (
        held > least and any(count > role.min_replicas for role, count in roles),
        held + min(more, default=math.inf) <= spec.accelerators.maximum and not waits,
    )


def _owned(obj: Object, group_name: str, group_uid: str) -> bool:
    """Whether the group controls the object: a label alone can be written by anyone."""
    metadata = obj["metadata"]
    return (metadata.get("labels") or {}).get(LABEL_GROUP) == group_name and any(
        owner.get("controller") and owner.get("uid") == group_uid
        for owner in metadata.get("ownerReferences") or ()
    )

"""What a group's split is decided from, out of the picture of the group. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from weft.api import InferenceRole, RebalanceMode, Stage
from weft.balancing.drain import END_SECONDS
from weft.balancing.edits import asks_anew
from weft.balancing.engines import answers_in_time, generated_tokens_per_second, observed_speeds, queues
from weft.balancing.observe import GroupPicture
from weft.balancing.own_speeds import writing_speed
from weft.balancing.profile import Profile, Unusable
from weft.balancing.replicas import Replica, cold_start_seconds, restart_seconds
from weft.balancing.stages import is_planned
from weft.balancing.state import (
    NO_SPLIT,
    Engine,
    EngineLoad,
    RoleState,
    Split,
    SplitInputs,
)
from weft.balancing.steps import GateReason, Subject
from weft.balancing.stuck import ends_again, lacks_pods

OVERDUE_COLD_STARTS, OVERDUE_SECONDS = 2.0, 30.0
"""A replica that takes longer than so many cold starts and seconds is not counted on any more."""


def split_inputs(
    picture: GroupPicture,
    allocation: Split,
    decided_at: datetime | None,
    settled: bool,
    moving: tuple[tuple[str, str], ...],
    now: datetime,
) -> SplitInputs:
    """All that the planner may know."""
    spec, status = picture.group.spec, picture.group.status
    budget = spec.accelerators.maximum
    if picture.others_scale:
        # What others let workloads hold is no reason to take replicas from anybody.
        budget = max(budget, picture.accelerators_held)
    reading = picture.reading
    roles = tuple(_role_state(picture, role, allocation) for role in picture.roles.values())
    engines = engines_of(picture, now)
    cold_start = cold_start_seconds(picture.replicas)
    entered = [
        one.gate_changed_at for one in picture.running if one.gate is True and one.gate_changed_at is not None
    ]
    recommendation = status.recommendation if spec.rebalance.mode is RebalanceMode.RECOMMEND else None
    recommended_at = picture.recommended_at if recommendation is not None else None
    return SplitInputs(
        mode=spec.rebalance.mode,
        flip=spec.rebalance.flip,
        objectives=spec.objectives,
        budget_accelerators=budget,
        cooldown_seconds=spec.rebalance.cooldown_seconds,
        roles=roles,
        now=now,
        allocation=allocation,
        left_out=status.left_out_replicas or 0,
        recommended=Split.read(recommendation.allocation) if recommendation is not None else NO_SPLIT,
        decided_at=max((one for one in (decided_at, recommended_at) if one is not None), default=None),
        decided_from=Split.read((status.decision.previous if status.decision else None) or ()),
        moved_at=max(entered, default=None),
        settled=settled,
        moving=moving,
        traffic=reading.traffic,
        generated_tokens_per_second=generated_tokens_per_second(roles, engines),
        flips_overlap=not picture.drains_first,
        queues=queues(roles, engines),
        answers_in_time=answers_in_time(roles, engines, spec.objectives, reading.traffic),
        corrections=observed_speeds(roles, engines, reading.traffic, picture.windows),
        hold=reading.hold,
        minimum_accelerators=picture.minimum_accelerators,
        starting=_starting(picture, allocation, cold_start, now),
        cold_start_seconds=cold_start,
        scaled_at=picture.scaled_at,
        grown_at=picture.grown_at,
        to_zero=picture.may_be_without_replicas and picture.reading.asked is False,
        asleep=picture.may_be_without_replicas
        and bool(allocation)
        and all(allocation.names(name) and not allocation[name] for name in picture.roles)
        and not (picture.asked or picture.untold),
    )


def _starting(
    picture: GroupPicture, allocation: Split, cold_start: float, now: datetime
) -> tuple[tuple[str, float], ...]:
    """Per replica of the allocation that does not serve yet, its role and when it will."""
    moving = {one.replica: one.to for one in picture.group.status.transfers}
    found: list[tuple[str, float]] = []
    # One that the planner does not decide about holds none of its decisions.
    made = {name for name, role in picture.roles.items() if is_planned(role.spec.stage)}
    for role in sorted(made - picture.targets.keys()):
        members = [
            one for one in picture.replicas if moving.get(one.name, one.role) == role and not one.removing
        ]
        coming = [one for one in members if not one.serving and one.name not in moving]
        lacking = max(0, allocation[role] - (len(members) - len(coming)))
        coming += [one for one in picture.between if one.role == role]
        seconds = sorted(_seconds_left(one, cold_start, now) for one in coming)[:lacking]
        refused = Subject("role", role) in picture.refusals
        seconds += [math.inf if refused else cold_start] * (lacking - len(seconds))
        found += [(role, each) for each in seconds]
    for role, target in sorted(picture.targets.items()):
        coming = [one for one in target.pods if not one.serving and not one.pod_deleting]
        lacking = max(0, allocation[role] - target.serving)
        start = cold_start_seconds(target.pods)
        seconds = sorted(_seconds_left(one, start, now) for one in coming)[:lacking]
        missing = math.inf if lacks_pods(target, picture.decided_at, now) else start
        found += [(role, each) for each in (*seconds, *[missing] * (lacking - len(seconds)))]
    return tuple(found)


def _seconds_left(one: Replica, cold_start: float, now: datetime) -> float:
    made_at = one.created_at if one.restarted else one.node_created_at or one.created_at
    age = (now - made_at).total_seconds() if made_at is not None else 0.0
    if one.waits_for_hardware or ends_again(one) or age > OVERDUE_COLD_STARTS * cold_start + OVERDUE_SECONDS:
        return math.inf
    return max(0.0, cold_start - age)


def _role_state(picture: GroupPicture, role: InferenceRole, allocation: Split) -> RoleState:
    profile = picture.profiles.get(role.metadata.name)
    least, most, asked = role.spec.min_replicas, role.spec.max_replicas, role.spec.replicas_asked
    target = picture.targets.get(role.metadata.name)
    if picture.group.spec.rebalance.mode is RebalanceMode.AUTO:
        # None at all is for the whole group, see `size.without_load`.
        least = max(1, least)
    if target is not None:
        asked = target.replicas
        if picture.others_scale:
            least = most = asked
        elif picture.group.spec.rebalance.mode is not RebalanceMode.AUTO:
            # Nobody brings it within its bounds.
            least, most = min(least, asked), max(most, asked)
    return RoleState(
        name=role.metadata.name,
        stage=role.spec.stage,
        minimum=least,
        kept=_kept(picture, role.metadata.name, allocation),
        maximum=most,
        spec_replicas=asked,
        accelerators_per_replica=role.spec.accelerators_counted,
        kind=_kind(picture, role),
        start_seconds=_start_seconds(picture, role),
        hold_seconds=_hold_seconds(picture, role),
        profile=profile if isinstance(profile, Profile) else None,
        profile_error=profile.why if isinstance(profile, Unusable) else "",
        asks_anew=asks_anew(picture.group, role),
    )


def _kind(picture: GroupPicture, role: InferenceRole) -> str:
    """Roles of one kind can exchange replicas, as far as the planner is concerned.

    Where replicas are composed, numbers of accelerators may differ, but what has none makes no room for one. With a
    size that follows the load every role grows and shrinks by itself.
    """
    composed = picture.recomposes and role.spec.scale_target_ref is None and role.spec.node is not None
    if composed and picture.group.spec.accelerators.minimum is None:
        return "recompose" if role.spec.accelerators_counted else "recompose without accelerators"
    return picture.kinds[role.metadata.name]


def _start_seconds(picture: GroupPicture, role: InferenceRole) -> float:
    """What a replica that changes to the role takes until it serves; zero where its engine goes on running."""
    target = picture.targets.get(role.metadata.name)
    if target is not None:
        return cold_start_seconds(target.pods)
    if picture.restarts:
        return restart_seconds(picture.replicas)
    return cold_start_seconds(picture.replicas) if picture.recomposes else 0.0


def _hold_seconds(picture: GroupPicture, role: InferenceRole) -> float:
    """How long a replica that leaves the role is held at least; zero where its engine goes on running."""
    ends = picture.restarts or picture.recomposes or picture.calls_engines
    if not ends or role.spec.scale_target_ref is not None:
        return 0.0
    if role.spec.stage is not Stage.PREFILL or picture.kv_use_tells_reads:
        return END_SECONDS
    return max(END_SECONDS, picture.kv_hold_seconds)


def _kept(picture: GroupPicture, role: str, allocation: Split) -> int:
    """How many replicas a role keeps while some of its pods do not serve: half of them have to serve on.

    Those on their way to it may go back.
    """
    coming = {one.replica for one in picture.group.status.transfers if one.to == role}
    pods = sum(one.role == role and one.has_pod and one.name not in coming for one in picture.replicas)
    serving = picture.serving(role)
    if serving >= pods:
        return 0
    return allocation[role] - max(0, serving - max(1, math.ceil(pods / 2)))


def engines_of(picture: GroupPicture, now: datetime) -> tuple[Engine, ...]:
    """The replicas whose series can be trusted; those that had one role while they counted what the long window has are
    steady.

    One that serves and was left out counts as the mean of its role's others: it has its part of the work.
    """
    since = now - timedelta(seconds=picture.windows.long_seconds)
    known = _known_engines(picture, now, since)
    alike = (
        Engine(one.role, _mean([other.load for other in known if other.role == one.role]), steady=False)
        for one in picture.running
        if one.name in picture.reading.left_out and any(other.role == one.role for other in known)
    )
    return (*known, *alike)


def writing_speeds(picture: GroupPicture, now: datetime) -> dict[str, float]:
    """By replica, of those that have written answers during the whole long window and can be trusted."""
    since = now - timedelta(seconds=picture.windows.long_seconds)
    found: dict[str, float] = {}
    for one in picture.replicas:
        role, profile = picture.roles.get(one.role), picture.profiles.get(one.role)
        load = picture.reading.loads.get(one.name)
        if role is None or load is None or not isinstance(profile, Profile):
            continue
        engine = Engine(one.role, load, steady=one.serving and one.had_one_role(since))
        speed = writing_speed(engine, role.spec.stage, profile)
        if speed is not None:
            found[one.name] = speed
    return found


def _mean(loads: Sequence[EngineLoad]) -> EngineLoad:
    def of(values: Iterable[float]) -> float:
        return sum(values) / len(loads)

    return EngineLoad(
        running=of(one.running for one in loads),
        waiting=of(one.waiting for one in loads),
        generated_tokens_per_second=of(one.generated_tokens_per_second or 0.0 for one in loads),
    )


def _known_engines(picture: GroupPicture, now: datetime, since: datetime) -> tuple[Engine, ...]:
    return tuple(
        Engine(
            one.role,
            picture.reading.loads[one.name],
            steady=one.serving and one.had_one_role(since),
            serving_seconds=_serving_seconds(one, now),
        )
        for one in picture.running
        if one.name in picture.reading.loads
    )


def _serving_seconds(one: Replica, now: datetime) -> float:
    # A replica that came back from a move had worked before: its rates are whole.
    if one.gate_changed_at is None or one.gate_reason == GateReason.ROLLED_BACK:
        return math.inf
    return (now - one.gate_changed_at).total_seconds()

"""What a group's split is decided from, out of the picture of the group. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from weft.api import InferenceRole, RebalanceMode, Stage
from weft.balancing.capacity import corrections
from weft.balancing.demand import offered
from weft.balancing.observe import GroupPicture
from weft.balancing.profile import Profile, Unusable
from weft.balancing.state import NO_SPLIT, Corrections, PodLoad, RoleState, Split, SplitInputs, Traffic


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
    reading = picture.reading
    generated = _generated(picture, reading.loads)
    entered = [
        one.gate_changed_at
        for one in picture.replicas
        if one.gate is True and one.gate_changed_at is not None
    ]
    recommendation = status.recommendation if spec.rebalance.mode is RebalanceMode.RECOMMEND else None
    recommended_at = picture.recommended_at if recommendation is not None else None
    return SplitInputs(
        mode=spec.rebalance.mode,
        flip=spec.rebalance.flip,
        objectives=spec.objectives,
        budget_accelerators=spec.accelerators.maximum,
        cooldown_seconds=spec.rebalance.cooldown_seconds,
        roles=tuple(_role_state(picture, role) for role in picture.roles.values()),
        now=now,
        allocation=allocation,
        recommended=Split.read(recommendation.allocation) if recommendation is not None else NO_SPLIT,
        decided_at=max((one for one in (decided_at, recommended_at) if one is not None), default=None),
        moved_at=max(entered, default=None),
        settled=settled,
        moving=moving,
        traffic=reading.traffic,
        generated_tokens_per_second=generated,
        corrections=_corrections(picture, reading.loads, reading.traffic, generated, now),
        hold=reading.hold,
    )


def _role_state(picture: GroupPicture, role: InferenceRole) -> RoleState:
    profile = picture.profiles[role.metadata.name]
    return RoleState(
        name=role.metadata.name,
        stage=role.spec.stage,
        minimum=role.spec.min_replicas,
        maximum=role.spec.max_replicas,
        spec_replicas=role.spec.replicas_asked,
        accelerators_per_replica=role.spec.accelerators_counted,
        kind=picture.kinds[role.metadata.name],
        profile=profile if isinstance(profile, Profile) else None,
        profile_error=profile.why if isinstance(profile, Unusable) else "",
    )


def _generated(picture: GroupPicture, loads: Mapping[str, PodLoad]) -> float:
    """Tokens per second at which answers are written. Draining replicas write too; prefill's one token is not of it."""
    return sum(
        loads[one.name].generated_tokens_per_second or 0.0
        for one in picture.replicas
        if one.stage != Stage.PREFILL.label and one.name in loads
    )


def _corrections(
    picture: GroupPicture,
    loads: Mapping[str, PodLoad],
    traffic: Traffic | None,
    generated: float,
    now: datetime,
) -> Corrections:
    """Observed speed against the profile, from replicas that had one role during the whole long window.

    Where a stage has several roles, they are compared with the first one's profile.
    """
    demand = offered(traffic, generated) if traffic is not None else None
    if demand is None:
        return Corrections()
    since = now - timedelta(seconds=picture.windows.long_seconds)
    steady = [
        one for one in picture.replicas if one.serving and (one.role_since is None or one.role_since <= since)
    ]

    def of(stage: Stage) -> tuple[Profile | None, list[PodLoad]]:
        profiles = [
            picture.profiles[name] for name, role in picture.roles.items() if role.spec.stage is stage
        ]
        first = next((one for one in profiles if isinstance(one, Profile)), None)
        return first, [loads[one.name] for one in steady if one.stage == stage.label and one.name in loads]

    return corrections(
        of(Stage.PREFILL), of(Stage.DECODE), demand.prompt_tokens, picture.windows.long_seconds
    )

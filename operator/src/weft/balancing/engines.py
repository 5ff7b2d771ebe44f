"""What the engines of a group say together: the tokens they write, and how fast they are. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from weft.api import Stage
from weft.balancing.capacity import corrections
from weft.balancing.demand import offered
from weft.balancing.profile import Profile
from weft.balancing.state import Corrections, Engine, EngineLoad, Queues, RoleState, Traffic


def generated_tokens_per_second(roles: Sequence[RoleState], engines: Sequence[Engine]) -> float:
    """Tokens per second at which answers are written. Draining replicas write too; prefill's one token is not of it."""
    prefill = {role.name for role in roles if role.stage is Stage.PREFILL}
    return sum(one.load.generated_tokens_per_second or 0.0 for one in engines if one.role not in prefill)


def observed_speeds(
    roles: Sequence[RoleState],
    engines: Sequence[Engine],
    traffic: Traffic | None,
    long_seconds: float,
) -> Corrections:
    """Observed speed against the profile, from replicas that had one role during the whole long window.

    Where a stage has several roles, they are compared with the first one's profile.
    """
    generated = generated_tokens_per_second(roles, engines)
    demand = offered(traffic, generated) if traffic is not None else None
    if demand is None:
        return Corrections()

    def of(stage: Stage) -> tuple[Profile | None, list[EngineLoad]]:
        names = [role.name for role in roles if role.stage is stage]
        first = next((role.profile for role in roles if role.name in names and role.profile), None)
        return first, [one.load for one in engines if one.steady and one.role in names]

    return corrections(of(Stage.PREFILL), of(Stage.DECODE), demand.prompt_tokens, long_seconds)


def queues(roles: Sequence[RoleState], engines: Sequence[Engine]) -> Queues | None:
    """What waits and runs now, by stage; None where no engine reports. Aggregated engines decode what they run."""
    if not engines:
        return None
    prefill = {role.name for role in roles if role.stage is Stage.PREFILL}
    aggregated = {role.name for role in roles if role.stage is Stage.AGGREGATED}
    waiting = sum(one.load.waiting for one in engines if one.role in prefill | aggregated)
    present = sum(
        one.load.running + (0.0 if one.role in aggregated else one.load.waiting)
        for one in engines
        if one.role not in prefill
    )
    return Queues(waiting, present)

"""What the engines of a group say together: the tokens they write, and how fast they are. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

from weft.api import Objectives, Stage
from weft.balancing.capacity import corrections
from weft.balancing.demand import offered
from weft.balancing.presets import Windows
from weft.balancing.profile import Profile
from weft.balancing.stages import PARTS
from weft.balancing.state import Corrections, Engine, EngineLoad, Queues, RoleState, Traffic

ANSWERS_DEVIATE = 0.03
"""Relative standard deviation of answers' mean time between tokens around their engine's: step times hardly differ."""


def generated_tokens_per_second(roles: Sequence[RoleState], engines: Sequence[Engine]) -> float:
    """Tokens per second at which answers are written. Draining replicas write too; the one token of prefill, or of an
    encoder, is not of it."""
    silent = {role.name for role in roles if Stage.DECODE not in PARTS[role.stage]}
    return sum(one.load.generated_tokens_per_second or 0.0 for one in engines if one.role not in silent)


def observed_speeds(
    roles: Sequence[RoleState],
    engines: Sequence[Engine],
    traffic: Traffic | None,
    windows: Windows,
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
        return first, [
            _filled(one, windows.long_seconds) for one in engines if one.steady and one.role in names
        ]

    prefill, decode = of(Stage.PREFILL), of(Stage.DECODE)
    return corrections(prefill, decode, demand.prompt_tokens, windows.long_seconds, windows.scrape_seconds)


def _filled(engine: Engine, long_seconds: float) -> EngineLoad:
    """Its load as of the whole window: Prometheus has the mean share and batch of the time in which it served, and
    divides its rates by the whole window."""
    load, part = engine.load, engine.serving_seconds / long_seconds
    if part >= 1 or part <= 0 or load.busy_share is None:
        return load
    batch = None if load.mean_running is None else load.mean_running * part
    return replace(load, busy_share=load.busy_share * part, mean_running=batch)


def queues(roles: Sequence[RoleState], engines: Sequence[Engine]) -> Queues | None:
    """What waits and runs now, by stage; None where no engine reports. Aggregated engines decode what they run."""
    if not engines:
        return None
    reads = {role.name for role in roles if Stage.PREFILL in PARTS[role.stage]}
    silent = {role.name for role in roles if Stage.DECODE not in PARTS[role.stage]}
    waiting = sum(one.load.waiting for one in engines if one.role in reads)
    present = sum(
        one.load.running + (0.0 if one.role in reads else one.load.waiting)
        for one in engines
        if one.role not in silent
    )
    return Queues(waiting, present)


def answers_in_time(
    roles: Sequence[RoleState],
    engines: Sequence[Engine],
    objectives: Objectives,
    traffic: Traffic | None,
) -> float | None:
    """Share of answers within the objective between tokens, from each engine's mean time; None where none tells.

    Histograms do not say it where the objective lies between two of their bounds (vLLM's are 75 and 100 ms), nor of
    engines that read prompts between tokens: few tokens then wait for very long, and all answers are slower.
    """
    limit = (objectives.inter_token_latency_microseconds or 0) / 1e6
    demand = offered(traffic, generated_tokens_per_second(roles, engines)) if traffic is not None else None
    aggregated = {role.name: role.profile for role in roles if role.stage is Stage.AGGREGATED}
    within = total = 0.0
    for one in engines:
        mean, weight = one.load.inter_token_seconds, one.load.tokens_per_second_timed
        if mean is not None and mean > 0 and weight > 0:
            deviation = ANSWERS_DEVIATE * mean
            profile = aggregated.get(one.role)
            if profile is not None and demand is not None:
                prompts = (one.load.prompt_tokens_per_second or 0.0) / demand.prompt_tokens
                seconds = profile.prefill_seconds(demand.prompt_tokens)
                # Of the time that prompts take during an answer: as many as chance brings (shared.py).
                variance = prompts * mean * seconds**2 * (1 + demand.prompt_cv2) / demand.answer_tokens
                deviation = math.hypot(deviation, math.sqrt(variance))
            within += weight * NormalDist(mean, deviation).cdf(limit)
            total += weight
    return within / total if total > 0 else None

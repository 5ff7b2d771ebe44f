"""Groups and loads that the balancing tests share: the demo's model, and short ways to say what was observed."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from weft.api import EngineProfile, FlipMethod, Objectives, RebalanceMode, Stage
from weft.balancing.profile import Profile
from weft.balancing.state import (
    NO_SPLIT,
    Corrections,
    Hold,
    Past,
    Rates,
    RoleState,
    Split,
    SplitInputs,
    Traffic,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)

LLAMA_70B_SPEC = {
    # Llama-2-70B on two A100s, tensor parallel (Splitwise's published measurements).
    "prefill": [
        {"promptTokens": tokens, "microseconds": ms * 1000}
        for tokens, ms in (
            (128, 81),
            (256, 113),
            (512, 197),
            (1024, 377),
            (2048, 688),
            (4096, 1485),
            (8192, 2990),
        )
    ],
    "decode": [
        {"batch": batch, "microseconds": us}
        for batch, us in ((1, 55_000), (2, 60_000), (4, 60_500), (8, 61_700), (16, 65_500), (32, 72_200))
    ],
    "kvCapacityTokens": 40_000,
    "maxBatch": 32,
}
LLAMA_70B = Profile.of(
    EngineProfile.model_validate({"metadata": {"name": "llama-70b"}, "spec": LLAMA_70B_SPEC})
)

OBJECTIVES = Objectives(
    time_to_first_token_milliseconds=2500, inter_token_latency_microseconds=95_000, attainment_permille=950
)


def steady(requests_per_second: float, prompt_tokens: float, answer_tokens: float) -> Traffic:
    """Traffic that has been the same for long."""
    rates = Rates(
        requests=requests_per_second,
        prompts=requests_per_second,
        prompt_tokens=requests_per_second * prompt_tokens,
        answers=requests_per_second,
        answer_tokens=requests_per_second * answer_tokens,
    )
    return Traffic(
        short=rates,
        long=rates,
        short_seconds=15.0,
        peak_prompt_tokens_per_second=rates.prompt_tokens,
        peak_answer_tokens_per_second=rates.answer_tokens,
    )


def known(traffic: Traffic, times: float = 1.0) -> Traffic:
    """The same for the last minutes, or at most so many times as much; all requests were in time."""
    long = traffic.long
    past = Past(times * long.requests, times * long.prompt_tokens, times * long.answer_tokens)
    ttft, itl = ((2.5, 1.0), (math.inf, 1.0)), ((0.095, 1.0), (math.inf, 1.0))
    return replace(traffic, past=past, ttft_buckets=ttft, itl_buckets=itl)


ANSWER_HEAVY = steady(4.1, 940, 281)
"""Minutes 55 to 58 of the Azure conversation trace."""
PROMPT_HEAVY = steady(7.5, 1420, 145)
"""Minutes 25 to 30 of the same trace."""


def role(name: str, stage: Stage, replicas: int, **changes: object) -> RoleState:
    values: dict[str, object] = {
        "name": name,
        "stage": stage,
        "minimum": 1,
        "maximum": 32,
        "spec_replicas": replicas,
        "accelerators_per_replica": 2,
        "kind": "same",
        "profile": LLAMA_70B,
    }
    return RoleState(**{**values, **changes})  # type: ignore[arg-type]  # tests name any field


def group(
    prefill: int,
    decode: int,
    traffic: Traffic | None,
    *,
    mode: RebalanceMode = RebalanceMode.AUTO,
    flip: FlipMethod = FlipMethod.LABEL,
    budget: int = 18,
    objectives: Objectives = OBJECTIVES,
    now: datetime = T0,
    decided_at: datetime | None = T0 - timedelta(hours=1),
    moved_at: datetime | None = None,
    settled: bool = True,
    hold: Hold | None = None,
    corrections: Corrections = Corrections(),  # noqa: B008 - frozen
    recommended: Split = NO_SPLIT,
    roles: tuple[RoleState, ...] = (),
) -> SplitInputs:
    """A group of one prefill and one decode role that has the split given."""
    return SplitInputs(
        mode=mode,
        flip=flip,
        objectives=objectives,
        budget_accelerators=budget,
        cooldown_seconds=30,
        roles=roles or (role("decode", Stage.DECODE, decode), role("prefill", Stage.PREFILL, prefill)),
        now=now,
        allocation=Split.of({"prefill": prefill, "decode": decode}),
        recommended=recommended,
        decided_at=decided_at,
        moved_at=moved_at,
        settled=settled,
        traffic=traffic,
        corrections=corrections,
        hold=hold,
    )

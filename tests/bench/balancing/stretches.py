"""The referee's cases (tests/bench/balancing) as cases of the rehearsal, on the same hardware and objectives."""

from __future__ import annotations

import cases
import constants

from weft.api import DecodePoint, EngineProfile, PrefillPoint
from weft.balancing.profile import Profile
from weft.rehearse.engine import Speeds
from weft.rehearse.play import Case
from weft.rehearse.trace import Trace
from weft.rehearse.world import Objectives
from weft_playground.profile import KV_CAPACITY_TOKENS, MAX_BATCH, read_profile

OBJECTIVES = Objectives(
    constants.TTFT_MILLISECONDS / 1000, constants.ITL_MICROSECONDS / 1e6, constants.ATTAINMENT_PERMILLE / 1000
)


def weft_profile() -> Profile:
    """The profile as an EngineProfile says it."""
    measured = read_profile()
    spec = {
        "prefill": [
            PrefillPoint(prompt_tokens=int(x), microseconds=round(y * 1e6))
            for x, y in zip(measured.prefill.xs, measured.prefill.ys, strict=True)
        ],
        "decode": [
            DecodePoint(batch=int(x), microseconds=round(y * 1e6))
            for x, y in zip(measured.decode.xs, measured.decode.ys, strict=True)
        ],
        "kvCapacityTokens": KV_CAPACITY_TOKENS,
        "maxBatch": MAX_BATCH,
    }
    return Profile.of(EngineProfile.model_validate({"metadata": {"name": "measured"}, "spec": spec}))


def rehearsed(
    case: cases.Case,
    seed: int,
    scrape_seconds: float,
    cold_start_seconds: float,
    overlap: bool,
    stage_error: float = 0.0,
    replica_error: float = 0.0,
) -> Case:
    """All hardware is used: who could hold less is not rewarded for it, and shown with its hours."""
    profile = weft_profile()
    return Case(
        trace=Trace.of((one.at_seconds, one.prompt_tokens, one.answer_tokens) for one in case.requests),
        speeds=Speeds(profile),
        planned=profile,
        objectives=OBJECTIVES,
        most_replicas=case.replicas,
        least_replicas=case.replicas,
        first={"prefill": case.first_prefill, "decode": case.replicas - case.first_prefill},
        accelerators_per_replica=constants.ACCELERATORS_PER_REPLICA,
        scrape_seconds=scrape_seconds,
        cold_start_seconds=cold_start_seconds,
        flip_seconds=constants.FLIP_SECONDS,
        overlap=overlap,
        seed=seed,
        stage_error=stage_error,
        replica_error=replica_error,
    )

"""The policies that are compared."""

from __future__ import annotations

import constants
from cases import Case
from prometheus_view import PrometheusView
from referee import Moves, Policy

from weft.api import DecodePoint, EngineProfile, Objectives, PrefillPoint, Stage
from weft.balancing.balancer import Balancer, Config, Observation
from weft.balancing.profile import Profile
from weft.balancing.state import RoleState
from weft_playground.profile import KV_CAPACITY_TOKENS, MAX_BATCH, read_profile

OBJECTIVES = Objectives(
    time_to_first_token_milliseconds=constants.TTFT_MILLISECONDS,
    inter_token_latency_microseconds=constants.ITL_MICROSECONDS,
    attainment_permille=constants.ATTAINMENT_PERMILLE,
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


def weft(case: Case, scrape: float, drain: bool) -> Policy:
    """The decision function that runs in the cluster."""
    profile = weft_profile()
    roles = tuple(
        RoleState(name, stage, 1, case.replicas, 1, 1, "same", profile)
        for name, stage in (("decode", Stage.DECODE), ("prefill", Stage.PREFILL))
    )
    balancer = Balancer(
        Config(roles, OBJECTIVES, case.replicas, scrape, constants.COOLDOWN_SECONDS, flips_overlap=not drain)
    )

    def policy(
        now: float, view: PrometheusView, decided: tuple[int, int], moves: Moves
    ) -> tuple[int, int] | None:
        if now < 3 * scrape:
            return None
        decision = balancer.step(
            Observation(
                at_seconds=now,
                replicas={"prefill": decided[0], "decode": decided[1]},
                traffic=view.traffic(),
                engines=view.engines(),
                decided_at_seconds=moves.decided_at,
                decided_from=dict(zip(("prefill", "decode"), moves.decided_from or (), strict=False)),
                moved_at_seconds=moves.moved_at,
                moving=moves.under_way,
            )
        )
        return (decision.replicas["prefill"], decision.replicas["decode"]) if decision.changed else None

    return policy

"""How the planner judges replicas that serve both stages, held against the engine model's own requests."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from support.inference import LLAMA_70B, OBJECTIVES
from weft.balancing.demand import Demand
from weft.balancing.splits import Load, Terms, judge, stage_needs
from weft.balancing.state import Corrections, RoleState, Split
from weft.rehearse.engine import Speeds
from weft.rehearse.play import Case, play
from weft.rehearse.static import Static
from weft.rehearse.trace import Trace
from weft.rehearse.weft_policy import STAGES
from weft.rehearse.world import Objectives

SECONDS = 500.0
PROMPT_CV2, ANSWER_CV2 = math.exp(0.36) - 1, math.exp(0.49) - 1
MIXTURES = ((4, 1, 1), (3, 2, 1), (1, 4, 1), (2, 4, 0), (0, 6, 0))
CASE = Case(
    Trace.of([]),
    Speeds(LLAMA_70B, chunk_tokens=2048),
    LLAMA_70B,
    Objectives(
        OBJECTIVES.time_to_first_token_milliseconds / 1000,  # type: ignore[operator]
        OBJECTIVES.inter_token_latency_microseconds / 1e6,  # type: ignore[operator]
    ),
    most_replicas=6,
)


def lognormal(chance: random.Random, mean: float, sigma: float) -> int:
    return max(1, min(8000, round(chance.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma))))


def trace(rate: float, prompt: float, answer: float) -> Trace:
    chance, at, rows = random.Random(7), 0.0, []
    while (at := at + chance.expovariate(rate)) < SECONDS:
        rows.append((at, lognormal(chance, prompt, 0.6), lognormal(chance, answer, 0.7)))
    return Trace.of(rows)


@pytest.mark.parametrize(
    ("rate", "prompt", "answer"),
    [(5.0, 2000, 80), (4.5, 1000, 200)],
    ids=["long prompts", "both"],
)
def test_mixtures_with_aggregated_replicas_are_judged_as_their_requests_fare(
    rate: float, prompt: float, answer: float
) -> None:
    case = replace(CASE, trace=trace(rate, prompt, answer))
    prompts, answers = case.trace.prompt_tokens, case.trace.answer_tokens
    mean_prompt, mean_answer = (sum(each) / len(case.trace) for each in (prompts, answers))
    arrivals = len(case.trace) / SECONDS
    demand = Demand(
        arrivals * mean_prompt, arrivals * mean_answer, mean_prompt, mean_answer, PROMPT_CV2, ANSWER_CV2
    )
    roles = [RoleState(name, stage, 0, 6, 1, 2, "all", profile=LLAMA_70B) for name, stage in STAGES.items()]
    needs = stage_needs(roles, demand, Corrections(), OBJECTIVES)
    terms, load = Terms(SECONDS, 5.0, {}, overlaps=True), Load([(1.0, needs)])
    differences = []
    for prefill, both, decode in MIXTURES:
        counts = {"prefill": prefill, "aggregated": both, "decode": decode}
        late = 1 - play(case, Static(case), counts).attainment
        split = Split.of(counts)
        differences.append(judge(split, split, roles, needs, terms, load).now - late)
    # Taken for lossless they are judged 0.66 and 0.23 too well.
    assert sum(map(abs, differences)) / len(differences) < 0.15
    assert max(map(abs, differences)) < 0.25

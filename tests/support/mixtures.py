"""Mixtures with replicas that serve both stages: how the planner judges them, and how the same requests fare."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

from support.inference import LLAMA_70B, OBJECTIVES
from weft.balancing.demand import Demand
from weft.balancing.splits import Load, Terms, judge, stage_needs
from weft.balancing.state import Corrections, RoleState, Split
from weft.rehearse.engine import Speeds
from weft.rehearse.moves import STAGES
from weft.rehearse.play import Case, Counts, play
from weft.rehearse.static import Static
from weft.rehearse.trace import Trace
from weft.rehearse.world import Objectives

PROMPT_CV2, ANSWER_CV2 = math.exp(0.36) - 1, math.exp(0.49) - 1
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


def lateness(
    rate: float, prompt: float, answer: float, seconds: float, mixtures: Iterable[Counts]
) -> Iterator[tuple[Counts, float, float]]:
    """Of each mixture the share of late requests that is computed, and the one that is played.

    `rate` in requests per second, lengths as means in tokens.
    """
    case = replace(CASE, trace=trace(rate, prompt, answer, seconds))
    prompts, answers = case.trace.prompt_tokens, case.trace.answer_tokens
    mean_prompt, mean_answer = (sum(each) / len(case.trace) for each in (prompts, answers))
    arrivals = len(case.trace) / seconds
    demand = Demand(
        arrivals * mean_prompt, arrivals * mean_answer, mean_prompt, mean_answer, PROMPT_CV2, ANSWER_CV2
    )
    roles = [RoleState(name, stage, 0, 6, 1, 2, "all", profile=LLAMA_70B) for name, stage in STAGES.items()]
    needs = stage_needs(roles, demand, Corrections(), OBJECTIVES)
    terms, load = Terms(seconds, 5.0, {}, overlaps=True), Load([(1.0, needs)])
    for counts in mixtures:
        split = Split.of(counts)
        computed = judge(split, split, roles, needs, terms, load).now
        yield counts, computed, 1 - play(case, Static(case), counts).attainment


def trace(rate: float, prompt: float, answer: float, seconds: float) -> Trace:
    chance, at, rows = random.Random(7), 0.0, []
    while (at := at + chance.expovariate(rate)) < seconds:
        rows.append((at, _lognormal(chance, prompt, 0.6), _lognormal(chance, answer, 0.7)))
    return Trace.of(rows)


def _lognormal(chance: random.Random, mean: float, sigma: float) -> int:
    return max(1, min(8000, round(chance.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma))))

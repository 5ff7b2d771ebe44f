"""What must hold for every split that is decided, whatever the load, the bounds and the history."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support.inference import OBJECTIVES, group, role, steady
from weft.api import Objectives, RebalanceMode, Stage
from weft.balancing.plan import SplitPlan, plan_split
from weft.balancing.state import NO_SPLIT, Corrections, Hold, RoleState, Split, SplitInputs, Traffic

rates = st.floats(0, 12)
prompts = st.floats(100, 4000)
answers = st.floats(20, 600)
splits = st.tuples(st.integers(1, 12), st.integers(1, 12))
stages = st.sampled_from([Stage.PREFILL, Stage.DECODE, Stage.AGGREGATED])


@st.composite
def loads(draw: st.DrawFn) -> Traffic:
    """Any recent past: windows that disagree, peaks at or above both."""
    rate = draw(rates)
    long = steady(rate, draw(prompts), draw(answers)).long
    short = steady(rate * draw(st.floats(0.2, 2)), draw(prompts), draw(answers)).short
    above = st.one_of(st.just(1.0), st.floats(1, 5))
    return Traffic(
        short=short,
        long=long,
        short_seconds=15.0,
        peak_prompt_tokens_per_second=draw(above) * max(short.prompt_tokens, long.prompt_tokens),
        peak_answer_tokens_per_second=draw(above) * max(short.answer_tokens, long.answer_tokens),
    )


@st.composite
def role_lists(draw: st.DrawFn) -> tuple[RoleState, ...]:
    found = []
    for index in range(draw(st.integers(1, 4))):
        minimum = draw(st.integers(1, 3))
        maximum = draw(st.integers(minimum, 8))
        accelerators = draw(st.integers(0, 4))
        found.append(
            role(
                f"role-{index}",
                draw(stages),
                draw(st.integers(minimum, maximum)),
                minimum=minimum,
                maximum=maximum,
                accelerators_per_replica=accelerators,
                # Only replicas that count for as many accelerators are exchanged.
                kind=f"{draw(st.sampled_from('ab'))}-{accelerators}",
            )
        )
    return tuple(found)


def after(observed: SplitInputs, plan: SplitPlan, seconds: float = 3600) -> SplitInputs:
    """The group once the plan was carried out and the cooldown has passed."""
    return replace(
        observed,
        allocation=plan.allocation,
        recommended=Split.read(plan.recommendation.allocation)
        if plan.recommendation
        else observed.recommended,
        decided_at=observed.now if plan.decision else observed.decided_at,
        now=observed.now + timedelta(seconds=seconds),
    )


@given(splits, loads(), st.integers(300, 20_000), st.integers(20, 2000))
@settings(max_examples=150, deadline=None)
def test_a_plan_run_again_on_its_own_result_is_empty(
    counts: tuple[int, int], traffic: Traffic, ttft: int, itl: int
) -> None:
    objectives = Objectives(
        time_to_first_token_milliseconds=ttft, inter_token_latency_microseconds=itl * 1000
    )
    observed = group(*counts, traffic, budget=1000, objectives=objectives)
    plan = plan_split(observed)
    again = plan_split(after(observed, plan))
    assert again.allocation == plan.allocation
    assert again.decision is None


@given(role_lists(), loads(), st.integers(0, 40), st.sampled_from(RebalanceMode))
@settings(max_examples=150, deadline=None)
def test_no_decision_exceeds_the_budget_a_maximum_or_takes_the_last_replica_of_a_stage(
    roles: tuple[RoleState, ...], traffic: Traffic, budget: int, mode: RebalanceMode
) -> None:
    observed = replace(group(1, 1, traffic, budget=budget, mode=mode, roles=roles), allocation=NO_SPLIT)
    cost = {one.name: one.accelerators_per_replica for one in roles}
    for _ in range(3):
        plan = plan_split(observed)
        counts = dict(plan.allocation.counts)
        assert sum(counts[name] * cost[name] for name in counts) <= budget
        assert all(counts[one.name] <= one.maximum for one in roles)
        before = dict(observed.allocation.counts)
        for stage in {one.stage for one in roles if before.get(one.name)}:
            assert sum(counts[one.name] for one in roles if one.stage is stage) >= 1
        observed = after(observed, plan)


@given(splits, loads(), st.sampled_from(["Stale", "NotANumber", "Reset"]))
@settings(max_examples=60, deadline=None)
def test_metrics_that_are_not_trusted_change_nothing(
    counts: tuple[int, int], traffic: Traffic, reason: str
) -> None:
    plan = plan_split(group(*counts, traffic, budget=1000, hold=Hold(reason, "not to be trusted")))
    assert dict(plan.allocation.counts) == {"prefill": counts[0], "decode": counts[1]}
    assert plan.decision is None


@given(splits, loads(), loads(), st.integers(0, 29))
@settings(max_examples=60, deadline=None)
def test_a_decision_holds_for_the_whole_cooldown(
    counts: tuple[int, int], first: Traffic, then: Traffic, seconds: int
) -> None:
    observed = group(*counts, first, budget=1000)
    plan = plan_split(observed)
    later = replace(after(observed, plan, seconds), traffic=then, decided_at=observed.now)
    assert plan_split(later).allocation == plan.allocation


@given(
    st.tuples(st.integers(1, 3), st.integers(8, 12)),
    st.tuples(st.floats(4, 12), st.floats(1500, 4000), st.floats(20, 200)),
    st.floats(0.5, 2),
    st.floats(0.5, 2),
)
@settings(max_examples=60, deadline=None)
def test_a_move_is_never_worse_than_staying_by_its_own_account(
    counts: tuple[int, int], load: tuple[float, float, float], prefill: float, decode: float
) -> None:
    observed = group(
        *counts, steady(*load), budget=1000, corrections=Corrections(prefill, decode), objectives=OBJECTIVES
    )
    plan = plan_split(observed)
    assume(plan.decision is not None)
    assert plan.decision is not None
    stays, moves = re.findall(r"expected violations ([0-9.]+) -> ([0-9.]+)", plan.decision.reason)[0]
    assert float(moves) < float(stays)


@given(splits, st.floats(1, 20), st.floats(100, 400), st.floats(20, 300), st.floats(1.05, 2))
@settings(max_examples=100, deadline=None)
def test_more_prompts_never_take_replicas_from_prefill(
    counts: tuple[int, int], rate: float, prompt: float, answer: float, more: float
) -> None:
    # Longer prompts, not so long that fewer answers fit into the KV cache: prefill's work grows, decode's stays.
    less = plan_split(group(*counts, steady(rate, prompt, answer), budget=1000))
    base = steady(rate, prompt, answer)
    longer = replace(base.short, prompt_tokens=base.short.prompt_tokens * more)
    grown = plan_split(group(*counts, replace(base, short=longer, long=longer), budget=1000))
    if less.allocation["prefill"] >= counts[0]:
        assert grown.allocation["prefill"] >= counts[0]

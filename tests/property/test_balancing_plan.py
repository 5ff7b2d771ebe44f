"""What must hold for every split that is decided, whatever the load, the bounds and the history."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from datetime import timedelta
from unittest.mock import Mock, patch

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support.inference import ANSWER_HEAVY, group, role, steady
from weft.api import Objectives, RebalanceMode, Stage
from weft.balancing import plan as plan_module
from weft.balancing import splits as splits_module
from weft.balancing.demand import offered
from weft.balancing.plan import SplitPlan, needs_of, plan_split
from weft.balancing.start import starting_split
from weft.balancing.state import (
    NO_SPLIT,
    Corrections,
    Hold,
    Queues,
    RoleState,
    Split,
    SplitInputs,
    Traffic,
)

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
        if sum(one.minimum * cost[one.name] for one in roles) > budget:
            assert not counts, "what leaves a role without any replica is not begun"
            continue
        assert all(counts[one.name] >= one.minimum for one in roles)
        assert sum(counts[name] * cost[name] for name in counts) <= budget
        assert all(counts[one.name] <= one.maximum for one in roles)
        before = dict(observed.allocation.counts)
        for stage in {one.stage for one in roles if before.get(one.name)}:
            assert sum(counts[one.name] for one in roles if one.stage is stage) >= 1
        observed = after(observed, plan)


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)), loads(), st.booleans(), st.sampled_from(RebalanceMode)
)
@settings(max_examples=150, deadline=None)
def test_splits_that_are_too_far_away_to_be_told_of_change_nothing_when_they_are_judged(
    counts: tuple[int, int], traffic: Traffic, comes_again: bool, mode: RebalanceMode
) -> None:
    if comes_again:
        traffic = replace(traffic, history=(steady(3, 3000, 50).long, traffic.long, steady(6, 300, 500).long))
    observed = group(*counts, traffic, budget=1000, mode=mode)
    pruned, whole = judged(observed), judged(observed, away=0.0)
    assert pruned[0] == whole[0]
    assert pruned[1] <= whole[1]


def test_of_a_large_group_few_splits_are_judged() -> None:
    observed = group(30, 10, steady(5 * ANSWER_HEAVY.long.requests, 940, 281), budget=1000)
    plan, count = judged(observed)
    assert plan.decision is not None
    assert count < judged(observed, away=0.0)[1] / 2


def judged(observed: SplitInputs, away: float = plan_module.AWAY_PART) -> tuple[SplitPlan, int]:
    """The plan, and how many splits were judged for it, where a replica moved is known to cost so much."""
    judge = Mock(wraps=splits_module.judge)
    with patch.object(plan_module, "AWAY_PART", away), patch.object(plan_module, "judge", judge):
        return plan_split(observed), judge.call_count


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


@given(splits, loads(), st.floats(0.5, 2), st.floats(0.5, 2), st.booleans(), st.floats(0, 200))
@settings(max_examples=200, deadline=None)
def test_a_move_is_never_worse_than_staying_by_its_own_account(
    counts: tuple[int, int],
    traffic: Traffic,
    prefill: float,
    decode: float,
    overlap: bool,
    waiting: float,
) -> None:
    observed = group(*counts, traffic, budget=1000, corrections=Corrections(prefill, decode))
    plan = plan_split(replace(observed, flips_overlap=overlap, queues=Queues(waiting, 4.0 * counts[1])))
    if plan.decision is None:
        return
    stays, moves = re.findall(r"expected violations ([0-9.]+) -> ([0-9.]+)", plan.decision.reason)[0]
    assert float(moves) < float(stays)


@given(splits, st.floats(0.5, 8), prompts, answers, st.floats(1.0, 3), st.booleans())
@settings(max_examples=150, deadline=None)
def test_more_prompts_never_give_prefill_less(
    counts: tuple[int, int], rate: float, prompt: float, answer: float, more: float, overlap: bool
) -> None:
    # More requests with as many tokens of answers between them: only prefill's work grows.
    longer = steady(rate * more, prompt, answer / more)
    less = replace(group(*counts, steady(rate, prompt, answer), budget=1000), flips_overlap=overlap)
    grown = replace(less, traffic=longer)
    demand = offered(longer, 0.0)
    assert demand is not None
    busy = sum(one.need.saturated for one in needs_of(grown, demand).values())
    # Where nothing carries the work any more, no split is better than another.
    if busy < 0.8 * sum(counts):
        prefill, before = (plan_split(one).allocation["prefill"] for one in (grown, less))
        # Of two splits that are as good the one with the better worst stage is taken: enough may be less than before.
        assert prefill >= min(before, needs_of(grown, demand)[Stage.PREFILL].need.required)


@given(loads(), st.floats(1, 3))
@settings(max_examples=100, deadline=None)
def test_needs_grow_with_the_work_and_only_those_of_the_stage_that_does_it(
    traffic: Traffic, more: float
) -> None:
    observed = group(3, 5, traffic, budget=1000)
    demand = offered(traffic, 0.0)
    if demand is None:
        return
    grown = replace(demand, prompt_tokens_per_second=demand.prompt_tokens_per_second * more)
    needs, others = needs_of(observed, demand), needs_of(observed, grown)
    for stage in (Stage.PREFILL, Stage.DECODE):
        assert others[stage].need.required >= needs[stage].need.required
    assert others[Stage.DECODE] == needs[Stage.DECODE]


@given(role_lists(), loads(), st.integers(2, 60), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_in_which_roles_are_listed_decides_nothing(
    roles: tuple[RoleState, ...], traffic: Traffic, budget: int, chance: random.Random
) -> None:
    observed = replace(group(1, 1, traffic, budget=budget, roles=roles), allocation=NO_SPLIT)
    started = after(observed, plan_split(observed))
    shuffled = replace(started, roles=tuple(chance.sample(roles, len(roles))))
    assert plan_split(shuffled) == plan_split(started)


@given(splits, loads(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_roles_are_called_decides_nothing(
    counts: tuple[int, int], traffic: Traffic, overlap: bool
) -> None:
    prefill, decode = counts
    first = replace(group(prefill, decode, traffic, budget=1000), flips_overlap=overlap)
    # In the order of names prefill comes first now.
    renamed = (role("zz", Stage.DECODE, decode), role("aa", Stage.PREFILL, prefill))
    second = replace(first, roles=renamed, allocation=Split.of({"aa": prefill, "zz": decode}))
    assert plan_split(first).allocation["prefill"] == plan_split(second).allocation["aa"]


@given(role_lists(), st.lists(st.tuples(loads(), st.floats(1, 600)), max_size=5), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_the_budget_holds_after_every_decision_of_any_history(
    roles: tuple[RoleState, ...], history: list[tuple[Traffic, float]], budget: int
) -> None:
    observed = replace(group(1, 1, None, budget=budget, roles=roles), allocation=NO_SPLIT)
    cost = {one.name: one.accelerators_per_replica for one in roles}
    for traffic, seconds in history:
        plan = plan_split(replace(observed, traffic=traffic))
        counts = dict(plan.allocation.counts)
        assert sum(counts[name] * cost[name] for name in counts) <= budget
        if observed.allocation:
            # What moves between roles is paid for by what it leaves: nothing is made, nothing removed.
            assert plan.allocation.total == observed.allocation.total
        observed = after(observed, plan, seconds)


@given(role_lists(), st.integers(0, 40), st.sampled_from(RebalanceMode), st.floats(0, 600))
@settings(max_examples=60, deadline=None)
def test_without_metrics_what_was_decided_stays(
    roles: tuple[RoleState, ...], budget: int, mode: RebalanceMode, seconds: float
) -> None:
    observed = replace(group(1, 1, None, budget=budget, mode=mode, roles=roles), allocation=NO_SPLIT)
    started = after(observed, plan_split(observed), seconds)
    plan = plan_split(started)
    assert (plan.allocation, plan.decision, plan.recommendation) == (started.allocation, None, None)


@given(role_lists(), loads(), st.integers(0, 40), st.booleans(), st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_the_allocation_is_entering_paused_or_recommend_changes_nothing(
    roles: tuple[RoleState, ...], traffic: Traffic, budget: int, free: bool, data: st.DataObject
) -> None:
    counts = {one.name: data.draw(st.integers(one.minimum, one.maximum)) for one in roles}
    assume(sum(counts[one.name] * one.accelerators_per_replica for one in roles) <= budget)
    inputs = group(1, 1, traffic, budget=budget, roles=roles)
    inputs = replace(inputs, allocation=Split.of(counts), minimum_accelerators=0 if free else None)
    # What the budget has no room for, as Auto says it.
    inputs = replace(inputs, left_out=starting_split(inputs).left_out)
    assume(starting_split(inputs).split == inputs.allocation)
    for mode in (RebalanceMode.PAUSED, RebalanceMode.RECOMMEND):
        plan = plan_split(replace(inputs, mode=mode))
        assert (plan.allocation, plan.decision) == (inputs.allocation, None)

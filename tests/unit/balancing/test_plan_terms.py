"""What a split is decided by: how long moves take, how long the load lasts, where a plan would stop, what is said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from support.inference import ANSWER_HEAVY, PROMPT_HEAVY, T0, group, role, steady
from weft.api import FlipMethod, RebalanceMode, Stage
from weft.balancing.demand import Demand
from weft.balancing.plan import (
    _last_move,
    _late_until,
    _load,
    _terms,
    _without_stops,
    needs_of,
    plan_split,
)
from weft.balancing.regimes import Regimes
from weft.balancing.splits import AFTER_PART, Judgement, Load, Terms
from weft.balancing.state import Hold, Kept, Queues, Split, SplitInputs, Traffic

SMALL, USUAL = Demand(1000, 100, 1000, 100), Demand(8000, 1000, 1000, 125)
TERMS = Terms(240.0, 5.0, {Stage.PREFILL: 2.0, Stage.DECODE: 20.0}, overlaps=True)


def split(prefill: int, decode: int) -> Split:
    return Split.of({"decode": decode, "prefill": prefill})


def ahead(
    lasts_seconds: float, terms: Terms = TERMS, others: bool = True, inputs: SplitInputs | None = None
) -> Load:
    """Of a load that was another one before, read in 15 s."""
    inputs = inputs or group(3, 6, PROMPT_HEAVY)
    before = ((1.0, SMALL),) if others else ()
    seen = Regimes(((0.2, SMALL), (0.8, USUAL)), before, lasts_seconds)
    return _load(inputs, seen, terms, needs_of(inputs, USUAL))


def test_a_load_that_comes_back_meets_the_old_split_until_it_is_read_and_answered() -> None:
    # 15 s until the short window is its own and 5 s for the flip, once in so many seconds.
    assert ahead(300).others_part == pytest.approx(20 / 300)
    assert ahead(100).others_part == pytest.approx(20 / 100)
    # But no longer than it is there: of four minutes of a load that lasts 15 s on average 1 - (1 - exp(-16)) / 16.
    assert ahead(15).others_part == pytest.approx(1 - (1 - math.exp(-16)) / 16)
    assert ahead(18).others_part == pytest.approx(1 - (1 - math.exp(-240 / 18)) * 18 / 240)
    assert ahead(math.inf).others_part == 0.0
    assert ahead(300, others=False).others_part == 0.0


def test_where_a_role_serves_both_stages_the_way_back_from_it_drains_too() -> None:
    roles = (*group(3, 6, PROMPT_HEAVY).roles, role("both", Stage.AGGREGATED, 0))
    both = replace(
        group(3, 6, PROMPT_HEAVY, roles=roles), allocation=Split.of({"both": 0, "decode": 6, "prefill": 3})
    )
    drains = replace(TERMS, overlaps=False)
    assert ahead(300, drains, inputs=both).others_part == pytest.approx((20 + 20) / 300)
    assert ahead(300, replace(drains, drain_seconds={}), inputs=both).others_part == pytest.approx(20 / 300)
    assert ahead(300, inputs=both).others_part == pytest.approx(20 / 300)
    assert ahead(300, drains).others_part == pytest.approx(20 / 300)


def test_where_engines_restart_the_way_back_from_a_mixture_takes_as_long_again() -> None:
    alone = tuple(replace(one, start_seconds=60.0) for one in group(3, 6, PROMPT_HEAVY).roles)
    aggregated = replace(role("both", Stage.AGGREGATED, 0), start_seconds=60.0)
    both = replace(
        group(3, 6, PROMPT_HEAVY, roles=(*alone, aggregated)),
        allocation=Split.of({"both": 0, "decode": 6, "prefill": 3}),
    )
    assert ahead(600, inputs=both).others_part == pytest.approx((20 + 20 + 60) / 600)
    assert ahead(600, inputs=group(3, 6, PROMPT_HEAVY, roles=alone)).others_part == pytest.approx(20 / 600)


def test_loads_of_now_count_by_their_probability_and_what_is_hardly_possible_not_at_all() -> None:
    inputs = group(3, 6, PROMPT_HEAVY)
    needs = needs_of(inputs, USUAL)

    def weights(changed: float) -> list[float]:
        seen = Regimes(((changed, SMALL), (0.9 - changed, USUAL)))
        return [weight for weight, _ in _load(inputs, seen, TERMS, needs).now]

    assert weights(0.3) == pytest.approx([1 / 3, 2 / 3])
    assert weights(0.01) == [1.0]
    assert ahead(300).now[1][1] == needs


def test_what_was_measured_late_is_that_of_a_load_that_has_not_changed_since() -> None:
    measured = replace(
        PROMPT_HEAVY, ttft_buckets=((2.5, 9.0), (math.inf, 10.0)), itl_buckets=((0.095, 1.0), (math.inf, 1.0))
    )
    inputs = replace(group(5, 4, measured), queues=Queues(0, 60))
    needs = needs_of(inputs, USUAL)
    stays, changed = Regimes(((0.4, SMALL), (0.6, USUAL))), Regimes(((0.6, SMALL), (0.4, USUAL)))
    assert _load(inputs, stays, TERMS, needs).measured_late == pytest.approx(0.1)
    assert _load(inputs, changed, TERMS, needs).measured_late is None


def test_a_replica_drains_for_as_long_as_the_last_of_its_requests_takes() -> None:
    inputs = replace(group(3, 6, PROMPT_HEAVY), flips_overlap=True, queues=Queues(1, 2))
    demand = replace(USUAL, answer_cv2=0.25)
    needs = needs_of(inputs, demand)
    terms = _terms(inputs, demand, needs)
    prompt, answer = (needs[stage].need.service_seconds for stage in (Stage.PREFILL, Stage.DECODE))
    # Two prompts, one behind the other; an answer one and a half standard deviations (of a half) above the mean.
    assert terms.drain_seconds == {
        Stage.PREFILL: pytest.approx(2 * prompt),
        Stage.DECODE: pytest.approx(1.75 * answer),
        Stage.AGGREGATED: pytest.approx(1.75 * answer),
    }
    assert (terms.overlaps, terms.queues) == (True, Queues(1, 2))
    only = {Stage.DECODE: needs[Stage.DECODE]}
    assert set(_terms(inputs, demand, only).drain_seconds) == {Stage.DECODE, Stage.AGGREGATED}
    assert set(_terms(inputs, demand, {Stage.PREFILL: needs[Stage.PREFILL]}).drain_seconds) == {Stage.PREFILL}


def test_what_is_late_before_a_move_can_help_is_counted_in_seconds_of_arrivals() -> None:
    # All six decode replicas still start: for the first 30 s of any horizon nobody writes, whatever it is.
    inputs, idle = group(3, 6, PROMPT_HEAVY), Demand(10, 10, 10, 10)
    needs = needs_of(inputs, idle)
    starting = replace(TERMS, starting=tuple(("decode", 30.0) for _ in range(6)))

    def seconds(lead: float) -> float:
        return _late_until(split(3, 6), inputs, needs, starting, Load([(1.0, needs)]), lead)

    assert seconds(10) == pytest.approx((1 - AFTER_PART) * 10, rel=0.01)
    assert seconds(30) == pytest.approx((1 - AFTER_PART) * 30, rel=0.01)
    assert seconds(60) == pytest.approx((1 - AFTER_PART) * 30, rel=0.01)


def stops(lates: Mapping[Split, Mapping[Split, float]], first: Split) -> Split:
    """Where a plan stops that sees so many late of each split, from each."""

    def judged_from(here: Split) -> dict[Split, Judgement]:
        return {one: Judgement(late, late, 1.0) for one, late in lates[here].items()}

    def order(here: Split, found: Mapping[Split, Judgement]) -> list[Split]:
        return sorted(found, key=lambda one: found[one].late)

    return _without_stops(first, judged_from, order)


def test_a_plan_goes_at_once_to_where_it_would_stop_if_it_were_asked_again_and_again() -> None:
    first, second, third = split(3, 3), split(4, 2), split(5, 1)
    onwards = {
        first: {first: 0.5, second: 0.3, third: 0.4},
        second: {first: 0.5, second: 0.3, third: 0.2},
        third: {first: 0.5, second: 0.3, third: 0.2},
    }
    assert stops(onwards, first) == third
    # Not for less than any move has to save,
    assert stops({**onwards, second: {second: 0.3, third: 0.28}}, first) == second
    assert stops({**onwards, second: {second: 0.4, third: 0.28}}, first) == third
    # and not in circles: each looks better from the other.
    turns = {first: {first: 0.5, second: 0.3}, second: {first: 0.3, second: 0.5}}
    assert stops(turns, first) == second


def test_the_last_move_is_who_gave_and_who_took_since_the_decision_before() -> None:
    def moved(before: Split, **changes: Any) -> tuple[tuple[str, str], ...]:
        return _last_move(replace(group(3, 6, PROMPT_HEAVY), decided_from=before, **changes))

    assert moved(split(2, 7)) == (("decode", "prefill"),)
    assert moved(split(4, 5)) == (("prefill", "decode"),)
    assert moved(split(3, 6)) == moved(Split()) == ()
    # A role that only grew took from nobody; where the size is free a change of it is no move.
    assert moved(split(2, 6)) == ()
    assert moved(split(1, 7)) == (("decode", "prefill"),)
    assert moved(split(1, 7), minimum_accelerators=4) == ()
    assert moved(split(2, 7), minimum_accelerators=4) == (("decode", "prefill"),)


def test_a_move_is_not_taken_back_for_fewer_late_requests_than_another_flip_costs() -> None:
    # Twelve that wait are in time at three prefill replicas; a flip costs one of them 5 s of 2.5 requests a second.
    just = {"decided_at": T0 - timedelta(seconds=12), "moved_at": T0, "decided_from": split(5, 4)}
    wrong = replace(group(3, 6, PROMPT_HEAVY), **just)
    assert plan_split(replace(wrong, queues=Queues(20, 90))).decision is None
    assert plan_split(replace(wrong, queues=Queues(30, 90))).allocation["prefill"] > 3


STALE = Hold("Stale", "no scrape")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"traffic": None},
        {"traffic": steady(0, 0, 0)},
        {"traffic": ANSWER_HEAVY},
        {"hold": STALE},
        {"flip": FlipMethod.NONE},
        {"mode": RebalanceMode.PAUSED},
        {"mode": RebalanceMode.RECOMMEND},
        {"mode": RebalanceMode.RECOMMEND, "minimum_accelerators": 4},
    ],
)
def test_a_budget_that_is_too_small_is_said_whatever_else_is_decided(changes: dict[str, Any]) -> None:
    short = replace(group(3, 6, PROMPT_HEAVY, budget=16), allocation=split(3, 5), left_out=1)
    plan = plan_split(replace(short, **changes))
    assert plan.obstacle is not None
    assert (plan.obstacle.reason, plan.left_out) == ("BudgetTooSmall", 1)


@pytest.mark.parametrize("changes", [{}, {"hold": STALE}, {"traffic": None}, {"traffic": ANSWER_HEAVY}])
def test_a_minimum_that_is_out_of_reach_is_said_whatever_else_is_decided(changes: dict[str, Any]) -> None:
    roles = (role("decode", Stage.DECODE, 6, maximum=6), role("prefill", Stage.PREFILL, 3, maximum=3))
    small = replace(group(3, 6, PROMPT_HEAVY, roles=roles), minimum_accelerators=20)
    plan = plan_split(replace(small, **changes))
    assert plan.obstacle is not None
    assert plan.obstacle.reason == "MinimumOutOfReach"


def test_a_group_with_a_free_size_says_which_role_lacks_a_profile_and_stays_as_it_is() -> None:
    roles = (
        role("decode", Stage.DECODE, 6, profile=None, profile_error="there is no EngineProfile 'speed'"),
        role("prefill", Stage.PREFILL, 3),
    )
    inputs = replace(group(3, 6, PROMPT_HEAVY, roles=roles), minimum_accelerators=4)
    plan = plan_split(inputs)
    assert (plan.allocation, plan.decision) == (split(3, 6), None)
    assert plan.obstacle is not None
    assert (plan.obstacle.status, plan.obstacle.reason) == (False, "ProfileMissing")
    assert plan.obstacle.message == "role decode: there is no EngineProfile 'speed'"


def recorded(traffic: Traffic) -> Traffic:
    return replace(traffic, record=Kept(0.93, 90_000, 0.3))


def test_a_decision_says_what_was_before_and_the_headroom_to_go_on_from_after_a_restart() -> None:
    free = {"minimum_accelerators": 4, "queues": Queues(0, 0)}
    grows = replace(group(2, 2, recorded(PROMPT_HEAVY), budget=24), **free)
    flips = replace(group(3, 9, recorded(PROMPT_HEAVY), budget=24), **free)
    for inputs, before in ((grows, split(2, 2)), (flips, split(3, 9))):
        plan = plan_split(inputs)
        assert plan.decision is not None
        assert Split.read(plan.decision.previous) == before
        assert plan.decision.headroom_percent == 30
        assert plan.decision.alternatives
        recommended = plan_split(replace(inputs, mode=RebalanceMode.RECOMMEND))
        assert recommended.allocation == before
        assert recommended.recommendation is not None
        assert recommended.recommendation.alternatives
    assert plan_split(replace(grows, mode=RebalanceMode.RECOMMEND)).recommendation.headroom_percent == 30  # type: ignore[union-attr]
    fixed = plan_split(group(3, 6, recorded(PROMPT_HEAVY)))
    assert fixed.decision is not None
    assert (Split.read(fixed.decision.previous), fixed.decision.headroom_percent) == (split(3, 6), None)


@pytest.mark.parametrize("mode", [RebalanceMode.AUTO, RebalanceMode.RECOMMEND])
def test_what_is_decided_or_recommended_says_how_many_fewer_will_be_late(mode: RebalanceMode) -> None:
    plan = plan_split(group(3, 6, PROMPT_HEAVY, mode=mode))
    assert plan.expected is not None
    assert plan.expected.before > 0.5 > plan.expected.after


def test_a_role_whose_need_nobody_knows_has_what_it_asks_for_whatever_the_others_exchange() -> None:
    # Encoders have no profile; two are asked for, and five were there.
    encode = role("encode", Stage.ENCODE, 2, profile=None)
    inputs = group(3, 6, PROMPT_HEAVY, roles=(*group(3, 6, PROMPT_HEAVY).roles, encode), budget=28)
    many = replace(inputs, allocation=Split.of({"decode": 6, "encode": 5, "prefill": 3}))
    assert plan_split(many).allocation == Split.of({"decode": 6, "encode": 2, "prefill": 3})
    asked = replace(inputs, allocation=Split.of({"decode": 6, "encode": 2, "prefill": 3}))
    moved = plan_split(asked)
    assert moved.obstacle is None
    assert moved.allocation == Split.of({"decode": 4, "encode": 2, "prefill": 5})
    grows = plan_split(replace(asked, minimum_accelerators=4, queues=Queues(0, 0)))
    assert grows.allocation["encode"] == 2


def test_roles_whose_least_does_not_fit_into_the_budget_keep_what_they_have() -> None:
    tight = group(3, 6, PROMPT_HEAVY, budget=2)
    plan = plan_split(tight)
    assert (plan.allocation, plan.held, plan.decision) == (split(3, 6), True, None)
    assert not plan_split(group(3, 6, PROMPT_HEAVY)).held
    asleep = replace(tight, asleep=True, allocation=split(0, 0))
    assert plan_split(asleep).allocation == split(0, 0)

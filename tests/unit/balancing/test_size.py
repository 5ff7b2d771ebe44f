"""How many replicas a group has, where `accelerators.minimum` sets the size free."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.inference import ANSWER_HEAVY, OBJECTIVES, PROMPT_HEAVY, T0, group, known, role, steady
from weft.api import FlipMethod, RebalanceMode, Stage
from weft.balancing.plan import SplitPlan, plan_split
from weft.balancing.state import Corrections, Hold, Kept, Past, Queues, Split, SplitInputs, Traffic

EMPTY = Queues(0, 0)


def split(prefill: int, decode: int) -> Split:
    return Split.of({"decode": decode, "prefill": prefill})


def elastic(prefill: int, decode: int, traffic: Traffic | None, **changes: object) -> SplitInputs:
    """Between 4 and 24 accelerators, two per replica."""
    return replace(
        group(prefill, decode, traffic, budget=24),
        **{"minimum_accelerators": 4, "queues": EMPTY, **changes},  # type: ignore[arg-type]  # tests name any field
    )


def reason(plan: SplitPlan) -> str:
    assert plan.decision is not None
    return plan.decision.reason


def test_without_a_minimum_the_number_of_replicas_stays() -> None:
    inputs = elastic(2, 2, PROMPT_HEAVY, minimum_accelerators=None)
    assert plan_split(inputs).allocation.total == 4


@pytest.mark.parametrize("start", [(2, 2), (3, 3), (1, 4), (4, 2)])
def test_a_group_that_is_too_small_grows_to_what_the_load_needs_and_says_so(start: tuple[int, int]) -> None:
    plan = plan_split(elastic(*start, PROMPT_HEAVY))
    assert plan.allocation == split(5, 4)
    assert reason(plan).startswith("grows by ")
    assert "prefill needs 4.3 replicas and has" in reason(plan)
    assert "a new replica serves after 60 s" in reason(plan)


def test_a_burst_that_is_over_before_a_replica_serves_is_no_reason_for_one() -> None:
    burst = replace(steady(2, 1420, 145), short=PROMPT_HEAVY.short)
    assert plan_split(elastic(2, 2, burst)).allocation.total == 4


def test_a_load_that_is_over_is_not_grown_for_but_keeps_from_getting_smaller() -> None:
    assert plan_split(elastic(3, 4, known(ANSWER_HEAVY, 2.5))).allocation.total == 7


def test_a_queue_that_the_present_replicas_would_not_work_off_asks_for_more() -> None:
    # What is offered needs 4.3 and 3.6; 5 + 4 are there, but 800 prompts wait.
    assert plan_split(elastic(5, 4, PROMPT_HEAVY)).decision is None
    assert plan_split(elastic(5, 4, PROMPT_HEAVY, queues=Queues(800, 80))).allocation.total > 9


def test_chance_in_the_observed_speed_of_engines_is_no_reason_to_grow_but_slow_engines_are() -> None:
    for speed, grows in ((0.82, False), (1.0, False), (0.6, True)):
        seen = elastic(5, 4, PROMPT_HEAVY, corrections=Corrections(prefill=speed))
        assert (plan_split(seen).allocation.total > 9) is grows, speed


def test_a_promise_of_more_requests_holds_more_replicas() -> None:
    def size(permille: int) -> int:
        objectives = OBJECTIVES.model_copy(update={"attainment_permille": permille})
        return plan_split(elastic(2, 2, steady(8, 1420, 145), objectives=objectives)).allocation.total

    assert size(900) <= size(950) < size(990)


def test_a_burst_that_moved_a_replica_away_is_answered_by_the_way_back_and_not_by_a_new_one() -> None:
    # 5 + 4 would do; a flip a moment ago made it 6 + 3.
    inputs = elastic(
        6, 3, PROMPT_HEAVY, decided_at=T0, decided_from=split(5, 4), now=T0 + timedelta(seconds=5)
    )
    assert plan_split(inputs).allocation.total == 9


def test_growth_stops_at_the_maximum_and_at_what_the_roles_allow() -> None:
    assert plan_split(replace(elastic(2, 2, PROMPT_HEAVY), budget_accelerators=14)).allocation.total <= 7
    roles = (role("decode", Stage.DECODE, 2, maximum=3), role("prefill", Stage.PREFILL, 2, maximum=3))
    assert plan_split(elastic(2, 2, PROMPT_HEAVY, roles=roles)).allocation == split(3, 3)


def test_what_a_flip_can_give_is_not_asked_for_as_a_new_replica() -> None:
    plan = plan_split(elastic(3, 6, PROMPT_HEAVY))
    assert plan.allocation == split(5, 4)
    assert "decode 4, prefill 5 is better than decode 6, prefill 3" in reason(plan)


def test_a_flip_that_starts_an_engine_anew_does_not_save_a_new_replica() -> None:
    inputs = elastic(3, 6, PROMPT_HEAVY)
    restarting = replace(inputs, roles=tuple(replace(each, start_seconds=60.0) for each in inputs.roles))
    plan = plan_split(restarting)
    assert plan.allocation == split(5, 6)
    assert reason(plan).startswith("grows by 2 prefill")


def test_a_replica_that_starts_is_counted_from_when_it_serves_and_not_asked_for_twice() -> None:
    plan = plan_split(elastic(2, 2, PROMPT_HEAVY))
    starting = tuple(
        (name, 55.0) for name, count in plan.allocation.counts for _ in range(count - split(2, 2)[name])
    )
    again = elastic(2, 2, PROMPT_HEAVY, allocation=plan.allocation, starting=starting, scaled_at=T0)
    assert plan_split(again).decision is None


def test_while_a_replica_waits_for_hardware_no_more_are_asked_for() -> None:
    waits = (("prefill", math.inf), ("prefill", math.inf))
    plan = plan_split(elastic(5, 4, steady(10, 1420, 145), starting=waits))
    assert plan.allocation.total == 9


def test_a_replica_that_waits_for_hardware_is_no_capacity_so_that_those_that_serve_flip() -> None:
    # 5 + 5 would carry it; the two prefill replicas never came, and decode can spare one.
    plan = plan_split(elastic(5, 5, PROMPT_HEAVY, starting=(("prefill", math.inf), ("prefill", math.inf))))
    assert plan.allocation["prefill"] > 5
    assert plan.allocation.total == 10


def test_a_group_that_is_larger_than_the_last_minutes_needed_shrinks_and_says_by_what() -> None:
    plan = plan_split(elastic(6, 5, known(ANSWER_HEAVY)))
    assert plan.allocation.total < 11
    assert plan.allocation["prefill"] >= 2
    assert plan.allocation["decode"] >= 4  # it needs 3.3
    assert reason(plan).startswith("shrinks by ")
    assert "minutes needed at most prefill 1.7, decode 3.3 replicas" in reason(plan)


def test_a_shrunk_group_is_not_grown_again_by_the_same_load() -> None:
    inputs = elastic(6, 5, known(ANSWER_HEAVY))
    shrunk = plan_split(inputs).allocation
    later = replace(inputs, allocation=shrunk, now=T0 + timedelta(hours=1))
    assert plan_split(later).decision is None


@pytest.mark.parametrize(
    "changes",
    [
        {"traffic": replace(known(ANSWER_HEAVY), past=None)},
        {"traffic": known(ANSWER_HEAVY, 2.5)},
        {"scaled_at": T0 - timedelta(seconds=880)},
        {"starting": (("decode", 30.0),)},
        {"settled": False},
        {"queues": Queues(50, 0)},
        {"traffic": None, "hold": Hold("Stale", "no scrape")},
        {"minimum_accelerators": 22},
    ],
    ids=["unknown past", "peak", "scaled lately", "starting", "removing", "queue", "metrics held", "minimum"],
)
def test_a_group_does_not_shrink_without_evidence(changes: dict[str, object]) -> None:
    inputs = replace(elastic(6, 5, known(ANSWER_HEAVY)), **changes)  # type: ignore[arg-type]  # any field
    assert plan_split(inputs).allocation.total == 11


def test_a_group_that_has_just_grown_is_not_grown_again_by_what_a_window_still_fills_up_with() -> None:
    creeping, doubled = steady(9.0, 1420, 130), steady(15.0, 1420, 130)
    inputs = elastic(5, 4, creeping, grown_at=T0 - timedelta(seconds=20))
    assert plan_split(inputs).decision is None
    assert plan_split(replace(inputs, traffic=doubled)).allocation.total > 9
    assert plan_split(replace(inputs, grown_at=T0 - timedelta(seconds=61))).allocation.total == 10


def test_a_group_that_nobody_asks_shrinks_to_its_minimum() -> None:
    plan = plan_split(elastic(4, 5, replace(steady(0, 0, 0), past=Past(0))))
    assert plan.allocation == split(1, 1)
    assert reason(plan) == "shrinks by 4 decode, 3 prefill: no request came in the last minutes"
    assert plan_split(elastic(4, 5, steady(0, 0, 0))).decision is None  # nothing is known of the last minutes


def test_a_minimum_that_is_raised_is_followed_without_metrics() -> None:
    plan = plan_split(elastic(2, 2, None, minimum_accelerators=12))
    assert plan.allocation == split(3, 3)
    assert plan.decision is not None


def test_a_minimum_that_the_roles_do_not_allow_is_said() -> None:
    roles = (role("decode", Stage.DECODE, 2, maximum=2), role("prefill", Stage.PREFILL, 2, maximum=2))
    plan = plan_split(elastic(2, 2, None, minimum_accelerators=12, roles=roles))
    assert plan.obstacle is not None
    assert plan.obstacle.reason == "MinimumOutOfReach"


def test_without_flips_each_role_grows_for_itself() -> None:
    roles = (role("decode", Stage.DECODE, 6, kind="a"), role("prefill", Stage.PREFILL, 3, kind="b"))
    plan = plan_split(elastic(3, 6, PROMPT_HEAVY, flip=FlipMethod.NONE, roles=roles))
    assert plan.allocation == split(5, 6)


def test_replicas_that_serve_both_stages_grow_too() -> None:
    roles = (role("both", Stage.AGGREGATED, 2),)
    plan = plan_split(elastic(0, 0, PROMPT_HEAVY, allocation=Split.of({"both": 2}), roles=roles))
    # With the eight that 4.07 and 3.38 sum up to prompts would slow most of the answers.
    assert plan.allocation["both"] >= 10


def test_recommend_says_the_size_and_keeps_what_the_roles_ask_for() -> None:
    inputs = elastic(2, 2, PROMPT_HEAVY, mode=RebalanceMode.RECOMMEND)
    plan = plan_split(inputs)
    assert plan.allocation == split(2, 2)
    assert plan.recommendation is not None
    assert Split.read(plan.recommendation.allocation) == split(5, 4)
    assert plan_split(replace(inputs, recommended=split(5, 4))).recommendation is None


def test_after_shrinking_a_group_grows_again_only_after_the_cooldown() -> None:
    before = {"decided_from": split(3, 3), "decided_at": T0, "scaled_at": T0}
    early = elastic(2, 2, PROMPT_HEAVY, now=T0 + timedelta(seconds=20), **before)
    assert plan_split(early).decision is None
    assert plan_split(replace(early, now=T0 + timedelta(seconds=40))).allocation.total > 4


def test_a_promise_that_was_missed_for_hours_makes_the_group_larger_and_one_kept_with_room_smaller() -> None:
    def recorded(traffic: Traffic, in_time: float, headroom: float) -> Traffic:
        return replace(traffic, record=Kept(in_time, 90_000, headroom))

    assert plan_split(elastic(5, 4, PROMPT_HEAVY)).decision is None
    missed = plan_split(elastic(5, 4, recorded(PROMPT_HEAVY, 0.93, 0.3)))
    assert missed.allocation.total > 9
    assert reason(missed).endswith(
        "; 93.0 % of the last hours' requests were in time, 95 % are promised: 30 % more headroom"
    )
    assert missed.decision is not None
    assert missed.decision.headroom_percent == 30

    usual = plan_split(elastic(6, 6, known(ANSWER_HEAVY)))
    better = plan_split(elastic(6, 6, recorded(known(ANSWER_HEAVY), 0.99, -0.2)))
    assert better.allocation.total < usual.allocation.total
    assert reason(better).endswith(": 20 % less headroom")


def needed(plan: SplitPlan) -> dict[str, float]:
    return {
        stage: float(number) for stage, number in re.findall(r"(\w+) needs ([\d.]+) replicas", reason(plan))
    }


def test_a_stage_that_takes_little_hardware_has_more_headroom_than_the_other() -> None:
    beyond = {Stage.PREFILL: 0.2, Stage.DECODE: -0.1}
    usual = needed(plan_split(elastic(1, 1, PROMPT_HEAVY)))
    record = Kept(0.95, 90_000, 0.1, beyond)
    found = needed(plan_split(elastic(1, 1, replace(PROMPT_HEAVY, record=record))))
    assert found["prefill"] == pytest.approx(1.3 * usual["prefill"], rel=0.05)
    assert found["decode"] == pytest.approx(usual["decode"], rel=0.05)


def test_traffic_that_stays_the_same_scales_at_most_six_times_an_hour_and_takes_nothing_back_at_once() -> (
    None
):
    chance = random.Random(11)
    inputs = elastic(2, 2, PROMPT_HEAVY)
    loads: list[float] = []
    changes: list[tuple[datetime, int]] = []
    hours = 3
    for step in range(hours * 180):
        now = T0 + timedelta(seconds=20 * step)
        # One long window of 7.5 requests a second, whose lengths vary: 12 % one way or the other.
        loads = [*loads, max(0.1, 7.5 * (1 + 0.12 * chance.gauss(0, 1)))][-60:]
        traffic = known(steady(loads[-1], 1420, 145), max(loads) / loads[-1])
        plan = plan_split(replace(inputs, traffic=traffic, now=now))
        if plan.allocation.total != inputs.allocation.total:
            grown = plan.allocation.total > inputs.allocation.total
            changes.append((now, 1 if grown else -1))
            inputs = replace(inputs, scaled_at=now, grown_at=now if grown else inputs.grown_at)
        if plan.decision is not None:
            inputs = replace(
                inputs, decided_at=now, decided_from=inputs.allocation, allocation=plan.allocation
            )
    assert changes
    for moment, _ in changes:
        assert sum(timedelta(0) <= other - moment < timedelta(hours=1) for other, _ in changes) <= 6
    for (first, way), (second, back) in pairwise(changes):
        if way != back:
            assert second - first >= timedelta(seconds=1200 if way > 0 else inputs.cooldown_seconds)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.floats(0.05, 12),
    st.floats(100, 4000),
    st.floats(20, 600),
    st.floats(1, 3),
    st.integers(0, 24),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_decision_is_within_the_limits_and_the_next_look_takes_nothing_back(
    counts: tuple[int, int], rate: float, prompt: float, answer: float, peak: float, least: int, kept: bool
) -> None:
    traffic = known(steady(rate, prompt, answer), peak)
    if not kept:
        traffic = replace(traffic, ttft_buckets=((2.5, 0.5), (math.inf, 1.0)))
    inputs = elastic(*counts, traffic, minimum_accelerators=least)
    first = plan_split(inputs)
    for name, count in first.allocation.counts:
        assert 1 <= count <= 32, name
    assert min(least, 24) <= 2 * first.allocation.total + 1  # replicas have two each
    assert 2 * first.allocation.total <= 24
    later = T0 + timedelta(seconds=2)
    again = replace(
        inputs,
        allocation=first.allocation,
        now=later,
        decided_at=T0 if first.decision else inputs.decided_at,
        decided_from=inputs.allocation if first.decision else inputs.decided_from,
        scaled_at=T0 if first.allocation.total != inputs.allocation.total else None,
    )
    turned = plan_split(again).allocation
    if first.allocation.total >= inputs.allocation.total:
        assert turned.total >= first.allocation.total
    else:
        assert turned.total <= first.allocation.total

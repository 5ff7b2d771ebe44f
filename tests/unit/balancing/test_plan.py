"""How the split is decided."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta

import pytest

from support.inference import ANSWER_HEAVY, LLAMA_70B, PROMPT_HEAVY, T0, group, role, steady
from weft.api import RebalanceMode, Stage
from weft.balancing.plan import plan_split
from weft.balancing.splits import reachable
from weft.balancing.state import Corrections, Hold, Queues, Split, SplitInputs, Traffic

IDLE = steady(0, 0, 0)


def split(prefill: int, decode: int) -> Split:
    return Split.of({"decode": decode, "prefill": prefill})


@pytest.mark.parametrize("prefill", range(1, 9))
def test_prompt_heavy_load_gets_five_prefill_and_four_decode_from_any_split(prefill: int) -> None:
    # prefill needs 4.07 and decode 3.38 of nine (worked out in test_capacity): only 5 + 4 gives both.
    assert plan_split(group(prefill, 9 - prefill, PROMPT_HEAVY)).allocation == split(5, 4)


@pytest.mark.parametrize("prefill", range(1, 9))
def test_answer_heavy_load_gets_what_decode_needs_from_any_split(prefill: int) -> None:
    # prefill needs 1.64 (1.42 erlangs), decode 3.07: splits from 2 + 7 to 5 + 4 carry it, and none moves away.
    counts = dict(plan_split(group(prefill, 9 - prefill, ANSWER_HEAVY)).allocation.counts)
    assert counts["prefill"] >= 2
    assert counts["decode"] >= 3


def test_a_split_that_carries_the_load_is_left_alone_even_if_another_has_more_headroom() -> None:
    plan = plan_split(group(3, 6, ANSWER_HEAVY))
    assert plan.allocation == split(3, 6)
    assert plan.decision is None


def test_a_decision_says_in_numbers_why_and_what_came_next() -> None:
    decision = plan_split(group(3, 6, PROMPT_HEAVY)).decision
    assert decision is not None
    assert "decode 4, prefill 5 is better than decode 6, prefill 3" in decision.reason
    assert "prefill needs 4.1 replicas (10,650 prompt tokens/s, 2,856 per replica)" in decision.reason
    assert len(decision.alternatives) == 2
    assert decision.alternatives[0].allocation != decision.alternatives[1].allocation
    assert " flip" in decision.alternatives[0].reason


def test_a_slower_prefill_than_measured_gets_another_replica() -> None:
    # At 0.75 of its speed prefill saturates at 4.97: five no longer do.
    plan = plan_split(group(5, 4, steady(7.5, 1420, 100), corrections=Corrections(prefill=0.75)))
    assert plan.allocation == split(6, 3)


def test_metrics_on_hold_change_nothing() -> None:
    plan = plan_split(group(3, 6, PROMPT_HEAVY, hold=Hold("Stale", "no scrape")))
    assert plan.allocation == split(3, 6)
    assert plan.decision is None


@pytest.mark.parametrize(
    "too_early",
    [
        {"decided_at": T0 - timedelta(seconds=29)},
        {"moved_at": T0 - timedelta(seconds=29)},
        {"settled": False},  # nothing known of the move's direction: it is being rolled back
    ],
)
def test_nothing_is_decided_within_the_cooldown_or_during_a_move(too_early: dict[str, object]) -> None:
    plan = plan_split(group(3, 6, PROMPT_HEAVY, **too_early))  # type: ignore[arg-type]
    assert plan.allocation == split(3, 6)


def test_a_move_under_way_may_be_extended_but_not_turned() -> None:
    on_the_way = {"settled": False, "moving": (("decode", "prefill"),), "decided_at": T0}
    assert plan_split(replace(group(3, 6, PROMPT_HEAVY), **on_the_way)).allocation == split(5, 4)  # type: ignore[arg-type]
    turned = replace(group(8, 1, ANSWER_HEAVY), **on_the_way)  # type: ignore[arg-type]
    assert plan_split(turned).allocation == split(8, 1)


def test_without_traffic_the_split_stays() -> None:
    assert plan_split(group(2, 7, IDLE)).decision is None


def test_paused_follows_the_roles_whose_replicas_were_edited() -> None:
    roles = (
        role("decode", Stage.DECODE, 6, asks_anew=True),
        role("prefill", Stage.PREFILL, 3, asks_anew=True),
    )
    plan = plan_split(group(5, 4, PROMPT_HEAVY, mode=RebalanceMode.PAUSED, roles=roles))
    assert plan.allocation == split(3, 6)
    assert plan.decision is not None
    assert plan.decision.reason.startswith("Paused")
    assert plan_split(group(3, 6, PROMPT_HEAVY, mode=RebalanceMode.PAUSED)).decision is None


def test_recommend_publishes_the_better_split_once_and_keeps_the_present_one() -> None:
    first = plan_split(group(3, 6, PROMPT_HEAVY, mode=RebalanceMode.RECOMMEND))
    assert first.allocation == split(3, 6)
    assert first.decision is None
    assert first.recommendation is not None
    assert Split.read(first.recommendation.allocation) == split(5, 4)
    assert "would be better" in first.recommendation.reason
    assert len(first.recommendation.alternatives) == 2
    again = plan_split(group(3, 6, PROMPT_HEAVY, mode=RebalanceMode.RECOMMEND, recommended=split(5, 4)))
    assert again.recommendation is None


def test_minimum_and_maximum_of_a_role_bound_the_split() -> None:
    roles = (role("decode", Stage.DECODE, 6, minimum=5), role("prefill", Stage.PREFILL, 3, maximum=8))
    assert plan_split(group(3, 6, PROMPT_HEAVY, roles=roles)).allocation == split(4, 5)


def test_what_was_decided_before_follows_a_role_whose_bounds_were_changed() -> None:
    roles = (role("decode", Stage.DECODE, 6, maximum=4), role("prefill", Stage.PREFILL, 3, minimum=5))
    assert plan_split(group(3, 6, IDLE, roles=roles)).allocation == split(5, 4)


def test_the_decision_with_which_a_role_comes_names_it_and_calls_nothing_else_changed() -> None:
    """The roles of one manifest come one after the other."""
    one = Split.of({"prefill": 4})
    decision = plan_split(replace(group(4, 6, None, budget=20), allocation=one)).decision

    assert decision is not None
    assert decision.reason == "new: decode, with the replicas asked for: decode 6, prefill 4"


def test_no_stage_is_left_without_a_replica_even_if_its_role_may_have_none() -> None:
    roles = (role("decode", Stage.DECODE, 3, minimum=0), role("prefill", Stage.PREFILL, 1, minimum=0))
    assert set(reachable(split(1, 3), roles, 0)) == {split(2, 2), split(3, 1)}


def test_no_role_takes_beyond_its_maximum() -> None:
    roles = (role("decode", Stage.DECODE, 3), role("prefill", Stage.PREFILL, 1, maximum=2))
    assert set(reachable(split(1, 3), roles, 0)) == {split(2, 2)}


def test_replicas_beyond_the_budget_are_left_out_and_said() -> None:
    plan = plan_split(group(3, 6, IDLE, budget=16))  # 9 replicas of 2 accelerators are 18
    assert plan.allocation.total == 8
    assert plan.obstacle is not None
    assert plan.obstacle.reason == "BudgetTooSmall"


def test_roles_that_differ_in_hardware_exchange_nothing() -> None:
    roles = (role("decode", Stage.DECODE, 6, kind="h100"), role("prefill", Stage.PREFILL, 3, kind="h200"))
    plan = plan_split(group(3, 6, PROMPT_HEAVY, roles=roles))
    assert plan.allocation == split(3, 6)
    assert plan.obstacle is not None
    assert plan.obstacle.reason == "FlipIncompatible"


def test_without_a_profile_nothing_moves_and_the_reason_is_said() -> None:
    roles = (
        role("decode", Stage.DECODE, 6, profile=None, profile_error="there is no EngineProfile 'speed'"),
        role("prefill", Stage.PREFILL, 3),
    )
    plan = plan_split(group(3, 6, PROMPT_HEAVY, roles=roles))
    assert plan.decision is None
    assert plan.obstacle is not None
    assert (plan.obstacle.status, plan.obstacle.reason) == (False, "ProfileMissing")
    assert "role decode: there is no EngineProfile 'speed'" in plan.obstacle.message


LATE = ((2.5, 3.0), (math.inf, 10.0))
ON_TIME = ((2.5, 9.9), (math.inf, 10.0))
FAST = ((0.095, 10.0), (math.inf, 10.0))


def test_while_objectives_are_met_and_nothing_waits_no_replica_moves() -> None:
    # By the profile prefill's three are too few; what is measured says otherwise.
    # What was late is more than an overlapping flip may cost, and no more than was promised.
    met = replace(PROMPT_HEAVY, ttft_buckets=((2.5, 9.6), (math.inf, 10.0)), itl_buckets=FAST)
    quiet = {"queues": Queues(prompts_waiting=0, answers_present=70), "flips_overlap": True}
    assert plan_split(replace(group(3, 6, met), **quiet)).decision is None  # type: ignore[arg-type]
    missed = replace(PROMPT_HEAVY, ttft_buckets=LATE, itl_buckets=FAST)
    assert plan_split(replace(group(3, 6, missed), **quiet)).decision is not None  # type: ignore[arg-type]


def test_a_queue_that_eats_the_time_to_the_first_token_is_a_reason_to_move_while_objectives_are_still_met() -> (
    None
):
    met = replace(PROMPT_HEAVY, ttft_buckets=ON_TIME, itl_buckets=FAST)
    observed = replace(group(3, 6, met), queues=Queues(prompts_waiting=50, answers_present=70))
    assert plan_split(observed).allocation["prefill"] > 3


def test_decode_without_a_free_place_is_a_reason_to_move_while_objectives_are_still_met() -> None:
    met = replace(steady(2.0, 300, 700), ttft_buckets=ON_TIME, itl_buckets=FAST)
    observed = replace(group(6, 3, met), queues=Queues(prompts_waiting=0, answers_present=130))
    assert plan_split(observed).allocation["decode"] > 3
    free = replace(observed, queues=Queues(prompts_waiting=0, answers_present=60))
    assert plan_split(free).decision is None


def late_by_tenths(tenths: int) -> Traffic:
    ttft = ((2.5, 10.0 - tenths), (math.inf, 10.0))
    return replace(PROMPT_HEAVY, ttft_buckets=ttft, itl_buckets=FAST)


def test_the_dearer_a_move_the_more_has_to_be_late_before_it_is_made() -> None:
    # 6 s of arrivals were late. An overlapping flip and its way back cost a sixth of 10 s, one that drains of half a
    # minute, one with a restart of minutes.
    def moves(tenths: int, **changes: object) -> bool:
        observed = group(3, 6, late_by_tenths(tenths), **changes)  # type: ignore[arg-type]
        queues = Queues(prompts_waiting=0, answers_present=70)
        return plan_split(replace(observed, queues=queues, flips_overlap=True)).decision is not None

    restarts = tuple(
        role(name, stage, count, start_seconds=60.0)
        for name, stage, count in (("decode", Stage.DECODE, 6), ("prefill", Stage.PREFILL, 3))
    )
    assert moves(1)
    assert not moves(1, roles=restarts)
    assert moves(6, roles=restarts)


def test_a_flip_that_drains_waits_for_longer_than_one_that_overlaps() -> None:
    # Answers take half a minute to end: as long as their replica would be missing if the move were taken back.
    load = replace(steady(4.1, 500, 500), ttft_buckets=((2.5, 9.2), (math.inf, 10.0)), itl_buckets=FAST)
    few = replace(group(6, 3, load), queues=Queues(prompts_waiting=0, answers_present=80))
    assert plan_split(replace(few, flips_overlap=True)).decision is not None
    assert plan_split(few).decision is None


def test_a_backlog_of_prompts_counts_as_work() -> None:
    # Five prefill replicas carry the load; 150 prompts that wait take each of them 15 s.
    usual = replace(group(5, 4, steady(7.5, 1420, 90)), queues=Queues(0, 48), flips_overlap=True)
    assert plan_split(usual).allocation == split(5, 4)
    behind = replace(usual, queues=Queues(150, 48))
    assert plan_split(behind).allocation["prefill"] > 5


def test_what_drains_first_has_to_gain_more_than_what_overlaps() -> None:
    # Answers of 280 tokens take 20 s to end, long ones longer: as long as decode lacks the replica and prefill too.
    load = steady(4.6, 2000, 280)
    decided = {flips: plan_split(replace(group(3, 6, load), flips_overlap=flips)) for flips in (False, True)}
    gains = {flips: plan.decision.reason for flips, plan in decided.items() if plan.decision is not None}
    assert True in gains
    if False in gains:
        assert gains[False].split("->")[1][:5] > gains[True].split("->")[1][:5]


def test_within_the_cooldown_a_move_may_go_further_but_not_back() -> None:
    just = {"decided_at": T0 - timedelta(seconds=5), "decided_from": split(2, 7)}
    assert plan_split(replace(group(3, 6, PROMPT_HEAVY), **just)).allocation == split(5, 4)  # type: ignore[arg-type]
    turned = {"decided_at": T0 - timedelta(seconds=5), "decided_from": split(2, 7)}
    assert plan_split(replace(group(8, 1, ANSWER_HEAVY), **turned)).allocation == split(8, 1)  # type: ignore[arg-type]


def test_a_move_after_which_its_givers_requests_alone_wait_for_too_long_is_taken_back_at_once() -> None:
    just = {"decided_at": T0 - timedelta(seconds=12), "moved_at": T0, "decided_from": split(5, 4)}
    wrong = replace(group(3, 6, PROMPT_HEAVY), **just)  # type: ignore[arg-type]
    assert plan_split(replace(wrong, queues=Queues(60, 90))).allocation == split(5, 4)
    assert plan_split(replace(wrong, queues=Queues(5, 90))).decision is None  # what waits is in time
    assert plan_split(replace(wrong, queues=Queues(60, 300))).decision is None  # decode is short as well
    assert plan_split(wrong).decision is None  # nothing is known of queues


def mixed(prefill: int, both: int, decode: int, traffic: Traffic) -> SplitInputs:
    roles = (
        role("both", Stage.AGGREGATED, both, minimum=0),
        role("decode", Stage.DECODE, decode),
        role("prefill", Stage.PREFILL, prefill),
    )
    allocation = Split.of({"both": both, "decode": decode, "prefill": prefill})
    return replace(group(prefill, decode, traffic, roles=roles), allocation=allocation)


def test_an_aggregated_role_carries_what_the_others_lack() -> None:
    # One replica decodes where 3.9 are busy: the four that do both fill the gap, and short prompts hardly slow them.
    assert plan_split(mixed(1, 4, 1, LONG_ANSWERS)).decision is None


def test_prompts_that_aggregated_replicas_read_count_against_the_answers_beside_them() -> None:
    # As many as in total are needed: but half of the prompts would slow half of the answers beyond the objective.
    counts = dict(plan_split(mixed(3, 3, 3, PROMPT_HEAVY)).allocation.counts)
    assert counts["both"] < 2
    assert counts["prefill"] > 3


def test_a_mix_that_swings_gets_aggregated_replicas_where_a_steady_one_gets_dedicated_ones() -> None:
    prompts = steady(6.0, 2000, 80)
    swings = plan_split(mixed(3, 0, 3, alternating(prompts, LONG_ANSWERS))).allocation
    stays = plan_split(mixed(3, 0, 3, alternating(prompts, prompts))).allocation
    assert dict(swings.counts) == {"both": 3, "decode": 1, "prefill": 2}
    assert dict(stays.counts) == {"both": 0, "decode": 2, "prefill": 4}


def test_the_last_aggregated_replica_goes_where_others_serve_both_stages() -> None:
    observed = mixed(3, 1, 3, PROMPT_HEAVY)
    assert Split.of({"both": 0, "decode": 3, "prefill": 4}) in reachable(
        observed.allocation, observed.roles, 32
    )
    alone = (role("both", Stage.AGGREGATED, 2, minimum=0), role("decode", Stage.DECODE, 0, minimum=0))
    found = list(reachable(Split.of({"both": 2, "decode": 0}), alone, 32))
    assert found == [Split.of({"both": 1, "decode": 1})]  # nobody would read prompts


def test_a_role_of_faster_replicas_counts_for_more() -> None:
    slow_prefill = LLAMA_70B.prefill
    fast = replace(
        LLAMA_70B, prefill=replace(slow_prefill, seconds=tuple(each / 2 for each in slow_prefill.seconds))
    )
    # Three prefill replicas of double speed carry what six would.
    roles = (
        role("decode", Stage.DECODE, 6, kind="slow"),
        role("prefill", Stage.PREFILL, 1, kind="slow"),
        role("prefill-fast", Stage.PREFILL, 2, kind="fast", profile=fast),
    )
    observed = replace(
        group(1, 6, PROMPT_HEAVY, roles=roles),
        allocation=Split((("decode", 6), ("prefill", 1), ("prefill-fast", 2))),
    )
    assert plan_split(observed).decision is None
    slow = replace(observed, roles=(*roles[:2], replace(roles[2], profile=LLAMA_70B)))
    assert dict(plan_split(slow).allocation.counts)["prefill"] == 3


def alternating(now: Traffic, before: Traffic, scrape_seconds: float = 5.0) -> Traffic:
    """Five minutes of each mix in turn, the present one for three."""
    past = (*[now.long] * 3, *[before.long] * 5, *[now.long] * 2)
    return replace(now, history=past, history_seconds=60.0, short_seconds=4 * scrape_seconds)


LONG_PROMPTS, LONG_ANSWERS = steady(5.0, 2000, 80), steady(4.2, 450, 400)


def test_of_mixes_that_alternate_the_split_that_carries_both_is_gone_to() -> None:
    # Long answers alone would have six of nine decode, which leaves too few for the long prompts that come back.
    answers = steady(4.2, 450, 460)
    from_prompts = replace(group(6, 3, alternating(answers, LONG_PROMPTS)), flips_overlap=True)
    assert plan_split(from_prompts).allocation == split(4, 5)
    always = replace(group(6, 3, alternating(answers, answers)), flips_overlap=True)
    assert plan_split(always).allocation == split(3, 6)


def test_a_split_that_carries_the_present_load_is_not_left_for_one_that_may_come_back() -> None:
    met = replace(alternating(LONG_ANSWERS, LONG_PROMPTS), ttft_buckets=LATE, itl_buckets=FAST)
    # Objectives were missed when the mix changed; two prefill replicas are too few for what was before.
    observed = replace(group(2, 7, met), queues=Queues(0, 120))
    assert plan_split(observed).decision is None


def test_a_split_that_was_measured_to_do_is_kept_whatever_the_profile_says() -> None:
    # By the profile nearly all would be late; 94.5 % had their first token in time, and nothing waits.
    nearly = ((2.5, 9.45), (math.inf, 10.0))
    load = replace(PROMPT_HEAVY, ttft_buckets=nearly, itl_buckets=FAST)
    observed = replace(group(4, 5, replace(load, history=(load.long,) * 5)), queues=Queues(0, 70))
    slow = replace(observed, corrections=Corrections(prefill=0.85))
    assert plan_split(slow).decision is None
    # Not so where it was measured on another split,
    moved = replace(slow, moved_at=T0 - timedelta(seconds=40))
    assert plan_split(moved).decision is not None
    # or where what waits now is late already.
    behind = replace(slow, queues=Queues(20, 70))
    assert plan_split(behind).decision is not None


def test_what_would_save_little_is_done_only_if_it_lasts() -> None:
    # 7 % are late as measured; right after a move that is no reason for another.
    nearly = ((2.5, 9.3), (math.inf, 10.0))
    load = replace(PROMPT_HEAVY, ttft_buckets=nearly, itl_buckets=FAST)
    observed = replace(group(4, 5, replace(load, history=(load.long,) * 5)), queues=Queues(0, 70))
    slow = replace(observed, corrections=Corrections(prefill=0.85))
    assert plan_split(replace(slow, moved_at=T0 - timedelta(seconds=61))).decision is None
    assert plan_split(replace(slow, moved_at=T0 - timedelta(seconds=600))).decision is not None


def test_soon_after_a_move_too_nothing_moves_while_objectives_are_met_and_nothing_waits() -> None:
    met = replace(PROMPT_HEAVY, ttft_buckets=((2.5, 9.6), (math.inf, 10.0)), itl_buckets=FAST)
    observed = replace(
        group(3, 6, met), queues=Queues(prompts_waiting=0, answers_present=70), flips_overlap=True
    )
    assert plan_split(replace(observed, moved_at=T0 - timedelta(seconds=40))).decision is None


def test_old_work_that_ends_beside_the_new_has_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    def expected(part: float) -> float:
        monkeypatch.setattr("weft.balancing.splits.INTERFERENCE", part)
        decision = plan_split(replace(group(3, 6, steady(4.6, 2000, 280)), flips_overlap=True)).decision
        assert decision is not None
        return float(decision.reason.split("->")[1].split(";")[0])

    assert expected(1.0) > expected(0.0)


def test_where_a_backlog_makes_all_late_for_minutes_the_split_that_carries_the_load_is_gone_to() -> None:
    hopeless = replace(group(2, 7, PROMPT_HEAVY), queues=Queues(3000, 20), flips_overlap=True)
    assert plan_split(hopeless).allocation["prefill"] >= 5


def test_where_flips_overlap_a_replica_reads_a_backlog_off_that_decode_needs_back_afterwards() -> None:
    # 4:4 just carries the load: 60 prompts that wait would make all late for minutes. 5:3 does not.
    behind = replace(group(4, 4, steady(8.0, 1390, 181)), queues=Queues(60, 70), flips_overlap=True)
    decided = plan_split(behind)
    assert decided.allocation == split(5, 3)
    assert decided.decision is not None
    assert (
        "until the prompts that wait have been read, and then decode 4, prefill 4" in decided.decision.reason
    )
    # Where replicas drain the way back takes longer than the backlog does.
    assert plan_split(replace(behind, flips_overlap=False)).allocation == split(4, 4)
    read = replace(behind, allocation=split(5, 3), queues=Queues(0, 70))
    assert plan_split(read).allocation == split(4, 4)

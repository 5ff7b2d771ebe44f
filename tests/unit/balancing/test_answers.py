"""The size follows the answers that decode replicas have, as their engines tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, OBJECTIVES, T0, group, known, steady
from weft.api.names import LABEL_ROLE
from weft.api.resources import INFERENCE_ROLES, PODS
from weft.balancing.answers import AnswersSeen, most, present
from weft.balancing.engine_calls import EngineCalls
from weft.balancing.moments import Moments
from weft.balancing.observe import observe
from weft.balancing.plan import SplitPlan, plan_split
from weft.balancing.presets import PRESETS
from weft.balancing.state import Answers, EngineLoad, Queues, Split, SplitInputs, Traffic

LONG, SHORT = known(steady(0.65, 2000, 3200)), known(steady(13.0, 100, 160))
"""Requests a second, prompt and answer: answers of 218 and of 11 s. By these rates decode needs 20 and 6 replicas."""
PATIENT = OBJECTIVES.model_copy(update={"time_to_first_token_milliseconds": 20_000})


def seen(traffic: Traffic, *minutes: Answers | None) -> Traffic:
    """The traffic after so many minutes with these answers, oldest first."""
    memory, at = AnswersSeen(), 0.0
    for there in minutes:
        for _ in range(12):
            at += 5.0
            read = memory.with_answers(traffic, there, at, 5.0)
    return read


def inputs(prefill: int, decode: int, traffic: Traffic, **changes: object) -> SplitInputs:
    return replace(
        group(prefill, decode, traffic, budget=120, objectives=PATIENT),
        **{"minimum_accelerators": 4, "queues": Queues(0, 0), "now": T0, **changes},  # type: ignore[arg-type]  # any field
    )


def planned(decode: int, traffic: Traffic, prefill: int = 1) -> SplitPlan:
    return plan_split(inputs(prefill, decode, traffic))


def full(caches: float, waiting: float = 0.0) -> Answers:
    """Replicas whose KV caches are full, with six answers each."""
    return Answers(6 * caches, waiting, caches)


def test_as_many_replicas_are_asked_for_as_the_answers_that_are_there_fill_whatever_rates_and_lengths_say() -> (
    None
):
    assert planned(20, seen(LONG, full(10))).allocation["decode"] <= 20
    assert 26 <= planned(20, seen(LONG, full(24))).allocation["decode"] <= 34


def test_without_kv_caches_in_the_metrics_answers_count_by_the_contexts_that_lengths_lead_to() -> None:
    few, many = (seen(LONG, Answers(running)) for running in (60.0, 240.0))
    assert planned(20, few).allocation["decode"] <= 20
    assert planned(20, many).allocation["decode"] > 20


def test_long_answers_that_wait_ask_for_a_place_each_and_short_ones_for_a_part_of_one() -> None:
    assert planned(20, seen(LONG, full(14, waiting=0))).allocation["decode"] <= 20
    assert planned(20, seen(LONG, full(14, waiting=60))).allocation["decode"] > 22
    assert planned(12, seen(SHORT, Answers(100, 0, 6.0)), 2).allocation["decode"] <= 12
    assert planned(12, seen(SHORT, Answers(100, 60, 6.0)), 2).allocation["decode"] <= 12


def test_a_large_fall_is_followed_after_five_minutes_and_a_small_one_after_twenty() -> None:
    for fall, minutes, shrinks in (
        (full(6), 4, False),
        (full(6), 7, True),
        (full(14), 7, False),
        (full(14), 22, True),
    ):
        traffic = seen(LONG, *[full(15)] * 20, *[fall] * minutes)
        plan = planned(21, traffic)
        assert (plan.allocation["decode"] < 21) is shrinks, (fall, minutes)


def test_a_fall_that_frees_one_replica_is_followed_after_twenty_minutes_and_one_of_two_after_five() -> None:
    # A load that stays has such falls every few minutes, and a growth after each.
    for fall, minutes, decode in ((full(10), 7, 20), (full(9.5), 7, 18)):
        assert planned(20, seen(LONG, *[full(15)] * 20, *[fall] * minutes)).allocation["decode"] == decode
    assert planned(20, seen(LONG, *[full(15)] * 20, *[full(10)] * 22)).allocation["decode"] < 20


def test_a_large_fall_of_short_answers_is_followed_after_twenty_minutes_only() -> None:
    # A new replica would come long after the burst that asks for it.
    high, low = Answers(120, 0, 8.0), Answers(30, 0, 2.0)
    assert planned(11, seen(SHORT, *[high] * 20, *[low] * 10), 2).allocation["decode"] == 11
    assert planned(11, seen(SHORT, *[high] * 20, *[low] * 22), 2).allocation["decode"] < 11


def test_a_group_that_grew_or_shrank_less_than_five_minutes_ago_stays_however_much_is_free() -> None:
    traffic = seen(LONG, *[full(15)] * 20, *[full(6)] * 10)
    for minutes, shrinks in ((4, False), (6, True)):
        at = T0 - timedelta(minutes=minutes)
        grown = inputs(
            1, 21, traffic, scaled_at=at, grown_at=at, decided_from=Split.of({"decode": 20, "prefill": 1})
        )
        assert (plan_split(grown).allocation["decode"] < 21) is shrinks


def test_after_a_pause_the_last_minutes_are_not_known_and_a_large_fall_waits() -> None:
    memory = AnswersSeen()
    for at in range(0, 1500, 5):
        read = memory.with_answers(LONG, full(6), float(at), 5.0)
    assert planned(21, read).allocation["decode"] < 21
    after = memory.with_answers(LONG, full(6), 2000.0, 5.0)
    assert planned(21, replace(after, past=None)).allocation["decode"] == 21
    assert len(after.answers_before) == 1


def test_engines_that_cannot_be_trusted_count_as_the_mean_of_the_others() -> None:
    loads = [EngineLoad(8, 2, kv_usage=0.6), EngineLoad(4, 0, kv_usage=0.2)]
    assert present(loads, 0) == Answers(12, 2, 0.8)
    assert present(loads, 1) == Answers(18, 3, 1.2000000000000002)
    assert present([*loads, EngineLoad(1, 0)], 0) == Answers(13, 2, None)
    assert present([], 3) is None


def test_a_group_of_which_some_leave_decode_with_their_answers_needs_as_much_as_before() -> None:
    full_one = EngineLoad(6, 0, kv_usage=1.0)
    there = planned(20, seen(LONG, Answers(144, 0, 24)))
    assert (
        planned(20, seen(LONG, present([full_one] * 18, 0))).allocation["decode"] < there.allocation["decode"]
    )
    left = present([full_one] * 18, 0, leaving=[full_one] * 6)
    assert planned(20, seen(LONG, left)).allocation == there.allocation


def test_of_an_engine_that_reads_prompts_since_a_flip_the_answers_that_it_still_writes_count() -> None:
    # 100 tokens a second, one each 50 ms: five answers, beside eleven prompts; and one that never wrote any.
    flipped = EngineLoad(16, 40, generated_tokens_per_second=100, inter_token_seconds=0.05, kv_usage=0.8)
    reads = EngineLoad(16, 40, generated_tokens_per_second=8)
    there = present([EngineLoad(8, 2, kv_usage=0.6)], 0, changed=[flipped, reads])
    assert there is not None
    assert there.caches is not None
    assert (there.running, there.waiting, round(there.caches, 6)) == (13, 2, 0.85)


def test_requests_that_wait_for_their_kv_cache_ask_for_no_more_than_a_mean_context_each() -> None:
    """vLLM counts them as waiting, and their KV cache as used, before the first token."""
    few = seen(LONG, Answers(2, 40, 4.0))
    assert planned(20, few).allocation["decode"] <= 20


@pytest.mark.parametrize("drains", [True, False])
async def test_the_answers_of_a_replica_that_leaves_decode_are_counted_until_they_end(drains: bool) -> None:
    fleet = Fleet(3, 6, mode="Paused", drainFirst=drains)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(70)
    for number in range(9):
        name = f"{GROUP}-{number}"
        fleet.changed_values["engine:kv_usage", name] = 0.5
        if fleet.cluster.objects[PODS, NAMESPACE, name]["metadata"]["labels"][LABEL_ROLE] == "decode":
            fleet.requests[name] = 10.0
            fleet.changed_values["engine:generated_tokens_per_second", name] = 200.0
            fleet.changed_values["engine:itl_seconds_per_second", name] = 10.0
            fleet.changed_values["engine:itl_count_per_second", name] = 200.0
    before = await answers(fleet)
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=4))
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=5))
    await fleet.run(5)
    assert fleet.serving() == ({"prefill": 3, "decode": 5} if drains else {"prefill": 4, "decode": 5})
    assert await answers(fleet) == before == Answers(60, 0, 3.0)


async def answers(fleet: Fleet) -> Answers | None:
    """What the planner is told that decode has to write."""
    picture = await observe(
        fleet.cluster,
        {"default": fleet.source},
        PRESETS,
        fleet.group(),
        {},
        Moments(),
        fleet.moment(),
        {},
        EngineCalls(),
    )
    return picture.reading.traffic.answers if picture.reading.traffic is not None else None


def test_what_decode_had_in_twenty_minutes_is_known_at_every_look_however_far_apart_looks_are() -> None:
    memory, at, known_at = AnswersSeen(), 0.0, []
    for _ in range(1200):
        at += 2.2
        read = memory.with_answers(LONG, full(10), at, 5.0)
        known_at.append(most(read, 1200.0) is not None)
    assert all(known_at[700:])

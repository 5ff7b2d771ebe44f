"""Sizing, with numbers worked by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from support.inference import LLAMA_70B, OBJECTIVES
from weft.api import Objectives
from weft.balancing.capacity import (
    Need,
    believed,
    corrections,
    decode_need,
    decode_speed,
    prefill_need,
    prefill_speed,
    staffing_beta,
    wait_probability,
    writing_need,
)
from weft.balancing.demand import Demand
from weft.balancing.state import Answers, PodLoad

DEMAND = Demand(
    prompt_tokens_per_second=10_650,
    answer_tokens_per_second=1087.5,
    prompt_tokens=1420,
    answer_tokens=145,
)
"""7.5 requests/s with prompts of 1,420 and answers of 145 tokens."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def load(**values: float) -> PodLoad:
    return PodLoad(**{"running": 1.0, "waiting": 0.0, "sampled_at": NOW, **values})  # type: ignore[arg-type]


def test_prefill_saturates_at_the_offered_work_in_erlangs() -> None:
    # 1,420 tokens: 377 + (1,420 - 1,024) / 1,024 * (688 - 377) = 497.3 ms, so 2,856 tokens/s per replica
    # and 10,650 / 2,856 = 3.73 replicas busy on average.
    need = prefill_need(LLAMA_70B, 1.0, DEMAND, OBJECTIVES)
    assert need.replica_tokens_per_second == pytest.approx(2856, rel=0.001)
    assert need.saturated == pytest.approx(3.73, abs=0.005)


def lognormal(chance: random.Random, mean: float, cv2: float) -> list[float]:
    spread = math.log(1 + cv2)
    return [chance.lognormvariate(math.log(mean) - spread / 2, math.sqrt(spread)) for _ in range(40_000)]


def gamma(chance: random.Random, mean: float, cv2: float) -> list[float]:
    return [chance.gammavariate(1 / cv2, mean * cv2) for _ in range(40_000)]


def test_prefill_headroom_grows_with_the_variance_of_prompt_lengths() -> None:
    # Equal lengths: V = 1/2, budget 2.5 - 0.497 = 2.0 s = 4.03 services. beta = 0.25 already gives
    # alpha 0.72 * exp(-0.25 * sqrt(3.73 / 0.5) * 4.03) = 0.046 <= 0.05, so 3.73 + 0.25 * 1.366 = 4.07.
    assert prefill_need(LLAMA_70B, 1.0, DEMAND, OBJECTIVES).required == pytest.approx(4.07, abs=0.01)
    # cv^2 = 1: V = 1, budget 2.5 - 2 * 0.497 = 1.505 s = 3.03 services. alpha(b) exp(-5.85 b) = 0.05 holds at
    # b = 0.425 (alpha 0.567, exp 0.083: 0.047) and not at 0.40 (0.587 * 0.096 = 0.057): 3.73 + 0.41 * 1.93.
    varied = replace(DEMAND, prompt_cv2=1.0)
    assert prefill_need(LLAMA_70B, 1.0, varied, OBJECTIVES).required == pytest.approx(4.53, abs=0.03)


def test_a_stage_observed_slower_than_its_profile_needs_more_replicas() -> None:
    need = prefill_need(LLAMA_70B, 0.7, DEMAND, OBJECTIVES)
    assert need.saturated == pytest.approx(3.73 / 0.7, abs=0.01)
    assert decode_need(LLAMA_70B, 0.7, DEMAND, OBJECTIVES).required > 1.3 * 3.38


@pytest.mark.shows("InferenceGroup.spec.objectives.timeToFirstTokenMilliseconds")
def test_a_prompt_that_alone_takes_longer_than_the_objective_is_said_so() -> None:
    strict = Objectives(time_to_first_token_milliseconds=400, inter_token_latency_microseconds=95_000)
    assert "497 ms alone: more than the TTFT objective" in prefill_need(LLAMA_70B, 1.0, DEMAND, strict).limit


def test_decode_is_limited_by_the_kv_cache_where_contexts_are_long() -> None:
    # 40,000 / (1,420 + 72.5) = 26.8 contexts fit; 65.5 + 10.8 / 16 * 6.7 = 70.0 ms per token, so a replica makes
    # 26.8 / 0.070 = 383 tokens/s and 1,087.5 * 0.070 = 76.1 requests decode on average: 2.84 replicas.
    need = decode_need(LLAMA_70B, 1.0, DEMAND, OBJECTIVES)
    assert need.replica_tokens_per_second == pytest.approx(383, abs=1)
    assert need.saturated == pytest.approx(2.84, abs=0.01)
    # 95 %: 1.645 standard deviations of sqrt(76.1) = 8.7 requests more, (76.1 + 14.4) / 26.8.
    assert need.required == pytest.approx(3.38, abs=0.01)
    # With cv^2 = 1 of the prompts a context's mean square is 2 * 1,420^2 + 1,420 * 145 + 145^2 / 3, which is 1.906
    # times 1,492.5^2: (76.1 + 14.4 * 1.381) / 26.8.
    varied = replace(DEMAND, prompt_cv2=1.0)
    assert decode_need(LLAMA_70B, 1.0, varied, OBJECTIVES).required == pytest.approx(3.58, abs=0.01)


def test_where_answers_are_as_long_as_prompts_the_spread_of_prompts_is_diluted() -> None:
    """1,300 of each, cv^2 7.4 and 2: the answers' part makes a context's cv^2 1.6, and the headroom half as large."""
    chance = random.Random(1)
    prompts, answers = lognormal(chance, 1300, 7.4), gamma(chance, 1300, 2.0)
    contexts = [
        prompt + chance.random() * answer
        for prompt, answer in zip(prompts, chance.choices(answers, answers, k=len(answers)), strict=True)
    ]
    demand = Demand(1300.0, 1300.0, 1300.0, 1300.0, prompt_cv2=7.4, answer_cv2=2.0)
    mean = sum(contexts) / len(contexts)
    squares = sum(each * each for each in contexts) / len(contexts)
    assert demand.context_tokens == pytest.approx(mean, rel=0.03)
    assert demand.context_cv2 == pytest.approx(squares / mean**2 - 1, rel=0.1)


@pytest.mark.shows("InferenceGroup.spec.objectives.interTokenLatencyMicroseconds")
def test_decode_is_limited_by_the_latency_objective_where_it_is_tight() -> None:
    # 60 ms is reached at batch 2: 2 / 0.060 = 33.3 tokens/s per replica.
    tight = Objectives(time_to_first_token_milliseconds=2500, inter_token_latency_microseconds=60_000)
    assert decode_need(LLAMA_70B, 1.0, DEMAND, tight).replica_tokens_per_second == pytest.approx(
        33.3, abs=0.1
    )


@pytest.mark.shows("InferenceGroup.spec.objectives.attainmentPermille")
def test_a_higher_attainment_asks_for_more_headroom_in_decode() -> None:
    strict = OBJECTIVES.with_changes(attainment_permille=999)
    assert (
        decode_need(LLAMA_70B, 1.0, DEMAND, strict).required
        > decode_need(LLAMA_70B, 1.0, DEMAND, OBJECTIVES).required + 0.2
    )


def test_an_itl_objective_below_a_lone_requests_time_is_said_so() -> None:
    impossible = Objectives(time_to_first_token_milliseconds=2500, inter_token_latency_microseconds=40_000)
    assert "55 ms per token" in decode_need(LLAMA_70B, 1.0, DEMAND, impossible).limit


def test_without_an_objective_a_stage_only_has_to_keep_up() -> None:
    between_only = OBJECTIVES.with_changes(time_to_first_token_milliseconds=None)
    # a = 3.73 erlangs, V = 1/2: 3.73 + 0.25 * sqrt(3.73 / 2).
    assert prefill_need(LLAMA_70B, 1.0, DEMAND, between_only).required == pytest.approx(4.07, abs=0.01)
    first_only = OBJECTIVES.with_changes(inter_token_latency_microseconds=None)
    decode = decode_need(LLAMA_70B, 1.0, replace(DEMAND, prompt_tokens=500), first_only)
    # The largest batch, 32 at 72.2 ms: 443 tokens/s per replica.
    assert decode.replica_tokens_per_second == pytest.approx(443, abs=1)
    assert decode.limit == ""


def test_waiting_is_certain_without_headroom_and_rare_with_much() -> None:
    assert wait_probability(0.0) == 1
    assert wait_probability(1.0) == pytest.approx(0.223, abs=0.001)  # 1 / (1 + 0.8413 / 0.2420)
    assert wait_probability(3.0) < 0.002


def test_staffing_keeps_some_headroom_and_asks_for_more_the_stricter_the_objective() -> None:
    lax = staffing_beta(4, 1, 100, 0.1)
    strict = staffing_beta(4, 1, 1, 0.01)
    assert lax == 0.25
    assert 1 < strict < 4


def test_prefill_speed_is_tokens_per_busy_second_over_the_profiles() -> None:
    # Five engines, busy 80 % of the time, 1,600 tokens/s each: 2,000 tokens per busy second; the profile says
    # 2,856. Ratio 0.70; 5 * 0.8 * 60 = 240 busy seconds, trusted to 240 / 270, and as many samples, of which the share
    # varies by 0.2 / 240 (0.04 / 0.0408 of a deviation is the engines'): 0.70 ^ (0.889 * 0.98) = 0.733.
    engines = [load(prompt_tokens_per_second=1600, busy_share=0.8)] * 5
    assert prefill_speed(LLAMA_70B, 1420, engines, 60, 1) == pytest.approx(0.733, abs=0.002)


def test_engines_at_their_profile_are_not_taken_for_twice_as_fast_by_a_few_samples() -> None:
    # Four replicas are busy for 28 % of three minutes, but at 7 of 48 scrapes only: two standard deviations and a half.
    engines = [load(prompt_tokens_per_second=0.28 * 2856, busy_share=7 / 48)] * 4
    assert 1 < prefill_speed(LLAMA_70B, 1420, engines, 180, 15) < 1.2
    # That of ten times as many samples is no chance.
    assert prefill_speed(LLAMA_70B, 1420, engines, 1800, 15) > 1.4


def test_decode_speed_compares_at_the_batch_that_was_observed() -> None:
    # The profile says 65.5 ms at batch 16; 81.9 ms were seen, ratio 0.8. 4 * 60 busy seconds: 0.8 ^ 0.889.
    engines = [
        load(inter_token_seconds=0.0819, mean_running=16, busy_share=1.0, tokens_per_second_timed=195)
    ] * 4
    assert decode_speed(LLAMA_70B, engines, 60) == pytest.approx(0.82, abs=0.002)


def test_an_engine_that_idles_in_between_decodes_larger_batches_than_its_mean() -> None:
    # Half of the time sixteen, else nothing: eight on average, each token as slow as sixteen make it.
    engine = load(
        inter_token_seconds=LLAMA_70B.inter_token_seconds(16),
        mean_running=8,
        busy_share=0.5,
        tokens_per_second_timed=100,
    )
    assert decode_speed(LLAMA_70B, [engine], 60) == pytest.approx(1.0)


def test_engines_without_work_say_nothing_about_speed() -> None:
    assert prefill_speed(LLAMA_70B, 1420, [load(prompt_tokens_per_second=0, busy_share=0)], 60, 1) == 1
    assert prefill_speed(LLAMA_70B, 1420, [load()], 60, 1) == 1
    assert decode_speed(LLAMA_70B, [load(mean_running=0)], 60) == 1


def test_engines_that_wrote_little_or_nothing_leave_the_others_to_tell_the_speed() -> None:
    # Half of a minute is as much evidence as doubt: the root of 0.8.
    slow = load(inter_token_seconds=0.0819, mean_running=8, busy_share=0.5, tokens_per_second_timed=5)
    assert decode_speed(LLAMA_70B, [slow], 60) == pytest.approx(math.sqrt(0.8), abs=0.002)
    assert decode_speed(LLAMA_70B, [load(mean_running=0), slow], 60) == decode_speed(LLAMA_70B, [slow], 60)
    # Where nobody says how much of the time an engine was busy it is taken to have been all of it.
    untold = load(inter_token_seconds=0.0819, mean_running=16, tokens_per_second_timed=5)
    assert decode_speed(LLAMA_70B, [untold], 30) == pytest.approx(math.sqrt(0.8), abs=0.002)
    lone = load(inter_token_seconds=0.055, mean_running=0.5, busy_share=0.5, tokens_per_second_timed=5)
    assert decode_speed(LLAMA_70B, [lone], 60) == pytest.approx(1.0)
    read = load(prompt_tokens_per_second=1600, busy_share=0.8)
    told = [read, load(prompt_tokens_per_second=9999), load(busy_share=1.0)]
    assert prefill_speed(LLAMA_70B, 1420, told, 60, 1) == prefill_speed(LLAMA_70B, 1420, [read], 60, 1)


def test_a_deviation_is_believed_slowly_and_within_bounds() -> None:
    assert believed(0.8, 0) == 1
    assert 0.8 < believed(0.8, 30) < 0.9
    assert believed(0.01, 1e6) == 0.5
    assert believed(100, 1e6) == 2


WRITERS = Need(1.0, 1.0, 500.0, service_seconds=10.0, places=25.0, batch=32.0, contexts=25.0)
"""A replica writes 32 answers in time, its KV cache has room for 25, and an answer takes ten seconds."""


def test_answers_that_are_there_ask_for_places_and_for_room_in_the_kv_caches() -> None:
    varied = replace(DEMAND, prompt_cv2=1.0)

    def need(answers: Answers, patience_seconds: float = 5.0, demand: Demand = DEMAND) -> Need:
        return writing_need(WRITERS, answers, demand, OBJECTIVES, patience_seconds)

    # 40 are written and 10 wait: 50 of 32 places, and 50 of 25 contexts. 95 %: 1.645 deviations of sqrt(50) more.
    chance = 1.645 / math.sqrt(50)
    untold = need(Answers(40, 10, None))
    assert untold.saturated == pytest.approx(50 / 25)
    assert untold.required == pytest.approx(2 * (1 + chance), rel=0.001)
    # Who waits for half as long as he may takes half a place.
    assert need(Answers(40, 10, None), patience_seconds=20.0).saturated == pytest.approx(45 / 25)
    # KV caches as they are told: who waits will have as much as one who runs, and no more than a mean context.
    assert need(Answers(40, 10, 1.2)).saturated == pytest.approx(50 / 32)
    assert need(Answers(40, 10, 1.4)).saturated == pytest.approx(1.4 + 10 * 1.4 / 40)
    told = need(Answers(40, 10, 2.4))
    assert told.saturated == pytest.approx(2.4 + 10 / 25)
    # As many as the headroom for how many they are, and where their lengths vary for how large, too.
    assert told.required == pytest.approx(2.8 * (1 + chance), rel=0.001)
    assert need(Answers(40, 10, 2.4), demand=varied).required == pytest.approx(
        2.8 * (1 + chance * math.sqrt(1 + varied.context_cv2)), rel=0.001
    )
    # Short contexts: the places are what is asked for, with their headroom.
    short = need(Answers(40, 10, 0.5))
    assert (short.saturated, short.required) == (
        pytest.approx(50 / 32),
        pytest.approx(50 / 32 * (1 + chance), rel=0.001),
    )
    # A group that writes nothing needs nothing, and one answer at most 1.645 more.
    assert need(Answers(0, 0, 0.0)).required == 0.0
    assert need(Answers(1, 0, 0.0)).required == pytest.approx(2.645 / 32, rel=0.001)


def test_a_prompt_may_wait_for_what_its_promise_leaves_beside_its_own_prefill() -> None:
    # 2.5 s less one standard deviation above 0.497 s.
    need = prefill_need(LLAMA_70B, 1.0, replace(DEMAND, prompt_cv2=1.0), OBJECTIVES)
    assert need.service_seconds == pytest.approx(0.4973, abs=0.0002)
    assert need.budget_seconds == pytest.approx(2.5 - 2 * 0.4973, abs=0.001)
    assert need.variance == pytest.approx(2.0)
    # Where that is nearly nothing, a tenth of the promise.
    strict = Objectives(time_to_first_token_milliseconds=800, inter_token_latency_microseconds=95_000)
    hurried = prefill_need(LLAMA_70B, 1.0, replace(DEMAND, prompt_cv2=1.0), strict)
    assert hurried.budget_seconds == pytest.approx(0.08)
    tenth = staffing_beta(3.73, 1.0, 0.08 / 0.4973, 0.01)
    assert hurried.required == pytest.approx(3.73 + tenth * math.sqrt(3.73), abs=0.02)
    # Nobody waits for too long where nothing is promised: ten times a prefill.
    open_ended = OBJECTIVES.with_changes(time_to_first_token_milliseconds=None)
    free = prefill_need(LLAMA_70B, 1.0, replace(DEMAND, prompt_cv2=3.0), open_ended)
    assert (free.saturated, free.variance) == (pytest.approx(3.73, abs=0.005), pytest.approx(4.0))
    assert free.budget_seconds == pytest.approx(10 * 0.4973, abs=0.002)
    assert free.replica_tokens_per_second == pytest.approx(2856, rel=0.001)
    assert free.service_seconds == pytest.approx(0.4973, abs=0.0002)


def test_an_answer_may_wait_for_a_place_only_where_the_engine_and_not_the_promise_limits_their_number() -> (
    None
):
    # 26.8 contexts fit, of 32 that are fast enough: two fifths of the 2.5 s.
    assert decode_need(LLAMA_70B, 1.0, DEMAND, OBJECTIVES).budget_seconds == pytest.approx(1.0)
    # At 60 ms two are: a third one would miss what is promised at once.
    tight = Objectives(time_to_first_token_milliseconds=2500, inter_token_latency_microseconds=60_000)
    assert decode_need(LLAMA_70B, 1.0, DEMAND, tight).budget_seconds == 0.0
    # Of engines at 0.7 of their speed 95 ms are 66.5 ms of the profile: 16 + 16 / 6.7 requests.
    slow = decode_need(LLAMA_70B, 0.7, DEMAND, OBJECTIVES)
    assert slow.batch == pytest.approx(16 + 16 * (66.5 - 65.5) / 6.7, abs=0.01)
    assert slow.budget_seconds == 0.0
    assert slow.steps is not None
    assert slow.steps.alone == pytest.approx(0.055 / 0.7)
    # Without a promise for the first token ten times as long as a token takes.
    open_ended = OBJECTIVES.with_changes(time_to_first_token_milliseconds=None)
    assert decode_need(LLAMA_70B, 1.0, DEMAND, open_ended).budget_seconds == pytest.approx(0.70, abs=0.001)


def test_a_context_that_nearly_fills_the_kv_cache_leaves_room_for_one_answer_at_a_time() -> None:
    # 40,000 of 35,000 + 72.5 tokens: 1.14 contexts. A larger one than the cache counts as the part that has room.
    assert decode_need(
        LLAMA_70B, 1.0, replace(DEMAND, prompt_tokens=35_000), OBJECTIVES
    ).places == pytest.approx(1.1405, abs=0.001)
    assert decode_need(
        LLAMA_70B, 1.0, replace(DEMAND, prompt_tokens=79_927.5), OBJECTIVES
    ).places == pytest.approx(0.5)


def test_a_stage_without_a_profile_is_taken_at_its_word_and_the_other_is_corrected() -> None:
    slow_prefill = [load(prompt_tokens_per_second=1600, busy_share=0.8)] * 5
    slow_decode = [
        load(inter_token_seconds=0.0819, mean_running=16, busy_share=1.0, tokens_per_second_timed=195)
    ] * 4
    both = corrections((LLAMA_70B, slow_prefill), (LLAMA_70B, slow_decode), 1420, 60, 1)
    assert (both.prefill, both.decode) == (pytest.approx(0.733, abs=0.002), pytest.approx(0.82, abs=0.002))
    first = corrections((LLAMA_70B, slow_prefill), (None, slow_decode), 1420, 60, 1)
    assert (first.prefill, first.decode) == (both.prefill, 1.0)
    second = corrections((None, slow_prefill), (LLAMA_70B, slow_decode), 1420, 60, 1)
    assert (second.prefill, second.decode) == (1.0, both.decode)

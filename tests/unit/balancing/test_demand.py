"""Offered work from what the front end counted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from support.inference import PROMPT_HEAVY, steady
from weft.balancing.demand import mean, offered, recent, share_about, share_within, squared_variation
from weft.balancing.state import Rates


def test_steady_traffic_offers_arrivals_times_lengths() -> None:
    demand = offered(PROMPT_HEAVY, generated_tokens_per_second=0)
    assert demand is not None
    assert demand.prompt_tokens_per_second == pytest.approx(10_650)  # 7.5 * 1,420
    assert demand.answer_tokens_per_second == pytest.approx(1087.5)  # 7.5 * 145


@pytest.mark.parametrize(
    ("requests_per_second_now", "counts"),
    [
        # 7.5 * 15 = 112 requests of equal length: 1.5 standard deviations are 1.5 / sqrt(112) = 14 %.
        (9.0, 9.0),
        (8.3, 7.5),
        (6.7, 7.5),
        (5.0, 5.0),
    ],
)
def test_a_change_counts_once_chance_does_not_explain_it(
    requests_per_second_now: float, counts: float
) -> None:
    traffic = replace(PROMPT_HEAVY, short=steady(requests_per_second_now, 1420, 145).short)
    demand = offered(traffic, 0)
    assert demand is not None
    assert demand.prompt_tokens_per_second == pytest.approx(counts * 1420)
    assert demand.answer_tokens_per_second == pytest.approx(counts * 145)


def test_lengths_that_vary_make_a_change_harder_to_believe() -> None:
    # Prompts of 0..100 and of 8,000..8,100 tokens in equal parts: cv^2 about 1, 1.5 deviations are 20 %.
    varied = ((100.0, 1.0), (8000.0, 1.0), (8100.0, 2.0), (math.inf, 2.0))
    traffic = replace(PROMPT_HEAVY, short=steady(6.2, 1420, 145).short, prompt_buckets=varied)
    demand = offered(traffic, 0)
    assert demand is not None
    assert demand.prompt_tokens_per_second == pytest.approx(7.5 * 1420)
    assert demand.answer_tokens_per_second == pytest.approx(6.2 * 145)


def test_a_load_that_has_only_begun_is_not_judged() -> None:
    # Fifteen seconds after the start the short window is full, and the long one shows a quarter.
    begun = replace(PROMPT_HEAVY, long=steady(7.5 * 15 / 60, 1420, 145).long)
    assert offered(begun, 0) is None


def test_a_load_that_began_a_little_more_than_a_short_window_ago_is_judged() -> None:
    begun = replace(PROMPT_HEAVY, long=steady(7.5 * 17 / 60, 1420, 145).long)
    assert offered(begun, 0) is not None


def test_longer_answers_are_seen_in_the_tokens_written_before_they_end() -> None:
    # 2,300 tokens/s are written and 2 answers/s of 145 tokens end: those that run are longer than any that ended.
    short = replace(PROMPT_HEAVY.short, answers=2.0, answer_tokens=2 * 145)
    demand = offered(replace(PROMPT_HEAVY, short=short), generated_tokens_per_second=2300)
    assert demand is not None
    # (2,300 * 15 + 30 * 145) / (2 * 15 + 30) = 648
    assert demand.answer_tokens == pytest.approx(647.5)


def test_answers_of_a_young_load_are_between_those_that_ended_and_what_is_written_for_each_that_did() -> None:
    # Real vLLM, 45 s after the first of answers of 264 tokens on average: 221 those that ended, 354 written for each.
    short = Rates(requests=4.5, prompt_tokens=4.5 * 1000, answer_tokens=3.5 * 221, prompts=4.5, answers=3.5)
    long = replace(short, requests=4.5 * 45 / 80)
    young = replace(PROMPT_HEAVY, short=short, long=long, short_seconds=20.0)
    demand = offered(young, generated_tokens_per_second=3.5 * 354)
    assert demand is not None
    assert 221 < demand.answer_tokens < 264 * 1.05


def test_without_arrivals_or_before_the_first_answer_nothing_is_known() -> None:
    assert offered(steady(0, 0, 0), 0) is None
    unanswered = replace(PROMPT_HEAVY.long, answers=0, answer_tokens=0)
    assert offered(replace(PROMPT_HEAVY, short=unanswered, long=unanswered), 500) is None


def test_answers_that_ended_only_in_the_long_window_give_the_short_one_its_length() -> None:
    short = replace(PROMPT_HEAVY.short, requests=10, answers=0, answer_tokens=0)
    demand = offered(replace(PROMPT_HEAVY, short=short), 0)
    assert demand is not None
    assert demand.answer_tokens_per_second == pytest.approx(1450)  # 10 arrivals/s * 145


def test_prompts_whose_length_is_recorded_when_their_answer_ends_are_offered_when_they_arrive() -> None:
    # Prefill is too small: of 7.5 requests/s that arrive 2.4 end, and only those have their lengths recorded.
    served = replace(
        PROMPT_HEAVY.long, prompts=2.4, prompt_tokens=2.4 * 1420, answers=2.4, answer_tokens=2.4 * 145
    )
    demand = offered(replace(PROMPT_HEAVY, short=served, long=served), 0)
    assert demand is not None
    assert demand.prompt_tokens_per_second == pytest.approx(10_650)
    assert demand.prompt_tokens == pytest.approx(1420)


def test_how_far_now_is_from_before_is_counted_in_what_chance_explains() -> None:
    seen = recent(replace(PROMPT_HEAVY, short=steady(9.0, 1420, 145).short), 0)
    assert seen is not None
    assert seen.prompts_deviate == pytest.approx(0.2 * math.sqrt(7.5 * 15))


def test_a_request_seen_decoding_holds_its_prompt_and_half_its_answer_more_if_answers_vary() -> None:
    demand = offered(PROMPT_HEAVY, 0)
    assert demand is not None
    assert demand.context_tokens == pytest.approx(1492.5)  # 1,420 + 145 / 2
    assert replace(demand, answer_cv2=1.0).context_tokens == pytest.approx(1565)  # 1,420 + 145 * (1 + 1) / 2


def test_variation_of_equal_values_in_narrow_buckets_is_small_and_of_two_extremes_large() -> None:
    narrow = ((990.0, 0.0), (1010.0, 5.0), (math.inf, 5.0))
    assert squared_variation(narrow) < 0.001
    # Half at 0..10, half at 990..1010: mean 502.5, second moment (33 + 1,000,033) / 2, so cv^2 = 0.98.
    extremes = ((10.0, 1.0), (990.0, 1.0), (1010.0, 2.0), (math.inf, 2.0))
    assert squared_variation(extremes) == pytest.approx(0.98, abs=0.01)
    assert squared_variation(()) == 0
    assert squared_variation(((10.0, 0.0), (math.inf, 0.0))) == 0


def test_a_limit_between_bucket_bounds_gives_both_readings() -> None:
    buckets = ((1.0, 2.0), (2.0, 6.0), (4.0, 9.0), (math.inf, 10.0))
    assert share_within(buckets, 2.0) == (0.6, 0.6)
    assert share_within(buckets, 3.0) == (0.6, 0.9)
    assert share_within(buckets, 0.5) == (0.0, 0.2)
    assert share_within(buckets, 9.0) == (0.9, 1.0)
    assert share_within(((1.0, 0.0), (math.inf, 0.0)), 1.0) is None


def test_of_a_bucket_that_the_limit_divides_as_much_is_counted_as_lies_before_it() -> None:
    buckets = ((1.0, 2.0), (2.0, 6.0), (4.0, 9.0), (math.inf, 10.0))
    assert share_about(buckets, 2.0) == pytest.approx(0.6)
    assert share_about(buckets, 3.0) == pytest.approx(0.6 + 0.5 * 0.3)
    assert share_about(buckets, 1.25) == pytest.approx(0.2 + 0.25 * 0.4)
    assert share_about(buckets, 0.5) == pytest.approx(0.1)
    assert share_about(buckets, 9.0) == pytest.approx(0.9)  # how far beyond four is not known
    assert share_about(buckets[:3], 9.0) == pytest.approx(1.0)
    assert share_about((), 1.0) is None
    assert share_about(((1.0, 0.0), (math.inf, 0.0)), 1.0) is None


def test_the_mean_of_a_histogram_takes_values_as_spread_evenly_in_their_buckets() -> None:
    assert mean(((10.0, 1.0), (990.0, 1.0), (1010.0, 2.0), (math.inf, 2.0))) == pytest.approx(502.5)
    assert mean(((10.0, 1.0), (math.inf, 2.0))) == pytest.approx((5 + 10) / 2)
    assert mean(()) == 0.0


def test_a_window_in_which_no_length_was_told_has_those_of_the_other_window() -> None:
    silent = {"prompts": 0.0, "prompt_tokens": 0.0, "answers": 0.0, "answer_tokens": 0.0}
    for window in ("short", "long"):
        rates = replace(getattr(PROMPT_HEAVY, window), **silent)
        demand = offered(replace(PROMPT_HEAVY, **{window: rates}), 0)
        assert demand is not None
        assert (demand.prompt_tokens, demand.answer_tokens) == (pytest.approx(1420), pytest.approx(145))
    neither = replace(PROMPT_HEAVY.short, **silent)
    assert offered(replace(PROMPT_HEAVY, short=neither, long=neither), 0) is None


def test_lengths_vary_as_their_histograms_say_and_are_those_of_the_load_that_is_taken() -> None:
    prompts = ((1000.0, 3.0), (4000.0, 4.0), (math.inf, 4.0))
    answers = ((100.0, 1.0), (800.0, 2.0), (math.inf, 2.0))
    seen = recent(replace(PROMPT_HEAVY, prompt_buckets=prompts, answer_buckets=answers), 0)
    assert seen is not None
    for demand in (seen.now, seen.before):
        assert demand.prompt_cv2 == pytest.approx(squared_variation(prompts))
        assert demand.answer_cv2 == pytest.approx(squared_variation(answers))
    # Prompts that became five times as long, and answers as before.
    changed = offered(replace(PROMPT_HEAVY, short=steady(7.5, 7100, 145).short), 0)
    assert changed is not None
    assert changed.prompt_tokens == pytest.approx(7100)
    assert changed.prompt_tokens_per_second == pytest.approx(7.5 * 7100)
    assert changed.answer_tokens == pytest.approx(145)
    shorter = offered(replace(PROMPT_HEAVY, short=steady(7.5, 1420, 1450).short), 7.5 * 1450)
    assert shorter is not None
    assert (shorter.prompt_tokens, shorter.answer_tokens) == (
        pytest.approx(1420),
        pytest.approx(1450, rel=0.1),
    )


def test_while_no_answer_of_a_young_load_has_ended_they_are_taken_to_be_twice_as_long_as_the_oldest() -> None:
    none = {"answers": 0.0, "answer_tokens": 0.0}
    short, long = replace(PROMPT_HEAVY.short, **none), replace(PROMPT_HEAVY.long, **none)
    began = replace(PROMPT_HEAVY, short=short, long=replace(long, requests=0.4 * long.requests))
    # Those that arrived 17 s ago have 300 tokens by now.
    demand = offered(began, generated_tokens_per_second=300 * short.requests)
    assert demand is not None
    assert demand.answer_tokens == pytest.approx(600)
    assert demand.prompt_tokens == pytest.approx(short.prompt_tokens / short.prompts)
    assert offered(began, generated_tokens_per_second=0) is None
    # For a whole window nothing has told a length: then something is wrong with what tells it.
    old = replace(began, long=long)
    assert offered(old, generated_tokens_per_second=300 * short.requests) is None

"""What the load of the last minutes was made of."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from support.inference import steady
from weft.balancing.regimes import LASTS_SECONDS, regimes
from weft.balancing.state import Rates, Traffic

LONG_PROMPTS, LONG_ANSWERS = steady(5.0, 2000, 80), steady(4.2, 450, 400)


def seen(now: Traffic, *before: Traffic) -> Traffic:
    """One minute of each load, back from now."""
    return replace(now, history=tuple(one.long for one in (now, *before)), history_seconds=60.0)


def test_a_load_that_varies_by_chance_is_one_load_and_known_from_all_of_its_minutes() -> None:
    chance = random.Random(1)

    def minute() -> Rates:
        count = chance.normalvariate(300, 17)
        prompt, answer = chance.normalvariate(2000, 70), chance.normalvariate(80, 3)
        rate = count / 60
        return Rates(rate, rate, rate * prompt, rate, rate * answer)

    short = steady(5.9, 2150, 85)  # a third more than usual for 15 s
    found = regimes(replace(short, history=tuple(minute() for _ in range(10)), history_seconds=60.0), 0.0)
    assert found is not None
    assert found.unchanged
    assert not found.others
    assert math.isclose(found.likely.prompt_tokens_per_second, 10_000, rel_tol=0.05)
    assert found.lasts_seconds == LASTS_SECONDS + 600


def test_a_shift_of_the_mix_is_seen_in_the_short_window_and_what_was_before_is_remembered() -> None:
    found = regimes(replace(seen(LONG_PROMPTS, *[LONG_PROMPTS] * 5), short=LONG_ANSWERS.short), 0.0)
    assert found is not None
    assert not found.unchanged
    assert math.isclose(found.likely.answer_tokens_per_second, 4.2 * 400)
    ((share, before),) = found.others
    assert share == 1
    assert math.isclose(before.prompt_tokens_per_second, 10_000)


def test_a_load_that_comes_back_is_known_from_the_minutes_in_which_it_was_there_before() -> None:
    # The first answers since it is back say that it is larger by a quarter than it is.
    back = steady(4.6, 470, 440)
    found = regimes(
        replace(seen(LONG_PROMPTS, *[LONG_PROMPTS] * 4, *[LONG_ANSWERS] * 5), short=back.short), 0.0
    )
    assert found is not None
    assert not found.unchanged
    assert math.isclose(found.likely.answer_tokens_per_second, 4.2 * 400, rel_tol=0.03)
    assert len(found.others) == 1


def becoming(now: Traffic, *before: Traffic, prompt: float, answer: float) -> Traffic:
    """A load, and a short window in which the mean prompt and answer that ended are these."""
    return replace(seen(now, *before), short=steady(4.5, prompt, answer).short)


def test_a_load_that_comes_back_is_known_while_requests_of_the_other_still_end_in_the_window() -> None:
    # A third of what ended in these 15 s was asked for since the long prompts are back.
    mixed = becoming(LONG_ANSWERS, *[LONG_ANSWERS] * 4, *[LONG_PROMPTS] * 5, prompt=970, answer=290)
    found = regimes(mixed, 0.0, flips_overlap=True)
    assert found is not None
    assert math.isclose(found.likely.prompt_tokens_per_second, 10_000, rel_tol=0.03)
    assert math.isclose(found.likely.answer_tokens_per_second, 400, rel_tol=0.03)
    ((_, other),) = found.others
    assert math.isclose(other.answer_tokens_per_second, 4.2 * 400, rel_tol=0.03)


def scraped_rarely(short: Traffic, *before: Traffic) -> Traffic:
    """As History keeps it at scrapes of 15 s: the newest of its windows is the short one."""
    rates = tuple(one.short for one in (short, *before))
    return replace(short, short_seconds=60.0, history=rates, history_seconds=60.0)


def test_a_load_that_comes_back_is_known_from_a_window_of_both_where_scrapes_are_rare() -> None:
    mixed = steady(4.5, 970, 290)
    found = regimes(scraped_rarely(mixed, *[LONG_ANSWERS] * 5, *[LONG_PROMPTS] * 4), 0.0, flips_overlap=True)
    assert found is not None
    assert not found.unchanged
    assert math.isclose(found.likely.prompt_tokens_per_second, 10_000, rel_tol=0.03)


def test_a_load_that_stays_is_known_from_its_newest_window_too_where_scrapes_are_rare() -> None:
    found = regimes(scraped_rarely(steady(4.9, 2040, 80), *[LONG_PROMPTS] * 3), 0.0)
    assert found is not None
    assert found.unchanged
    assert math.isclose(found.likely.prompt_tokens, 2010, rel_tol=0.002)


def test_a_load_that_comes_back_is_known_by_its_prompts_while_only_answers_of_the_other_have_ended() -> None:
    # Prompts as prefill has read them; also where replicas drain.
    mixed = becoming(LONG_ANSWERS, *[LONG_ANSWERS] * 4, *[LONG_PROMPTS] * 5, prompt=1950, answer=390)
    told, ended = (regimes(replace(mixed, prompts_read=known), 0.0) for known in (True, False))
    assert told is not None
    assert ended is not None
    assert math.isclose(told.likely.answer_tokens_per_second, 400, rel_tol=0.03)
    assert ended.likely.answer_tokens_per_second > 4 * 400


def test_a_load_is_not_taken_for_one_of_before_whose_prompts_are_no_nearer_than_those_of_now() -> None:
    now, before = steady(5.2, 1192, 407), steady(5.7, 1774, 115)
    mixed = becoming(now, *[now] * 4, *[before] * 5, prompt=1400, answer=250)
    found = regimes(replace(mixed, prompts_read=True), 0.0)
    assert found is not None
    assert found.likely.prompt_tokens < 1500
    assert found.likely.answer_tokens > 200


def test_a_window_of_two_loads_is_not_taken_for_one_that_comes_back_where_replicas_drain() -> None:
    mixed = becoming(LONG_ANSWERS, *[LONG_ANSWERS] * 4, *[LONG_PROMPTS] * 5, prompt=970, answer=290)
    found = regimes(mixed, 0.0, flips_overlap=False)
    assert found is not None
    assert found.likely.prompt_tokens_per_second < 5_000


def test_short_answers_that_end_first_are_not_the_load_with_short_answers_that_was_there_before() -> None:
    young = becoming(LONG_ANSWERS, *[LONG_PROMPTS] * 5, prompt=450, answer=230)
    found = regimes(young, 0.0, flips_overlap=True)
    assert found is not None
    assert found.likely.prompt_tokens_per_second < 2_500


def test_a_mix_that_alternates_lasts_as_long_as_it_did() -> None:
    alternating = seen(
        LONG_ANSWERS, LONG_ANSWERS, *[LONG_PROMPTS] * 2, *[LONG_ANSWERS] * 2, *[LONG_PROMPTS] * 2
    )
    found = regimes(alternating, 0.0)
    steadily = regimes(seen(*[LONG_ANSWERS] * 8), 0.0)
    assert found is not None
    assert steadily is not None
    assert found.lasts_seconds == (LASTS_SECONDS + 480) / 4
    assert steadily.lasts_seconds == LASTS_SECONDS + 480
    assert [round(share, 3) for share, _ in found.others] == [1]


def test_a_minute_in_which_hardly_anybody_asked_is_no_other_load() -> None:
    found = regimes(seen(LONG_PROMPTS, LONG_PROMPTS, steady(0.5, 100, 900), LONG_PROMPTS), 0.0)
    assert found is not None
    assert not found.others


def test_without_a_past_the_load_before_is_that_of_the_long_window_and_its_peaks() -> None:
    found = regimes(replace(LONG_PROMPTS, peak_answer_tokens_per_second=1680.0), 0.0)
    assert found is not None
    assert found.unchanged
    ((_, peak),) = found.others
    assert peak.answer_tokens_per_second == 1680.0
    unknown = regimes(replace(LONG_PROMPTS, short=LONG_ANSWERS.short, peak_answer_tokens_per_second=0.0), 0.0)
    assert unknown is not None
    assert not unknown.unchanged
    assert len(unknown.others) == 1


def test_a_load_of_one_request_in_ten_minutes_is_not_divided_by() -> None:
    rare = steady(0.0017, 500, 50)
    assert regimes(seen(rare, rare, steady(0, 0, 0)), 0.0) is not None


def test_a_change_is_seen_against_the_time_before_it_not_against_a_window_that_contains_it() -> None:
    # A quarter more prompt tokens for 20 of 60 s, after minutes of one load.
    new, old = steady(5.0, 2700, 80), steady(5.0, 2000, 80)
    mixed = steady(5.0, 2233, 80)
    load = replace(
        old, short=new.short, short_seconds=20.0, history=(mixed.long, *[old.long] * 5), history_seconds=60.0
    )
    found = regimes(load, 0.0)
    assert found is not None
    assert not found.unchanged

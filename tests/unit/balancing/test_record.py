"""What became of the promise over hours, and the headroom that this asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from support.inference import OBJECTIVES, PROMPT_HEAVY
from weft.api import Objectives
from weft.balancing.record import NARROWEST, WIDEST, Record
from weft.balancing.state import Kept, Traffic

HOUR = 3600.0


def served(in_time: float, requests: float = 8.0, tokens_in_time: float = 1.0) -> Traffic:
    """So many requests a second, of which this share had their first token in time."""
    return replace(
        PROMPT_HEAVY,
        ttft_buckets=((2.5, in_time * requests), (math.inf, requests)),
        itl_buckets=((0.095, 100 * tokens_in_time), (math.inf, 100.0)),
    )


def promised(permille: int) -> Objectives:
    return OBJECTIVES.model_copy(update={"attainment_permille": permille})


def played(
    hours: float, traffic: Callable[[float, Kept | None], Traffic], objectives: Objectives = OBJECTIVES
) -> list[Kept]:
    """The record at every half minute, with what it asks for acted upon by whoever makes the traffic."""
    record, kept, found = Record(), None, []
    for step in range(int(hours * 120)):
        at = step * 30.0
        kept = record.with_record(traffic(at, kept), objectives, at).record
        if kept is not None:
            found.append(kept)
    return found


def test_a_promise_that_is_missed_asks_for_more_headroom_and_one_with_room_for_less() -> None:
    missed = played(2, lambda *_: served(0.85))[-1]
    assert missed.in_time == pytest.approx(0.85)
    assert missed.headroom > 0.1
    assert played(2, lambda *_: served(1.0))[-1].headroom < -0.1


def test_late_tokens_count_as_late_requests_do() -> None:
    assert played(2, lambda *_: served(1.0, tokens_in_time=0.85))[-1].headroom > 0.1


@pytest.mark.parametrize("permille", [950, 990])
@pytest.mark.parametrize("wrong", [0.85, 1.0, 1.3])
def test_over_a_day_the_promise_is_kept_whatever_the_profile_is_wrong_by(permille: int, wrong: float) -> None:
    late = total = 0.0

    def traffic(at: float, kept: Kept | None) -> Traffic:
        nonlocal late, total
        # With the headroom that it needs half of what may be late is; a tenth less, and it is six times as much.
        room = 1 + (kept.headroom if kept is not None else 0.0)
        share = min(1.0, (1 - permille / 1000) / 2 * math.exp(18 * (wrong - room)))
        requests = 8 + 4 * math.sin(at / 13_000)
        if at > 8 * HOUR:
            late, total = late + requests * share, total + requests
        return served(1 - share, requests)

    played(32, traffic, promised(permille))
    assert late / total <= 1 - permille / 1000
    assert late / total >= 0.5 * (1 - permille / 1000)  # and no hardware is held for more than that


def test_headroom_stays_within_its_bounds_and_comes_back_within_hours() -> None:
    course = played(40, lambda at, _: served(0.0 if at < 20 * HOUR else 1.0))
    asked = [one.headroom for one in course]
    assert max(asked) == WIDEST
    assert min(asked) >= NARROWEST
    assert asked[-1] < 0


def test_one_bad_minute_is_no_reason_for_a_larger_group() -> None:
    for permille in (950, 990):

        def traffic(at: float, _: Kept | None, usual: float = permille / 1000) -> Traffic:
            return served(0.0 if at == HOUR else usual)

        asked = [one.headroom for one in played(1.05, traffic, promised(permille))]
        assert asked[-1] - asked[100] < 0.05, permille


def test_the_same_reading_twice_counts_once_and_a_clock_that_is_set_back_nothing() -> None:
    record = Record()
    record.with_record(served(0.5), OBJECTIVES, 100.0)
    first = record.with_record(served(0.5), OBJECTIVES, 130.0)
    assert first.record is not None
    assert record.with_record(served(0.5), OBJECTIVES, 130.0) == first
    assert record.with_record(served(0.5), OBJECTIVES, 10.0) == first


def test_a_new_leader_goes_on_from_the_headroom_that_was_written_down() -> None:
    record = Record()
    record.with_record(served(0.95), OBJECTIVES, 0.0, 40)
    kept = record.with_record(served(0.95), OBJECTIVES, 30.0, -20).record
    assert kept is not None
    assert kept.headroom == pytest.approx(0.4, abs=0.01)
    record = Record()
    record.with_record(served(0.95), OBJECTIVES, 0.0, 100)
    kept = record.with_record(served(0.95), OBJECTIVES, 30.0).record
    assert kept is not None
    assert kept.headroom == WIDEST


def test_what_a_group_could_not_act_on_teaches_it_nothing() -> None:
    record = Record()
    for step in range(200):
        at_its_minimum = record.with_record(served(1.0), OBJECTIVES, 30.0 * step, may_shrink=False).record
    assert at_its_minimum is not None
    assert at_its_minimum.headroom == 0
    for step in range(200, 400):
        at_its_maximum = record.with_record(served(0.5), OBJECTIVES, 30.0 * step, may_grow=False).record
    assert at_its_maximum is not None
    assert at_its_maximum.headroom == 0


def test_what_was_between_two_readings_that_lie_far_apart_is_not_made_up() -> None:
    record = Record()
    record.with_record(served(0.5), OBJECTIVES, 0.0)
    kept = record.with_record(served(0.5), OBJECTIVES, 10 * HOUR).record
    assert kept is not None
    assert kept.requests <= 60 * 8
    assert kept.headroom < 0.05


def test_nothing_is_learnt_where_nothing_is_promised_or_measured() -> None:
    nothing = OBJECTIVES.model_copy(update={"time_to_first_token_milliseconds": None})
    assert played(1, lambda *_: served(0.5), nothing) == []
    assert played(1, lambda *_: PROMPT_HEAVY) == []


def test_a_night_without_requests_proves_nothing() -> None:
    def traffic(at: float, _: Kept | None) -> Traffic:
        return served(0.85) if at < 2 * HOUR else replace(served(1.0, 0.0))

    course = played(6, traffic)
    assert course[-1].headroom == pytest.approx(course[240].headroom, abs=0.01)

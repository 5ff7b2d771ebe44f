"""The share of requests that will be late, in cases whose answer is known."""

from __future__ import annotations

from math import exp, sqrt
from statistics import NormalDist

import pytest

from weft.balancing.capacity import Need, wait_probability
from weft.balancing.outlook import SAMPLES, Span, decode_late, prefill_late, present_after

PROMPTS = Need(
    saturated=3.0,
    required=4.0,
    replica_tokens_per_second=3000.0,
    service_seconds=0.5,
    variance=1.5,
    budget_seconds=2.0,
)
"""Three replicas busy; a prompt takes half a second and may wait two."""
ANSWERS = Need(
    saturated=2.0, required=3.0, replica_tokens_per_second=150.0, service_seconds=20.0, places=10.0
)
"""Twenty requests decode, ten to a replica; an answer takes twenty seconds, and nobody may wait."""


def prefill(need: Need, capacity: float, waiting: float = 0.0, seconds: float = 240.0) -> float:
    return prefill_late(need, [Span(seconds, capacity)], waiting)


def decode(need: Need, capacity: float, present: float = 20.0, seconds: float = 240.0) -> float:
    return decode_late(need, [Span(seconds, capacity)], present)


def test_a_prompt_that_may_wait_for_four_others_at_each_of_four_replicas_is_hardly_ever_late() -> None:
    assert prefill(PROMPTS, 4.0) < 0.01


def test_several_replicas_queue_less_often_than_one_as_fast_as_all_of_them() -> None:
    # Halfin and Whitt: 0.37 of the requests wait at all; behind one fast server 0.75 would.
    hurried = Need(**{**vars(PROMPTS), "budget_seconds": 0.2})
    assert prefill(hurried, 4.0) == pytest.approx(0.18, abs=0.05)


def test_overload_makes_all_late_in_the_end_and_few_at_first() -> None:
    assert prefill(PROMPTS, 2.0, seconds=2.0) < 0.2
    assert prefill(PROMPTS, 2.0, seconds=600.0) > 0.9


def test_what_queues_up_on_the_way_is_late_after_it() -> None:
    way = [Span(30.0, 1.0), Span(30.0, 5.0)]
    # 60 replica-seconds behind, of which two a second are worked off: half a minute is late almost to its end.
    assert prefill_late(PROMPTS, way, 0.0) > 0.8


def test_a_backlog_is_late_until_it_is_worked_off() -> None:
    assert prefill(PROMPTS, 5.0, waiting=200.0, seconds=40.0) > 0.7
    assert prefill(PROMPTS, 5.0, waiting=200.0, seconds=600.0) < 0.2


def test_nobody_serves_a_stage_without_replicas_and_nobody_is_late_without_work() -> None:
    assert (prefill(PROMPTS, 0.0), decode(ANSWERS, 0.0)) == (1.0, 1.0)
    idle = Need(**{**vars(PROMPTS), "saturated": 0.0})
    assert prefill(idle, 0.0) == 0.0


def test_answers_that_are_being_written_take_places_until_they_end() -> None:
    assert decode(ANSWERS, 3.0, seconds=10.0) < 0.05
    assert decode(ANSWERS, 3.0, present=60.0, seconds=10.0) > 0.9
    assert decode(ANSWERS, 3.0, present=60.0, seconds=600.0) < 0.2


def test_who_may_wait_for_a_place_is_not_late_where_all_are_just_taken() -> None:
    patient = Need(**{**vars(ANSWERS), "saturated": 3.0, "budget_seconds": 10.0})
    assert decode(ANSWERS, 2.0) == pytest.approx(0.5, abs=0.05)
    assert decode(patient, 3.0, present=30.0, seconds=20.0) < 0.3


NORMAL = NormalDist()


def reflected(
    start: float, drift: float, variance: float, limit: float, seconds: float
) -> tuple[float, float]:
    """Of a Brownian motion that is reflected at zero: how probably it is beyond the limit after so many seconds, by
    having started there, and by having been reflected (J. M. Harrison, 1985, section 3.6)."""
    spread = sqrt(variance * seconds)
    return (
        NORMAL.cdf((start - limit + drift * seconds) / spread),
        exp(2 * drift * limit / variance) * NORMAL.cdf((-limit - start - drift * seconds) / spread),
    )


@pytest.mark.parametrize(
    ("waiting", "capacity", "seconds"),
    [(0.0, 4.0, 10.0), (30.0, 4.0, 20.0), (12.0, 3.2, 8.0), (4.0, 2.0, 8.0)],
)
def test_unfinished_prompts_move_as_a_reflected_brownian_motion(
    waiting: float, capacity: float, seconds: float
) -> None:
    # Of several servers fewer requests wait than of one that is as fast as all: by Halfin and Whitt's probability.
    work, variance = 3.0, 3.0 * 0.5 * 1.5
    headroom = (capacity - work) / sqrt(work * 1.5 / 2)
    queues = wait_probability(headroom) if headroom > 0 else 1.0
    late = []
    for part in SAMPLES:
        away, back = reflected(waiting * 0.5, work - capacity, variance, 2.0 * capacity, part * seconds)
        late.append(min(1.0, away + queues * back))
    assert prefill(PROMPTS, capacity, waiting, seconds) == pytest.approx(sum(late) / len(late))


def test_a_course_is_late_by_the_mean_over_its_seconds_and_an_empty_one_never() -> None:
    # Nobody serves for the first of four equal parts; afterwards there is more than enough.
    way = [Span(30.0, 0.0), Span(60.0, 1000.0), Span(30.0, 1000.0)]
    assert prefill_late(PROMPTS, way, 0.0) == pytest.approx(0.25, abs=0.001)
    assert decode_late(ANSWERS, way, 20.0) == pytest.approx(0.25, abs=0.001)
    behind = [Span(30.0, 1000.0), Span(30.0, 0.0), Span(0.0, 0.0)]
    assert prefill_late(PROMPTS, behind, 0.0) == pytest.approx(0.5, abs=0.001)
    assert decode_late(ANSWERS, behind, 20.0) == pytest.approx(0.5, abs=0.001)
    assert (prefill_late(PROMPTS, [], 9.0), decode_late(ANSWERS, [], 99.0)) == (0.0, 0.0)
    assert (prefill(PROMPTS, 0.0, seconds=0.5), decode(ANSWERS, 0.0, seconds=0.5)) == (1.0, 1.0)


def test_prompts_that_were_not_read_in_time_are_late_in_the_next_part_of_the_way_by_what_is_left() -> None:
    # 20 s with a replica too few leave 20 replica-seconds, of which a second later five replicas have read two.
    ways = [Span(20.0, 2.0), Span(2.0, 5.0)]
    apart = 20.0 * prefill(PROMPTS, 2.0, seconds=20.0) + 2.0 * prefill(PROMPTS, 5.0, 40.0, seconds=2.0)
    assert prefill_late(PROMPTS, ways, 0.0) == pytest.approx(apart / 22.0)


def test_without_patience_answers_are_late_as_often_as_a_poisson_number_of_them_exceeds_the_places() -> None:
    # M/G/inf: 24 decode on average, whatever their lengths; 30 places.
    few = Need(**{**vars(ANSWERS), "saturated": 2.4})
    assert decode(few, 3.0, present=24.0) == pytest.approx(1 - NORMAL.cdf(6 / sqrt(24)))
    # Contexts that vary as much as their mean take room like twice as many.
    varied = Need(**{**vars(few), "variance": 2.0})
    assert decode(varied, 3.0, present=24.0) == pytest.approx(1 - NORMAL.cdf(6 / sqrt(48)))
    # Nobody arrives, and those that are there have a place each; one more than there are places waits until one ends.
    nobody = Need(**{**vars(ANSWERS), "saturated": 0.0})
    assert decode(nobody, 2.0, present=20.0) == 0.0
    assert 0.0 < decode(nobody, 2.0, present=21.0, seconds=1.0) < 1.0


def test_an_answer_that_finds_all_places_taken_waits_exponentially_long() -> None:
    # M/M/m with m = 30 and 24 busy: places come free at 30 / 20 per second, and the queue in front of an answer has
    # a geometric length (rho = 0.8): Harrison's exponent 2 * drift / variance is (24 - 30) / 24 per request in it.
    full = 1 - NORMAL.cdf(6 / sqrt(24))
    for patience in (1.0, 3.0, 5.0):
        patient = Need(**{**vars(ANSWERS), "saturated": 2.4, "budget_seconds": patience})
        expected = full * exp(-6 / 24 * 30 / 20 * patience)
        assert decode(patient, 3.0, present=24.0, seconds=10_000.0) == pytest.approx(expected, rel=0.01)


PATIENT = Need(**{**vars(ANSWERS), "budget_seconds": 5.0})
"""An answer may wait for five seconds: with 30 places for as long as it takes to end 7.5 others."""


def test_a_queue_for_places_takes_time_to_form() -> None:
    busy = Need(**{**vars(PATIENT), "saturated": 2.4})
    steady = decode(busy, 3.0, present=24.0, seconds=10_000.0)
    assert decode(busy, 3.0, present=24.0, seconds=10.0) < steady / 3


def test_of_answers_beyond_what_the_places_can_write_all_are_late_in_the_end() -> None:
    overloaded = Need(**{**vars(PATIENT), "saturated": 4.5})
    shares = [
        decode(overloaded, 3.0, present=30.0, seconds=seconds) for seconds in (5.0, 30.0, 120.0, 1200.0)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert 0.95 < shares[-1] <= 1.0
    # At exactly as many as can be written a queue comes and goes, and grows like the root of the time.
    level = Need(**{**vars(PATIENT), "saturated": 3.0})
    first, later = (decode(level, 3.0, present=30.0, seconds=seconds) for seconds in (60.0, 6000.0))
    assert first < later < 0.6


def test_who_comes_behind_a_long_queue_for_places_is_late_and_hardly_anybody_behind_a_short_one() -> None:
    busy = Need(**{**vars(PATIENT), "saturated": 2.4})
    assert decode(busy, 3.0, present=150.0, seconds=10.0) > 0.99
    # Of four who wait in front of one all get their places in time, mostly; of twenty few do.
    shares = [decode(busy, 3.0, present=present, seconds=4.0) for present in (24.0, 34.0, 38.0, 50.0)]
    assert shares == sorted(shares)
    assert shares[1] < 0.3
    assert shares[3] > 0.8


def test_the_longer_an_answer_may_wait_the_fewer_are_late() -> None:
    busy = {**vars(ANSWERS), "saturated": 2.7}
    for present in (27.0, 45.0):
        shares = [
            decode(Need(**{**busy, "budget_seconds": patience}), 3.0, present)
            for patience in (0.0, 0.5, 2.0, 5.0, 20.0)
        ]
        assert shares == sorted(shares, reverse=True)


def test_answers_end_at_their_own_pace_while_all_have_places_and_at_that_of_the_places_else() -> None:
    # 20 in the long run. With room for all what is away from that falls to 1 / e within the time of an answer.
    assert present_after(ANSWERS, 10.0, 60.0, 20.0) == pytest.approx(20 + 40 / exp(1))
    assert present_after(ANSWERS, 10.0, 0.0, 20.0) == pytest.approx(20 - 20 / exp(1))
    assert present_after(ANSWERS, 6.0, 60.0, 40.0) == pytest.approx(20 + 40 / exp(2))
    # Else who arrives less who ends is conserved: one a second comes, 10 places end half of one.
    assert present_after(ANSWERS, 1.0, 60.0, 40.0) == pytest.approx(60 + 40 * (1 - 0.5))
    assert present_after(ANSWERS, 4.0, 60.0, 10.0) == pytest.approx(60 + 10 * (1 - 2.0))
    assert present_after(ANSWERS, 4.0, 60.0, 200.0) == 0.0


def test_more_answers_are_never_judged_less_late() -> None:
    """Where more came than places could write, half as many were said to be late as with one request less."""
    for seconds in (60.0, 240.0, 1200.0):
        shares = [
            decode(Need(**{**vars(PATIENT), "saturated": offered / 10}), 3.0, present=30.0, seconds=seconds)
            for offered in (28.0, 29.0, 29.9, 29.99, 30.0, 30.01, 30.1, 31.0, 32.0, 34.0, 40.0)
        ]
        assert shares == sorted(shares)
        # Nor is there a step between just too few places and just enough.
        assert shares[5] - shares[3] < 0.02

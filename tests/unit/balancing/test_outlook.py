"""The share of requests that will be late, in cases whose answer is known."""

from __future__ import annotations

import pytest

from weft.balancing.capacity import Need
from weft.balancing.outlook import Span, decode_late, prefill_late

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

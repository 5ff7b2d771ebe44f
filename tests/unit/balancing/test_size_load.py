"""The load that a size is chosen for: a burst that answers outlast is no reason for replicas."""

from __future__ import annotations

import math
from dataclasses import replace

from support.inference import OBJECTIVES, T0, group, known, steady
from weft.balancing.plan import SplitPlan, plan_split
from weft.balancing.state import Queues, Traffic

LONG, SHORT = (0.65, 2000, 3200), (13.0, 100, 160)
"""Requests a second, prompt and answer: as many tokens each, answers of 218 and of 11 s."""
PATIENT = OBJECTIVES.model_copy(update={"time_to_first_token_milliseconds": 20_000})


def planned(decode: int, traffic: Traffic) -> SplitPlan:
    inputs = group(3, decode, traffic, budget=120, objectives=PATIENT)
    return plan_split(replace(inputs, minimum_accelerators=4, queues=Queues(0, 0), now=T0))


def bursting(load: tuple[float, float, float], windows: int) -> Traffic:
    """Twice as many requests in the last so many minutes as in those before."""
    rate, prompt, answer = load
    twice, usual = steady(2 * rate, prompt, answer), steady(rate, prompt, answer)
    history = (*[twice.long] * windows, *[usual.long] * (10 - windows))
    return replace(twice, history=history, history_seconds=60.0)


def test_a_burst_of_a_minute_asks_for_replicas_only_where_answers_are_as_short() -> None:
    assert planned(26, bursting(LONG, 0)).decision is None
    assert planned(26, bursting(LONG, 1)).decision is None
    assert planned(26, bursting(LONG, 4)).allocation["decode"] > 26
    assert planned(9, bursting(SHORT, 0)).allocation == planned(9, bursting(SHORT, 1)).allocation
    assert planned(9, bursting(SHORT, 1)).allocation["decode"] > 9


def test_what_waits_because_of_a_burst_asks_for_replicas_all_the_same() -> None:
    inputs = group(3, 26, bursting(LONG, 1), budget=120, objectives=PATIENT)
    waits = replace(inputs, minimum_accelerators=4, queues=Queues(0, 400))
    assert plan_split(waits).allocation["decode"] > 26


def busy_once(load: tuple[float, float, float], times: float) -> Traffic:
    """A load that was so many times as large in one of the last twenty minutes; all requests were in time."""
    traffic, answer = known(steady(*load), times), load[2]
    assert traffic.past is not None
    lengths = ((answer - 1, 0.0), (answer + 1, load[0]), (math.inf, load[0]))
    return replace(
        traffic,
        past=replace(traffic.past, answer_buckets=lengths),
        history=(traffic.long,) * 10,
        ttft_buckets=((20.0, 1.0), (math.inf, 1.0)),
    )


def test_a_busy_minute_keeps_a_group_from_shrinking_only_where_answers_are_as_short() -> None:
    assert planned(30, busy_once(LONG, 1.8)).allocation["decode"] < 30
    assert planned(8, busy_once(SHORT, 1.0)).allocation["decode"] < 8
    assert planned(8, busy_once(SHORT, 1.8)).allocation["decode"] == 8

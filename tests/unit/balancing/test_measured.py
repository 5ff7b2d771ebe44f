"""What is concluded from latencies and queues that were measured, with numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from support.inference import OBJECTIVES, PROMPT_HEAVY, T0, group, role
from weft.api import Stage
from weft.balancing.capacity import Need
from weft.balancing.measured import late_seconds, measured_late, met_with_room, overdue
from weft.balancing.splits import StageNeed
from weft.balancing.state import Queues, Split, SplitInputs

NEEDS = {
    Stage.PREFILL: StageNeed(
        Need(2.0, 2.5, 2000.0, service_seconds=0.5, budget_seconds=2.0), {"prefill": 1.0}, {}
    ),
    Stage.DECODE: StageNeed(
        Need(3.0, 4.0, 300.0, service_seconds=10.0, budget_seconds=1.0, places=25.0), {"decode": 1.0}, {}
    ),
}
"""A prompt takes half a second and may wait two; a decode replica has 25 places, and an answer may wait a second."""


def observed(ttft: float, itl: float, queues: Queues | None, **changes: Any) -> SplitInputs:
    """Three prefill and four decode replicas, and so large a share within each objective in the last minute."""
    traffic = replace(
        PROMPT_HEAVY,
        ttft_buckets=((2.5, ttft), (math.inf, 1.0)),
        itl_buckets=((0.095, itl), (math.inf, 1.0)),
    )
    return replace(group(3, 4, traffic), queues=queues, **changes)


def met(inputs: SplitInputs) -> bool:
    return met_with_room(inputs, inputs.serving, NEEDS)


def test_a_promise_is_kept_when_each_latency_is_and_queues_leave_room() -> None:
    # Prompts may use a fifth of their two seconds: at three replicas 0.4 s are 2.4 prompts of half a second.
    assert met(observed(0.95, 0.95, Queues(2.4, 50)))
    assert not met(observed(0.949, 1.0, Queues(0, 50)))
    assert not met(observed(1.0, 0.949, Queues(0, 50)))
    assert not met(observed(1.0, 1.0, Queues(2.5, 50)))
    # Of 100 places at decode one standard deviation of those there has to be free.
    assert met(observed(1.0, 1.0, Queues(0, 90)))
    assert not met(observed(1.0, 1.0, Queues(0, 91)))
    assert not met(observed(1.0, 1.0, None)), "nobody knows what waits"


def test_what_was_late_is_what_missed_either_promise_as_long_as_no_queue_says_otherwise() -> None:
    assert measured_late(observed(0.9, 0.8, Queues(0, 50)), NEEDS) == pytest.approx(1 - 0.9 * 0.8)
    # Half of the budget may be waited: 1 s at three replicas; and decode full but for a deviation.
    assert measured_late(observed(0.9, 0.8, Queues(6, 50)), NEEDS) is not None
    assert measured_late(observed(0.9, 0.8, Queues(6.1, 50)), NEEDS) is None
    assert measured_late(observed(0.9, 0.8, Queues(0, 110)), NEEDS) is not None
    assert measured_late(observed(0.9, 0.8, Queues(0, 111)), NEEDS) is None
    # Of another split, in part of the minute, it says nothing.
    just = {"decided_at": T0 - timedelta(seconds=59)}
    assert measured_late(observed(0.9, 0.8, Queues(0, 50), **just), NEEDS) is None
    assert measured_late(observed(0.9, 0.8, Queues(0, 50), settled=False), NEEDS) is None


def test_a_latency_without_a_promise_is_never_late() -> None:
    first = OBJECTIVES.with_changes(inter_token_latency_microseconds=None)
    between = OBJECTIVES.with_changes(time_to_first_token_milliseconds=None)
    queues = Queues(0, 50)
    assert measured_late(observed(0.9, 0.8, queues, objectives=first), NEEDS) == pytest.approx(0.1)
    assert measured_late(observed(0.9, 0.8, queues, objectives=between), NEEDS) == pytest.approx(0.2)
    # Of what a bucket leaves open of the first token the stricter reading counts.
    known = observed(0.9, 0.8, queues)
    assert known.traffic is not None
    ttft = ((2.0, 0.7), (3.0, 0.95), (math.inf, 1.0))
    coarse = replace(known, traffic=replace(known.traffic, ttft_buckets=ttft))
    assert measured_late(coarse, NEEDS) == pytest.approx(1 - 0.7 * 0.8)
    # And one that is promised and was not measured is not known.
    unknown = observed(0.9, 0.8, queues)
    assert unknown.traffic is not None
    for buckets in ("ttft_buckets", "itl_buckets"):
        blind = replace(unknown, traffic=replace(unknown.traffic, **{buckets: ()}))
        assert measured_late(blind, NEEDS) is None


def test_where_a_bucket_leaves_open_which_answers_were_in_time_the_engines_means_say() -> None:
    # Between 50 and 100 ms lies 95 ms: 0.4 to 0.9 are within it.
    inputs = observed(0.9, 0.0, Queues(0, 50))
    assert inputs.traffic is not None
    itl = ((0.05, 0.4), (0.1, 0.9), (math.inf, 1.0))
    open_ = replace(inputs, traffic=replace(inputs.traffic, itl_buckets=itl))
    for told, share in ((None, 0.4), (0.3, 0.4), (0.7, 0.7), (1.0, 0.9)):
        assert measured_late(replace(open_, answers_in_time=told), NEEDS) == pytest.approx(1 - 0.9 * share)
    # Aggregated replicas write at a pace of their own, of which the histogram of all tells nothing.
    roles = (*open_.roles, role("both", Stage.AGGREGATED, 1))
    both = replace(
        open_, roles=roles, allocation=Split.of({**open_.allocation.replicas, "both": 1}), answers_in_time=0.3
    )
    assert measured_late(both, NEEDS) == pytest.approx(1 - 0.9 * 0.3)
    free = replace(both, objectives=OBJECTIVES.with_changes(inter_token_latency_microseconds=None))
    assert measured_late(free, NEEDS) == pytest.approx(0.1)


def test_overdue_is_who_waits_beyond_those_that_are_served_in_time() -> None:
    # Three prefill replicas read 12 prompts in two seconds; decode's 100 places end ten answers in one.
    def found(prompts: float, answers: float) -> dict[Stage, float] | None:
        return overdue(observed(1.0, 1.0, Queues(prompts, answers)), NEEDS)

    assert found(12, 110) == {Stage.PREFILL: 0.0, Stage.DECODE: 0.0}
    assert found(20, 125) == {Stage.PREFILL: 8.0, Stage.DECODE: 15.0}
    assert overdue(observed(1.0, 1.0, None), NEEDS) is None


def test_what_was_late_and_what_is_overdue_is_counted_in_seconds_of_arrivals() -> None:
    # 28 % of the last minute's requests, at 7.5 a second, and 8 + 15 that wait for too long.
    assert late_seconds(observed(0.9, 0.8, Queues(20, 125)), NEEDS) == pytest.approx(0.28 * 60 + 23 / 7.5)
    assert late_seconds(observed(1.0, 1.0, Queues(0, 0)), NEEDS) == 0.0
    assert late_seconds(observed(0.9, 0.8, None), NEEDS) is None
    # Where more arrive by now, what was late is that much less of it.
    inputs = observed(0.9, 0.8, Queues(0, 0))
    assert inputs.traffic is not None
    faster = replace(inputs.traffic, short=replace(inputs.traffic.short, requests=15.0))
    assert late_seconds(replace(inputs, traffic=faster), NEEDS) == pytest.approx(0.28 * 60 / 2)
    for requests, seconds in ((0.5, pytest.approx(0.28 * 60)), (0.0, None)):
        rates = replace(inputs.traffic.long, requests=requests)
        rare = replace(inputs.traffic, short=rates, long=rates)
        assert late_seconds(replace(inputs, traffic=rare), NEEDS) == seconds

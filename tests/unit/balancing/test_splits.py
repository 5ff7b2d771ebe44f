"""Which splits can be reached and how each would fare, in cases that can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from support.inference import role
from weft.api import Stage
from weft.balancing.capacity import Need, Steps
from weft.balancing.splits import (
    AFTER_PART,
    AWAY_PART,
    INTERFERENCE,
    Load,
    StageNeed,
    Terms,
    _way,
    given,
    judge,
    lead_seconds,
    longest_drain,
    places,
    reachable,
    round_trip,
    worst_stage,
)
from weft.balancing.state import Queues, RoleState, Split

ROLES = (role("decode", Stage.DECODE, 1), role("prefill", Stage.PREFILL, 1))
HORIZON = 100.0
TERMS = Terms(HORIZON, 5.0, {Stage.PREFILL: 15.0, Stage.DECODE: 20.0}, overlaps=False)
"""A flip takes 5 s, after a drain of 15 s from prefill and of 20 s from decode."""
PROMPTS = Need(0.5, 0.6, 1000.0, service_seconds=1.0, budget_seconds=1e6)
"""Half a replica is busy, and nobody is late as long as there is one."""
ANSWERS = Need(0.01, 0.5, 100.0, service_seconds=20.0, places=10_000.0)
"""One replica is more than enough: who is late is late because there was none."""
ON_THE_WAY = 1 - AFTER_PART
"""What counts of what is late on the way to a split that carries the load."""


def split(prefill: int, decode: int) -> Split:
    return Split.of({"decode": decode, "prefill": prefill})


def needs(**answers: Any) -> dict[Stage, StageNeed]:
    return {
        Stage.PREFILL: StageNeed(PROMPTS, {"prefill": 1.0}, {}),
        Stage.DECODE: StageNeed(replace(ANSWERS, **answers), {"decode": 1.0}, {}),
    }


LOAD = Load([(1.0, needs())])


def late(
    start: Split,
    to: Split,
    terms: Terms = TERMS,
    load: Load = LOAD,
    roles: tuple[RoleState, ...] = ROLES,
    after: Split | None = None,
) -> float:
    return judge(start, to, roles, needs(), terms, load, after).late


def test_a_stage_is_late_for_as_long_as_a_move_leaves_it_without_a_replica() -> None:
    to = split(1, 1)
    # From prefill: 15 s of drain and 5 s of the flip, of 100.
    assert late(split(2, 0), to) == pytest.approx(AWAY_PART + ON_THE_WAY * 0.20)
    assert late(split(2, 0), to, replace(TERMS, overlaps=True)) == pytest.approx(
        AWAY_PART + ON_THE_WAY * 0.05
    )
    # Another engine takes 40 s to start, also where flips overlap.
    made = (replace(ROLES[0], start_seconds=40.0), ROLES[1])
    for overlaps in (False, True):
        terms = replace(TERMS, overlaps=overlaps)
        assert late(split(2, 0), to, terms, roles=made) == pytest.approx(AWAY_PART + ON_THE_WAY * 0.60)
    # A KV cache that is held for 30 s is a drain of so long.
    held = (ROLES[0], replace(ROLES[1], hold_seconds=30.0))
    assert late(split(2, 0), to, roles=held) == pytest.approx(AWAY_PART + ON_THE_WAY * 0.35)
    # And a stage that stays without any is wholly late.
    assert late(split(2, 0), split(2, 0)) == pytest.approx(1.0)


def test_a_group_that_grows_by_many_replicas_is_judged_in_one_more_phase_for_each_at_most() -> None:
    """Each doubled them: with 14 a judgement took 0.3 s, with 20 it would have taken 17."""
    many = replace(TERMS, starting=tuple(("decode", 10.0 + i) for i in range(20)))
    phases = _way(split(8, 24), split(9, 23), ROLES, many)
    assert len(phases) <= 3 + 20
    assert sum(seconds for seconds, _ in phases) == pytest.approx(HORIZON)
    # Four of the 24 serve from the beginning, but for the one that moves; at the end all that the split has.
    assert [phases[0][1]["decode"], phases[-1][1]["decode"]] == [3, 23]


def test_a_replica_that_starts_serves_nobody_until_it_is_there() -> None:
    for seconds in (30.0, 55.0):
        starting = replace(TERMS, starting=(("decode", seconds),))
        assert late(split(1, 1), split(1, 1), starting) == pytest.approx(ON_THE_WAY * seconds / HORIZON)
    # Of two that start the first is enough, and one beside another that serves is not missed.
    both = replace(TERMS, starting=(("decode", 30.0), ("decode", 60.0)))
    assert late(split(1, 2), split(1, 2), both) == pytest.approx(ON_THE_WAY * 0.30)
    assert late(split(1, 3), split(1, 3), both) == pytest.approx(0.0)
    # On the way of a move, too: decode is without until the flip of 20 s has ended.
    assert late(split(2, 1), split(1, 2), replace(TERMS, starting=(("decode", 50.0),))) == pytest.approx(
        AWAY_PART + ON_THE_WAY * 0.20
    )


def test_what_was_measured_late_is_believed_of_the_present_split_and_of_no_other() -> None:
    measured = replace(LOAD, measured_late=0.03)
    assert late(split(2, 0), split(2, 0), load=measured) == pytest.approx(0.03)
    assert late(split(2, 0), split(1, 1), load=measured) > 0.1
    assert late(split(1, 1), split(1, 1), load=measured) == pytest.approx(0.0)


def test_a_load_that_comes_back_counts_for_the_part_of_the_time_in_which_it_does() -> None:
    # Of before, a third of the time nobody wanted answers, and for two thirds ten times as many as fit.
    flooded = {**needs(), **{Stage.DECODE: needs(saturated=50.0)[Stage.DECODE]}}
    nothing = needs(saturated=0.0)
    load = replace(LOAD, others=[(1 / 3, nothing), (2 / 3, flooded)], others_part=0.3)
    assert late(split(1, 1), split(1, 1), load=load) == pytest.approx(0.3 * 2 / 3, abs=0.01)
    # What is late of the present load is late in the rest.
    now = late(split(2, 0), split(1, 1))
    judged = judge(split(2, 0), split(1, 1), ROLES, needs(), TERMS, load)
    assert judged.late == pytest.approx(0.7 * now + 0.3 * 2 / 3, abs=0.01)
    assert judged.now == pytest.approx(now)
    # Probabilities of the present load weigh alike.
    unsure = Load([(0.25, flooded), (0.75, needs())])
    assert late(split(1, 1), split(1, 1), load=unsure) == pytest.approx(0.25, abs=0.01)


def test_a_split_that_is_left_again_is_kept_until_the_prompts_that_wait_have_been_read() -> None:
    """Prefill gets decode's only replica for as long as 30 prompts of a second each wait."""
    terms = replace(TERMS, overlaps=True, queues=Queues(30, 0))
    # One replica reads at 1 - 0.5 for the 5 s of the flip, then one and 0.7 of another for the 20 s of its old work,
    # then both: 30 - 2.5 - 1.2 * 20 = 3.5, and 3.5 / 1.5. Then decode waits 5 s more for the way back.
    read = 5 + 20 + (30 - 2.5 - (2 - INTERFERENCE - 0.5) * 20) / 1.5
    expected = 2 * AWAY_PART + ON_THE_WAY * (read + 5) / HORIZON
    assert late(split(1, 1), split(2, 0), terms, after=split(1, 1)) == pytest.approx(expected)
    # If they are read while the old work still ends, so much sooner; if never, not within the horizon.
    few, many = (replace(terms, queues=Queues(waiting, 0)) for waiting in (8.5, 3000))
    assert late(split(1, 1), split(2, 0), few, after=split(1, 1)) == pytest.approx(
        2 * AWAY_PART + ON_THE_WAY * (5 + 6 / 1.2 + 5) / HORIZON
    )
    assert late(split(1, 1), split(2, 0), many, after=split(1, 1)) == pytest.approx(
        2 * AWAY_PART + ON_THE_WAY
    )


def test_who_waits_at_a_stage_counts_and_without_figures_it_is_as_full_as_on_average() -> None:
    # 20,000 answers for 10,000 places: all are late until half of them have ended.
    full = replace(TERMS, queues=Queues(0, 20_000))
    assert late(split(1, 1), split(1, 1), full) > 0.1
    assert late(split(1, 1), split(1, 1), replace(TERMS, queues=Queues(0, 100))) == pytest.approx(0.0)
    # 0.9 of the places taken on average, in a horizon that is much shorter than an answer: nothing changes.
    loaded = Load([(1.0, needs(saturated=0.9, service_seconds=1e6))])
    assert late(split(1, 1), split(1, 1), load=loaded) == pytest.approx(0.0)
    beyond = Load([(1.0, needs(saturated=1.1, service_seconds=1e6))])
    assert late(split(1, 1), split(1, 1), load=beyond) == pytest.approx(1.0)


def test_a_request_is_in_time_that_is_in_time_at_both_stages() -> None:
    # Half of the horizon decode has nobody, and prefill never: all are late; either alone is its own part.
    assert late(split(0, 1), split(0, 1)) == pytest.approx(1.0)
    half = replace(TERMS, starting=(("decode", 50.0), ("prefill", 50.0)))
    assert late(split(1, 1), split(1, 1), half) == pytest.approx(ON_THE_WAY * (1 - 0.5 * 0.5))


def test_the_worst_stage_is_the_one_with_the_least_of_what_it_requires() -> None:
    # Prefill requires 0.6 and decode 0.5.
    assert worst_stage(split(3, 1), needs()) == pytest.approx(0.5)
    assert worst_stage(split(1, 2), needs()) == pytest.approx(0.6)
    assert worst_stage(split(0, 1), needs()) > 1e6


def test_a_move_takes_the_drain_of_who_gives_the_start_of_who_takes_and_the_flip() -> None:
    start, to = split(2, 4), split(4, 2)
    assert longest_drain(start, to, ROLES, TERMS) == 20.0
    assert longest_drain(to, start, ROLES, TERMS) == 15.0
    assert longest_drain(start, start, ROLES, TERMS) == 0.0
    assert lead_seconds(start, to, ROLES, TERMS) == 25.0
    assert lead_seconds(start, to, ROLES, replace(TERMS, overlaps=True)) == 5.0
    made = (ROLES[0], replace(ROLES[1], start_seconds=0.75))
    assert lead_seconds(start, to, made, replace(TERMS, overlaps=True)) == 25.75
    assert lead_seconds(to, start, made, TERMS) == 20.0
    # There and back as long as its role misses it, which is a quarter of decode, or half of prefill.
    assert round_trip(start, to, ROLES, TERMS) == pytest.approx((25 + 20) / 4)
    assert round_trip(split(2, 4), split(1, 5), ROLES, TERMS) == pytest.approx((20 + 25) / 2)
    assert round_trip(start, start, ROLES, TERMS) == 0.0


def test_a_role_of_faster_replicas_and_one_that_serves_both_stages_count_by_what_they_do() -> None:
    counts = {"decode": 2, "fast": 3, "both": 4, "small": 1}
    stage = StageNeed(
        ANSWERS, {"decode": 1.0, "fast": 2.0, "none": 5.0}, {"both": 0.5, "small": 0.25, "no": 3.0}
    )
    assert stage.capacity(counts) == (2 + 3 * 2, 4 * 0.5 + 0.25)
    # Who reads prompts beside answers has all of its places, but not all of its time for answers.
    steps = Steps(alone=0.02, full=0.02, objective=math.inf)
    both = {
        Stage.PREFILL: StageNeed(PROMPTS, {"prefill": 1.0}, {"both": 1.0}),
        Stage.DECODE: StageNeed(replace(ANSWERS, steps=steps), {"decode": 1.0}, {"both": 0.5}),
    }
    mixed = Split.of({"both": 2, "decode": 1, "prefill": 1})
    assert places(mixed, both)[Stage.DECODE] == pytest.approx(1 + 2 * 0.5)
    assert 1.0 < given(mixed, both)[Stage.DECODE] < 1 + 2 * 0.5
    assert (
        given(split(3, 2), needs()) == places(split(3, 2), needs()) == {Stage.PREFILL: 3.0, Stage.DECODE: 2.0}
    )


def exchanged(start: Split, most: int, *hardware: int, **bounds: Any) -> set[tuple[int, int]]:
    """(prefill, decode) of what can be reached, where a replica of decode and of prefill holds so many accelerators."""
    roles = [
        replace(one, accelerators_per_replica=each, **bounds)
        for one, each in zip(ROLES, hardware, strict=True)
    ]
    return {(one["prefill"], one["decode"]) for one in reachable(start, roles, most)}


def test_replicas_of_one_size_are_exchanged_one_for_one() -> None:
    assert exchanged(split(2, 3), 0, 2, 2) == {(1, 4), (3, 2), (4, 1)}
    assert exchanged(split(2, 3), 0, 2, 2, maximum=3) == {(3, 2)}
    assert exchanged(split(2, 3), 0, 2, 2, minimum=2) == {(3, 2)}
    # So many pods of a role that are not Ready do not go either.
    assert exchanged(split(2, 3), 0, 2, 2, kept=2) == {(3, 2)}


def test_replicas_of_other_sizes_are_exchanged_as_their_accelerators_have_room() -> None:
    # Decode holds 4 and prefill 2: two for one and one for two, never more than the 16 that are there.
    assert exchanged(split(4, 2), 16, 4, 2) == {(2, 3), (6, 1)}
    # With two accelerators that nobody holds the first exchange makes use of them.
    assert exchanged(split(4, 2), 18, 4, 2) == {(3, 3), (7, 1), (1, 4), (5, 2)}
    # Four make room for one that holds three, and not for one and a third.
    assert exchanged(split(1, 2), 0, 4, 3) == {(2, 1)}

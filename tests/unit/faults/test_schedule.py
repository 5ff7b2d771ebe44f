"""The schedules of the fault suite: repeatable, and each kind of fault is in some of the seeds that always run."""

from __future__ import annotations

from support.schedule import (
    CHANGES,
    FAULT_SECONDS,
    LATE_SECONDS,
    OPERATOR_VERBS,
    SCOPES,
    SETTLE_SECONDS,
    STALE_SECONDS,
    TIMEOUT_SECONDS,
    VERBS,
    Trouble,
    make,
)
from support.wire import Message, Treatment, WatchWay, Way

SEEDS = range(25)


def test_a_seed_gives_the_same_schedule_and_the_same_strikes_every_time() -> None:
    assert make(7) == make(7)
    assert make(7) != make(8)
    message = Message("fabric", "PATCH", "/redfish/v1/Systems/sled-0", "", b"")
    ticks = [n / 10 for n in range(60)]
    first, second = (
        [Trouble(make(7), 0.0, lambda now=now: now).treatment(message) for now in ticks] for _ in range(2)
    )
    assert first == second


def test_the_seeds_of_every_test_run_have_every_fault_and_every_act() -> None:
    schedules = [make(seed) for seed in SEEDS]
    episodes = [episode for schedule in schedules for episode in schedule.episodes]
    assert {episode.scope for episode in episodes} == set(SCOPES)
    treatments = [e.treatment for e in episodes]
    ways = {t.way for t in treatments if isinstance(t, Treatment)}
    assert ways == set(Way) - {Way.KILL_BEFORE, Way.KILL_AFTER}
    assert {t for t in treatments if isinstance(t, WatchWay)} == set(WatchWay) - {WatchWay.PASS}
    statuses = {t.status for t in treatments if isinstance(t, Treatment)}
    assert {409, 429, 500} <= statuses
    assert {act.verb for schedule in schedules for act in schedule.acts} == {
        *VERBS,
        *OPERATOR_VERBS,
        *CHANGES,
    }


def test_no_fault_lasts_longer_or_acts_later_than_the_model_allows() -> None:
    for schedule in map(make, range(500)):
        assert all(0 <= act.at < FAULT_SECONDS for act in schedule.acts)
        for episode in schedule.episodes:
            assert 0 <= episode.start < episode.end <= FAULT_SECONDS
            if isinstance(episode.treatment, Treatment):
                assert episode.treatment.delay <= LATE_SECONDS
    # What lands late is seen before the second of two readings that are `settleSeconds` apart.
    assert LATE_SECONDS - TIMEOUT_SECONDS + STALE_SECONDS < SETTLE_SECONDS

"""The load of the last minutes, as it was read."""

from __future__ import annotations

from support.inference import ANSWER_HEAVY, PROMPT_HEAVY, steady
from weft.balancing.history import WINDOWS, History
from weft.balancing.state import Traffic


def rates(traffic: Traffic) -> list[float]:
    return [one.requests for one in traffic.history]


def test_each_window_is_the_load_of_its_own_time() -> None:
    history = History()
    last = PROMPT_HEAVY
    for second in range(0, 241, 2):
        load = ANSWER_HEAVY if second <= 120 else PROMPT_HEAVY
        last = history.with_history(load, float(second), 1.0)
    assert last.history_seconds == 60
    assert rates(last) == [7.5, 7.5, 4.1, 4.1, 4.1]


def test_where_scrapes_are_rare_the_short_window_is_long_enough() -> None:
    assert History().with_history(PROMPT_HEAVY, 0.0, 15.0).history_seconds == 45
    assert History().with_history(PROMPT_HEAVY, 0.0, 5.0).history_seconds == 80


def test_no_more_is_kept_than_is_looked_back() -> None:
    history = History()
    for second in range(0, 20_000, 2):
        last = history.with_history(steady(float(second), 100, 100), float(second), 1.0)
    assert len(last.history) <= WINDOWS + 1
    assert len(history._read) < 10 * WINDOWS


def test_the_same_reading_again_changes_nothing() -> None:
    history = History()
    for second in (0.0, 60.0, 120.0):
        first = history.with_history(PROMPT_HEAVY, second, 1.0)
    assert history.with_history(PROMPT_HEAVY, 120.0, 1.0) == first


def test_after_a_pause_and_after_a_restart_nothing_is_made_up() -> None:
    history = History()
    history.with_history(ANSWER_HEAVY, 0.0, 1.0)
    assert rates(history.with_history(PROMPT_HEAVY, 500.0, 1.0)) == [7.5, 4.1]
    assert rates(history.with_history(PROMPT_HEAVY, 5000.0, 1.0)) == [7.5]
    assert rates(History().with_history(PROMPT_HEAVY, 5000.0, 1.0)) == [7.5]


def test_a_clock_that_is_set_back_leaves_nothing_of_what_was_read_later() -> None:
    history = History()
    history.with_history(ANSWER_HEAVY, 900.0, 1.0)
    assert rates(history.with_history(PROMPT_HEAVY, 100.0, 1.0)) == [7.5]
    assert rates(history.with_history(PROMPT_HEAVY, 160.0, 1.0)) == [7.5, 7.5]

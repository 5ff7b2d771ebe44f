from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from weft.api.conditions import Condition, is_true, with_condition

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)


def ready(
    status: bool | None = True, *, reason: str = "AllThere", now: datetime = NOON
) -> tuple[Condition, ...]:
    return with_condition((), "Ready", status, reason, "All devices are there.", 3, now)


def test_a_repeated_condition_is_equal_although_time_has_passed() -> None:
    assert with_condition(ready(), "Ready", True, "AllThere", "All devices are there.", 3, LATER) == ready()


@pytest.mark.parametrize(
    ("reason", "message", "generation"),
    [
        ("Other", "All devices are there.", 3),
        ("AllThere", "Other.", 3),
        ("AllThere", "All devices are there.", 4),
    ],
)
def test_the_transition_time_stays_while_only_the_explanation_changes(
    reason: str, message: str, generation: int
) -> None:
    changed = with_condition(ready(), "Ready", True, reason, message, generation, LATER)

    assert changed != ready()
    assert changed[0].last_transition_time == NOON
    assert (changed[0].reason, changed[0].message, changed[0].observed_generation) == (
        reason,
        message,
        generation,
    )


@pytest.mark.parametrize(("status", "word"), [(False, "False"), (None, "Unknown")])
def test_the_transition_time_moves_with_the_status(status: bool | None, word: str) -> None:
    changed = with_condition(ready(), "Ready", status, "Gone", "", 3, LATER)

    assert (changed[0].status, changed[0].last_transition_time) == (word, LATER)


def test_other_conditions_keep_their_place_and_value() -> None:
    both = with_condition(ready(), "Bound", False, "Waiting", "", 3, NOON)
    changed = with_condition(both, "Ready", False, "Gone", "", 3, LATER)

    assert [condition.type for condition in changed] == ["Ready", "Bound"]
    assert changed[1] == both[1]


def test_times_are_written_in_utc_and_whole_seconds() -> None:
    local = datetime(2026, 1, 2, 13, 0, 0, 987654, tzinfo=timezone(timedelta(hours=1)))

    assert ready(now=local)[0].dump()["lastTransitionTime"] == "2026-01-02T12:00:00Z"


def test_a_message_of_any_length_fits_the_schema() -> None:
    condition = with_condition((), "Ready", False, "Refused", "x" * 5000, 1, NOON)[0]

    assert len(condition.message) == 1024
    assert condition.message.endswith("...")


def test_a_reason_that_the_api_server_would_refuse_is_refused_here() -> None:
    with pytest.raises(ValidationError):
        with_condition((), "Ready", False, "no spaces", "", 1, NOON)


def test_only_a_true_condition_is_true() -> None:
    assert is_true(ready(True), "Ready")
    assert not is_true(ready(False), "Ready")
    assert not is_true(ready(None), "Ready")
    assert not is_true((), "Ready")

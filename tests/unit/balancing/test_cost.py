"""What a decision costs."""

from __future__ import annotations

import pytest

from support.steps import step_seconds


@pytest.mark.parametrize("late", [False, True], ids=["promise kept", "splits judged"])
def test_a_decision_on_64_replicas_takes_at_most_five_times_one_on_8(late: bool) -> None:
    assert step_seconds(64, late) <= 5 * step_seconds(8, late)

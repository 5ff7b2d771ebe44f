"""What a decision costs."""

from __future__ import annotations

import pytest

from support.inference import ANSWER_HEAVY, PROMPT_HEAVY, group
from support.steps import Promise, step_seconds
from weft.balancing import plan


@pytest.mark.parametrize("promise", Promise)
def test_a_decision_on_64_replicas_takes_at_most_five_times_one_on_8(promise: Promise) -> None:
    assert step_seconds(64, promise) <= 5 * step_seconds(8, promise)


def test_no_other_split_is_judged_where_staying_loses_less_than_a_move_has_to_save(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: list[object] = []
    judge = plan.judge
    monkeypatch.setattr(plan, "judge", lambda *given: judged.append(given[1]) or judge(*given))
    plan.plan_split(group(3, 6, ANSWER_HEAVY))
    assert len(judged) == 1
    plan.plan_split(group(3, 6, PROMPT_HEAVY))
    assert len(judged) > 8

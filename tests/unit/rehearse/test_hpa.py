"""The HorizontalPodAutoscaler's algorithm against what the controller's own code answered.

tests/data/hpa-controller-1.37.1.json: random inputs, each with the answer of Kubernetes 1.37.1's replica calculator
and normalisation (pkg/controller/podautoscaler) to it; values in thousandths, ages in seconds before the question.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weft.rehearse.hpa import DOWN, UP, Behavior, Limit, Rules, calculated

CASES = json.loads((Path(__file__).parents[2] / "data" / "hpa-controller-1.37.1.json").read_text())
NOW = 1000.0


def rules(raw: dict[str, Any]) -> Rules:
    limits = tuple(Limit(each["Type"], each["Value"], each["PeriodSeconds"]) for each in raw["Policies"])
    return Rules(raw["Stabilization"], limits, raw["Select"])


def events(raw: list[dict[str, Any]]) -> list[tuple[float, int]]:
    return [(NOW - each["Age"], each["Change"]) for each in raw or ()]


@pytest.mark.parametrize("case", CASES, ids=[str(i) for i in range(len(CASES))])
def test_it_answers_what_the_controller_answers(case: dict[str, Any]) -> None:
    answer = case["Answer"]
    wanted = calculated(list(zip(case["Pods"], case["Values"], strict=True)), case["Target"], case["Current"])
    if answer["Error"]:
        assert wanted is None
        return
    assert wanted == answer["Calculated"]
    behavior = Behavior(
        rules(case["Up"]),
        rules(case["Down"]),
        events(case["Recommendations"]),
        events(case["Ups"]),
        events(case["Downs"]),
    )
    assert behavior.desired(NOW, case["Current"], wanted, case["Min"], case["Max"]) == answer["Desired"]


def test_the_cases_are_no_trivial_ones() -> None:
    answers = [(case["Current"], case["Answer"]) for case in CASES]
    assert len(answers) >= 20
    assert sum(answer["Desired"] > current for current, answer in answers) >= 5
    assert sum(answer["Desired"] < current for current, answer in answers) >= 5
    assert sum(answer["Desired"] != answer["Calculated"] for _, answer in answers) >= 8


def test_by_default_it_grows_at_once_and_shrinks_after_five_minutes() -> None:
    behavior = Behavior(UP, DOWN)
    assert behavior.desired(0.0, 2, 5, 1, 10) == 5
    behavior.scaled(0.0, 2, 5)
    assert [behavior.desired(at, 5, 2, 1, 10) for at in (15.0, 150.0, 299.0, 301.0)] == [5, 5, 5, 2]

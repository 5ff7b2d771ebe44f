"""What benches say of a ratio that chance has a part in."""

from __future__ import annotations

import random
import statistics
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from counted import compared, percentile, within


@pytest.mark.parametrize(("times", "met"), [(1.0, True), (1.4, False)])
def test_a_ratio_that_every_turn_shows_is_met_or_missed(times: float, met: bool) -> None:
    alone = [[1.0 + 0.001 * number for number in range(20)] for _ in range(6)]
    beside = [[times * value for value in turn] for turn in alone]
    row = within("a", compared(beside, alone, lambda values: percentile(values, 0.99)), "ratio", 1.1)
    assert row.met is met


def test_a_ratio_that_one_slow_bind_makes_is_neither_met_nor_missed() -> None:
    chance = random.Random(7)
    alone, beside = ([[chance.uniform(1.0, 1.05) for _ in range(20)] for _ in range(6)] for _ in range(2))
    beside[3][4] = beside[3][9] = 5.0
    row = within("a", compared(beside, alone, lambda values: percentile(values, 0.99)), "ratio", 1.1)
    assert row.value > 1.1
    assert row.met is None
    assert within("a", compared(beside, alone, statistics.median), "ratio", 1.1).met is True

"""The rules of NVIDIA Dynamo's planner against what the planner's own code (ai-dynamo 1.4.2) answered."""

from __future__ import annotations

import pytest

from weft.balancing.profile import Curve, Profile
from weft.rehearse.dynamo import clamped, decode_rate

PROFILE = Profile(Curve((1, 2), (0.01, 0.02)), Curve((1, 32), (0.02, 0.04)), 60_000, 32)

CLAMPED = """
10 1 9 9 8 1, 8 7 9 14 7 7, 3 9 4 6 1 5, 2 3 8 9 4 4, 5 8 2 2 1 1, 10 8 8 8 4 4, 5 7 6 10 4 6, 6 9 10 14 5 9,
10 10 4 7 3 4, 10 5 3 5 3 2, 8 8 6 6 3 3, 7 3 3 3 2 1, 7 2 2 2 1 1, 1 7 2 7 1 6, 9 4 7 7 4 3, 2 2 2 2 1 1,
7 5 10 10 5 5, 8 9 4 4 1 3, 9 6 6 6 3 3, 6 1 2 6 5 1, 3 1 8 13 6 2, 6 10 7 7 2 5, 10 1 6 6 5 1, 8 5 2 2 1 1
"""
"""proportional_clamp_pair: prefill, decode, least and most GPUs, answered prefill and decode."""

RATES = """
5202 281 60 1.479906, 3037 834 60 0.672228, 5441 562 19 0.088968, 3914 814 25 0.400879, 5416 73 25 4.470079,
1027 400 35 1.722222, 2119 409 41 1.722605, 935 607 25 0.537588, 207 768 25 0.42489, 3443 306 25 1.066391,
3290 183 19 0.273224, 1236 652 41 1.226994
"""
"""find_best_engine_decode_rps with this profile: prompt, answer, ms between tokens, answered requests per second."""


@pytest.mark.parametrize("row", CLAMPED.strip().split(","))
def test_beyond_the_budget_both_stages_shrink_as_the_planners_do(row: str) -> None:
    prefill, decode, least, most, *answer = map(int, row.split())
    assert list(clamped(prefill, decode, least, most)) == answer


@pytest.mark.parametrize("row", RATES.strip().split(","))
def test_a_decode_engine_is_worth_what_the_planner_takes_it_for(row: str) -> None:
    prompt, answer, milliseconds, rate = map(float, row.split())
    assert decode_rate(PROFILE, prompt, answer, milliseconds / 1000) == pytest.approx(rate, rel=1e-5)

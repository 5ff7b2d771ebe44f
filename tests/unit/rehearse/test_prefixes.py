"""Prompts that begin alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weft.balancing.profile import Curve, Profile
from weft.rehearse.engine import Speeds
from weft.rehearse.trace import Trace
from weft.rehearse.world import DECODES, PREFILLS, World

PROFILE = Profile(Curve((1, 10_001), (0.0, 1.0)), Curve((1, 8), (0.01, 0.01)), 100_000, 8)
"""10,000 tokens a second."""
SPEEDS = Speeds(PROFILE, 0.0, 0.0)


def first_tokens(trace: Trace, prefills: int, capacity: int = 100_000) -> list[float]:
    world = World(trace, replace(SPEEDS, profile=replace(PROFILE, kv_capacity_tokens=capacity)))
    for role in [PREFILLS] * prefills + [DECODES]:
        world.create(role, 0.0)
    world.run_until(1000.0)
    return [each - 0.01 for each in world.ttft]


def test_a_beginning_that_was_read_before_is_not_read_again() -> None:
    trace = Trace.of([(0.0, 1024, 5), (10.0, 2048, 5), (20.0, 2048, 5)], [(1, 2), (1, 2, 3, 4), (9, 2, 3, 4)])
    assert first_tokens(trace, 1) == pytest.approx([0.1024, 0.1024, 0.2048], abs=2e-3)


def test_a_request_goes_where_its_beginning_is() -> None:
    rows = [(0.0, 1024, 5), (0.001, 1024, 5), (10.0, 1024, 5), (20.0, 1024, 5)]
    trace = Trace.of(rows, [(1, 2), (3, 4), (3, 4), (1, 2)])
    assert first_tokens(trace, 2)[2:] == pytest.approx([0.0, 0.0], abs=2e-3)


def test_what_the_kv_cache_has_no_room_for_is_forgotten() -> None:
    rows = [(10.0 * i, 1024, 5) for i in range(4)]
    trace = Trace.of(rows, [(1, 2), (3, 4), (5, 6), (1, 2)])
    assert first_tokens(trace, 1)[3] == pytest.approx(0.0, abs=2e-3)
    assert first_tokens(trace, 1, capacity=3000)[3] == pytest.approx(0.1024, abs=2e-3)

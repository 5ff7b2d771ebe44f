"""Seeded faults between real processes: `make faults SEEDS=n SEED_START=k` runs others than these.

A seed's schedule is printed when it fails. Seeds of one batch share the operators: to see a failure again, run its
whole batch, which the test's name gives.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

import pytest

from support.arena import Arena
from support.schedule import DIRECTED, Schedule, make
from weft.api.resources import NAMESPACES
from weft_dev.controlplane import ControlPlane

SEEDS = int(os.environ.get("FAULTS_SEEDS") or 14)
START = int(os.environ.get("FAULTS_SEED_START") or 0)
AT_ONCE = 7
BATCHES = [
    range(first, min(first + AT_ONCE, START + SEEDS)) for first in range(START, START + SEEDS, AT_ONCE)
]


@pytest.fixture(scope="module")
def arena(control_plane: ControlPlane) -> Iterator[Arena]:
    name = "faults"
    control_plane.client().create(
        NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    )
    arena = Arena(control_plane, name)
    try:
        yield arena
    finally:
        arena.close()


def problems(arena: Arena, schedules: Sequence[Schedule]) -> dict[str, tuple[str, ...]]:
    """Carry them out; what was wrong, by schedule."""
    verdicts = arena.run(schedules)
    for verdict, schedule in zip(verdicts, schedules, strict=True):
        sys.stderr.write(f"{verdict}\n" + (f"{schedule}\n" if verdict.violations else ""))
    sys.stderr.write(f"struck so far: {arena.wire.struck}\n")
    # A run in which nothing was bound shows nothing.
    assert all(verdict.attaches for verdict in verdicts)
    return {verdict.name: verdict.violations for verdict in verdicts if verdict.violations}


@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"seeds-{seeds[0]}-to-{seeds[-1]}")
def test_nothing_is_attached_twice_leaked_lost_or_shared_whatever_goes_wrong(
    arena: Arena, seeds: range
) -> None:
    assert problems(arena, [make(seed) for seed in seeds]) == {}
    assert sum(arena.wire.struck.values()) > 10


def test_nothing_is_freed_too_early_when_a_call_lands_late_or_the_users_cannot_be_seen(arena: Arena) -> None:
    assert problems(arena, DIRECTED) == {}

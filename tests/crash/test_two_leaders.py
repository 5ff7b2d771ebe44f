"""A leader that is out of action for longer than its lease, while the fabric manager still hears it."""

from __future__ import annotations

import sys
from contextlib import closing

import pytest

from support.arena import Arena
from support.broken import violations_without
from support.schedule import GPUS, TWO_LEADERS, Schedule
from weft_dev.controlplane import ControlPlane

RUNS = pytest.mark.parametrize("schedule", TWO_LEADERS, ids=lambda run: run.name)


@RUNS
def test_a_leader_that_is_out_of_action_beyond_its_lease_sends_nothing_more(
    control_plane: ControlPlane, namespace: str, schedule: Schedule
) -> None:
    with closing(Arena(control_plane, namespace)) as arena:
        (verdict,) = arena.run([schedule])
    sys.stderr.write(f"{verdict}\n")
    assert verdict.violations == ()
    # One that was preempted was attached before, and is again.
    assert verdict.attaches == GPUS * (2 if schedule.preempts else 1)


@RUNS
def test_the_witness_counts_what_a_leader_does_that_goes_on_without_its_lease(
    control_plane: ControlPlane, namespace: str, schedule: Schedule
) -> None:
    violations = violations_without("lease", schedule, control_plane, namespace)
    assert any(each.startswith("attached without a claim") for each in violations)

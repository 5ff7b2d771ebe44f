"""The same witness at an operator with a safeguard off."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from support import broken_operator
from support.arena import Arena
from support.schedule import DIRECTED, TWO_LEADERS, Schedule
from weft_dev.controlplane import ControlPlane

LIMIT_SECONDS = 3.0
"""What a broken operator leaves behind does not go away by waiting."""

Violations = Callable[[str, Schedule], tuple[str, ...]]


@pytest.fixture
def without(control_plane: ControlPlane, namespace: str) -> Violations:
    """What the witness counts in a run of operators without one of their safeguards."""

    def run(safeguard: str, schedule: Schedule) -> tuple[str, ...]:
        program = (Path(broken_operator.__file__), safeguard)
        with closing(Arena(control_plane, namespace, program)) as arena:
            (verdict,) = arena.run([schedule], LIMIT_SECONDS)
        sys.stderr.write(f"{verdict}\n")
        return verdict.violations

    return run


def test_the_witness_counts_what_an_operator_does_that_frees_devices_before_they_settled(
    without: Violations,
) -> None:
    (late,) = (run for run in DIRECTED if run.name == "late-after-release")
    violations = without("settle-seconds", late)
    assert any(each.startswith("attached without a claim") for each in violations)
    assert any(each.startswith("attached twice") or "leaked" in each for each in violations)


@pytest.mark.parametrize("schedule", TWO_LEADERS, ids=lambda run: run.name)
def test_the_witness_counts_what_a_leader_does_that_goes_on_without_its_lease(
    without: Violations, schedule: Schedule
) -> None:
    violations = without("lease", schedule)
    assert any(each.startswith("attached without a claim") for each in violations)

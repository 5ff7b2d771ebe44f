"""Runs that were defects once, each on its own schedule; and the same witness at an operator with a safeguard off."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import broken_operator
from support.arena import Arena
from support.schedule import DIRECTED
from weft_dev.controlplane import ControlPlane

LIMIT_SECONDS = 3.0
"""What a broken operator leaves behind does not go away by waiting."""


@pytest.fixture
def broken(control_plane: ControlPlane, namespace: str) -> Iterator[Arena]:
    arena = Arena(control_plane, namespace, program=(Path(broken_operator.__file__),))
    try:
        yield arena
    finally:
        arena.close()


def test_the_witness_counts_what_an_operator_does_that_frees_devices_before_they_settled(
    broken: Arena,
) -> None:
    (verdict,) = broken.run([run for run in DIRECTED if run.name == "late-after-release"], LIMIT_SECONDS)
    sys.stderr.write(f"{verdict}\n")
    assert any(each.startswith("attached without a claim") for each in verdict.violations)
    assert any(each.startswith("attached twice") or "leaked" in each for each in verdict.violations)

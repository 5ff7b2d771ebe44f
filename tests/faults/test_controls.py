"""The same witness at an operator with a safeguard off."""

from __future__ import annotations

from support.broken import violations_without
from support.schedule import DIRECTED
from weft_dev.controlplane import ControlPlane


def test_the_witness_counts_what_an_operator_does_that_frees_devices_before_they_settled(
    control_plane: ControlPlane, namespace: str
) -> None:
    (late,) = (run for run in DIRECTED if run.name == "late-after-release")
    violations = violations_without("settle-seconds", late, control_plane, namespace)
    assert any(each.startswith("attached without a claim") for each in violations)
    assert any(each.startswith("attached twice") or "leaked" in each for each in violations)

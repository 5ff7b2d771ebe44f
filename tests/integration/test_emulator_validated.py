"""DMTF's Redfish-Service-Validator reads the emulator in two dialects; `make validate-emulator` has it read all."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.emulator_process import PASSWORD, USER
from support.judges import judge_resources
from support.judging import busy_emulator, schemas

ENOUGH = 300
"""Properties that were checked and right: fewer would mean that it did not look."""


@pytest.mark.parametrize("dialect", ["compose-by-post", "connections"])
def test_every_resource_agrees_with_its_schema(tmp_path: Path, dialect: str) -> None:
    files = schemas()
    with busy_emulator(tmp_path, dialect) as emulator:
        verdict = judge_resources(emulator.url, USER, PASSWORD, files)
    assert (verdict.failures, verdict.warnings) == ((), ())
    assert verdict.passed > ENOUGH

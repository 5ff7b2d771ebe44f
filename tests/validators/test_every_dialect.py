"""DMTF's validators against the emulator in every dialect. docs/emulator.md lists what they find, with the reasons."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.dialects import ALL
from support.emulator_process import PASSWORD, USER
from support.judges import judge_protocol, judge_resources
from support.judging import busy_emulator, schemas

pytestmark = pytest.mark.parametrize("dialect", ALL)
UNKNOWN_METHOD = "PROTO_HTTP_UNSUPPORTED_METHODS FAKEMETHODFORTEST /redfish/v1/"
"""The HTTP parser of the emulator's library answers 400 to a method that HTTP does not know."""
SUNFISH_OEM = (
    "Unable to locate the schema definition for the 'SunfishExtensions.v1_0_0.ResourceExtensions' type."
)
"""Sunfish has not published a schema of its own property."""


def test_every_resource_agrees_with_its_schema(tmp_path: Path, dialect: str) -> None:
    files = schemas()
    with busy_emulator(tmp_path, dialect) as emulator:
        verdict = judge_resources(emulator.url, USER, PASSWORD, files)
    sys.stdout.write(f"{dialect}: {verdict.passed} passed, {len(verdict.warnings)} warnings\n")
    assert verdict.failures == ()
    expected = SUNFISH_OEM if dialect == "sunfish" else "nothing"
    assert [text for text in verdict.warnings if not text.endswith(expected)] == []
    assert verdict.passed > 300


def test_the_service_keeps_to_the_protocol(tmp_path: Path, dialect: str) -> None:
    with busy_emulator(tmp_path, dialect, tls=True) as emulator:
        assert emulator.ca is not None
        verdict = judge_protocol(emulator.url, USER, PASSWORD, emulator.ca, tmp_path)
    sys.stdout.write(f"{dialect}: {verdict.passed} passed\n")
    assert [text for text in verdict.failures if not text.startswith(UNKNOWN_METHOD)] == []
    assert verdict.warnings == ()
    assert verdict.passed > 200

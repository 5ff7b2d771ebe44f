"""The mutants: each can be applied to the sources as they are, and the runner tells the killed from the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft_dev import mutants
from weft_dev.mutants import Mutant, load, try_out

KNOWN = load()


@pytest.mark.parametrize("mutant", KNOWN, ids=lambda mutant: mutant.name)
def test_every_mutant_breaks_a_line_that_is_there_and_names_tests_that_are(mutant: Mutant) -> None:
    assert mutant.problem() == ""
    assert mutant.line != mutant.becomes
    assert mutant.guard
    assert mutant.tests


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources with one guard, and one test that looks at half of it."""
    (tmp_path / "operator" / "src").mkdir(parents=True)
    (tmp_path / "operator" / "src" / "guard.py").write_text(
        "def may(x):\n    if x > 3:\n        return False\n    return x >= 0\n"
    )
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_guard.py").write_text(
        "from guard import may\n\n\ndef test_four_is_too_much():\n    assert not may(4)\n    assert may(1)\n"
    )
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "COPIED", ("operator", "tests"))


def breaks(line: str, becomes: str) -> str:
    return try_out(Mutant("m", "g", "operator/src/guard.py", line, becomes, ("tests/test_guard.py",)))


@pytest.mark.usefixtures("small")
def test_a_mutant_that_a_test_notices_is_killed_and_one_that_none_notices_survives() -> None:
    assert breaks("if x > 3:", "if x > 4:") == ""
    assert breaks("return x >= 0", "return True").startswith("survived")


@pytest.mark.usefixtures("small")
def test_a_line_that_is_gone_and_a_mutant_that_no_test_could_run_are_failures() -> None:
    assert "has this line 0 times" in breaks("if x > 2:", "if x > 4:")
    assert "pytest ended with" in breaks("if x > 3:", "if x > 3 then:")

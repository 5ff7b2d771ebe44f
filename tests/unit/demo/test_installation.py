"""Engines from PyPI: what is pinned, and what is taken for installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from weft_playground.installation import INSTALLATIONS, PYTHON, VLLM, Installation, InstallError

EACH = pytest.mark.parametrize("installation", INSTALLATIONS.values(), ids=INSTALLATIONS)


@EACH
def test_every_pinned_package_has_a_hash_and_none_names_a_registry(installation: Installation) -> None:
    lock = installation.lock.read_text()
    pins = [line for line in lock.splitlines() if "==" in line]
    assert any(line.startswith(f"{installation.distribution}=={installation.version}") for line in pins)
    assert all(line.endswith("\\") for line in pins)
    assert "://" not in lock


@EACH
def test_an_installation_that_was_interrupted_is_not_taken_for_one(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (installation.directory / "bin").mkdir(parents=True)
    assert not installation.is_installed()
    (installation.directory / ".complete").write_text("of another lock file")
    assert not installation.is_installed()


@EACH
def test_where_the_python_that_the_lock_is_for_is_missing_that_is_said_before_anything_is_fetched(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match=PYTHON):
        installation.install(print)


def test_a_disk_that_is_too_full_is_said_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / PYTHON).write_text("")
    (tmp_path / PYTHON).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    with pytest.raises(InstallError, match="GB free"):
        replace(VLLM, gigabytes=1e6).install(said.append)
    assert said == []

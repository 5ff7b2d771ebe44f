from __future__ import annotations

from pathlib import Path

import pytest

from weft.cli.main import main
from weft.runtime.settings import load


def test_the_environment_wins_over_the_file_and_the_file_over_what_is_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("namespace: from-file\nlease_seconds: 20\n")
    monkeypatch.setenv("WEFT_NAMESPACE", "from-environment")
    settings = load(file)
    assert (settings.namespace, settings.lease_seconds, settings.workers) == ("from-environment", 20.0, 32)


def test_a_prometheus_server_can_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_SOURCES__DEFAULT__URL", "http://127.0.0.1:9090")
    assert load(None).sources["default"].url == "http://127.0.0.1:9090"


def test_a_misspelt_setting_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("lease_secs: 20\n")
    with pytest.raises(ValueError, match="unknown settings: lease_secs"):
        load(file)


@pytest.mark.parametrize("name", ["1", "_env_prefix"])
def test_a_key_that_is_no_setting_is_refused_by_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text(f"{name}: 2\n")
    assert main(["run", "--config", str(file)]) == 2
    assert capsys.readouterr().err.endswith(f"unknown settings: {name}\n")


def test_weft_run_says_which_setting_is_wrong_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("workers: many\n")
    assert main(["run", "--config", str(file)]) == 2
    assert "workers" in capsys.readouterr().err


def test_weft_run_says_that_the_file_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_weft_run_without_a_cluster_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(["run"]) == 2
    assert "KUBECONFIG" in capsys.readouterr().err


def test_settings_that_are_not_yaml_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("a: [1\n")
    assert main(["run", "--config", str(file)]) == 2
    assert "not YAML" in capsys.readouterr().err

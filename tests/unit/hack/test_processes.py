"""Servers end with their owner, however that ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from weft_dev import PYTHONPATH
from weft_dev.processes import ProcessError, ProcessGroup

ROOT = Path(__file__).resolve().parents[3]

OWNER = """
import json, signal, sys, time
from weft_dev.processes import ProcessGroup
# As in a terminal: what a shell runs in the background begins deaf to it, and so do these tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
group = ProcessGroup()
# Deaf to SIGTERM, and with a child of its own.
script = "trap '' TERM; sleep 600 & echo $! > child; wait; wait"
pid = group.start("server", ["/bin/sh", "-c", script])
while not (group.directory / "child").exists(): time.sleep(0.01)
while not (group.directory / "child").read_text().strip(): time.sleep(0.01)
child = int((group.directory / "child").read_text())
facts = {"pids": [pid, child], "directory": str(group.directory), "guardian": group._guardian.pid}
print(json.dumps(facts), flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_servers_and_their_directory_go_with_their_owner(ending: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert owner.stdout is not None
    facts = json.loads(owner.stdout.readline())
    assert all(alive(pid) for pid in facts["pids"])
    owner.send_signal(ending)
    owner.communicate(timeout=20)
    wait_until(lambda: not any(alive(pid) for pid in facts["pids"]), "the servers still run")
    wait_until(lambda: not Path(facts["directory"]).exists(), "the directory is still there")
    wait_until(lambda: not alive(facts["guardian"]), "the guardian still runs")


def test_servers_end_when_the_guardian_itself_is_killed() -> None:
    with ProcessGroup() as group:
        pid = group.start("server", ["sleep", "600"])
        os.kill(group._guardian.pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), "the server still runs")
        with pytest.raises(ProcessError, match="guardian"):
            group.start("another", ["sleep", "600"])
    assert not group.directory.exists()


def test_a_server_that_ends_by_itself_is_reported_with_the_end_of_its_log() -> None:
    with ProcessGroup() as group:
        group.start("server", ["/bin/sh", "-c", "echo no such flag >&2; exit 3"])
        wait_until(lambda: group.exit_code("server") is not None, "the server still runs")
        with pytest.raises(ProcessError, match="status 3:\nno such flag"):
            group.check("server")


def test_a_program_that_is_not_there_is_an_error_of_its_start() -> None:
    with ProcessGroup() as group, pytest.raises(ProcessError, match="cannot start server: FileNotFoundError"):
        group.start("server", ["/nonexistent"])


def test_a_stopped_server_can_be_started_again_and_sees_signals_as_usual(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"trap 'echo reloaded >> {seen}; exit' HUP; echo up >> {seen}; while :; do sleep 0.05; done"
    with ProcessGroup() as group:
        first = group.start("server", ["/bin/sh", "-c", script])
        wait_until(lambda: seen.exists() and seen.read_text() == "up\n", "the server did not start")
        group.stop("server")
        assert not alive(first)
        second = group.start("server", ["/bin/sh", "-c", script])
        wait_until(lambda: seen.read_text() == "up\nup\n", "the server did not start again")
        os.kill(second, signal.SIGHUP)
        wait_until(lambda: seen.read_text() == "up\nup\nreloaded\n", "the signal did not arrive")


def test_a_directory_that_the_caller_chose_is_kept(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path / "logs") as group:
        group.start("server", ["/bin/sh", "-c", "echo hello"])
        wait_until(lambda: group.exit_code("server") == 0, "the server still runs")
    assert (tmp_path / "logs" / "server.log").read_text() == "hello\n"

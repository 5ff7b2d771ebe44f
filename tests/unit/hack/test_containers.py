"""The container engine: the runtime that does without some capabilities, and which dockerd is ours."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from weft_dev import containers


@pytest.fixture(scope="module")
def wrapper() -> ModuleType:
    """hack/dev/weft_dev/runc-permitted as a module."""
    loader = importlib.machinery.SourceFileLoader("runc_permitted", str(containers.WRAPPER))
    spec = importlib.util.spec_from_loader("runc_permitted", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


def test_capabilities_are_read_by_the_kernels_numbers(wrapper: ModuleType) -> None:
    every = (1 << len(wrapper.NAMES)) - 1
    without = every & ~(1 << 24)
    status = "Name:\tcat\nCapEff:\t0000000000000000\nCapBnd:\t{:016x}\nCapAmb:\t0000000000000000\n"
    have = wrapper.permitted(status.format(without))
    assert {f"CAP_{name}" for name in wrapper.NAMES} - have == {"CAP_SYS_RESOURCE"}
    assert wrapper.permitted(status.format(1 << 40 | 1)) == {"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"}


def run_wrapper(tmp_path: Path, *arguments: str) -> list[str]:
    """Run the wrapper in front of a pretended runc, and return the arguments that runc got."""
    runc = tmp_path / "bin" / "runc"
    runc.parent.mkdir(exist_ok=True)
    runc.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n')
    runc.chmod(0o755)
    environment = {**os.environ, "PATH": f"{runc.parent}:{os.environ['PATH']}"}
    subprocess.run(
        [sys.executable, "-IS", containers.WRAPPER, *arguments], env=environment, check=True, timeout=20
    )
    return (tmp_path / "arguments").read_text().splitlines()


UNKNOWN = "CAP_NOBODY_HAS_THIS"


def test_what_root_lacks_is_struck_from_a_new_container_and_nothing_else(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "process": {"args": ["init"], "capabilities": {"bounding": [UNKNOWN], "effective": [UNKNOWN]}},
        "hostname": "node",
    }
    (tmp_path / "config.json").write_text(json.dumps(asked))
    arguments = ["--root", "/run/x", "create", "--bundle", str(tmp_path), "name"]
    assert run_wrapper(tmp_path, *arguments) == arguments
    left = json.loads((tmp_path / "config.json").read_text())
    assert left["process"].pop("capabilities") == {"bounding": [], "effective": []}
    assert left == {"process": {"args": ["init"]}, "hostname": "node"}


def test_what_root_lacks_is_struck_from_a_process_in_a_container(tmp_path: Path) -> None:
    process = tmp_path / "process.json"
    process.write_text(json.dumps({"args": ["sh"], "capabilities": {"bounding": [UNKNOWN]}}))
    run_wrapper(tmp_path, "exec", "--process", str(process), "name")
    assert json.loads(process.read_text()) == {"args": ["sh"], "capabilities": {"bounding": []}}


def test_a_process_that_asks_for_none_is_left_as_it_is(tmp_path: Path) -> None:
    process = tmp_path / "process.json"
    process.write_text('{"args":  ["sh"]}')
    run_wrapper(tmp_path, "exec", "--process", str(process), "name")
    assert process.read_text() == '{"args":  ["sh"]}'


def test_what_root_has_stays(wrapper: ModuleType) -> None:
    lists = {"bounding": ["CAP_KILL", "CAP_CHOWN"], "ambient": []}
    assert wrapper.strike(lists, {"CAP_CHOWN"}) == {"bounding": ["CAP_CHOWN"], "ambient": []}


def test_a_process_that_has_only_got_the_number_of_our_dockerd_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert containers.started_here() is None
    file = tmp_path / "weft" / "engine" / "dockerd.pid"
    file.parent.mkdir(parents=True)
    file.write_text(f"{os.getpid()} 1\n")
    assert containers.started_here() is None
    assert containers.stop() is False
    assert not file.exists()


def test_without_an_engine_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "apt-get").symlink_to("/bin/true")
    with pytest.raises(
        containers.ContainerError, match=r"apt-get install docker\.io mmdebstrap iptables iproute2$"
    ):
        containers.engine()


def test_an_engine_of_docker_host_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho cannot connect >&2\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(containers.ContainerError, match=r"tcp://127\.0\.0\.1:1 does not answer"):
        containers.engine()


def test_an_engine_that_this_account_may_not_use_is_not_taken_for_one_that_does_not_run(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "Got permission denied while trying to connect to the Docker daemon socket"
    (machine.parent / "docker").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(containers.ContainerError, match="usermod -aG docker"):
        containers.engine()


def test_podman_under_dockers_name_is_told_from_docker(machine: Path) -> None:
    (machine.parent / "docker").write_text("#!/bin/sh\necho podman version 4.3.1\n")
    with pytest.raises(containers.ContainerError, match="Podman"):
        containers.engine()


def test_a_docker_command_that_fails_says_the_end_of_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "buildkit=$DOCKER_BUILDKIT"\necho "no space left" >&2\nexit 7\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(containers.ContainerError, match=r"status 7: buildkit=0\nno space left$"):
        containers.docker("build", ".")


# Pretend to be Docker: the engine answers while it runs, which a file says.
DOCKER = """#!/bin/sh
[ -e {running} ] && echo 20.10.24 && exit 0
echo cannot connect >&2
exit 1
"""
DOCKERD = """#!/bin/sh
echo "$@" >> {log}
trap 'rm {running}; exit 0' TERM
touch {running}
while :; do sleep 0.05; done
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine of root's with a pretended Docker that does not run; returns the log of its starts."""
    names = {"running": tmp_path / "running", "log": tmp_path / "log"}
    for name, script in (("docker", DOCKER), ("dockerd", DOCKERD)):
        (tmp_path / name).write_text(script.format(**names))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(containers, "SYSTEMD", tmp_path / "no-systemd")
    yield names["log"]
    containers.stop()


def test_an_engine_that_was_started_here_is_found_again_and_ended(machine: Path) -> None:
    assert containers.engine() == "20.10.24"
    pid = containers.started_here()
    assert pid is not None
    assert containers.engine() == "20.10.24"
    assert containers.started_here() == pid
    assert len(machine.read_text().splitlines()) == 1
    assert containers.stop() is True
    assert not containers.running()
    assert containers.stop() is False


def test_an_engine_that_ran_before_is_not_ended(machine: Path) -> None:
    (machine.parent / "running").touch()
    assert containers.engine() == "20.10.24"
    assert containers.stop() is False
    assert containers.running()
    assert not machine.exists()


@pytest.mark.parametrize("all_capabilities", [True, False])
def test_only_a_root_that_lacks_capabilities_gets_the_runtime_that_strikes_them(
    all_capabilities: bool, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_has_all_capabilities", lambda: all_capabilities)
    containers.engine()
    assert ("--default-runtime permitted" in machine.read_text()) is not all_capabilities


def test_an_engine_that_does_not_start_says_the_end_of_its_log(machine: Path) -> None:
    (machine.parent / "dockerd").write_text("#!/bin/sh\necho no iptables; exit 1\n")
    with pytest.raises(containers.ContainerError, match="no iptables"):
        containers.engine()
    assert containers.started_here() is None

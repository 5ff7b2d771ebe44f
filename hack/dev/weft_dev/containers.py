"""The container engine: the one that runs, or an installed dockerd that is started here and can be stopped again.

Standard library only: the preflight asks it before a virtual environment exists.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from weft_dev.tools.cache import cache_directory

START_SECONDS = 40.0
STOP_SECONDS = 60.0
PROBE_SECONDS = 10.0
POLL_SECONDS = 0.1
ERROR_CHARACTERS = 1500
DEBIAN_PACKAGES = "docker.io mmdebstrap iptables iproute2"
SYSTEMD = Path("/run/systemd/system")
"""It is there where systemd runs, which then starts services."""
WRAPPER = Path(__file__).with_name("runc-permitted")


class ContainerError(Exception):
    """No engine can be had, or a command of it failed; the message says what to do or what it said."""


def docker(
    *arguments: str,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    timeout_seconds: float | None = None,
) -> str:
    """Run the docker command and return what it printed (nothing when `stdout` takes it).

    Raises ContainerError with the end of what it said.
    """
    try:
        done = subprocess.run(
            ["docker", *arguments],
            # Debian's docker.io has no buildx, and the classic builder does all that is needed here.
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout_seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ContainerError(f"docker {arguments[0]}: {error}") from error
    printed = (done.stdout or b"").decode(errors="replace")
    if done.returncode != 0:
        # A build step that fails says why on stdout.
        said = (printed + done.stderr.decode(errors="replace")).strip()[-ERROR_CHARACTERS:]
        raise ContainerError(f"docker {' '.join(arguments[:3])} ended with status {done.returncode}: {said}")
    return printed


def running() -> bool:
    """Whether a container engine answers."""
    return not _refusal()


def _refusal() -> str:
    """What is said instead of an answer of the engine; empty when one answers."""
    try:
        docker("version", "--format", "{{.Server.Version}}", timeout_seconds=PROBE_SECONDS)
    except ContainerError as error:
        return str(error)
    return ""


def obstacle() -> str:
    """Why no engine can be had, with what to do about it; empty when one runs or can be started here."""
    if shutil.which("docker") is None:
        if shutil.which("apt-get") is not None:
            return f"there is no container engine: apt-get install {DEBIAN_PACKAGES}"
        return "there is no container engine: install Docker, https://docs.docker.com/engine/install/"
    if _is_podman():
        return "docker is Podman's here, and kind's nodes are made for Docker: install Docker beside it"
    if not (refusal := _refusal()):
        return ""
    if "permission denied" in refusal.lower() and os.geteuid() != 0:
        return "Docker runs and this account may not use it: sudo usermod -aG docker $USER, and log in again"
    if os.environ.get("DOCKER_HOST"):
        return f"the Docker engine of DOCKER_HOST={os.environ['DOCKER_HOST']} does not answer: docker version"
    if shutil.which("dockerd") is None:
        install = f", or apt-get install {DEBIAN_PACKAGES}" if shutil.which("apt-get") is not None else ""
        return f"Docker's engine does not answer and is not installed here: start Docker{install}"
    if SYSTEMD.is_dir():
        return "Docker is installed and does not answer: sudo systemctl start docker"
    if os.geteuid() != 0:
        return "Docker is installed and does not answer, and only root can start it: sudo dockerd"
    return ""


def _is_podman() -> bool:
    try:
        return "podman" in docker("--version", timeout_seconds=PROBE_SECONDS).lower()
    except ContainerError:
        return False


def engine() -> str:
    """Make sure that a container engine runs and return its version; starts an installed dockerd when none does.

    Raises ContainerError with what to install or start.
    """
    with _locked():
        if reason := obstacle():
            raise ContainerError(reason)
        if not running():
            _start()
    return docker("version", "--format", "{{.Server.Version}}").strip()


def started_here() -> int | None:
    """The process id of a dockerd that `engine` started and that still runs."""
    try:
        pid, started = _pid_file().read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if pid.isdigit() and _start_time(int(pid)) == started else None


def stop() -> bool:
    """End the dockerd that `engine` started, with its containers; images stay. Returns whether there was one.

    Raises ContainerError when it does not end in time.
    """
    with _locked():
        pid = started_here()
        if pid is None:
            _pid_file().unlink(missing_ok=True)
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while started_here() is not None:
            if time.monotonic() > deadline:
                raise ContainerError(
                    f"dockerd (process {pid}) does not end; its log: {_folder() / 'dockerd.log'}"
                )
            time.sleep(POLL_SECONDS)
        _pid_file().unlink(missing_ok=True)
        return True


def _start() -> None:
    folder = _folder()
    command = ["dockerd"]
    if not _has_all_capabilities():
        # A copy: the engine outlives the clone that started it.
        wrapper = folder / WRAPPER.name
        shutil.copy(WRAPPER, wrapper)
        command += ["--add-runtime", f"permitted={wrapper}", "--default-runtime", "permitted"]
    log = folder / "dockerd.log"
    with log.open("wb") as out:
        # A session of its own: it must not end with the shell or terminal that happened to start it.
        process = subprocess.Popen(
            command, cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    _pid_file().write_text(f"{process.pid} {_start_time(process.pid)}\n")
    deadline = time.monotonic() + START_SECONDS
    while not running():
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            _pid_file().unlink(missing_ok=True)
            end = log.read_text(errors="replace")[-ERROR_CHARACTERS:]
            raise ContainerError(f"dockerd does not start; the end of {log}:\n{end}")
        time.sleep(POLL_SECONDS)


def _has_all_capabilities() -> bool:
    """Whether this process may hand every capability of the kernel to a container."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    status = Path("/proc/self/status").read_text()
    (bounding,) = (line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:"))
    return int(bounding, 16) & (every := (1 << last + 1) - 1) == every


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot: with it a process id is not taken for another's."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else rest[18]


def _folder() -> Path:
    return cache_directory() / "engine"


def _pid_file() -> Path:
    return _folder() / "dockerd.pid"


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

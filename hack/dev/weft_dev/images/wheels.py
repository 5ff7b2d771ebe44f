"""The wheels that an image is built from, downloaded by the pip of this machine.

That pip is configured for wherever packages come from here; a build in a container knows nothing of it, and nothing
of it may end up in an image. What the wheels are is pinned by hash, so it does not matter who downloaded them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from weft_dev import ROOT
from weft_dev.containers import ContainerError
from weft_dev.images.inputs import input_hash
from weft_dev.tools.cache import cache_directory

FROM_DEV_LOCK = ("hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers")
"""What the Dockerfile takes out of requirements-dev.lock: the build backend."""

ERROR_CHARACTERS = 1500


def lock_entries(lock: str, names: tuple[str, ...]) -> str:
    """The entries of these packages, with their hashes, from the text of a lock. Raises KeyError for a missing one."""
    entries = []
    for name in names:
        found = re.search(rf"^{re.escape(name)}==(?:.*\\\n)*.*$", lock, re.MULTILINE)
        if found is None:
            raise KeyError(name)
        entries.append(found[0])
    return "\n".join(entries) + "\n"


def platforms(machine: str) -> list[str]:
    """The wheel platforms that a Debian base takes, for a processor as Docker names it."""
    # pip takes these literally and does not know that a newer glibc also runs what asks for an older one.
    return [f"manylinux_2_{minor}_{machine}" for minor in range(36, 4, -1)] + [f"manylinux2014_{machine}"]


def wheelhouse(python: str, machine: str) -> dict[str, Path]:
    """The wheels by name, for that minor version of Python and that processor, downloaded unless they are here.

    Raises ContainerError with what pip said.
    """
    lock = ROOT / "requirements.lock"
    entries = lock_entries((ROOT / "requirements-dev.lock").read_text(), FROM_DEV_LOCK)
    parent = cache_directory() / "wheels"
    folder = parent / input_hash({lock.name: lock}, entries=entries, python=python, machine=machine)
    if not folder.is_dir():
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=parent) as partial:
            _download(Path(partial), lock, entries, python, machine)
            # Those of earlier locks are of no more use; pip keeps its own cache.
            for old in parent.iterdir():
                if old.name != Path(partial).name:
                    shutil.rmtree(old)
            (Path(partial) / "wheels").rename(folder)
    return {path.name: path for path in sorted(folder.glob("*.whl"))}


def _download(folder: Path, lock: Path, entries: str, python: str, machine: str) -> None:
    entries_lock = folder / "entries.lock"
    entries_lock.write_text(entries)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [f"--platform={platform}" for platform in platforms(machine)]
    for each in (lock, entries_lock):
        done = subprocess.run(
            [*command, "--require-hashes", "--dest", str(folder / "wheels"), "--requirement", str(each)],
            env=os.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode != 0:
            said = done.stdout.decode(errors="replace").strip()[-ERROR_CHARACTERS:]
            raise ContainerError(f"pip cannot download the wheels of the image: {said}")

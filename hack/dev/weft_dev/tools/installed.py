"""Tools that the user has already: KUBEBUILDER_ASSETS and PATH."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from weft_dev.tools.catalog import Tool, Version

ANSWER_SECONDS = 10.0


def find_installed(tool: Tool) -> Path | None:
    """The path of an installed tool that will do, or None."""
    if not tool.oldest:
        return None
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for directory in (assets, os.environ.get("PATH")):
        found = shutil.which(tool.name, path=directory) if directory else None
        if found is not None:
            path = Path(found).absolute()
            if will_do(tool, path):
                return path
    return None


def will_do(tool: Tool, path: Path) -> bool:
    """Whether the program at `path` runs here, has a version that will do and was built with what is needed."""
    if tool.version_flags:
        version = binary_version(path, tool.version_flags)
        if version is None or not tool.accepts(version):
            return False
    return not tool.contains or has_bytes(path, tool.contains)


@functools.cache
def has_bytes(path: Path, wanted: bytes) -> bool:
    """Whether `wanted` is somewhere in a file that is not empty."""
    with (
        path.open("rb") as file,
        contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data,
    ):
        return data.find(wanted) >= 0


@functools.cache
def binary_version(path: Path, flags: tuple[str, ...]) -> Version | None:
    """The version that a program says it has; None when it does not run or says nothing like a version."""
    with tempfile.TemporaryDirectory(prefix="weft-version-") as empty:
        # Some kubectl wrappers ask the current context's server which version to be. There is no context here.
        environment = {**os.environ, "HOME": empty, "KUBECONFIG": os.devnull, "KUBERC": "off"}
        try:
            answer = subprocess.run(
                [path, *flags],
                env=environment,
                cwd=empty,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=ANSWER_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
    return parse_version(answer.stdout.decode(errors="replace"))


def parse_version(text: str) -> Version | None:
    """The first thing in `text` that looks like a version number: "Kubernetes v1.37.1" is (1, 37, 1)."""
    found = re.search(r"\bv?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else None

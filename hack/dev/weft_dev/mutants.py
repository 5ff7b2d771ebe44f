"""Breaks one safety guard at a time in a copy of the sources, and sees whether the tests named beside it notice.

`python -m weft_dev.mutants [NAME...]`. tests/mutants/*.yaml lists the breakages. The exit status is 1 when a mutant
survives its tests, when its line is no longer in its file, or when its tests fail without it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
COPIED = ("operator", "tests", "hack", "crds", "charts", "docs", "pyproject.toml", "Makefile")
FAILED, PASSED = 1, 0
"""Exit statuses of pytest. Any other says that no test was run."""
SECONDS = 300


@dataclass(frozen=True)
class Mutant:
    """One breakage: in `file`, the only line that is `line` becomes `becomes` (both without their indentation)."""

    name: str
    guard: str
    """The promise that nobody keeps once the line is broken."""
    file: str
    line: str
    becomes: str
    tests: tuple[str, ...]
    """What pytest is given; one of them has to fail."""

    def problem(self) -> str:
        """Why it cannot be applied to the sources as they are, or nothing."""
        source = ROOT / self.file
        if not source.is_file():
            return f"{self.file} does not exist"
        count = [line.strip() for line in source.read_text().splitlines()].count(self.line)
        if count != 1:
            return f"{self.file} has this line {count} times: {self.line}"
        if missing := [test for test in self.tests if not (ROOT / test.split("::")[0]).exists()]:
            return f"no such tests: {', '.join(missing)}"
        return ""

    def apply(self, root: Path) -> None:
        """Break the line in the copy under `root`."""
        source = root / self.file
        lines = source.read_text().splitlines(keepends=True)
        changed = [
            line.replace(self.line, self.becomes) if line.strip() == self.line else line for line in lines
        ]
        source.write_text("".join(changed))


def load() -> list[Mutant]:
    """All mutants, file by file. Raises ValueError for one that is not complete, or a name used twice."""
    found: list[Mutant] = []
    for file in sorted((ROOT / "tests" / "mutants").glob("*.yaml")):
        for entry in yaml.safe_load(file.read_text()):
            try:
                found.append(Mutant(**{**entry, "tests": tuple(entry["tests"])}))
            except (KeyError, TypeError) as error:
                raise ValueError(f"{file.name}: {entry.get('name', entry)}: {error}") from error
    names = [mutant.name for mutant in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"names used twice: {', '.join(sorted(twice))}")
    return found


def copy(directory: Path) -> None:
    """The sources, and what tests need beside them."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, directory / name, ignore=ignored)
        else:
            shutil.copy(source, directory / name)


def _run(directory: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit status, and the end of what it printed. A mutant that hangs has been noticed, too."""
    environment = {**os.environ, "PYTHONPATH": str(directory / "operator" / "src")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return FAILED, f"no end within {SECONDS} s"
    return done.returncode, (done.stdout + done.stderr)[-2000:]


def try_out(mutant: Mutant) -> str:
    """What is wrong with the mutant or with its tests; nothing when it was killed."""
    if problem := mutant.problem():
        return problem
    with tempfile.TemporaryDirectory(prefix="weft-mutant-") as name:
        directory = Path(name)
        copy(directory)
        mutant.apply(directory)
        status, said = _run(directory, mutant.tests)
    if status == PASSED:
        return "survived: its tests pass with the guard broken"
    return "" if status == FAILED else f"pytest ended with {status}:\n{said}"


def main(argv: Sequence[str] | None = None) -> int:
    """Try out all mutants, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m weft_dev.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    known = load()
    chosen = [mutant for mutant in known if not options.names or mutant.name in options.names]
    if unknown := set(options.names) - {mutant.name for mutant in known}:
        parser.error(f"no such mutants: {', '.join(sorted(unknown))}")
    began = time.monotonic()
    every = sorted({test for mutant in chosen for test in mutant.tests})
    status, said = _run(ROOT, every)
    if status != PASSED:
        print(f"the tests fail with no guard broken:\n{said}")
        return 1
    failures = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, problem in zip(chosen, pool.map(try_out, chosen), strict=True):
            print(
                f"{'NOT KILLED' if problem else 'killed':<11} {mutant.name}: {problem or mutant.guard}",
                flush=True,
            )
            failures += bool(problem)
    print(f"{len(chosen) - failures} of {len(chosen)} mutants killed in {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

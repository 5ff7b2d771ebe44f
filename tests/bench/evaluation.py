"""Makes docs/evaluation.md's tables, and the README's claim, out of what was played: `make evaluation`.

Plays every policy in NVIDIA Dynamo's replay and in rehearsal, the whole days and the engine models, keeps a line for
each run in tests/bench/results, and writes the parts of pages between `<!-- generated: NAME -->` and `<!-- end -->`.
`--played` plays nothing and takes what the benches left in build/bench, in the place of what was kept of the same
cases; `--tables` writes the pages from what is kept, in seconds. What is held against measured hardware takes no longer
than that, and is computed each time.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import days
import evaluate
import measured
import mixtures
import mocker
import results

import bench

PAGES = ("README.md", "docs/evaluation.md")
GENERATED = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Bench:
    """A bench with what it leaves in build/bench, what is kept of it, and what is made of that."""

    runs: tuple[tuple[str, ...], ...]
    """Arguments of each call of it."""
    left: Path
    kind: type[Any]
    line: Callable[[Mapping[str, Any]], Any]
    sections: Callable[[Sequence[Any]], dict[str, str]]

    @property
    def kept(self) -> Path:
        return results.FOLDER / f"{self.left.stem}.csv"


HERE = Path(__file__).parent
REPLAY, REHEARSAL, MIXTURES, SIZE, MODEL = (
    str(HERE / each)
    for each in (
        "balancing/bench.py",
        "rehearsal/evaluate.py",
        "rehearsal/mixtures.py",
        "rehearsal/days.py",
        "rehearsal/mocker.py",
    )
)
BENCHES = (
    Bench(
        (
            (REPLAY,),
            (REPLAY, "--add", "--policies", "weft", "--scrapes", "5,15"),
            (REPLAY, "--add", "--policies", "hpa,ratio", "--scrapes", "15"),
        ),
        bench.RESULTS,
        results.Run,
        bench.run,
        bench.sections,
    ),
    Bench(((REHEARSAL,),), evaluate.RESULTS, results.Run, evaluate.run, evaluate.sections),
    Bench(((REHEARSAL, "--restarts"),), evaluate.RESTARTS, results.Run, evaluate.run, evaluate.of_restarts),
    Bench(((MIXTURES,),), mixtures.RESULTS, mixtures.Row, lambda row: mixtures.Row(**row), mixtures.sections),
    Bench(
        ((SIZE, "--bound"), (SIZE, "--add", "--stationary", "3")),
        days.RESULTS,
        days.Row,
        lambda row: days.Row(**row),
        days.sections,
    ),
    Bench(((MODEL,),), mocker.RESULTS, mocker.Row, lambda row: mocker.Row(**row), mocker.sections),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--played", action="store_true", help="play nothing, take what build/bench has")
    parser.add_argument("--tables", action="store_true", help="only write the pages from tests/bench/results")
    arguments = parser.parse_args()
    for each in BENCHES:
        if not arguments.tables:
            for command in () if arguments.played else each.runs:
                subprocess.run([sys.executable, *command], check=True)
            played = [each.line(row) for row in results.saved(each.left)]
            if played:
                results.write(each.kept, results.merged(results.read(each.kept, each.kind), played))
    made = sections()
    for name in PAGES:
        page = bench.ROOT / name
        page.write_text(rewritten(page.read_text(), made))
    return 0


def sections() -> dict[str, str]:
    """Every generated part, by name."""
    made = {"measured": measured.table()}
    for each in BENCHES:
        made |= each.sections(results.read(each.kept, each.kind))
    return made


def rewritten(text: str, made: Mapping[str, str]) -> str:
    """A page with its generated parts as they are made now."""
    return GENERATED.sub(lambda part: f"{part[1]}\n{made[part[2]]}\n\n{part[3]}", text)


if __name__ == "__main__":
    sys.exit(main())

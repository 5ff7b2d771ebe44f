"""Is a mixture with aggregated replicas judged as its requests fare? `make evaluation` plays it.

Six replicas, every fixed split of them that can answer a request, quarter-hours of one load each, in the engine model
(prompts in chunks). Writes build/bench/mixtures.json.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import results

import bench
from support.mixtures import lateness
from weft.rehearse.static import splits
from weft.rehearse.summary import split_text

RESULTS = bench.ROOT / "build" / "bench" / "mixtures.json"
REPLICAS, SECONDS = 6, 900.0
LOADS = (
    (5.0, 2000.0, 80.0),
    (4.2, 450.0, 400.0),
    (4.5, 1000.0, 200.0),
    (3.0, 1200.0, 120.0),
    (4.0, 450.0, 250.0),
)
"""Requests per second, mean tokens of prompts and of answers."""


@dataclass(frozen=True, order=True)
class Row:
    """One split under one load."""

    rate: float
    prompt: float
    answer: float
    split: str
    computed: float
    """Share of late requests, as the planner judges the split."""
    played: float
    commit: str

    @property
    def group(self) -> tuple[Any, ...]:
        return self.rate, self.prompt, self.answer


def main() -> int:
    rows = []
    for load in LOADS:
        for counts, computed, played in lateness(*load, SECONDS, splits(REPLICAS, REPLICAS, True)):
            rows.append(Row(*load, split_text(dict(counts)), computed, played, bench.commit()))
        results.save(RESULTS, map(vars, rows))
    print(sections(rows)["mixtures"])
    return 0


def sections(rows: Sequence[Row]) -> dict[str, str]:
    """The generated part of docs/evaluation.md that is of mixtures."""
    lines = [
        "| requests/s, prompt, answer | mean difference | best by the planner: late, played | best played: late |",
        "|---|---|---|---|",
    ]
    for load, group in groupby(sorted(rows), key=lambda row: row.group):
        found = list(group)
        rate, prompt, answer = load
        apart = statistics.fmean(abs(row.computed - row.played) for row in found)
        named = min(found, key=lambda row: (row.computed, row.split))
        best = min(found, key=lambda row: (row.played, row.split))
        cells = (
            f"{rate:.1f}, {prompt:,.0f}, {answer:,.0f}",
            f"{apart:.2f}",
            *(f"{one.split}: {100 * one.played:.1f} %" for one in (named, best)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    commits = ", ".join(sorted({row.commit for row in rows}))
    return {"mixtures": "\n".join([*lines, "", f"Runs of commit {commits}."])}


if __name__ == "__main__":
    sys.exit(main())

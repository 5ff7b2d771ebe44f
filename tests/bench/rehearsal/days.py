"""Whole days under a size that follows the load, against the best fixed fleet in hindsight: `make bench-size`.

The fixed fleet is the smallest that keeps the promise over the day, whatever its split: known only in hindsight.
Writes build/bench/size.json and prints the table of docs/evaluation.md. `--days m-mid-day2 --attainments 0.99
--cold-starts 60` plays a part, `--bound` says in addition what a schedule that knew the day would hold.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import clairvoyant
import stretches

import bench
from weft.rehearse.engine import Speeds
from weft.rehearse.play import Case, Run, play
from weft.rehearse.static import Static
from weft.rehearse.summary import split_text
from weft.rehearse.trace import Trace, read_trace
from weft.rehearse.weft_policy import Weft
from weft.rehearse.world import Objectives

DATA = Path(__file__).parent / "data"
RESULTS = bench.ROOT / "build" / "bench" / "size.json"
COPIES_SHIFT_SECONDS = 601.0
STAGE_ERROR, REPLICA_ERROR = 0.3, 0.2
"""Largest errors of the profile where engines are off it."""


@dataclass(frozen=True)
class Day:
    """A trace with copies of itself over it, and what was promised of the first token, in seconds."""

    name: str
    copies: int
    ttft_seconds: float
    most_replicas: int


DAYS = (Day("m-mid-day2", 8, 3.0, 14), Day("deepseek-r1-day", 1, 20.0, 32))
"""The first is the one that the constants of `size.py` were chosen on, at a cold start of 60 s; how often it scales was
mended with the lengths of the second (`stationary`), which is held out no more since 0.9.0."""


@dataclass(frozen=True)
class Row:
    day: str
    attainment_promised: float
    cold_start_seconds: float
    fixed: str
    fixed_attainment: float
    fixed_hours: float
    weft_attainment: float
    weft_hours: float
    scalings_per_hour: float
    flips: int


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--days", default=",".join(day.name for day in DAYS))
    parser.add_argument("--attainments", default="0.95,0.99")
    parser.add_argument("--cold-starts", default="0,60,180")
    parser.add_argument(
        "--off-profile", action="store_true", help="engines up to 30 %% per stage off, 20 %% each"
    )
    parser.add_argument(
        "--bound", action="store_true", help="also what a schedule that knew the day would hold"
    )
    parser.add_argument(
        "--stationary", type=float, metavar="HOURS", help="only: how often a steady load is scaled"
    )
    arguments = parser.parse_args()
    if arguments.stationary:
        print(stationary(arguments.stationary))
        return 0
    rows: list[Row] = []
    bounds: list[dict[str, object]] = []
    for day in DAYS:
        if day.name not in arguments.days.split(","):
            continue
        for attainment in map(float, arguments.attainments.split(",")):
            case = case_of(day, attainment)
            if arguments.off_profile:
                case = replace(case, stage_error=STAGE_ERROR, replica_error=REPLICA_ERROR)
            fixed = best_fixed(case)
            if fixed is None:
                print(f"{day.name}: no fixed fleet of {day.most_replicas} keeps {attainment:.0%}", flush=True)
                continue
            if arguments.bound:
                bounds.append(bound(day, fixed))
                print(
                    f"{day.name}: knowing the day, {bounds[-1]['hours']:,.0f} accelerator-hours meet"
                    f" {fixed.attainment:.1%}; {split_text(fixed.first)} holds {fixed.accelerator_hours:,.0f}",
                    flush=True,
                )
            for cold_start in map(float, arguments.cold_starts.split(",")):
                free = replace(case, cold_start_seconds=cold_start, first=fixed.first)
                rows.append(compared(day, fixed, play(free, Weft(free))))
                print(line(rows[-1]), flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(
        json.dumps(
            {"commit": bench.commit(), "rows": [asdict(row) for row in rows], "bounds": bounds}, indent=1
        )
        + "\n"
    )
    print(f"\nwritten to {RESULTS}")
    return 0


def case_of(day: Day, attainment: float) -> Case:
    """Engines are as fast as their profile; a flip overlaps."""
    profile = stretches.weft_profile()
    trace = read_trace(DATA / f"{day.name}.csv.gz")
    if day.copies > 1:
        trace = trace.superposed(day.copies, COPIES_SHIFT_SECONDS)
    return Case(
        trace=trace,
        speeds=Speeds(profile),
        planned=profile,
        objectives=Objectives(day.ttft_seconds, 0.1, attainment),
        most_replicas=day.most_replicas,
        accelerators_per_replica=2,
        overlap=True,
    )


def best_fixed(case: Case) -> Run | None:
    """The smallest fleet that keeps the promise, of those of its size the one that meets most; None: none does."""
    best: Run | None = None
    for prefill in range(1, case.most_replicas):
        most = case.most_replicas if best is None else sum(best.first.values())
        for decode in decodes(case, prefill, most - prefill):
            if best is None or _rank(decode) < _rank(best):
                best = decode
    return best


def decodes(case: Case, prefill: int, most: int) -> Iterator[Run]:
    """The run with the fewest decode replicas, of at most so many, that keeps the promise beside these for prefill."""
    if most < 1:
        return
    found = play_fixed(case, prefill, most)
    if found.attainment < case.objectives.attainment:
        return
    least, enough = 1, most
    while least < enough:
        middle = (least + enough) // 2
        run = play_fixed(case, prefill, middle)
        if run.attainment >= case.objectives.attainment:
            enough, found = middle, run
        else:
            least = middle + 1
    yield found


def play_fixed(case: Case, prefill: int, decode: int) -> Run:
    return play(case, Static(case), {"prefill": prefill, "decode": decode})


def _rank(run: Run) -> tuple[int, float]:
    return sum(run.first.values()), -run.attainment


def bound(day: Day, fixed: Run) -> dict[str, object]:
    """Accelerator-hours of a schedule that knew the day and meets as much as the fixed fleet."""
    case = fixed.case
    size = clairvoyant.mean_size(list(clairvoyant.blocks(case, play_fixed)), fixed.attainment)
    hours = size * case.accelerators_per_replica * case.trace.seconds / 3600
    return {"day": day.name, "attainment": fixed.attainment, "hours": hours}


def compared(day: Day, fixed: Run, free: Run) -> Row:
    sizes = [sum(free.first.values()), *(sum(one.counts.values()) for one in free.decisions)]
    changes = sum(before != after for before, after in pairwise(sizes))
    return Row(
        day.name,
        free.case.objectives.attainment,
        free.case.cold_start_seconds,
        split_text(fixed.first),
        fixed.attainment,
        fixed.accelerator_hours,
        free.attainment,
        free.accelerator_hours,
        changes / free.case.trace.seconds * 3600,
        free.flips,
    )


def stationary(hours: float) -> str:
    """A load that stays: arrivals by chance, lengths drawn from six hours of the day with the longest answers."""
    case = case_of(DAYS[1], 0.95)
    trace, draw = case.trace.cut(6 * 3600, 12 * 3600), random.Random(1)
    rows: list[tuple[float, int, int]] = []
    at = 0.0
    while (at := at + draw.expovariate(len(trace) / (6 * 3600))) <= hours * 3600:
        place = draw.choice(range(len(trace)))
        rows.append((at, trace.prompt_tokens[place], trace.answer_tokens[place]))
    case = replace(case, trace=Trace.of(rows), first={"prefill": 3, "decode": 10})
    run = play(case, Weft(case))
    sizes = [(0.0, 13), *((one.at_seconds, sum(one.counts.values())) for one in run.decisions)]
    changes = [at for (_, before), (at, size) in pairwise(sizes) if size != before and at > 3600]
    return (
        f"stationary: {run.attainment:.1%} for {run.accelerator_hours:,.1f} accelerator-hours,"
        f" {len(changes) / max(1.0, hours - 1):.1f} scalings per hour after the first"
    )


def line(row: Row) -> str:
    saved = 1 - row.weft_hours / row.fixed_hours
    return (
        f"| {row.day} | {row.attainment_promised:.0%} | {row.cold_start_seconds:.0f} s | {row.fixed}:"
        f" {row.fixed_attainment:.1%} | {row.weft_attainment:.1%} | {row.fixed_hours:,.0f} | {row.weft_hours:,.0f}"
        f" ({-saved:+.0%}) | {row.scalings_per_hour:.1f} | {row.flips} |"
    )


if __name__ == "__main__":
    raise SystemExit(main())

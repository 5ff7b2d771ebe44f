"""Whole days under a size that follows the load, against the best fixed fleet in hindsight: `make bench-size`.

The fixed fleet is the smallest that keeps the promise over the day, whatever its split: known only in hindsight.
Writes build/bench/size.json and prints the table of docs/evaluation.md. `--days m-mid-day2 --attainments 0.99
--cold-starts 60` plays a part (with `--add` the others, and the fixed fleets, stay as an earlier run played them),
`--bound` says in addition what a schedule that knew the day would hold. `--stationary 3` plays three hours of loads
that stay, for how often they are scaled.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import clairvoyant
import results
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
GOAL = 0.2
"""Share of the fixed fleet's accelerator-hours that is to be saved."""
MOST_SCALINGS = 6.0
"""Goal per hour of a load that stays."""
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


FIXED, WEFT, BOUND = "fixed", "weft", "bound"
STATIONARY = "stationary"
"""In the place of a day: a load that stays."""
DRAWS = (1, 2, 3, 4)
"""Of such loads: one of them is scaled up to half as often again as another, by chance."""
SETTLING_SECONDS = 3600.0
"""Of a load that stays: what is scaled until then is of the first size."""
KEY = ("day", "promised", "policy", "cold_start_seconds")


@dataclass(frozen=True, order=True)
class Row:
    """A day, or a load that stays, under a fixed fleet, Weft, or a schedule that knew it (without a cold start)."""

    day: str
    promised: float
    policy: str
    cold_start_seconds: float
    split: str
    """To begin with; of a fixed fleet the fleet."""
    attainment: float
    accelerator_hours: float
    scalings_per_hour: float
    flips: int
    commit: str

    @property
    def group(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in KEY)


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
        "--stationary", type=float, metavar="HOURS", help="only: how often steady loads are scaled"
    )
    parser.add_argument("--add", action="store_true", help="to the results of an earlier run")
    arguments = parser.parse_args()
    rows = results.saved(RESULTS) if arguments.add else []
    if arguments.stationary:
        steady = [stationary(arguments.stationary, draw) for draw in DRAWS]
        for row in steady:
            rows = results.put(rows, asdict(row), KEY)
        results.save(RESULTS, rows)
        print(f"{stays(steady)}\n\nwritten to {RESULTS}")
        return 0
    for day in DAYS:
        if day.name not in arguments.days.split(","):
            continue
        for attainment in map(float, arguments.attainments.split(",")):
            case = case_of(day, attainment)
            if arguments.off_profile:
                case = replace(case, stage_error=STAGE_ERROR, replica_error=REPLICA_ERROR)
            cold_starts, earlier = map(float, arguments.cold_starts.split(",")), [Row(**row) for row in rows]
            for row in compared(day, case, cold_starts, arguments.bound, earlier):
                rows = results.put(rows, asdict(row), KEY)
                results.save(RESULTS, rows)
                print(line(row), flush=True)
    print(f"\n{sections([Row(**row) for row in rows])['size']}\n\nwritten to {RESULTS}")
    return 0


def compared(
    day: Day, case: Case, cold_starts: Iterable[float], bounded: bool, earlier: Sequence[Row] = ()
) -> Iterator[Row]:
    """The fixed fleet and the bound of an earlier run are taken as they are: no policy is in them."""
    known = {
        row.policy: row
        for row in earlier
        if (row.day, row.promised) == (day.name, case.objectives.attainment)
    }
    fixed = known.get(FIXED)
    if fixed is None:
        best = best_fixed(case)
        if best is None:
            print(
                f"{day.name}: no fixed fleet of {day.most_replicas} keeps {case.objectives.attainment:.0%}",
                flush=True,
            )
            return
        fixed = row_of(day, best, FIXED)
        yield fixed
    if bounded and BOUND not in known:
        yield replace(fixed, policy=BOUND, split="", accelerator_hours=bound(case, fixed.attainment))
    prefill, decode = map(int, fixed.split.split(":"))
    for cold_start in cold_starts:
        free = replace(case, cold_start_seconds=cold_start, first={"prefill": prefill, "decode": decode})
        yield row_of(day, play(free, Weft(free)), WEFT)


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


def bound(case: Case, attainment: float) -> float:
    """Accelerator-hours of a schedule that knew the day and meets as much as the fixed fleet."""
    size = clairvoyant.mean_size(list(clairvoyant.blocks(case, play_fixed)), attainment)
    return size * case.accelerators_per_replica * case.trace.seconds / 3600


def row_of(day: Day, run: Run, policy: str) -> Row:
    sizes = [sum(run.first.values()), *(sum(one.counts.values()) for one in run.decisions)]
    changes = sum(before != after for before, after in pairwise(sizes))
    return Row(
        day=day.name,
        promised=run.case.objectives.attainment,
        policy=policy,
        cold_start_seconds=run.case.cold_start_seconds if policy == WEFT else 0.0,
        split=split_text(run.first),
        attainment=run.attainment,
        accelerator_hours=run.accelerator_hours,
        scalings_per_hour=changes / run.case.trace.seconds * 3600,
        flips=run.flips,
        commit=bench.commit(),
    )


def stationary(hours: float, draw: int) -> Row:
    """A load that stays: arrivals by chance, lengths drawn from six hours of the day with the longest answers."""
    case = case_of(DAYS[1], 0.95)
    trace, chance = case.trace.cut(6 * 3600, 12 * 3600), random.Random(draw)
    rows: list[tuple[float, int, int]] = []
    at = 0.0
    while (at := at + chance.expovariate(len(trace) / (6 * 3600))) <= hours * 3600:
        place = chance.choice(range(len(trace)))
        rows.append((at, trace.prompt_tokens[place], trace.answer_tokens[place]))
    case = replace(case, trace=Trace.of(rows), first={"prefill": 3, "decode": 10})
    run = play(case, Weft(case))
    sizes = [
        (0.0, sum(run.first.values())),
        *((one.at_seconds, sum(one.counts.values())) for one in run.decisions),
    ]
    scaled = [at for (_, before), (at, size) in pairwise(sizes) if size != before and at > SETTLING_SECONDS]
    seconds = max(3600.0, case.trace.seconds - SETTLING_SECONDS)
    day = Day(f"{STATIONARY}, {hours:g} h, draw {draw}", 1, DAYS[1].ttft_seconds, DAYS[1].most_replicas)
    return replace(row_of(day, run, WEFT), scalings_per_hour=len(scaled) / seconds * 3600)


def line(row: Row) -> str:
    return (
        f"{row.day}, {row.promised:.0%} promised, {row.policy} {row.split}, cold start {row.cold_start_seconds:g} s:"
        f" {row.attainment:.1%}, {row.accelerator_hours:,.0f} accelerator-hours"
    )


def table(rows: Sequence[Row]) -> str:
    """Weft's days beside the fixed fleet and the bound of the same day and promise, with the goal met or missed."""
    beside = {(row.day, row.promised, row.policy): row for row in rows if row.policy != WEFT}
    heads = (
        "day",
        "promised",
        "cold start",
        "fixed fleet in hindsight",
        "a schedule that knew the day",
        "Weft",
    )
    heads += (f"{100 * GOAL:g} % fewer, promise kept", "scalings per hour", "flips", "commit")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if row.policy == WEFT:
            fixed = beside[row.day, row.promised, FIXED]
            known = beside.get((row.day, row.promised, BOUND))
            saved = 1 - row.accelerator_hours / fixed.accelerator_hours
            kept = row.attainment >= row.promised
            cells = (
                *(row.day, f"{100 * row.promised:g} %", f"{row.cold_start_seconds:g} s"),
                f"{fixed.split}: {_met(fixed)}",
                _met(known) if known else "not played",
                f"{_met(row)} ({100 * saved:.0f} % fewer)"
                if saved >= 0
                else f"{_met(row)} ({-100 * saved:.0f} % more)",
                "met"
                if kept and saved >= GOAL
                else "**missed**"
                if kept
                else "**missed, nor is the promise kept**",
                *(f"{row.scalings_per_hour:.1f}", str(row.flips), row.commit),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sections(rows: Sequence[Row]) -> dict[str, str]:
    """The generated parts of docs/evaluation.md that are of whole days, and of loads that stay once one was played."""
    steady = [row for row in rows if row.day.startswith(STATIONARY)]
    made = {"size": table([row for row in rows if row not in steady])}
    return made | {"stationary": stays(steady)} if steady else made


def stays(rows: Sequence[Row]) -> str:
    """How often a load that stays is scaled."""
    heads = (
        "load",
        "promised",
        "cold start",
        "from",
        "Weft",
        "scalings per hour after the first",
        "flips",
        "commit",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        often = f"{row.scalings_per_hour:.1f}: {'met' if row.scalings_per_hour <= MOST_SCALINGS else '**missed**'}"
        cells = (
            row.day,
            f"{100 * row.promised:g} %",
            f"{row.cold_start_seconds:g} s",
            row.split,
            _met(row),
            often,
        )
        lines.append(f"| {' | '.join((*cells, str(row.flips), row.commit))} |")
    return "\n".join(lines)


def _met(row: Row) -> str:
    return f"{100 * row.attainment:.2f} % for {row.accelerator_hours:,.0f} h"


if __name__ == "__main__":
    raise SystemExit(main())

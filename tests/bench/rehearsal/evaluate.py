"""Every policy of `weft rehearse` on the referee's cases and on whole days: `make bench-rehearsal`.

Engines are off the profile as in the demo (up to 30 % per stage, 20 % per replica, by the seed). Writes
build/bench/rehearsal.json and prints the tables of docs/evaluation.md. `--seeds 1 --cases scarce` plays some of it,
`--days` the whole days too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import constants
from stretches import rehearsed

import bench
from weft.rehearse.dynamo import Dynamo
from weft.rehearse.hpa import Hpa
from weft.rehearse.optimum import optimum
from weft.rehearse.play import Case, Run, play
from weft.rehearse.ratio import Ratio
from weft.rehearse.static import Static, best_static
from weft.rehearse.summary import figures
from weft.rehearse.trace import read_trace
from weft.rehearse.weft_policy import Weft

DATA = Path(__file__).parent / "data"
RESULTS = bench.ROOT / "build" / "bench" / "rehearsal.json"
SCRAPE_SECONDS, COLD_START_SECONDS = 5.0, 60.0
STAGE_ERROR, REPLICA_ERROR = 0.3, 0.2
DAYS = (("deepseek-r1-day", 1, 18, 28), ("m-mid-day2", 6, 2, 8))
"""Trace, copies over each other, the least fixed fleet worth a try, and the most replicas."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--seeds", default=",".join(map(str, constants.REPORTED)), help="those of constants.py"
    )
    parser.add_argument("--cases", default="", help="names; default all")
    parser.add_argument("--days", action="store_true", help="also whole days, where the size is free")
    arguments = parser.parse_args()
    chosen = set(filter(None, arguments.cases.split(",")))
    rows: list[dict[str, Any]] = []
    for seed in map(int, arguments.seeds.split(",")):
        for case in cases.all_cases(seed, tuning=seed in constants.TUNING):
            if not chosen or case.name in chosen:
                made = rehearsed(
                    case, seed, SCRAPE_SECONDS, COLD_START_SECONDS, False, STAGE_ERROR, REPLICA_ERROR
                )
                note(rows, case.name, seed, every_policy(made))
    if rows:
        print(table(rows))
    if arguments.days:
        days: list[dict[str, Any]] = []
        for name, copies, least, most in DAYS:
            note(days, name, 1, whole_day(name, copies, least, most))
        print("\n" + table(days))
        rows += days
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"commit": bench.commit(), "rows": rows}, indent=1) + "\n")
    print(f"\nwritten to {RESULTS}")
    return 0


def every_policy(case: Case) -> list[Run]:
    apart = replace(case, overlap=True)
    runs = [
        play(case, Static(case)),
        best_static(case, False, _quiet),
        replace(best_static(case, True, _quiet), policy="best-static, also aggregated"),
        play(case, Hpa(case)),
        play(case, Dynamo(case)),
        play(case, Ratio(case)),
        play(case, Weft(case)),
        replace(play(apart, Weft(apart)), policy="weft, flips overlap"),
        replace(optimum(apart, False, _quiet), policy="optimum, flips overlap"),
        optimum(case, False, _quiet),
    ]
    overlapping, draining = (run.world.met for run in runs[-2:])
    for run in runs:
        # Aggregated replicas are another means than these bounds have.
        bound = overlapping if "overlap" in run.policy else draining
        if "aggregated" not in run.policy and run.world.met > bound:
            sys.exit(f"{run.policy} met more than the optimum: {run.world.met} of {bound}")
    return runs


def whole_day(name: str, copies: int, least: int, most: int) -> list[Run]:
    trace = read_trace(DATA / f"{name}.csv.gz")
    if copies > 1:
        trace = trace.superposed(copies, 601.0)
    small = cases.stationary(1)
    case = rehearsed(small, 1, 15.0, COLD_START_SECONDS, False, STAGE_ERROR, REPLICA_ERROR)
    half = most // 2
    case = replace(
        case,
        trace=trace,
        most_replicas=most,
        least_replicas=2,
        first={"prefill": half, "decode": most - half},
    )
    return [
        best_static(replace(case, least_replicas=least), False, _quiet),
        play(case, Hpa(case)),
        play(case, Dynamo(case)),
        play(case, Ratio(case)),
        play(case, Weft(case)),
    ]


def note(rows: list[dict[str, Any]], name: str, seed: int, runs: list[Run]) -> None:
    for run in runs:
        rows.append({"case": name, "seed": seed, **figures(run)})
        print(
            f"{time.strftime('%T')} {name} seed {seed} {run.policy} {rows[-1]['first']}:"
            f" {run.attainment * 100:.1f} %, {run.accelerator_hours:.2f} accelerator-hours",
            file=sys.stderr,
            flush=True,
        )


def table(rows: list[dict[str, Any]]) -> str:
    """Mean share within objectives over the seeds (least), and accelerator-hours."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    names: list[str] = []
    for row in rows:
        found[row["policy"]][row["case"]].append(row)
        if row["case"] not in names:
            names.append(row["case"])
    lines = ["| policy | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for policy, by_case in found.items():
        cells = []
        for name in names:
            shares = [100 * row["attainment"] for row in by_case[name]]
            hours = [row["acceleratorHours"] for row in by_case[name]]
            if not shares:
                cells.append("")
                continue
            spread = f" ({min(shares):.0f})" if len(shares) > 1 else ""
            cells.append(f"{sum(shares) / len(shares):.1f} %{spread}, {sum(hours) / len(hours):.1f} h")
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _quiet(_: float) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())

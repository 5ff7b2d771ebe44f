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
from collections.abc import Callable
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
    parser.add_argument("--policies", default="", help="names; default all")
    parser.add_argument("--days", action="store_true", help="also whole days, where the size is free")
    arguments = parser.parse_args()
    chosen = set(filter(None, arguments.cases.split(",")))
    policies = set(filter(None, arguments.policies.split(",")))
    rows: list[dict[str, Any]] = []
    for seed in map(int, arguments.seeds.split(",")):
        for case in cases.all_cases(seed, tuning=seed in constants.TUNING):
            if not chosen or case.name in chosen:
                made = rehearsed(
                    case, seed, SCRAPE_SECONDS, COLD_START_SECONDS, False, STAGE_ERROR, REPLICA_ERROR
                )
                note(rows, case.name, seed, every_policy(made, policies))
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


def every_policy(case: Case, chosen: set[str]) -> list[Run]:
    """`chosen` by their first words; empty: all."""
    apart = replace(case, overlap=True)
    makers: dict[str, Callable[[], Run]] = {
        "static": lambda: play(case, Static(case)),
        "best-static": lambda: best_static(case, False, _quiet),
        "best-static, also aggregated": lambda: best_static(case, True, _quiet),
        "hpa": lambda: play(case, Hpa(case)),
        "dynamo": lambda: play(case, Dynamo(case)),
        "ratio": lambda: play(case, Ratio(case)),
        "weft": lambda: play(case, Weft(case)),
        "weft, flips overlap": lambda: play(apart, Weft(apart)),
        "optimum": lambda: optimum(case, False, _quiet),
        "optimum, flips overlap": lambda: optimum(apart, False, _quiet),
    }
    runs = {
        name: replace(make(), policy=name)
        for name, make in makers.items()
        if not chosen or name.partition(",")[0] in chosen
    }
    for name, run in runs.items():
        # Aggregated replicas are another means than the bounds have.
        bound = runs.get("optimum, flips overlap" if "overlap" in name else "optimum")
        if bound is not None and "aggregated" not in name and run.world.met > bound.world.met:
            sys.exit(f"{name} met more than the optimum: {run.world.met} of {bound.world.met}")
    return list(runs.values())


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
        rows.append({"case": name, "seed": seed, **figures(run, constants.WATTS, constants.PRICE)})
        print(
            f"{time.strftime('%T')} {name} seed {seed} {run.policy} {rows[-1]['first']}:"
            f" {run.attainment * 100:.1f} %, {run.accelerator_hours:.2f} accelerator-hours",
            file=sys.stderr,
            flush=True,
        )


def table(rows: list[dict[str, Any]]) -> str:
    """Mean share within objectives over the seeds (least) and accelerator-hours; then what those gave and cost."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["policy"]][row["case"]].append(row)
    names = list(dict.fromkeys(row["case"] for row in rows))
    parts = []
    for title, cell in (
        ("Share of requests within both objectives, accelerator-hours", _share),
        ("Goodput per accelerator-hour; energy per request; cost per million answer tokens", _cost),
    ):
        lines = [title, "", "| policy | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for policy, by_case in found.items():
            cells = [cell(by_case[name]) if by_case[name] else "" for name in names]
            lines.append(f"| {policy} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _share(rows: list[dict[str, Any]]) -> str:
    shares = [100 * row["attainment"] for row in rows]
    spread = f" ({min(shares):.0f})" if len(shares) > 1 else ""
    split = f" ({rows[0]['first']})" if "static" in rows[0]["policy"] and len(rows) == 1 else ""
    return f"{_mean(shares):.1f} %{spread}{split}, {_mean([row['acceleratorHours'] for row in rows]):.1f} h"


def _cost(rows: list[dict[str, Any]]) -> str:
    goodput, energy, cost = (
        _mean([row[key] for row in rows])
        for key in ("goodputPerAcceleratorHour", "wattHoursPerRequest", "costPerMillionAnswerTokens")
    )
    return f"{goodput:,.0f}; {energy:.2f} Wh; ${cost:.2f}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _quiet(_: float) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())

"""Every policy of `weft rehearse` on the referee's cases: `make bench-rehearsal`.

Engines are off the profile as in the demo (up to 30 % per stage, 20 % per replica, by the seed). Writes
build/bench/rehearsal.json and prints the tables of docs/evaluation.md. `--seeds 1 --cases scarce --policies weft` plays
some of it; with `--add` what an earlier run played beside it stays. `--restarts` plays the same where a replica that
changes its role starts its engine anew, into build/bench/restarts.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cases
import constants
import results
import tables
from results import Run
from stretches import rehearsed

import bench
from weft.rehearse import play as rehearsal
from weft.rehearse.dynamo import Dynamo
from weft.rehearse.hpa import Hpa
from weft.rehearse.optimum import optimum
from weft.rehearse.play import Case, play
from weft.rehearse.ratio import Ratio
from weft.rehearse.static import Static, best_static
from weft.rehearse.summary import figures
from weft.rehearse.weft_policy import Weft
from weft.rehearse.world import AGGREGATES

RESULTS = bench.ROOT / "build" / "bench" / "rehearsal.json"
RESTARTS = RESULTS.with_name("restarts.json")
KEY = ("case", "seed", "policy", "drains")
SCRAPE_SECONDS, COLD_START_SECONDS = 5.0, 60.0
RESTART_SECONDS = 60.0
STAGE_ERROR, REPLICA_ERROR = 0.3, 0.2
"""Largest errors of the profile."""
LOOKING = ("hpa", "dynamo", "ratio", tables.WEFT, tables.WEFT_MIXED)
"""Those that see metrics."""
RESTARTED = (tables.STATIC, tables.AGGREGATED, tables.WEFT, tables.WEFT_MIXED, tables.OPTIMUM)
"""What is played of restarts: the others make and remove replicas, and are as before."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--seeds", default=",".join(map(str, constants.REPORTED)), help="those of constants.py"
    )
    parser.add_argument("--cases", default="", help="names; default all")
    parser.add_argument("--policies", default="", help="names; default all")
    parser.add_argument("--add", action="store_true", help="to the results of an earlier run")
    parser.add_argument(
        "--restarts", action="store_true", help=f"a flip takes {RESTART_SECONDS:g} s, after the drain"
    )
    arguments = parser.parse_args()
    chosen = set(filter(None, arguments.cases.split(",")))
    policies = set(filter(None, arguments.policies.split(",")))
    kept = RESTARTS if arguments.restarts else RESULTS
    rows = results.saved(kept) if arguments.add else []
    for seed in map(int, arguments.seeds.split(",")):
        for case in cases.all_cases(seed, tuning=seed in constants.TUNING):
            if chosen and case.name not in chosen:
                continue
            made = rehearsed(
                case, seed, SCRAPE_SECONDS, COLD_START_SECONDS, False, STAGE_ERROR, REPLICA_ERROR
            )
            if arguments.restarts:
                made = replace(made, flip_seconds=RESTART_SECONDS)
                played = every_policy(made, policies or {*RESTARTED}, ways=(True,))
            else:
                played = every_policy(made, policies)
            for row in played:
                rows = results.put(
                    rows, {"case": case.name, "seed": seed, **row, "commit": bench.commit()}, KEY
                )
                results.save(kept, rows)
                print(f"{time.strftime('%T')} {bench.line(run(rows[-1]))}", file=sys.stderr, flush=True)
    runs = [run(row) for row in rows]
    for table in (of_restarts if arguments.restarts else sections)(runs).values():
        print(f"{table}\n")
    print(f"written to {kept}")
    for problem in above_optimum(runs):
        print(problem)
    return int(any(above_optimum(runs)))


def every_policy(
    case: Case, chosen: set[str], ways: Sequence[bool] = (True, False)
) -> Iterator[dict[str, Any]]:
    """Rows without case and seed; of the policies that are chosen, or of all. `ways`: whether those that flip drain."""
    makers: dict[str, Callable[[Case], rehearsal.Run]] = {
        tables.FIRST: lambda case: play(case, Static(case)),
        tables.STATIC: lambda case: best_static(case, False, _quiet),
        tables.AGGREGATED: lambda case: best_static(case, True, _quiet),
        "hpa": lambda case: play(case, Hpa(case)),
        "dynamo": lambda case: play(case, Dynamo(case)),
        "ratio": lambda case: play(case, Ratio(case)),
        tables.WEFT: lambda case: play(case, Weft(case)),
        tables.WEFT_MIXED: lambda case: play(with_aggregated(case), Weft(with_aggregated(case))),
        tables.OPTIMUM: lambda case: optimum(case, False, _quiet),
    }
    for name, make in makers.items():
        # The others make and remove replicas, and fixed ones keep them: only these flip.
        for drains in ways if name in (*tables.FLIPPING, tables.OPTIMUM) else (True,):
            if not chosen or name in chosen:
                played = make(replace(case, overlap=not drains))
                yield {
                    **figures(played, constants.WATTS, constants.PRICE),
                    "policy": name,
                    "drains": drains,
                    "scrapeSeconds": case.scrape_seconds if name in LOOKING else 0.0,
                    "answerTokens": sum(case.trace.answer_tokens),
                }


def with_aggregated(case: Case) -> Case:
    """The same, with a role that serves both stages, and has nobody yet."""
    return replace(case, first={**case.first, AGGREGATES: 0})


def run(row: Mapping[str, Any]) -> Run:
    """What is kept of a row of build/bench/rehearsal.json."""
    return Run(
        case=row["case"],
        seed=row["seed"],
        policy=row["policy"],
        drains=row["drains"],
        scrape_seconds=row["scrapeSeconds"],
        split=row["first"],
        within=row["attainment"],
        requests=row["requests"],
        answer_tokens=row["answerTokens"],
        decisions=row["decisions"],
        accelerator_hours=row["acceleratorHours"],
        commit=row["commit"],
    )


def sections(runs: Sequence[Run]) -> dict[str, str]:
    """The generated parts of docs/evaluation.md that are rehearsed."""
    played = tables.Played(runs)
    return {
        "rehearsed": tables.shares(played),
        "rehearsed commits": tables.commits(played),
        "rehearsed against static": tables.against_static(played),
        "rehearsed losses": tables.losses(played),
        "rehearsed others above": tables.above_weft(played),
        "rehearsed against optimum": tables.goals_of_optimum(played),
    }


def of_restarts(runs: Sequence[Run]) -> dict[str, str]:
    """The same where engines start anew."""
    played = tables.Played(runs)
    return {
        "restarts": tables.shares(played),
        "restarts commits": tables.commits(played),
        "restarts against static": tables.against_static(played, ways=(True,)),
        "restarts against optimum": tables.goals_of_optimum(
            played, tables.OF_OPTIMUM_RESTARTED, ways=(True,)
        ),
    }


def above_optimum(runs: Sequence[Run]) -> list[str]:
    """Who met more than the bound. Aggregated replicas are another means than it has."""
    bounds = {(run.case, run.seed, run.drains): run for run in runs if run.policy == tables.OPTIMUM}
    pairs = ((run, bounds.get((run.case, run.seed, run.drains))) for run in runs)
    return [
        f"{bench.line(run)}: more than the optimum, {100 * bound.within:.1f} %"
        for run, bound in pairs
        if bound is not None and run.policy not in tables.MIXTURES and run.within > bound.within
    ]


def _quiet(_: float) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())

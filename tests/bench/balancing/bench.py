"""Every policy in NVIDIA Dynamo's own replay: `python tests/bench/balancing/bench.py` (`make bench-balancing`).

Fetches the wheels ai-dynamo-runtime (the replay) and ai-dynamo (NVIDIA's planner) into a virtual environment of their
own in Weft's cache, plays each case of each seed on every static split and under each policy, prints the tables of
docs/evaluation.md, with goals met or missed, and writes build/bench/balancing.json. Where the replay is not to be had
it says so and exits with 0; where only the planner is not, it is left out. `--seeds 1 --cases scarce --scrapes 1,5,15`
plays some of it; with `--add` what an earlier run played beside it stays in the tables, under the commit that it was
played with.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import constants
import results
import tables
from results import Run

ROOT = Path(__file__).resolve().parents[3]
WHEEL = "ai-dynamo-runtime==1.4.2"
PLANNER = (
    "ai-dynamo==1.4.2",
    *("filterpy==2.0.0", "kubernetes==32.0.1", "msgspec==0.22.0", "numpy==2.4.6", "pandas==3.1.1"),
    *("plotly==7.1.0", "pmdarima==2.1.1", "prometheus-api-client==0.7.2", "prometheus-client==0.26.0"),
    *("prophet==1.5.0", "scikit-learn==1.9.1"),
)
"""The planner's wheel, without what it asks for beside it, and what its replay adapter imports."""
RESULTS = ROOT / "build" / "bench" / "balancing.json"
KEY = ("case", "seed", "policy", "split", "drains", "scrape_seconds")
INSIDE = "WEFT_BENCH_BALANCING_INSIDE"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", default="1,2,3,4,5", help="those of constants.py")
    parser.add_argument("--cases", default="", help="names; default all")
    parser.add_argument("--policies", default="", help="names; default all")
    parser.add_argument("--scrapes", default="1", help="seconds; the report has 1, 5 and 15")
    parser.add_argument("--add", action="store_true", help="to the results of an earlier run")
    arguments = parser.parse_args()
    if INSIDE in os.environ:
        compare(arguments)
        return 0
    python = installed()
    if python is None:
        return 0
    paths = [ROOT / "operator" / "src", ROOT / "hack" / "playground", Path(__file__).parent]
    environment = {**os.environ, INSIDE: "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run([python, __file__, *sys.argv[1:]], env=environment, check=False).returncode


def installed() -> Path | None:
    """The python of the virtual environment with the wheels; None, and a sentence, where there is no replay."""
    from weft_dev.tools.cache import cache_directory

    folder = cache_directory() / "bench" / PLANNER[0].replace("==", "-")
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet"]
    steps = {
        "replay": [
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [*install, "--only-binary", ":all:", WHEEL],
        ],
        "planner": [[*install, "--no-deps", PLANNER[0]], [*install, *PLANNER[1:]]],
    }
    for what, commands in steps.items():
        marker = folder / f".{what}"
        if marker.exists():
            continue
        print(f"installing NVIDIA Dynamo's {what} into {folder}", file=sys.stderr)
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                print(f"skipped: NVIDIA Dynamo's {what} cannot be installed here ({last})")
                return None if what == "replay" else python
        marker.touch()
    return python


def compare(arguments: argparse.Namespace) -> None:
    import cases
    import policies

    rows = results.saved(RESULTS) if arguments.add else []
    chosen = set(filter(None, arguments.cases.split(",")))
    named = set(filter(None, arguments.policies.split(",")))
    scrapes = [float(each) for each in arguments.scrapes.split(",")]
    for seed in map(int, arguments.seeds.split(",")):
        for case in cases.all_cases(seed, tuning=seed in constants.TUNING):
            if chosen and case.name not in chosen:
                continue
            for played in policies.every(case, seed, scrapes, named):
                row = {"case": case.name, "seed": seed, **asdict(played), "commit": commit()}
                rows = results.put(rows, row, KEY)
                results.save(RESULTS, rows)
                print(f"{time.strftime('%T')} {line(run(row))}", file=sys.stderr, flush=True)
    for table in sections([run(row) for row in rows]).values():
        print(f"{table}\n")
    print(f"written to {RESULTS}")


def run(row: Mapping[str, Any]) -> Run:
    """What is kept of a row of build/bench/balancing.json."""
    outcome = row["outcome"]
    return Run(
        case=row["case"],
        seed=row["seed"],
        policy=row["policy"],
        drains=row["drains"],
        scrape_seconds=row["scrape_seconds"] or 0.0,
        split=row["split"],
        within=outcome["within"],
        requests=outcome["requests"],
        answer_tokens=outcome["answer_tokens"],
        decisions=outcome["moves"],
        accelerator_hours=outcome["worker_seconds"] * constants.ACCELERATORS_PER_REPLICA / 3600,
        commit=row["commit"],
    )


def sections(runs: Sequence[Run]) -> dict[str, str]:
    """The generated parts of docs/evaluation.md, and of the README, that are of this replay."""
    played = tables.Played(runs)
    return {
        "replay": tables.shares(played),
        "replay commits": tables.commits(played),
        "replay against static": tables.against_static(played),
        "replay losses": tables.losses(played),
        "replay others above": tables.above_weft(played),
        "replay goals": tables.goals(played),
        "replay costs": tables.costs(played),
        "claim": tables.claim(played),
    }


def line(played: Run) -> str:
    how = "drains first" if played.drains else "no drain"
    seen = f", scrapes of {played.scrape_seconds:g} s" if played.scrape_seconds else ""
    return (
        f"{played.case} seed {played.seed} {played.policy}{seen}, {how}, from {played.split}:"
        f" {played.within * 100:.1f} % within, {played.decisions} decisions,"
        f" {played.accelerator_hours:.2f} accelerator-hours"
    )


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())

"""Weft's planner in NVIDIA Dynamo's own replay: `python tests/bench/balancing/bench.py` (`make bench-balancing`).

Fetches the wheel ai-dynamo-runtime into a virtual environment of its own in Weft's cache, plays each case of each seed
on every static split and under Weft, and writes build/bench/balancing.json. Where the wheel is not to be had it says
so and exits with 0. `--seeds 101 --cases scarce --scrapes 1` plays some of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import constants

ROOT = Path(__file__).resolve().parents[3]
WHEEL = "ai-dynamo-runtime==1.4.2"
RESULTS = ROOT / "build" / "bench" / "balancing.json"
INSIDE = "WEFT_BENCH_BALANCING_INSIDE"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    numbers = constants.REPORTED
    parser.add_argument("--seeds", default=",".join(map(str, numbers)), help="those of constants.py")
    parser.add_argument("--cases", default="", help="names; default all")
    parser.add_argument("--scrapes", default="1", help="seconds; the report has 1, 5 and 15")
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
    """The python of the virtual environment with the wheel; None, and a sentence, where there is none."""
    from weft_dev.tools.cache import cache_directory

    folder = cache_directory() / "bench" / WHEEL.replace("==", "-")
    python = folder / "bin" / "python"
    marker = folder / ".complete"
    if marker.exists():
        return python
    print(f"installing {WHEEL} into {folder}", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", WHEEL],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"skipped: {WHEEL} cannot be installed here ({last})")
            return None
    marker.touch()
    return python


def compare(arguments: argparse.Namespace) -> None:
    import cases
    import policies
    import referee

    rows: list[dict[str, Any]] = []
    chosen = set(filter(None, arguments.cases.split(",")))
    for seed in map(int, arguments.seeds.split(",")):
        for case in cases.all_cases(seed, tuning=seed in constants.TUNING):
            if chosen and case.name not in chosen:
                continue

            def note(
                policy: str, outcome: referee.Outcome, case: cases.Case = case, seed: int = seed
            ) -> None:
                row = {"case": case.name, "seed": seed, "policy": policy}
                row |= {key: value for key, value in asdict(outcome).items() if key != "spans"}
                rows.append(row)
                print(
                    f"{case.name} seed {seed} {policy}: {outcome.within * 100:.1f} % within,"
                    f" {outcome.moves} moves of {outcome.replicas_moved} replicas,"
                    f" {outcome.worker_seconds / 3600:.2f} replica-hours",
                    flush=True,
                )

            for prefill in cases.static_splits(case):
                split = (prefill, case.replicas - prefill)
                note(f"static {split[0]}:{split[1]}", referee.play(case, split))
            first = (case.first_prefill, case.replicas - case.first_prefill)
            for scrape in map(float, arguments.scrapes.split(",")):
                for drain in (True, False):
                    name = f"weft, scrapes of {scrape:g} s, {'drains first' if drain else 'no drain'}"
                    note(name, referee.play(case, first, policies.weft(case, scrape, drain), scrape, drain))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"commit": commit(), "rows": rows}, indent=1) + "\n")
    print(f"written to {RESULTS}")


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())

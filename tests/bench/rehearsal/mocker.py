"""The engine models of `weft rehearse` and of the playground against dynamo.mocker on the same 500 requests.

It is ai-dynamo-runtime's own replay. `make check-engine-model` prints p50 and p90 of TTFT and ITL of all three for
stretches of the Azure trace on several splits, and writes build/bench/mocker.json; then what share of requests each
static split of the referee's cases meets in `weft rehearse` and in the replay (`CASES=` some of them by name, `SEED=`).
Ends with status 1 where a p50 is more than 15 % or a share more than 5 points off. Fetches the wheel as
`make bench-balancing` does, and skips where it cannot.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import results

import bench

ROOT = bench.ROOT
INSIDE = "WEFT_BENCH_MOCKER_INSIDE"
REQUESTS = 500
ALLOWED, POINTS_ALLOWED = 0.15, 5.0
PLACES = ((4, 5, 600.0), (3, 6, 600.0), (6, 3, 600.0), (4, 5, 1800.0), (5, 4, 2400.0), (2, 2, 3000.0))
"""Prefill and decode replicas, and where in the trace the requests begin, in seconds."""
RESULTS = bench.ROOT / "build" / "bench" / "mocker.json"
WEFT, PLAYGROUND, MOCKER = "weft", "playground", "mocker"
COLUMNS = {"ttft_p50": "TTFT p50", "ttft_p90": "TTFT p90", "itl_p50": "ITL p50", "itl_p90": "ITL p90"}


@dataclass(frozen=True, order=True)
class Row:
    """How 500 requests fared with one of the three, in seconds."""

    split: str
    start_seconds: float
    who: str
    ttft_p50: float
    ttft_p90: float
    itl_p50: float
    itl_p90: float
    commit: str

    @property
    def group(self) -> tuple[object, ...]:
        return self.split, self.start_seconds, self.who


def main() -> int:
    if INSIDE in os.environ:
        return compare()
    python = bench.installed()
    if python is None:
        return 0
    paths = [
        ROOT / "operator" / "src",
        ROOT / "hack" / "playground",
        *(ROOT / "tests" / "bench" / each for each in ("balancing", "rehearsal")),
    ]
    environment = {**os.environ, INSIDE: "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run([python, __file__], env=environment, check=False).returncode


def compare() -> int:
    rows: list[Row] = []
    for place in PLACES:
        rows += compared(*place)
        results.save(RESULTS, map(asdict, rows))
    print(f"{table(rows)}\n", flush=True)
    points = compare_shares(os.environ.get("CASES") or "scarce,recorded", int(os.environ.get("SEED") or 101))
    print(f"\nlargest difference of a share: {points:.1f} points\n")
    return int(worst(rows) > ALLOWED or points > POINTS_ALLOWED)


def compared(prefill: int, decode: int, start: float) -> Iterator[Row]:
    import stretches

    from weft.rehearse.engine import Speeds
    from weft.rehearse.trace import Trace
    from weft.rehearse.world import DECODES, PREFILLS, World
    from weft_playground.demo.rehearsal import simulate
    from weft_playground.profile import read_profile
    from weft_playground.trace import Request, read_trace

    profile = stretches.weft_profile()
    requests = [
        (one.at_seconds - start, one.prompt_tokens, one.answer_tokens)
        for one in read_trace()
        if one.at_seconds >= start
    ][:REQUESTS]
    world = World(Trace.of(requests), Speeds(profile))
    for role in [PREFILLS] * prefill + [DECODES] * decode:
        world.create(role, 0.0)
    world.run_until(math.inf)
    played = simulate([Request(*one) for one in requests], read_profile(), prefill, decode)
    with tempfile.TemporaryDirectory() as folder:
        theirs = replayed(
            Path(folder), requests, prefill, decode, profile.max_batch, profile.kv_capacity_tokens
        )
    times = {
        WEFT: (world.ttft, world.itl),
        PLAYGROUND: ([one.time_to_first_token for one in played], [one.inter_token for one in played]),
        MOCKER: theirs,
    }
    for who, both in times.items():
        found = (quantile(values, q) for values in both for q in (0.5, 0.9))
        yield Row(f"{prefill}:{decode}", start, who, *found, commit=bench.commit())  # type: ignore[misc]


def worst(rows: Iterable[Row]) -> float:
    """The largest difference of a p50 from the replay's, as a part of it."""
    known = {row.group: row for row in rows}
    pairs = ((row, known[row.split, row.start_seconds, MOCKER]) for row in known.values())
    return max(
        abs(getattr(row, name) / getattr(theirs, name) - 1)
        for row, theirs in pairs
        for name in ("ttft_p50", "itl_p50")
    )


def table(rows: Sequence[Row]) -> str:
    """The largest difference, and the table of docs/evaluation.md."""
    lines = [
        f"Largest difference of a p50: {100 * worst(rows):.1f} %.",
        "",
        f"| split | from | {' | '.join(f'{name}: {WEFT} / {PLAYGROUND} / {MOCKER}' for name in COLUMNS.values())} |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for prefill, decode, start in PLACES:
        here = {
            row.who: row for row in rows if (row.split, row.start_seconds) == (f"{prefill}:{decode}", start)
        }
        cells = (
            " / ".join(f"{1000 * getattr(here[who], name):,.0f}" for who in (WEFT, PLAYGROUND, MOCKER))
            + " ms"
            for name in COLUMNS
        )
        lines.append(f"| {prefill}:{decode} | {start:,.0f} s | {' | '.join(cells)} |")
    return "\n".join(lines)


def sections(rows: Sequence[Row]) -> dict[str, str]:
    """The generated part of docs/evaluation.md that is of the engine models."""
    return {"mocker": table(rows)}


def compare_shares(names: str, seed: int) -> float:
    """The largest difference in points over the static splits of these cases."""
    import cases
    import constants
    import referee
    from stretches import rehearsed

    from weft.rehearse.play import play
    from weft.rehearse.static import Static

    worst = 0.0
    for case in cases.all_cases(seed, tuning=seed in constants.TUNING):
        if case.name not in names.split(","):
            continue
        made = rehearsed(case, seed, 5.0, 60.0, False)
        for prefill in cases.static_splits(case):
            split = prefill, case.replicas - prefill
            theirs = 100 * referee.play(case, split).within
            own = 100 * play(made, Static(made), {"prefill": split[0], "decode": split[1]}).attainment
            worst = max(worst, abs(own - theirs))
            text = f"{case.name} {split[0]}:{split[1]}: weft {own:.1f} %, mocker {theirs:.1f} % within objectives"
            print(text, flush=True)
    return worst


def replayed(
    folder: Path, rows: list[tuple[float, int, int]], prefill: int, decode: int, batch: int, capacity: int
) -> tuple[list[float], list[float]]:
    """TTFT and mean ITL of each request, in seconds."""
    import referee
    from dynamo._core import MockEngineArgs, run_mocker_trace_replay

    from weft_playground.dynamo_profile import write_profile
    from weft_playground.profile import SpeedError

    trace, report = folder / "trace.jsonl", folder / "report.jsonl"
    block = referee.TRACE_BLOCK
    with trace.open("w") as file:
        for number, (at, prompt, answer) in enumerate(rows):
            hashes = [number * 10_000 + each for each in range(math.ceil(prompt / block))]
            line = {
                "timestamp": at * 1000,
                "input_length": prompt,
                "output_length": answer,
                "hash_ids": hashes,
            }
            file.write(json.dumps(line) + "\n")
    common: dict[str, Any] = {
        "block_size": referee.BLOCK,
        "num_gpu_blocks": capacity // referee.BLOCK,
        "planner_profile_data": str(write_profile(folder, SpeedError())),
        "enable_prefix_caching": False,
    }
    run_mocker_trace_replay(
        [str(trace)],
        # With more than one prompt at a time they hold first tokens until their queue is empty.
        prefill_engine_args=MockEngineArgs(worker_type="prefill", max_num_seqs=1, **common),
        decode_engine_args=MockEngineArgs(worker_type="decode", max_num_seqs=batch, **common),
        num_prefill_workers=prefill,
        num_decode_workers=decode,
        router_mode="kv_router",
        trace_block_size=block,
        report_jsonl_path=str(report),
    )
    found = [json.loads(line) for line in report.read_text().splitlines()]
    assert len(found) == len(rows), "every request has its answer"
    ttft = [each["ttft_ms"] / 1000 for each in found]
    itl = [
        (each["last_token_ms"] - each["first_token_ms"]) / 1000 / max(1, each["output_length"] - 1)
        for each in found
    ]
    return ttft, itl


def quantile(values: Iterable[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(q * len(ordered)) - 1]


if __name__ == "__main__":
    sys.exit(main())

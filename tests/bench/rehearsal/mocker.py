"""The engine models of `weft rehearse` and of the playground against dynamo.mocker on the same 500 requests.

It is ai-dynamo-runtime's own replay. `make check-engine-model` prints p50 and p90 of TTFT and ITL of all three for
stretches of the Azure trace on several splits, then what share of requests each static split of the referee's cases
meets in `weft rehearse` and in the replay (`CASES=` some of them by name, `SEED=`). Ends with status 1 where a p50
is more than 15 % or a share more than 5 points off. Fetches the wheel as `make bench-balancing` does, and skips where
it cannot.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
INSIDE = "WEFT_BENCH_MOCKER_INSIDE"
REQUESTS = 500
ALLOWED, POINTS_ALLOWED = 0.15, 5.0
PLACES = ((4, 5, 600.0), (3, 6, 600.0), (6, 3, 600.0), (4, 5, 1800.0), (5, 4, 2400.0), (2, 2, 3000.0))
"""Prefill and decode replicas, and where in the trace the requests begin, in seconds."""


def main() -> int:
    if INSIDE in os.environ:
        return compare()
    import bench

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
    import stretches

    from weft.rehearse.engine import Speeds
    from weft.rehearse.trace import Trace
    from weft.rehearse.world import DECODES, PREFILLS, World
    from weft_playground.demo.rehearsal import simulate
    from weft_playground.profile import read_profile
    from weft_playground.trace import Request, read_trace

    profile = stretches.weft_profile()
    worst = 0.0
    print("| split | from | | TTFT p50 | TTFT p90 | ITL p50 | ITL p90 |\n|---|---|---|---|---|---|---|")
    for prefill, decode, start in PLACES:
        rows = [
            (one.at_seconds - start, one.prompt_tokens, one.answer_tokens)
            for one in read_trace()
            if one.at_seconds >= start
        ][:REQUESTS]
        world = World(Trace.of(rows), Speeds(profile))
        for role in [PREFILLS] * prefill + [DECODES] * decode:
            world.create(role, 0.0)
        world.run_until(math.inf)
        own = [quantile(values, q) for values in (world.ttft, world.itl) for q in (0.5, 0.9)]
        with tempfile.TemporaryDirectory() as folder:
            theirs = replayed(
                Path(folder), rows, prefill, decode, profile.max_batch, profile.kv_capacity_tokens
            )
        played = simulate([Request(*row) for row in rows], read_profile(), prefill, decode)
        playground = [
            quantile(values, q)
            for values in (
                [one.time_to_first_token for one in played],
                [one.inter_token for one in played],
            )
            for q in (0.5, 0.9)
        ]
        for who, figures in (("weft", own), ("playground", playground), ("mocker", theirs)):
            texts = " | ".join(f"{each * 1000:,.0f} ms" for each in figures)
            print(f"| {prefill}:{decode} | {start:,.0f} s | {who} | {texts} |", flush=True)
        worst = max(worst, *(abs(one[i] / theirs[i] - 1) for one in (own, playground) for i in (0, 2)))
    print(f"\nlargest difference of a p50: {worst * 100:.1f} %\n")
    points = compare_shares(os.environ.get("CASES") or "scarce,recorded", int(os.environ.get("SEED") or 101))
    print(f"\nlargest difference of a share: {points:.1f} points\n")
    return int(worst > ALLOWED or points > POINTS_ALLOWED)


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
) -> list[float]:
    """TTFT p50 and p90, mean ITL of a request p50 and p90, in seconds."""
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
    return [quantile(values, q) for values in (ttft, itl) for q in (0.5, 0.9)]


def quantile(values: Iterable[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(q * len(ordered)) - 1]


if __name__ == "__main__":
    sys.exit(main())

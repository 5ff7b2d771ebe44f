"""Measured hardware against the engine model and the sizing: do they name the split that won, cell by cell?

`make check-engine-model` prints it for dstackai/benchmarks' comparison/pd_ratio (data/): gpt-oss-120b
on eight H200 as four replicas of two, 500 requests in a closed loop, by split, lengths and concurrency. The profile is
fitted to a few of the cells (named below); the others are predicted. Cells with replicas of four GPUs (1P1D) are left
out: another profile.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weft.api import Objectives, Stage
from weft.balancing.demand import Demand
from weft.balancing.profile import Curve, Profile
from weft.balancing.splits import Load, Terms, judge, stage_needs
from weft.balancing.state import Corrections, RoleState, Split
from weft.rehearse.engine import Speeds
from weft.rehearse.trace import Trace
from weft.rehearse.world import DECODES, PREFILLS, World

MEASUREMENTS = Path(__file__).parent / "data" / "dstack-pd-ratio.csv.gz"
SPLITS = ((1, 3), (2, 2), (3, 1))
REQUESTS = 500
HORIZON_SECONDS = 600.0
KV_CAPACITY_TOKENS = 2_000_000
"""Two H200 less the weights of 61 GB hold about 36 KB per token of gpt-oss-120b's caches; never the limit here."""

Cell = tuple[int, int, int]
"""Asked for: prompt tokens, answer tokens, concurrency."""


@dataclass(frozen=True)
class Measured:
    """One run."""

    prompt: float
    answer: float
    output_tokens_per_second: float
    ttft_seconds: float
    tpot_seconds: float


def read(path: Path = MEASUREMENTS) -> dict[Cell, dict[tuple[int, int], Measured]]:
    cells: dict[Cell, dict[tuple[int, int], Measured]] = defaultdict(dict)
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            split = int(row["prefill"]), int(row["decode"])
            if split in SPLITS:
                count = int(row["completed"])
                cells[int(row["isl"]), int(row["osl"]), int(row["conc"])][split] = Measured(
                    float(row["total_input_tokens"]) / count,
                    float(row["total_output_tokens"]) / count,
                    float(row["output_throughput"]),
                    float(row["mean_ttft_ms"]) / 1000,
                    float(row["mean_tpot_ms"]) / 1000,
                )
    return cells


def fitted(cells: Mapping[Cell, Mapping[tuple[int, int], Measured]]) -> Speeds:
    """Decode by batch from the cells of 128 and 2,048 tokens with one or two decode replicas; its KV part from 3:1 at
    32,784 tokens and concurrency 64; prefill from what one prefill replica carried at most of each prompt length."""
    points = {}
    for (isl, osl, concurrency), runs in cells.items():
        if (isl, osl) == (128, 2048):
            for (_, decode), run in runs.items():
                if decode < 3:
                    points.setdefault(concurrency // decode, []).append(run.tpot_seconds)
    batches = sorted(points)
    times = [sum(points[each]) / len(points[each]) for each in batches]
    decode = Curve(tuple(batches), tuple(max(times[: i + 1]) for i in range(len(times))))
    long = cells[32784, 2048, 64][3, 1]
    # Requests in their first-token phase are not in the batch.
    whole = long.ttft_seconds + long.answer * long.tpot_seconds
    batch = 64 * (1 - long.ttft_seconds / whole)
    per_token = (long.tpot_seconds - decode(batch)) / (batch * (long.prompt + long.answer / 2))
    best: dict[int, float] = {}
    for (isl, osl, _), runs in cells.items():
        if (isl, osl) in ((2048, 128), (32784, 2048)) and (1, 3) in runs:
            run = runs[1, 3]
            best[isl] = max(best.get(isl, 0.0), run.output_tokens_per_second / run.answer)
    prefill = Curve((128, 2048, 32784), (1 / best[2048] / 4, 1 / best[2048], 1 / best[32784]))
    profile = Profile(prefill, decode, KV_CAPACITY_TOKENS, 256)
    return Speeds(profile, decode_seconds_per_kv_token=per_token, transfer_seconds_per_token=36e3 * 8 / 400e9)


class ClosedLoop(World):
    """A request arrives when another one has its answer."""

    def __init__(self, concurrency: int, prompt: int, answer: int, speeds: Speeds) -> None:
        self.arrivals = [0.0] * concurrency + [math.inf] * (REQUESTS - concurrency)
        super().__init__(Trace((), (), ()), speeds)
        self.trace = Trace(self.arrivals, (prompt,) * REQUESTS, (answer,) * REQUESTS)  # type: ignore[arg-type]
        self.prompt_tokens, self.answer_tokens = self.trace.prompt_tokens, self.trace.answer_tokens
        self.ttft, self.itl = self.ttft * 0, self.itl * 0
        self.ttft.extend([math.nan] * REQUESTS)
        self.itl.extend([math.nan] * REQUESTS)
        self._sent = concurrency

    def answered(self, request: int, now: float) -> None:
        super().answered(request, now)
        if self._sent < REQUESTS:
            self.arrivals[self._sent] = now
            self._sent += 1


def simulated(split: tuple[int, int], concurrency: int, run: Measured, speeds: Speeds) -> float:
    """Output tokens per second of the engine model."""
    world = ClosedLoop(concurrency, round(run.prompt), round(run.answer), speeds)
    for role in [PREFILLS] * split[0] + [DECODES] * split[1]:
        world.create(role, 0.0)
    world.run_until(math.inf)
    assert world.done == REQUESTS
    return REQUESTS * round(run.answer) / world.now


def sized(concurrency: int, runs: Mapping[tuple[int, int], Measured], speeds: Speeds) -> tuple[int, int]:
    """The split that the planner would choose for the work that the winner carried."""
    run = max(runs.values(), key=lambda each: each.output_tokens_per_second)
    answers = run.output_tokens_per_second
    context = run.prompt + run.answer / 2
    base, extra = speeds.profile, speeds.decode_seconds_per_kv_token
    at_context = Curve(
        base.decode.xs,
        tuple(y + extra * x * context for x, y in zip(base.decode.xs, base.decode.seconds, strict=True)),
    )
    profile = Profile(base.prefill, at_context, base.kv_capacity_tokens, base.max_batch)
    roles = tuple(
        RoleState(name, stage, 1, 4, 1, 2, "same", profile=profile)
        for name, stage in ((PREFILLS, Stage.PREFILL), (DECODES, Stage.DECODE))
    )
    demand = Demand(answers / run.answer * run.prompt, answers, run.prompt, run.answer)
    # Nothing is promised in the measurement: the time between tokens of the slowest split that ran is still good.
    slowest = max(each.tpot_seconds for each in runs.values())
    objectives = Objectives(inter_token_latency_microseconds=round(slowest * 1e6), attainment_permille=500)
    needs = stage_needs(roles, demand, Corrections(), objectives)
    terms, load = Terms(HORIZON_SECONDS, 0.0, {}, overlaps=True), Load([(1.0, needs)])

    def rank(counts: tuple[int, int]) -> tuple[float, float]:
        split = Split.of({PREFILLS: counts[0], DECODES: counts[1]})
        judged = judge(split, split, roles, needs, terms, load)
        return round(judged.late, 2), judged.worst

    return min(runs, key=rank)


def table() -> str:
    """The table of docs/evaluation.md, and how often the split that won is named."""
    cells = read()
    speeds = fitted(cells)
    right = [0, 0]
    lines = [
        "| prompt, answer, concurrency | measured tokens/s | engine model | won | model names | sizing names |",
        "|---|---|---|---|---|---|",
    ]
    for cell in sorted(cells):
        runs = cells[cell]
        model = {split: simulated(split, cell[2], run, speeds) for split, run in runs.items()}
        won = max(runs, key=lambda split: runs[split].output_tokens_per_second)
        named, by_sizing = max(model, key=lambda split: model[split]), sized(cell[2], runs, speeds)
        right[0] += named == won
        right[1] += by_sizing == won
        texts = [
            ", ".join(f"{p}:{d} {value:,.0f}" for (p, d), value in sorted(values.items()))
            for values in ({split: run.output_tokens_per_second for split, run in runs.items()}, model)
        ]
        names = [f"{p}:{d}" for p, d in (won, named, by_sizing)]
        lines.append(
            f"| {cell[0]:,}, {cell[1]:,}, {cell[2]} | {texts[0]} | {texts[1]} | {' | '.join(names)} |"
        )
    won_by = f"the engine model names the split that won in {right[0]}, Weft's sizing in {right[1]}"
    return "\n".join((f"Of {len(cells)} cells {won_by}.", "", *lines))


if __name__ == "__main__":
    print(table())

"""Speeds of one replica (Llama-2-70B on two A100-80GB), from published measurements.

The same numbers play two parts: engines run at these speeds times a seeded error (`SpeedError`), and the
rehearsal that picks the first split uses them as they are, since that is all a planner can know beforehand.
"""

from __future__ import annotations

import csv
import random
import re
import statistics
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"
MEASUREMENTS = DATA / "splitwise" / "llama2-70b-a100-80gb-tp2.csv"

# Two A100-80GB hold 160 GiB (172 GB). Of 95 % of that (vLLM's --gpu-memory-utilization), 138 GB are weights and about
# 2 GB activations; the rest, 23 GB, holds KV blocks of 320 KiB per token (80 layers, 8 KV heads of 128, keys and
# values, 2 bytes). Less memory would make the KV cache and not the batch the limit of the decode stage.
KV_CAPACITY_TOKENS = 70_000
# The largest batch the measurements cover without a gap (the point at 64 is faster than the one at 32).
MAX_BATCH = 32
# A KV cache of 320 KiB per token over 200 Gbit/s, and a round trip to ask for it.
KV_TRANSFER_SECONDS_PER_TOKEN = 320 * 1024 * 8 / 200e9
KV_TRANSFER_SETUP_SECONDS = 0.005


@dataclass(frozen=True)
class Curve:
    """A function given by points; linear between them, proportional to the last one beyond it."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]

    def __call__(self, x: float) -> float:
        xs, ys = self.xs, self.ys
        if x <= xs[0]:
            return ys[0]
        if x >= xs[-1]:
            return ys[-1] * x / xs[-1]
        i = bisect_left(xs, x)
        share = (x - xs[i - 1]) / (xs[i] - xs[i - 1])
        return ys[i - 1] + share * (ys[i] - ys[i - 1])


@dataclass(frozen=True)
class Profile:
    """`prefill`: prompt tokens -> seconds for that prompt alone. `decode`: batch size -> seconds per token."""

    prefill: Curve
    decode: Curve
    kv_capacity_tokens: int = KV_CAPACITY_TOKENS
    max_batch: int = MAX_BATCH


@dataclass(frozen=True)
class SpeedError:
    """Factors on the profile's times: 1.1 means ten per cent slower than the profile says."""

    prefill: float = 1.0
    decode: float = 1.0


def read_profile(path: Path = MEASUREMENTS) -> Profile:
    """Medians of the measurements: prompt times of single prompts, token times by batch size."""
    prefill: dict[int, list[float]] = defaultdict(list)
    decode: dict[int, list[float]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            batch = int(row["batch_size"])
            if batch == 1:
                prefill[int(row["prompt_size"])].append(float(row["prompt_time"]) / 1000)
            if batch <= MAX_BATCH and row["token_size"] == "128":
                decode[batch].append(float(row["token_time"]) / 1000)
    return Profile(prefill=_curve(prefill), decode=_curve(decode))


def _curve(points: dict[int, list[float]]) -> Curve:
    xs = sorted(points)
    return Curve(tuple(float(x) for x in xs), tuple(statistics.median(points[x]) for x in xs))


def replica_number(pod_name: str) -> int:
    """`llama-70b-3` is replica 3 of its group."""
    found = re.search(r"-(\d+)$", pod_name)
    return int(found[1]) if found else 0


def speed_error(
    seed: int, replica: int, *, stage_error: float = 0.30, replica_error: float = 0.20
) -> SpeedError:
    """The true speed of the replica with this number: up to 30 % off per stage and 20 % per replica.

    Depends on the seed and the replica's number only, so replica 3 of either group is the same hardware.
    """
    stages = random.Random(f"stages {seed}")
    prefill = 1 + stages.uniform(-stage_error, stage_error)
    decode = 1 + stages.uniform(-stage_error, stage_error)
    own = 1 + random.Random(f"replica {seed} {replica}").uniform(-replica_error, replica_error)
    return SpeedError(prefill=prefill * own, decode=decode * own)

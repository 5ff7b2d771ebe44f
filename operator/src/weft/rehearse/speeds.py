"""How far off its profile the hardware is."""

from __future__ import annotations

import random


def speed_factors(
    seed: int, replicas: int, stage_error: float, replica_error: float
) -> dict[int, tuple[float, float]]:
    """Factors on the profile's times by replica number, (prefill, decode), for a seed: each stage is off by up to
    `stage_error` for all replicas alike, each replica by up to `replica_error` on top."""
    stages = random.Random(f"stages {seed}")
    prefill = 1 + stages.uniform(-stage_error, stage_error)
    decode = 1 + stages.uniform(-stage_error, stage_error)
    factors = {}
    for number in range(replicas):
        own = 1 + random.Random(f"replica {seed} {number}").uniform(-replica_error, replica_error)
        factors[number] = (prefill * own, decode * own)
    return factors

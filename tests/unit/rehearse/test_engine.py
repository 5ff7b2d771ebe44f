"""The engine in virtual time against the playground's engines, which serve real sockets by the same rules."""

from __future__ import annotations

import math
import random

import pytest

from weft.balancing.profile import Curve, Profile
from weft.rehearse.engine import Speeds
from weft.rehearse.trace import Trace
from weft.rehearse.world import DECODES, PREFILLS, World
from weft_playground.demo.rehearsal import simulate
from weft_playground.profile import (
    KV_TRANSFER_SECONDS_PER_TOKEN,
    KV_TRANSFER_SETUP_SECONDS,
    SpeedError,
    read_profile,
)
from weft_playground.trace import Request

MEASURED = read_profile()
PROFILE = Profile(
    Curve(tuple(int(x) for x in MEASURED.prefill.xs), MEASURED.prefill.ys),
    Curve(tuple(int(x) for x in MEASURED.decode.xs), MEASURED.decode.ys),
    MEASURED.kv_capacity_tokens,
    MEASURED.max_batch,
)
SPEEDS = Speeds(PROFILE, KV_TRANSFER_SETUP_SECONDS, KV_TRANSFER_SECONDS_PER_TOKEN)


def played(trace: Trace, prefill: int, decode: int, factors: dict[int, tuple[float, float]]) -> World:
    world = World(trace, SPEEDS, factors)
    for role in [PREFILLS] * prefill + [DECODES] * decode:
        world.create(role, 0.0)
    world.run_until(math.inf)
    return world


@pytest.mark.parametrize(("seed", "rate"), [(1, 2.0), (2, 5.0), (3, 9.0), (4, 14.0)])
def test_every_request_is_as_fast_as_on_the_engines_of_the_demo(seed: int, rate: float) -> None:
    """Lightly loaded, at the edge, and with queues that grow to the end; KV cache and batch as limits."""
    chance = random.Random(seed)
    rows, at = [], 0.0
    for _ in range(400):
        at += chance.expovariate(rate)
        longest = max(MEASURED.prefill.xs)  # beyond it the two curves go on differently
        rows.append((at, min(int(longest), int(chance.expovariate(1 / 1200)) + 1), chance.randint(1, 400)))
    errors = [SpeedError(chance.uniform(0.8, 1.2), chance.uniform(0.8, 1.2)) for _ in range(7)]
    factors = {number: (each.prefill, each.decode) for number, each in enumerate(errors)}

    world = played(Trace.of(rows), 3, 4, factors)
    expected = simulate([Request(*row) for row in rows], MEASURED, 3, 4, errors)

    assert list(world.ttft) == pytest.approx([each.time_to_first_token for each in expected], rel=1e-6)
    assert list(world.itl) == pytest.approx([each.inter_token for each in expected], rel=1e-6)

"""The engine in virtual time against the playground's engines, which serve real sockets by the same rules."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from weft.balancing.profile import Curve, Profile
from weft.rehearse.engine import ITL_BOUNDS, Speeds
from weft.rehearse.trace import Trace
from weft.rehearse.world import AGGREGATES, DECODES, PREFILLS, World
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


def played(
    trace: Trace, prefill: int, decode: int, factors: dict[int, tuple[float, float]], speeds: Speeds = SPEEDS
) -> World:
    world = World(trace, speeds, factors)
    for role in [PREFILLS] * prefill + [DECODES] * decode:
        world.create(role, 0.0)
    world.run_until(math.inf)
    return world


@pytest.mark.parametrize(("seed", "rate"), [(1, 2.0), (2, 5.0), (3, 9.0), (4, 14.0)])
def test_every_request_is_as_fast_as_on_the_engines_of_the_demo(seed: int, rate: float) -> None:
    """Lightly loaded, at the edge, and with queues that grow to the end; the batch is the limit."""
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


@pytest.mark.parametrize("capacity", [6_000, 12_000])
def test_where_kv_caches_are_full_every_request_is_as_fast_as_on_the_engines_of_the_demo(
    capacity: int,
) -> None:
    """Answers outgrow the room that their prompts left, so that the last to join are computed anew."""
    chance = random.Random(capacity)
    rows = [(each * 0.8, chance.randint(1, 1500), chance.randint(300, 900)) for each in range(150)]
    speeds = replace(SPEEDS, profile=replace(PROFILE, kv_capacity_tokens=capacity))

    world = played(Trace.of(rows), 2, 4, {}, speeds)
    expected = simulate(
        [Request(*row) for row in rows],
        replace(MEASURED, kv_capacity_tokens=capacity),
        2,
        4,
        [SpeedError()] * 6,
    )

    assert list(world.ttft) == pytest.approx([each.time_to_first_token for each in expected], rel=1e-6)
    assert list(world.itl) == pytest.approx([each.inter_token for each in expected], rel=1e-6)


def test_answers_that_outgrow_the_kv_cache_put_the_last_to_join_back() -> None:
    """Two prompts of 400 and answers of 300 in 1,000 tokens: both are admitted, and after 100 tokens one goes back."""
    profile = replace(LINEAR, kv_capacity_tokens=1_000)
    world = World(Trace.of([(0.0, 400, 300), (0.001, 400, 300)]), Speeds(profile, 0.0, 0.0))
    engine = world.create(AGGREGATES, 0.0).engine

    world.run_until(1.5)
    assert (engine.running, engine.waiting) == (2, 0)
    world.run_until(4.0)
    assert (engine.running, engine.waiting) == (1, 1)
    world.run_until(60.0)

    first, second = world.itl
    assert first == pytest.approx(0.02, rel=0.02)
    # It waits for the other's 200 tokens, and its prompt and some 100 tokens are read once more.
    assert second * 299 == pytest.approx(299 * 0.02 + 200 * 0.02 + 0.05, rel=0.03)
    assert engine.holds_nothing
    assert sum(engine.itl_counts) == 2 * 299


LINEAR = Profile(Curve((1, 10_001), (0.0, 1.0)), Curve((1, 8), (0.02, 0.02)), 100_000, 8)
"""10,000 prompt tokens a second, and 20 ms per token whatever the batch."""


@pytest.mark.parametrize(("chunk", "longest"), [(0, 0.42), (1000, 0.12)])
def test_a_prompt_read_in_chunks_lets_others_have_their_tokens_between_them(
    chunk: int, longest: float
) -> None:
    trace = Trace.of([(0.0, 100, 200), (1.0, 4001, 2)])
    world = World(trace, Speeds(LINEAR, chunk_tokens=chunk))
    engine = world.create(AGGREGATES, 0.0).engine
    world.run_until(60.0)
    # The first answer is held up by the whole prompt either way, once or in four parts.
    assert world.itl[0] == pytest.approx(0.02 + 0.4 / 199, rel=1e-2)
    bounds = [bound for bound, count in zip(ITL_BOUNDS, engine.itl_counts, strict=False) if count]
    assert min(bound for bound in ITL_BOUNDS if bound >= longest) == max(bounds)
    assert world.ttft[1] == pytest.approx(0.4 + (0.02 * 4 if chunk else 0.02), abs=0.03)


def test_a_step_takes_longer_with_more_in_the_kv_caches_of_its_batch() -> None:
    trace = Trace.of([(0.0, 1000, 401), (0.0, 3000, 401)])
    world = World(trace, Speeds(LINEAR, 0.0, 0.0, decode_seconds_per_kv_token=1e-6))
    world.create(PREFILLS, 0.0)
    world.create(DECODES, 0.0)
    world.run_until(60.0)
    # Once both are in: 4,000 tokens of prompts, and on average about 2 x 200 of answers.
    assert world.itl[1] == pytest.approx(0.02 + 1e-6 * 4400, rel=0.02)

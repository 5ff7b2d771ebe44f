"""CPU time of one decision on a group's replicas."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from enum import StrEnum

from support.inference import ANSWER_HEAVY, OBJECTIVES, known, role, steady
from weft.api import Stage
from weft.balancing.balancer import Balancer, Config, Observation
from weft.balancing.state import Engine, EngineLoad

ROUNDS, STEPS = 10, 20
"""The best of so many rounds of so many steps: others use the machine, too."""


class Promise(StrEnum):
    """What becomes of it."""

    KEPT = "promise kept"
    MISSED = "promise missed, the split carries the load"
    SHORT = "decode short of replicas, splits judged"


def step_seconds(replicas: int, promise: Promise) -> float:
    """CPU time of one step of a group with so many replicas, an engine's report from each, and a free size."""
    decode = replicas // 4 if promise is Promise.SHORT else replicas // 2
    traffic = known(steady(ANSWER_HEAVY.long.requests * replicas / 8, 940, 281))
    if promise is not Promise.KEPT:
        missed = tuple(
            (bound, part if math.isinf(bound) else 0.8 * part) for bound, part in traffic.ttft_buckets
        )
        traffic = replace(traffic, ttft_buckets=missed)
    balancer = Balancer(
        Config(
            roles=(
                role("prefill", Stage.PREFILL, replicas - decode, maximum=64),
                role("decode", Stage.DECODE, decode, maximum=64),
            ),
            objectives=OBJECTIVES,
            accelerators=2 * replicas,
            minimum_accelerators=2 * replicas,
        )
    )
    load = EngineLoad(8.0, 0.0, 900.0, 150.0, 0.9, 8.0, 0.062, 120.0)
    seen = Observation(
        at_seconds=10_000.0,
        replicas={"prefill": replicas - decode, "decode": decode},
        traffic=replace(traffic, history=(traffic.long,) * 10),
        engines=tuple(
            Engine(name, load)
            for name, count in (("prefill", replicas - decode), ("decode", decode))
            for _ in range(count)
        ),
        decided_at_seconds=0.0,
        moved_at_seconds=0.0,
    )
    found = math.inf
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(STEPS):
            balancer.step(seen)
        found = min(found, (time.thread_time() - began) / STEPS)
    return found

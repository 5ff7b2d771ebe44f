"""What balancing costs the operator: `make bench-balancing-steps`. Prints goals as met or missed.

CPU time of a decision by replicas, and of a pass over a steady group.
"""

from __future__ import annotations

import asyncio
import math
import time

from counted import Row, at_most, noted

from support.fleet import Fleet
from support.inference import ANSWER_HEAVY, known
from support.steps import Promise, step_seconds
from weft.balancing.pace import LOOK_SECONDS

PASSES = 300
GROUPS, GROUP_SECONDS = 1_000, 15.0


def main() -> int:
    rows = [*decisions(), *passes()]
    print("\n".join(row.line() for row in rows))
    return 0


def decisions() -> list[Row]:
    """`Balancer.step` in milliseconds, by what becomes of the promise."""
    return [
        at_most(f"step, {replicas} replicas, {promise}", 1e3 * step_seconds(replicas, promise), "ms", 2.0)
        for replicas in (8, 64)
        for promise in Promise
    ]


def passes() -> list[Row]:
    """A whole pass over a group of nine that changes nothing, from cache and snapshot to statuses."""
    seconds = asyncio.run(pass_seconds())
    return [
        noted("pass over a steady group of 9 replicas", 1e3 * seconds, "ms"),
        at_most(
            f"{GROUPS:,} steady groups, each every {GROUP_SECONDS:g} s",
            GROUPS * seconds / GROUP_SECONDS,
            "cores",
            1.0,
        ),
        noted(
            f"{GROUPS:,} steady groups, each every {LOOK_SECONDS:g} s, as it is",
            GROUPS * seconds / LOOK_SECONDS,
            "cores",
        ),
    ]


async def pass_seconds() -> float:
    fleet = Fleet(4, 5)
    fleet.traffic = known(ANSWER_HEAVY)
    await fleet.run(40)
    found = math.inf
    for _ in range(10):
        began = time.thread_time()
        for _ in range(PASSES // 10):
            await fleet.look()
        found = min(found, (time.thread_time() - began) / (PASSES // 10))
    return found


if __name__ == "__main__":
    raise SystemExit(main())

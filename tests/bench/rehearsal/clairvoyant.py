"""What a size that knew the traffic beforehand would hold: the bound on what any rule can save.

The day is cut into blocks. In each every size is played with the split that meets most there, on the block alone after
a run-up, as if it were in force at once and for nothing. A schedule takes in each block the fewest replicas that meet a
share of its requests, the same share in all blocks, and the lowest with which the whole comes to what is asked for.
It is no proof: other schedules of finer steps may hold less.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from weft.rehearse.play import Case, Run

BLOCK_SECONDS, RUN_UP_SECONDS = 900.0, 600.0
"""Where answers take minutes a block that began empty would need less than it does."""
EVERY = 4
"""Of so many blocks one is looked at."""
ENOUGH = 0.999


@dataclass(frozen=True)
class Block:
    """What each size meets: requests within both objectives by replicas, of so many."""

    requests: int
    met: dict[int, int]

    def fewest(self, share: float) -> int:
        """Replicas that meet so much; where none do, those that meet most."""
        found = (size for size in sorted(self.met) if self.met[size] >= share * self.requests)
        return next(found, max(self.met, key=lambda size: (self.met[size], -size)))


def blocks(case: Case, fixed: Callable[[Case, int, int], Run]) -> Iterator[Block]:
    """One block in so many. `fixed` plays a case with so many prefill and decode replicas."""
    at = 0.0
    while at < case.trace.seconds:
        run_up = min(at, RUN_UP_SECONDS)
        trace = case.trace.cut(at - run_up, at + BLOCK_SECONDS)
        if len(trace):
            yield _block(replace(case, trace=trace), run_up, fixed)
        at += EVERY * BLOCK_SECONDS


def _block(case: Case, run_up: float, fixed: Callable[[Case, int, int], Run]) -> Block:
    own = range(bisect_left(case.trace.at_seconds, run_up), len(case.trace))
    met: dict[int, int] = {}
    near: range | None = None
    for size in range(2, case.most_replicas + 1):
        found: dict[int, int] = {}
        for decode in near or range(1, size):
            if decode < size:
                run = fixed(case, size - decode, decode)
                found[decode] = sum(run.within(request) for request in own)
        best = max(found, key=lambda decode: found[decode])
        met[size] = max(found[best], met.get(size - 1, 0))
        # The best split of one replica more is that of this size with one more for either stage, or beside it.
        near = range(max(1, best - 1), best + 3) if met[size] > len(own) / 10 else None
        if met[size] >= ENOUGH * len(own):
            break
    return Block(len(own), met)


def mean_size(found: list[Block], attainment: float) -> float:
    """Mean replicas of the cheapest of these schedules that meets so much of all requests."""
    total = sum(one.requests for one in found)
    for permille in range(500, 1000, 5):
        sizes = [one.fewest(permille / 1000) for one in found]
        if sum(one.met[size] for one, size in zip(found, sizes, strict=True)) >= attainment * total:
            break
    return sum(sizes) / len(sizes)

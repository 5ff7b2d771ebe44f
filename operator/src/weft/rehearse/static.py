"""Fixed splits: nothing moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from weft.rehearse.moves import Ways
from weft.rehearse.play import Case, Counts, Run, Target, View, play
from weft.rehearse.world import AGGREGATES, DECODES, PREFILLS


class Static:
    """The first split for ever."""

    name = "static"
    interval_seconds = math.inf

    def __init__(self, _: Case) -> None:
        """Like every policy made for a case; it asks nothing of it."""

    def ways(self, case: Case) -> Ways:
        return Ways(case.most_replicas)

    def look(self, view: View) -> Target | None:
        return None


def splits(least: int, most: int, aggregated: bool) -> Iterator[Counts]:
    """Every split of `least` to `most` replicas that can answer a request; with `aggregated` also those with such
    replicas, and with nothing else."""
    for total in range(least, most + 1):
        for both in range(total + 1 if aggregated else 1):
            rest = total - both
            for prefill in range(rest + 1):
                decode = rest - prefill
                if both or (prefill and decode):
                    counts = {PREFILLS: prefill, AGGREGATES: both, DECODES: decode}
                    yield {role: count for role, count in counts.items() if count}


def best_static(case: Case, aggregated: bool, progress: Callable[[float], None]) -> Run:
    """The best fixed split on this very trace, known only in hindsight: the smallest that meets the promised share of
    requests, of those the one that meets most; where none does, the one that meets most of all.

    Raises ValueError where no split has so few replicas.
    """
    candidates = list(splits(case.least_replicas, case.most_replicas, aggregated))
    if not candidates:
        raise ValueError(f"{case.most_replicas} replica: one of each stage are two")
    best: Run | None = None
    for number, counts in enumerate(candidates):
        enough = best is not None and best.attainment >= case.objectives.attainment
        if best is not None and enough and sum(counts.values()) > sum(best.first.values()):
            break
        progress(case.trace.seconds * number / len(candidates))
        run = play(case, Static(case), counts)
        if best is None or _rank(run) < _rank(best):
            best = run
    assert best is not None
    return replace(best, policy="best-static")


def _rank(run: Run) -> tuple[int, float]:
    """Of equally good ones the one with more room to the first token comes first."""
    return -run.world.met, math.fsum(min(each, 1e6) for each in run.world.ttft if not math.isnan(each))

"""Who is compared in the replay, on equal replicas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cases
import constants
import referee
import shipped
from stretches import rehearsed
from tables import AGGREGATED, SHIPPED, STATIC

from weft.rehearse.dynamo import Dynamo
from weft.rehearse.hpa import Hpa
from weft.rehearse.ratio import Ratio
from weft.rehearse.static import best_static
from weft.rehearse.weft_policy import Weft
from weft.rehearse.world import AGGREGATES, DECODES, PREFILLS

REHEARSED = {"hpa": Hpa, "dynamo": Dynamo, "ratio": Ratio, "weft": Weft}


@dataclass(frozen=True)
class Played:
    """One policy on one case. `scrape_seconds` None: it looks at no metrics."""

    policy: str
    split: str
    """To begin with; of fixed ones the split itself."""
    outcome: referee.Outcome
    drains: bool = True
    """Hardware is free when the work on it has ended; else at once, as in engines that serve both stages."""
    scrape_seconds: float | None = None


def every(case: cases.Case, seed: int, scrapes: Sequence[float], chosen: set[str]) -> Iterator[Played]:
    """All policies, or those that are chosen by name."""
    if not chosen or STATIC in chosen:
        for prefill in cases.static_splits(case):
            split = (prefill, case.replicas - prefill)
            yield Played(STATIC, _text(split), referee.play(case, split))
        yield Played(AGGREGATED, f"0:{case.replicas}:0", referee.play_aggregated(case))
        yield from mixed(case, seed)
    first = (case.first_prefill, case.replicas - case.first_prefill)
    missing = shipped.available()
    for drains in (True, False):
        for scrape in scrapes:
            # A replica of a policy that makes and removes them starts as fast as one that flips.
            made = rehearsed(case, seed, scrape, constants.FLIP_SECONDS, overlap=not drains)
            for name, policy in REHEARSED.items():
                if not chosen or name in chosen:
                    asked = policy(made)
                    decide, interval = referee.rehearsed_policy(asked), asked.interval_seconds
                    callback = referee.Callback(case, made, decide, interval, drains)
                    yield Played(name, _text(first), referee.play(case, first, callback), drains, scrape)
        if missing or (chosen and SHIPPED.partition(",")[0] not in chosen):
            continue
        made = rehearsed(case, seed, scrapes[0], constants.FLIP_SECONDS, overlap=not drains)
        decide, interval = shipped.shipped_planner(case), constants.SAMPLE_SECONDS
        callback = referee.Callback(case, made, decide, interval, drains)
        yield Played(SHIPPED, _text(first), referee.play(case, first, callback), drains)
    if missing:
        print(f"left out: NVIDIA Dynamo's own planner ({missing})", flush=True)


def mixed(case: cases.Case, seed: int) -> Iterator[Played]:
    """The mixture with aggregated replicas that is the best in a rehearsal of the same requests, in the replay."""
    made = rehearsed(case, seed, scrape_seconds=1.0, cold_start_seconds=constants.FLIP_SECONDS, overlap=False)
    first = best_static(made, True, lambda _: None).first
    split = first.get(PREFILLS, 0), first.get(AGGREGATES, 0), first.get(DECODES, 0)
    if 0 in split:
        return  # It is among the others.
    shares = [split[1] / case.replicas * factor for factor in constants.MIXED_SHARES]
    outcomes = [referee.play_mixed(case, split, share) for share in shares]
    best = max(outcomes, key=lambda outcome: outcome.within)
    yield Played(AGGREGATED, ":".join(map(str, split)), best)


def _text(split: tuple[int, int]) -> str:
    return f"{split[0]}:{split[1]}"

"""The offered work out of the engines' own counters, where the front end does not tell it. Pure.

Engines count what they have done. What arrives is what prefill ended plus the growth of its queues: as long as a
request waits it is in one of both. Lengths are known when a part ends: prompts at prefill, answers at decode.

One whose series cannot be trusted is taken as the mean of its stage's others. One that changed its role within the long
window has counts of both roles: lengths are those of the others, and how much arrives is not known for so long.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from weft.balancing.series import Buckets, EngineSeries
from weft.balancing.state import Rates

ENTRY = ("prefill", "aggregated")
"""Stages where requests come in, by their labels; the next: where answers are written."""
ANSWERING = ("decode", "aggregated")

SHARE_LEAST = 0.5
"""Part of a stage's replicas whose series have to be trusted: of the others it is taken that they are alike."""
PART_TELLING, REQUESTS_TELLING, DEVIATIONS_TELLING = 1.25, 10.0, 3.0
"""By how much engines and the front end have to differ to contradict each other: as a factor, in requests within the
long window, and in standard deviations of a Poisson count."""
TOKENS_OF_PREFILL = 2.0
"""Tokens per request that prefill writes at most: one. A replica that writes more ends answers of its former role."""
MORE_TELLING = 2.0
"""The same where the front end counts more: what it refuses, and what clients break off, no engine counts."""


@dataclass(frozen=True)
class EngineDemand:
    """What the engines of one group say that arrives. Rates are per second."""

    short: Rates
    long: Rates
    least: float
    """Requests per second in the long window that surely arrived: those of the replicas that tell it."""
    exact: bool
    """Whether no replica changed its role in the long window: rates are those of all, not only the mean lengths."""
    prompt_buckets: Buckets
    answer_buckets: Buckets
    ttft_buckets: Buckets


def from_engines(
    trusted: Mapping[str, EngineSeries],
    expected: Collection[str],
    steady: Collection[str],
    stages: Mapping[str, str],
) -> EngineDemand | None:
    """What arrives; None where engines do not tell it. `stages`: by pod, the value of its stage label."""

    def of(wanted: Sequence[str]) -> tuple[list[EngineSeries], float]:
        pods = [pod for pod in expected if stages.get(pod) in wanted]
        known = [trusted[pod] for pod in pods if pod in trusted and pod in steady]
        return known, len(pods) / len(known) if known else 0.0

    entry, entry_scale = of(ENTRY)
    answering, answer_scale = of(ANSWERING)
    if not entry or not answering:
        return None

    def total(series: Sequence[EngineSeries], scale: float, signal: str) -> float:
        values: list[float | None] = [getattr(one, signal) for one in series]
        # One that tells nothing makes the sum unknown, not smaller.
        return math.nan if None in values else scale * sum(one or 0.0 for one in values)

    def rates(window: str) -> Rates:
        ended = total(entry, entry_scale, f"ended_{window}")
        growth = total(entry, entry_scale, f"waiting_growth_{window}")
        return Rates(
            requests=max(0.0, ended + growth),
            prompts=ended,
            prompt_tokens=total(entry, entry_scale, f"ended_prompt_tokens_{window}"),
            answers=total(answering, answer_scale, f"ended_{window}"),
            answer_tokens=total(answering, answer_scale, f"ended_answer_tokens_{window}"),
        )

    short, long = rates("short"), rates("long")
    least = total(entry, 1.0, "ended_long") + total(entry, 1.0, "waiting_growth_long")
    serving = [pod for pod in expected if stages.get(pod) in (*ENTRY, *ANSWERING)]
    if any(math.isnan(one) for window in (short, long) for one in window.row()):
        return None
    return EngineDemand(
        short,
        long,
        max(0.0, least),
        all(pod in steady for pod in serving),
        added([one.prompt_buckets for one in entry]),
        added([one.answer_buckets for one in answering]),
        added([one.ttft_buckets for one in entry]),
    )


def prompts_read(
    trusted: Mapping[str, EngineSeries],
    expected: Collection[str],
    steady: Collection[str],
    stages: Mapping[str, str],
    window: str,
) -> tuple[float, float] | None:
    """Prompts per second that prefill has read in the window, and their tokens; None where it does not tell.

    Of its replicas those that had one role in the whole window and end no answers of their former one. Where aggregated
    ones read some it is not told: their prompts are counted when their answers end.
    """
    reading = [pod for pod in expected if stages.get(pod) in ENTRY]
    known = [
        one
        for one in (trusted[pod] for pod in reading if pod in trusted and pod in steady)
        if (one.generated_tokens_per_second or 0.0) <= TOKENS_OF_PREFILL * (one.ended_short or 0.0)
    ]
    if not known or any(stages[pod] == "aggregated" for pod in reading):
        return None

    def total(signal: str) -> float:
        values = [getattr(one, f"{signal}_{window}") for one in known]
        return math.nan if None in values else sum(values) * len(reading) / len(known)

    prompts, tokens = total("ended"), total("ended_prompt_tokens")
    return (prompts, tokens) if prompts > 0 and tokens > 0 else None


def reads_part(read: float, recorded: float, seconds: float) -> bool:
    """Whether prefill surely read fewer prompts per second than there were: others read the rest."""
    return read < recorded and _differ(read, recorded, seconds)


def queue_growth(
    trusted: Mapping[str, EngineSeries], expected: Collection[str], stages: Mapping[str, str], window: str
) -> float:
    """Requests per second by which the queues of prefill grow; those that do not tell are taken as the others."""
    pods = [pod for pod in expected if stages.get(pod) in ENTRY]
    values = [
        value
        for pod in pods
        if pod in trusted and (value := getattr(trusted[pod], f"waiting_growth_{window}")) is not None
    ]
    return sum(values) * len(pods) / len(values) if values else 0.0


def misses_requests(counted: float, done: float, seconds: float) -> bool:
    """Whether engines surely got so many more requests per second than the front end counted that it misses some."""
    return done > PART_TELLING * counted and _differ(counted, done, seconds)


def counts_more(counted: float, arrived: float, seconds: float) -> bool:
    """Whether the front end counted so many more requests per second than the engines got that some are not theirs."""
    return counted > MORE_TELLING * arrived and _differ(counted, arrived, seconds)


def _differ(one: float, other: float, seconds: float) -> bool:
    requests = abs(one - other) * seconds
    return requests > REQUESTS_TELLING + DEVIATIONS_TELLING * math.sqrt((one + other) * seconds)


def enough(trusted: Collection[str], expected: Collection[str], stages: Mapping[str, str]) -> bool:
    """Whether of every stage enough replicas have trusted series to speak for the others."""
    by_stage: dict[str, list[bool]] = {}
    for pod in expected:
        by_stage.setdefault(stages.get(pod, ""), []).append(pod in trusted)
    return all(any(known) and sum(known) >= SHARE_LEAST * len(known) for known in by_stage.values())


def added(histograms: Sequence[Buckets]) -> Buckets:
    """Histograms of equal bounds added up. Where they differ in bounds only the common ones can be used."""
    told = [one for one in histograms if one]
    bounds = [[bound for bound, _ in one] for one in told]
    if told and all(one == bounds[0] for one in bounds):
        columns = zip(*([count for _, count in one] for one in told), strict=True)
        return tuple((bound, sum(column)) for bound, column in zip(bounds[0], columns, strict=True))
    counted = [dict(one) for one in told]
    common = set(counted[0]).intersection(*counted[1:]) if counted else set()
    return tuple((bound, sum(one[bound] for one in counted)) for bound in sorted(common))

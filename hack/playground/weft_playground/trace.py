"""Requests of the demo: two stretches of a recorded trace, one after the other.

The stretches differ in their own mix (prompt tokens per answer token: about 3.5, then 10). Quiet minutes are brought
to the second stretch's request rate by superposing a second, shifted copy of the trace (thinned at random where less
than all of it is wanted): that keeps lengths and burstiness as recorded, which compressing time would not.
"""

from __future__ import annotations

import csv
import gzip
import random
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from weft_playground.profile import DATA

TRACE = DATA / "azure-conversation-trace" / "AzureLLMInferenceTrace_conv_2023.csv.gz"


@dataclass(frozen=True)
class Request:
    """One request: when it is sent (seconds from the start of the load) and how long its two parts are."""

    at_seconds: float
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Stretch:
    """A window of the trace and how long the demo plays it.

    `second_copy_minute`: where a superposed copy begins; `second_copy_permille`: how much of it is kept.
    """

    start_minute: float
    seconds: float
    second_copy_minute: float = 0.0
    second_copy_permille: int = 0


def read_trace(path: Path = TRACE) -> list[Request]:
    """The whole trace, times in seconds from its first request."""
    with gzip.open(path, "rt", newline="") as file:
        rows = [
            (
                datetime.fromisoformat(row["TIMESTAMP"][:26]),
                int(row["ContextTokens"]),
                int(row["GeneratedTokens"]),
            )
            for row in csv.DictReader(file)
        ]
    first = rows[0][0]
    return [
        Request((at - first).total_seconds(), max(1, prompt), max(1, answer)) for at, prompt, answer in rows
    ]


def cut(trace: list[Request], start_seconds: float, seconds: float) -> list[Request]:
    """The requests of a window, times from its start. Past the end of the trace it goes on at the beginning."""
    length = trace[-1].at_seconds + 1.0
    start = start_seconds % length
    end = start + seconds
    window = [
        Request(at - start, request.prompt_tokens, request.answer_tokens)
        for request in trace
        for at in (request.at_seconds, request.at_seconds + length)
        if start <= at < end
    ]
    return sorted(window, key=lambda request: request.at_seconds)


def play(
    trace: list[Request], stretches: tuple[Stretch, ...], *, offset_minutes: float = 0.0
) -> list[Request]:
    """The requests of all stretches in the order of their times. `offset_minutes` moves every window."""
    requests: list[Request] = []
    begin = 0.0
    for stretch in stretches:
        window = cut(trace, (stretch.start_minute + offset_minutes) * 60, stretch.seconds)
        if stretch.second_copy_permille:
            copy = cut(trace, (stretch.second_copy_minute + offset_minutes) * 60, stretch.seconds)
            thinning = random.Random(0)
            window += [request for request in copy if thinning.random() * 1000 < stretch.second_copy_permille]
        requests += [
            Request(begin + request.at_seconds, request.prompt_tokens, request.answer_tokens)
            for request in sorted(window, key=lambda request: request.at_seconds)
        ]
        begin += stretch.seconds
    return requests


def thinned(requests: list[Request], share: float) -> list[Request]:
    """A share of the requests, chosen at random but always alike; their times stay."""
    chosen = random.Random(0)
    return requests if share >= 1 else [request for request in requests if chosen.random() < share]


def between(requests: list[Request], start: float, end: float) -> list[Request]:
    """The requests of an interval, times from its start."""
    return [
        Request(request.at_seconds - start, request.prompt_tokens, request.answer_tokens)
        for request in requests
        if start <= request.at_seconds < end
    ]


def prompt_per_answer_token(requests: list[Request]) -> float:
    """The mix of a stretch: prompt tokens for each answer token."""
    return sum(request.prompt_tokens for request in requests) / max(1, sum(r.answer_tokens for r in requests))

"""What became of the promise over the last hours, and the headroom that this asks for: the closed loop of the size.

What is promised allows a part of all requests to be late: the error budget. Requests that are late beyond it widen the
headroom, and while fewer are it narrows, each by the same weight: so the share that is late over hours comes to what
was promised, whatever the profile, the bursts and the cold start are. It is slow (hours), bounded, and follows
requests and not time: a quiet night proves little.
"""

from __future__ import annotations

import math
from dataclasses import replace

from weft.api import Objectives
from weft.balancing.demand import share_about, share_within
from weft.balancing.state import Kept, Traffic

NARROWEST, WIDEST = -0.5, 0.6
"""Bounds of the headroom that the record adds, as a part of what is needed."""
PER_HOUR = 0.12
"""What it loses in an hour of usual load without a late request, where 95 % are promised."""
USUAL_SECONDS = 4 * 3600.0
"""Time over which the usual load and the share that was late are means."""
AIM = 0.95
"""Part of the error budget that is used: what is promised is kept, and not half of the time missed."""
PAUSE_SECONDS = 60.0
"""No more than so much time counts between two readings: what was between is not known."""


class Record:
    """Of one group, in the leader's memory; a new leader goes on from the headroom of the last decision."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._seconds = self._requests = self._late = 0.0
        self._headroom = 0.0

    def with_record(
        self,
        traffic: Traffic,
        objectives: Objectives,
        at: float,
        written_percent: int | None = None,
        may_shrink: bool = True,
        may_grow: bool = True,
    ) -> Traffic:
        """The traffic with what became of the promise until now; `at` in seconds of one clock, `written_percent` the
        headroom that was written down last, which counts at the first call. A group that may not shrink (it is at its
        minimum, or others say its size) learns of no room, and one that may not grow of no lack: it was not tried.

        Without a histogram of the first token, and with no time promised, there is nothing to learn from.
        """
        before, self._at = self._at, at
        if before is None and written_percent is not None:
            self._headroom = _bounded(written_percent / 100)
        late = _late(traffic, objectives)
        if late is None or before is None or at <= before:
            return traffic if self._requests <= 0 else replace(traffic, record=self._kept())
        seconds = min(PAUSE_SECONDS, at - before)
        requests = traffic.ttft_buckets[-1][1] * seconds
        fades = math.exp(-seconds / USUAL_SECONDS)
        self._seconds = self._seconds * fades + seconds
        self._requests = self._requests * fades + requests
        self._late = self._late * fades + requests * late
        allowed = 1 - objectives.attainment_permille / 1000
        hourly = 3600 * self._requests / self._seconds
        # Per request less where fewer may be late: one bad minute of a strict promise is no reason for a larger group.
        gain = PER_HOUR / math.sqrt(0.05 * max(allowed, 0.001))
        change = gain * requests * (late - AIM * allowed) / max(hourly, 1e-9)
        if may_grow if change > 0 else may_shrink:
            self._headroom = _bounded(self._headroom + change)
        return replace(traffic, record=self._kept())

    def _kept(self) -> Kept:
        return Kept(
            1 - self._late / self._requests if self._requests > 0 else 1.0, self._requests, self._headroom
        )


def _bounded(headroom: float) -> float:
    return min(WIDEST, max(NARROWEST, headroom))


def _late(traffic: Traffic, objectives: Objectives) -> float | None:
    """Share of the requests of the long window that missed an objective; None: it is not known."""
    first, between = objectives.time_to_first_token_milliseconds, objectives.inter_token_latency_microseconds
    if first is None:
        return None
    in_time = share_about(traffic.ttft_buckets, first / 1000)
    if in_time is None:
        return None
    if between is not None and (shares := share_within(traffic.itl_buckets, between / 1e6)) is not None:
        # Where the objective lies within a bucket nobody knows; engines of one speed are all on one side of it.
        in_time *= shares[1]
    return 1 - in_time

"""What became of the promise over the last hours, and the headroom that this asks for: the closed loop of the size.

What is promised allows a part of all requests to be late: the error budget. Requests that are late beyond it widen the
headroom, and while fewer are it narrows, each by the same weight: so the share that is late over hours comes to what
was promised, whatever the profile, the bursts and the cold start are. It is slow (hours), bounded, and follows
requests and not time: a quiet night proves little.

A request is late whichever stage it waited for, and counts the same at any hour. Where what is late falls exponentially
with headroom, the promise is kept with the fewest accelerator-hours when each stage and each hour has a part of what is
late in proportion to the hardware that a request takes there: more headroom where that is little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from weft.api import Objectives, Stage
from weft.balancing.demand import share_about, share_within
from weft.balancing.state import Kept, Traffic

NARROWEST, WIDEST = -0.5, 0.6
"""Bounds of the headroom that the record adds, as a part of what is needed."""
PER_HOUR = 0.12
"""What it loses in an hour of usual load without a late request, where 95 % are promised."""
USUAL_SECONDS = 4 * 3600.0
"""Time over which the usual load and the share that was late are means."""
BURST = 0.003
"""Part of a day's requests that is kept back of what may be late: one burst makes so many late, however large the group
is held, and where the day ends before they are made up for the promise has to be kept all the same."""
HELD_SECONDS = 300.0
"""What is late in so long after a group has come to its maximum waited before that, while replicas started."""
PER_HARDWARE = 0.15
"""Headroom that a stage gets, per natural logarithm of how much less hardware a request takes there and now than the
mean of all stages takes of it over a day."""
BEYOND_MOST = 0.3
"""More than this it is not, and not so much less: a night with few requests is followed by a morning."""
RECENT_SECONDS, DAY_SECONDS = 1800.0, 86_400.0
LEAST_REQUESTS = 100.0
"""Of fewer nothing is known of what one takes."""
PAUSE_SECONDS = 60.0
"""No more than so much time counts between two readings: what was between is not known."""


class Record:
    """Of one group, in the leader's memory; a new leader goes on from the headroom of the last decision."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._seconds = self._requests = self._late = 0.0
        self._headroom = 0.0
        self._grew_at = -math.inf
        self._hardware = Hardware()

    def with_record(
        self,
        traffic: Traffic,
        objectives: Objectives,
        at: float,
        written_percent: int | None = None,
        may_shrink: bool = True,
        may_grow: bool = True,
        held: Mapping[Stage, float] = MappingProxyType({}),
        encoded: bool = True,
    ) -> Traffic:
        """The traffic with what became of the promise until now; `at` in seconds of one clock, `written_percent` the
        headroom that was written down last, which counts at the first call. A group that may not shrink (it is at its
        minimum, or others say its size) learns of no room, and one that could not grow for minutes of no lack: it was
        not tried. `held`: accelerators by stage. What is late while encoders do not keep up (not
        `encoded`) is no lack of the other stages.

        Without a histogram of the first token, and with no time promised, there is nothing to learn from.
        """
        before, self._at = self._at, at
        if may_grow:
            self._grew_at = at
        if before is None and written_percent is not None:
            self._headroom = _bounded(written_percent / 100)
        late = _late(traffic, objectives)
        if late is None or before is None or at <= before:
            return traffic if self._requests <= 0 else replace(traffic, record=self._kept())
        seconds = min(PAUSE_SECONDS, at - before)
        requests = traffic.ttft_buckets[-1][1] * seconds
        self._hardware.add(seconds, requests, held)
        fades = math.exp(-seconds / USUAL_SECONDS)
        self._seconds = self._seconds * fades + seconds
        self._requests = self._requests * fades + requests
        self._late = self._late * fades + requests * late
        allowed = 1 - objectives.attainment_permille / 1000
        hourly = 3600 * self._requests / self._seconds
        # Per request less where fewer may be late: one bad minute of a strict promise is no reason for a larger group.
        gain = PER_HOUR / math.sqrt(0.05 * max(allowed, 0.001))
        aim = max(allowed / 2, allowed - BURST)
        change = gain * requests * (late - aim) / max(hourly, 1e-9)
        if encoded and at - self._grew_at < HELD_SECONDS if change > 0 else may_shrink:
            self._headroom = _bounded(self._headroom + change)
        return replace(traffic, record=self._kept())

    def _kept(self) -> Kept:
        in_time = 1 - self._late / self._requests if self._requests > 0 else 1.0
        beyond = {
            stage: min(BEYOND_MOST, max(-BEYOND_MOST, -PER_HARDWARE * math.log(one)))
            for stage, one in self._hardware.dearer().items()
        }
        return Kept(in_time, self._requests, self._headroom, beyond)


class Hardware:
    """What a request takes of it, in accelerator-seconds: lately by stage, and over a day."""

    def __init__(self) -> None:
        self._requests = self._day_requests = self._day = 0.0
        self._stages: dict[Stage, float] = {}

    def add(self, seconds: float, requests: float, held: Mapping[Stage, float]) -> None:
        """So many seconds with so many requests, and accelerators by stage."""
        lately, over_day = math.exp(-seconds / RECENT_SECONDS), math.exp(-seconds / DAY_SECONDS)
        self._requests = self._requests * lately + requests
        self._stages = {
            stage: self._stages.get(stage, 0.0) * lately + seconds * one for stage, one in held.items() if one
        }
        self._day_requests = self._day_requests * over_day + requests
        self._day = self._day * over_day + seconds * sum(held.values())

    def dearer(self) -> dict[Stage, float]:
        """How much more of a stage a request takes lately than of the mean stage over the day."""
        if self._requests < LEAST_REQUESTS:
            return {}
        mean = self._day / self._day_requests / len(self._stages) if self._stages else 0.0
        return {stage: one / self._requests / mean for stage, one in self._stages.items()}


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

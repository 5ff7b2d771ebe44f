"""What Prometheus would show of a world in virtual time: samples at every interval, and the preset's queries over them.

A policy learns nothing but this. Ranges, extrapolation at their edges and the age of samples are Prometheus's; the
signals are those of the built-in preset `vllm`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from weft.balancing.presets import PAST_SECONDS, Windows
from weft.balancing.series import Buckets, EngineSeries, FrontEndSeries, Snapshot
from weft.rehearse.engine import ITL_BOUNDS

NAMESPACE, MODEL = "rehearsal", "model"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""The endpoint picker's histograms of lengths."""
TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
)
"""The endpoint picker's histogram of the time to first token, in seconds."""
KEPT_SECONDS = PAST_SECONDS
"""Samples are there for at least so long: as far back as any policy looks."""
_EXTRAPOLATED_INTERVALS = 1.1

Row = Sequence[float]


def wall(now: float) -> datetime:
    """Virtual seconds as a moment."""
    return EPOCH + timedelta(seconds=now)


def pod_name(number: int) -> str:
    return f"replica-{number}"


@dataclass
class Samples:
    """The samples of one target, oldest first, as far back as a query reads."""

    times: list[float] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    _increases: dict[tuple[int, int, int | None, int | None], list[tuple[float, float] | None]] = field(
        default_factory=dict
    )
    _means: dict[tuple[int, int, int, float], float] = field(default_factory=dict)
    """What does not change between two samples, by first and last + 1 of a range and column: see `rate` and `mean`."""

    def add(self, now: float, row: Row, keep_seconds: float) -> None:
        self.times.append(now)
        self.rows.append(row)
        self._increases.clear()
        self._means.clear()
        if len(self.times) > 64 and self.times[0] < now - 2 * keep_seconds:
            old = bisect_left(self.times, now - keep_seconds)
            del self.times[:old], self.rows[:old]

    def within(self, now: float, seconds: float) -> tuple[int, int]:
        """First and last + 1 of the samples in (now - seconds, now]."""
        return bisect_right(self.times, now - seconds + 1e-9), bisect_right(self.times, now + 1e-9)

    def rate(self, now: float, seconds: float, columns: slice) -> list[float] | None:
        """Prometheus's rate() of these counters over a range: increase between the first and last sample in it,
        extrapolated to its edges. None with fewer than two samples."""
        first, end = self.within(now, seconds)
        if end - first < 2:
            return None
        begin, finish = self.times[first], self.times[end - 1]
        sampled = finish - begin
        interval = sampled / (end - first - 1)
        to_start, to_end = begin - (now - seconds), now - finish
        if to_start >= interval * _EXTRAPOLATED_INTERVALS:
            to_start = interval / 2
        if to_end >= interval * _EXTRAPOLATED_INTERVALS:
            to_end = interval / 2
        key = first, end, columns.start, columns.stop
        increases = self._increases.get(key)
        if increases is None:
            # A counter was zero once: it is not extrapolated to before that.
            increases = self._increases[key] = [
                (after - before, sampled * before / (after - before)) if after > before else None
                for before, after in zip(self.rows[first][columns], self.rows[end - 1][columns], strict=True)
            ]
        return [
            0.0 if one is None else one[0] * (sampled + min(to_start, one[1]) + to_end) / sampled / seconds
            for one in increases
        ]

    def mean(self, now: float, seconds: float, column: int, at_most: float = math.inf) -> float | None:
        """avg_over_time() of a gauge, each sample cut at `at_most`."""
        first, end = self.within(now, seconds)
        if first == end:
            return None
        key = first, end, column, at_most
        found = self._means.get(key)
        if found is None:
            found = sum([min(at_most, row[column]) for row in self.rows[first:end]]) / (end - first)
            self._means[key] = found
        return found


RUNNING, WAITING, KV_USAGE = 0, 1, 2
"""Columns of an engine's samples: gauges, the last one from 0 to 1."""
_ENGINE_LONG, _ENGINE_SHORT = slice(3, None), slice(3, 7)
"""Counters: requests ended and their prompt tokens, prompt and generated tokens; the long ones also ITLs."""


@dataclass
class Scrapes:
    """All targets."""

    scrape_seconds: float
    front: Samples = field(default_factory=Samples)
    _rates: dict[int, Row | None] = field(default_factory=dict)
    """Long-window rates of the front end, by multiple of the long window."""
    engines: dict[int, Samples] = field(default_factory=dict)
    """By replica number: running, waiting, KV usage, requests ended and their prompt tokens, prompt and generated
    tokens, ITL sum, count, and buckets."""

    @property
    def windows(self) -> Windows:
        return Windows(self.scrape_seconds)

    def add(self, now: float, front: Row, engines: Mapping[int, Row]) -> None:
        """One scrape of everything. Who is not there any more vanishes, as a pod's series do."""
        windows = self.windows
        keep = max(KEPT_SECONDS, windows.long_seconds + windows.short_seconds + 2 * self.scrape_seconds)
        self.front.add(now, front, keep)
        for number in self.engines.keys() - engines.keys():
            del self.engines[number]
        for number, row in engines.items():
            self.engines.setdefault(number, Samples()).add(now, row, keep)

    def snapshot(self, now: float) -> Snapshot:
        """What the preset's query would answer."""
        engines = {
            (NAMESPACE, pod_name(number)): self._engine(samples, now)
            for number, samples in self.engines.items()
        }
        front = {(NAMESPACE, MODEL): self._front(now)} if self.front.times else {}
        return Snapshot(wall(now), engines, front)

    def _engine(self, samples: Samples, now: float) -> EngineSeries:
        windows = self.windows
        last = samples.rows[-1]
        long = samples.rate(now, windows.long_seconds, _ENGINE_LONG)
        short = samples.rate(now, windows.short_seconds, _ENGINE_SHORT)
        return EngineSeries(
            running=last[RUNNING],
            waiting=last[WAITING],
            age=now - samples.times[-1],
            targets=1.0,
            resets=0.0,
            prompt_tokens_per_second=long[2] if long else None,
            generated_tokens_per_second=short[3] if short else None,
            ended_short=short[0] if short else None,
            ended_long=long[0] if long else None,
            ended_prompt_tokens_short=short[1] if short else None,
            ended_prompt_tokens_long=long[1] if long else None,
            busy_share=samples.mean(now, windows.long_seconds, RUNNING, 1.0),
            mean_running=samples.mean(now, windows.long_seconds, RUNNING),
            itl_seconds_per_second=long[4] if long else None,
            itl_count_per_second=long[5] if long else None,
            itl_buckets=cumulated(ITL_BOUNDS, long[6:]) if long else (),
        )

    def _front(self, now: float) -> FrontEndSeries:
        windows, samples = self.windows, self.front
        short = samples.rate(now, windows.short_seconds, slice(0, 5))
        long = samples.rate(now, windows.long_seconds, slice(0, None))
        if short is None or long is None:
            return FrontEndSeries(age=now - samples.times[-1], jobs=1.0, resets=0.0)
        prompts, answers, ttft = 5, 5 + len(TOKEN_BOUNDS) + 1, 5 + 2 * (len(TOKEN_BOUNDS) + 1)
        peaks, past = self._peaks(now), self._past(now)
        spread = samples.rate(now, PAST_SECONDS, slice(prompts, ttft)) or []
        return FrontEndSeries(
            requests_short=short[0],
            requests_long=long[0],
            age=now - samples.times[-1],
            jobs=1.0,
            resets=0.0,
            prompts_short=short[1],
            prompts_long=long[1],
            prompt_tokens_short=short[2],
            prompt_tokens_long=long[2],
            prompt_tokens_peak=peaks[0],
            answers_short=short[3],
            answers_long=long[3],
            answer_tokens_short=short[4],
            answer_tokens_long=long[4],
            answer_tokens_peak=peaks[1],
            past_windows=float(len(past)),
            requests_past=max((rates[0] for rates in past), default=None),
            prompt_tokens_past=max((rates[2] for rates in past), default=None),
            prompt_buckets_past=cumulated(TOKEN_BOUNDS, spread[: answers - prompts]),
            answer_buckets_past=cumulated(TOKEN_BOUNDS, spread[answers - prompts :]),
            answer_tokens_past=max((rates[4] for rates in past), default=None),
            prompt_buckets=cumulated(TOKEN_BOUNDS, long[prompts:answers]),
            answer_buckets=cumulated(TOKEN_BOUNDS, long[answers:ttft]),
            ttft_buckets=cumulated(TTFT_BOUNDS, long[ttft:]),
        )

    def _peaks(self, now: float) -> tuple[float, float]:
        """max_over_time() of both token rates, at the absolute multiples of the step that Prometheus evaluates."""
        windows = self.windows
        step, recent = windows.short_seconds / 3, windows.long_seconds - windows.short_seconds
        prompt = answer = 0.0
        for k in range(math.floor((now - recent) / step) + 1, math.floor(now / step) + 1):
            if rates := self.front.rate(k * step, windows.short_seconds, slice(2, 5)):
                prompt, answer = max(prompt, rates[0]), max(answer, rates[2])
        return prompt, answer

    def _past(self, now: float) -> list[Row]:
        """The rates in each long window of the past; what was once computed does not change."""
        long = self.windows.long_seconds
        first, last = math.floor((now - PAST_SECONDS) / long) + 1, math.floor(now / long)
        for k in self._rates.keys() - range(first, last + 1):
            del self._rates[k]
        for k in range(max(0, first), last + 1):
            if k not in self._rates:
                self._rates[k] = self.front.rate(k * long, long, slice(0, 5))
        return [rates for _, rates in sorted(self._rates.items()) if rates is not None]


def cumulated(bounds: Sequence[float], rates: Sequence[float]) -> Buckets:
    """A histogram as Prometheus has it, from what fell into each bucket; the last is beyond all bounds."""
    total, buckets = 0.0, []
    for bound, rate in zip((*bounds, math.inf), rates, strict=True):
        total += rate
        buckets.append((float(bound), total))
    return tuple(buckets)

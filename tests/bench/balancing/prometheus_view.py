"""What Prometheus would show of a replay: counters and gauges kept at each scrape, asked as the presets ask.

Counters are added up between scrapes; a rate is the difference of the first and the last sample in the window over the
time between them. The referee tells of a request's lengths and times when its answer ends, so all histograms are of
ended answers: a front end that counts prompts at arrival knows more.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass, field

from weft.balancing.presets import Windows
from weft.balancing.series import Buckets
from weft.balancing.state import Engine, EngineLoad, Rates, Traffic

TOKEN_BOUNDS = (*(2.0**n for n in range(3, 15)), math.inf)
TTFT_BOUNDS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, math.inf)
ITL_BOUNDS = (0.02, 0.04, 0.06, 0.07, 0.08, 0.095, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, math.inf)


@dataclass
class Histogram:
    bounds: tuple[float, ...]
    counts: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0.0] * len(self.bounds)

    def observe(self, value: float, times: float = 1.0) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += times


@dataclass
class Worker:
    """One engine's gauges, and its counters since it began."""

    role: str
    since: float
    running: float = 0.0
    waiting: float = 0.0
    tokens: float = 0.0
    itl_seconds: float = 0.0
    itl_tokens: float = 0.0


class PrometheusView:
    def __init__(self, scrape_seconds: float) -> None:
        self.windows = Windows(scrape_seconds)
        self.scrape_seconds = scrape_seconds
        self.requests = self.answers = self.prompt_tokens = self.answer_tokens = 0.0
        self.prompts_hist, self.answers_hist = Histogram(TOKEN_BOUNDS), Histogram(TOKEN_BOUNDS)
        self.ttft, self.itl = Histogram(TTFT_BOUNDS), Histogram(ITL_BOUNDS)
        self.workers: dict[tuple[str, int], Worker] = {}
        self.samples: deque[tuple[float, dict[object, float]]] = deque()
        self.peaks: deque[tuple[float, float, float]] = deque()

    def scrape(self, now: float) -> None:
        """Keep what the targets show now."""
        sample: dict[object, float] = {
            "requests": self.requests,
            "answers": self.answers,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
        }
        for name, hist in (
            ("prompt", self.prompts_hist),
            ("answer", self.answers_hist),
            ("ttft", self.ttft),
            ("itl", self.itl),
        ):
            sample |= {(name, i): count for i, count in enumerate(hist.counts)}
        for key, worker in self.workers.items():
            sample |= {
                (key, "running"): worker.running,
                (key, "waiting"): worker.waiting,
                (key, "tokens"): worker.tokens,
                (key, "itl_seconds"): worker.itl_seconds,
                (key, "itl_tokens"): worker.itl_tokens,
            }
        self.samples.append((now, sample))
        while self.samples and self.samples[0][0] < now - self.windows.long_seconds - self.scrape_seconds:
            self.samples.popleft()

    def traffic(self) -> Traffic:
        short, long = (
            Rates(
                requests=self._rate("requests", seconds),
                prompts=self._rate("answers", seconds),
                prompt_tokens=self._rate("prompt_tokens", seconds),
                answers=self._rate("answers", seconds),
                answer_tokens=self._rate("answer_tokens", seconds),
            )
            for seconds in (self.windows.short_seconds, self.windows.long_seconds)
        )
        now = self.samples[-1][0]
        self.peaks.append((now, short.prompt_tokens, short.answer_tokens))
        while self.peaks[0][0] < now - self.windows.long_seconds:
            self.peaks.popleft()
        return Traffic(
            short=short,
            long=long,
            short_seconds=self.windows.short_seconds,
            peak_prompt_tokens_per_second=max(one[1] for one in self.peaks),
            peak_answer_tokens_per_second=max(one[2] for one in self.peaks),
            prompt_buckets=self._buckets("prompt", TOKEN_BOUNDS, self.windows.long_seconds),
            answer_buckets=self._buckets("answer", TOKEN_BOUNDS, self.windows.long_seconds),
            ttft_buckets=self._buckets("ttft", TTFT_BOUNDS, self.windows.long_seconds),
            itl_buckets=self._buckets("itl", ITL_BOUNDS, self.windows.long_seconds),
        )

    def engines(self) -> tuple[Engine, ...]:
        now, last = self.samples[-1]
        found: list[Engine] = []
        for key, worker in self.workers.items():
            if (key, "running") not in last:
                continue
            gauges = [s[(key, "running")] for _, s in self.samples if (key, "running") in s]
            timed = self._rate((key, "itl_tokens"), self.windows.long_seconds)
            spent = self._rate((key, "itl_seconds"), self.windows.long_seconds)
            load = EngineLoad(
                running=last[(key, "running")],
                waiting=last[(key, "waiting")],
                generated_tokens_per_second=self._rate((key, "tokens"), self.windows.short_seconds),
                busy_share=sum(min(1.0, one) for one in gauges) / len(gauges),
                mean_running=sum(gauges) / len(gauges),
                inter_token_seconds=spent / timed if timed > 0 else None,
                tokens_per_second_timed=timed,
            )
            found.append(Engine(worker.role, load, steady=now - worker.since >= self.windows.long_seconds))
        return tuple(found)

    def _rate(self, name: object, seconds: float) -> float:
        now, last = self.samples[-1]
        within = [(at, s[name]) for at, s in self.samples if at > now - seconds - 1e-6 and name in s]
        if len(within) < 2 or name not in last:
            return 0.0
        (begin, first), (end, value) = within[0], within[-1]
        return (value - first) / (end - begin)

    def _buckets(self, name: str, bounds: tuple[float, ...], seconds: float) -> Buckets:
        total, found = 0.0, []
        for index, bound in enumerate(bounds):
            total += self._rate((name, index), seconds)
            found.append((bound, total))
        return tuple(found)

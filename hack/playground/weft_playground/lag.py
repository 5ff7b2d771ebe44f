"""How late a process runs: what it was due to do, against when it did it."""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Lag:
    """Lateness of a process in seconds over all its due times.

    `worst_mean_seconds`: the mean over the worst WINDOW_SECONDS of the run.
    """

    process: str
    count: int
    p50_seconds: float
    p99_seconds: float
    max_seconds: float
    worst_mean_seconds: float = 0.0


class LagMeter:
    """Counts lateness in steps of one millisecond: constant memory, exact enough for a verdict."""

    STEP_SECONDS = 0.001
    STEPS = 10_000
    WINDOW_SECONDS = 5.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._window_end = 0.0
        self._window_count = 0
        self._window_sum = 0.0
        self._worst_mean = 0.0
        self._counts = [0] * (self.STEPS + 1)
        self._max = 0.0
        self._count = 0

    def observe(self, seconds: float) -> None:
        seconds = max(0.0, seconds)
        self._counts[min(self.STEPS, int(seconds / self.STEP_SECONDS))] += 1
        self._count += 1
        self._max = max(self._max, seconds)
        now = self._clock()
        if now >= self._window_end:
            self._close_window()
            self._window_end = now + self.WINDOW_SECONDS
        self._window_count += 1
        self._window_sum += seconds

    def _close_window(self) -> None:
        if self._window_count:
            self._worst_mean = max(self._worst_mean, self._window_sum / self._window_count)
        self._window_count, self._window_sum = 0, 0.0

    def quantile(self, share: float) -> float:
        """The upper end of the step in which that share of all observations is reached."""
        wanted = share * self._count
        seen = 0
        for step, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(self._max, (step + 1) * self.STEP_SECONDS)
        return 0.0

    def lag(self, process: str) -> Lag:
        self._close_window()
        return Lag(process, self._count, self.quantile(0.5), self.quantile(0.99), self._max, self._worst_mean)


def write_lag(path: Path, lag: Lag) -> None:
    path.write_text(json.dumps(asdict(lag)) + "\n")


def read_lag(path: Path) -> Lag:
    return Lag(**json.loads(path.read_text()))


def lags_behind(fronts: Iterable[str]) -> list[Lag]:
    """Those of routers at these URLs, and of the replicas behind them. Raises OSError with the URL."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found: list[Lag] = []
    for url in fronts:
        try:
            with opener.open(f"{url}/lag", timeout=30) as answer:
                found += [Lag(**each) for each in json.load(answer)]
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"the router at {url} does not say how late it runs: {error}") from error
    return found


def worst(lags: Iterable[Lag]) -> list[Lag]:
    """One of each kind of process: the one that was latest in its worst seconds."""
    latest: dict[str, Lag] = {}
    for lag in lags:
        if lag.process not in latest or lag.worst_mean_seconds > latest[lag.process].worst_mean_seconds:
            latest[lag.process] = lag
    return list(latest.values())

"""Prometheus' text format, as much of it as engines and router need: cheap to update, cheap to print."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

# vLLM's bucket edges (seconds), and the endpoint picker's for token counts.
TTFT_SECONDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
)
INTER_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Histogram:
    """Counts by bucket edge, with sum and count."""

    def __init__(self, edges: Iterable[float]) -> None:
        self.edges = tuple(edges)
        self.counts = [0] * (len(self.edges) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.edges, value)] += times
        self.total += value * times


class Exposition:
    """Collects series and prints them; `labels` go on every one of them."""

    def __init__(self, **labels: str) -> None:
        self._labels = ",".join(f'{name}="{value}"' for name, value in labels.items())
        self._lines: list[str] = []

    def gauge(self, name: str, value: float) -> None:
        self._lines += (f"# TYPE {name} gauge", f"{name}{{{self._labels}}} {value}")

    def counter(self, name: str, value: float, **labels: str) -> None:
        more = "".join(f',{label}="{text}"' for label, text in labels.items())
        self._lines += (f"# TYPE {name} counter", f"{name}{{{self._labels}{more}}} {value}")

    def histogram(self, name: str, histogram: Histogram) -> None:
        lines, labels = self._lines, self._labels
        lines.append(f"# TYPE {name} histogram")
        seen = 0
        for edge, count in zip((*histogram.edges, float("inf")), histogram.counts, strict=True):
            seen += count
            text = "+Inf" if edge == float("inf") else f"{edge:g}"
            lines.append(f'{name}_bucket{{{labels},le="{text}"}} {seen}')
        lines += (f"{name}_sum{{{labels}}} {histogram.total}", f"{name}_count{{{labels}}} {seen}")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

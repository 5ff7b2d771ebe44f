"""A process's metrics, all with the same labels, and the bucket edges of vLLM and of the endpoint picker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import prometheus_client as client

# Seconds, as in vLLM.
TTFT_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
)
INTER_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
# As in vLLM, for a model whose contexts end at 8,192.
REQUEST_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
# As in the endpoint picker.
TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)

client.disable_created_metrics()  # type: ignore[no-untyped-call]  # partly annotated


class Metrics:
    """`labels` go on every series."""

    def __init__(self, **labels: str) -> None:
        self._labels = labels
        self._registry = client.CollectorRegistry()

    def counter(self, name: str, **labels: str) -> client.Counter:
        labels = self._labels | labels
        return client.Counter(name, name, labels, registry=self._registry).labels(**labels)

    def counters(self, name: str, label: str, values: Sequence[str]) -> dict[str, client.Counter]:
        """One counter for each value of a label."""
        counter = client.Counter(name, name, [*self._labels, label], registry=self._registry)
        return {value: counter.labels(**self._labels, **{label: value}) for value in values}

    def gauge(self, name: str, value: Callable[[], float]) -> None:
        """One whose value is asked for when it is scraped."""
        gauge = client.Gauge(name, name, self._labels, registry=self._registry).labels(**self._labels)
        gauge.set_function(value)

    def histogram(self, name: str, edges: Sequence[float]) -> client.Histogram:
        made = client.Histogram(name, name, self._labels, buckets=edges, registry=self._registry)
        return made.labels(**self._labels)

    def text(self) -> str:
        return client.generate_latest(self._registry).decode()

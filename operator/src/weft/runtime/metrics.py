"""The operator's own Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class OperatorMetrics:
    """One instance a process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.leader = Gauge("weft_leader", "1 while this replica is the leader.", registry=self.registry)
        self.queue_depth = Gauge("weft_queue_depth", "Keys that wait for a worker.", registry=self.registry)
        self.api_writes = Counter(
            "weft_api_writes",
            "Requests of this process to the API server that may change something.",
            registry=self.registry,
        )
        self.events = Counter(
            "weft_events",
            "Events that this process told; docs/reasons.md says what each reason means.",
            ["kind", "type", "reason"],
            registry=self.registry,
        )
        self.hardware_acts = Counter(
            "weft_hardware_acts",
            "Calls of this process that change what is attached: act attach or detach, by how the manager answered.",
            ["fabric", "act", "outcome"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "weft_reconcile_seconds",
            "Time that one reconciliation took.",
            ["controller"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.reconcile_errors = Counter(
            "weft_reconcile_errors",
            "Reconciliations that ended with an error.",
            ["controller", "error"],
            registry=self.registry,
        )
        self.failing_keys = Gauge(
            "weft_failing_keys",
            "Keys whose last reconciliation ended with an error.",
            ["controller"],
            registry=self.registry,
        )

    def follow(self, lease_seconds: Callable[[], float], depth: Callable[[], int]) -> None:
        """Show what these answer, whenever the metrics are read."""
        self.leader.set_function(lambda: float(lease_seconds() > 0))
        self.queue_depth.set_function(depth)

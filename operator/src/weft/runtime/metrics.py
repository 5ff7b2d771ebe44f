"""The operator's own Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from weft.api.resources import INFERENCE_GROUPS, ResourceType
from weft.cluster import Object

SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
DRAIN_BUCKETS = (1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600)


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
        self.group_events = Counter(
            "weft_group_events",
            "Of these, those of an InferenceGroup that there is: decisions, moves, and what keeps it from them.",
            ["namespace", "group", "reason"],
            registry=self.registry,
        )
        self.drain_seconds = Histogram(
            "weft_drain_seconds",
            "From a replica's leaving the router to its new role (Transfer), its end (Removing) or back (RolledBack).",
            ["end"],
            buckets=DRAIN_BUCKETS,
            registry=self.registry,
        )
        self.hardware_acts = Counter(
            "weft_hardware_acts",
            "Calls of this process that change what is attached: act attach or detach, by how the manager answered.",
            ["fabric", "act", "outcome"],
            registry=self.registry,
        )
        self.fabric_call_seconds = Histogram(
            "weft_fabric_call_seconds",
            "Calls of a fabric's driver, such as one inventory: outcome done, or the error that it ended with.",
            ["fabric", "call", "outcome"],
            buckets=(*SECONDS_BUCKETS, 100),
            registry=self.registry,
        )
        self.fabric_requests = Counter(
            "weft_fabric_requests",
            "HTTP requests that the driver sent to a fabric's manager; status 0: no answer.",
            ["fabric", "method", "status"],
            registry=self.registry,
        )
        self.api_request_seconds = Histogram(
            "weft_api_request_seconds",
            "Requests of this process to the API server, watches apart; status 0: no answer.",
            ["method", "status"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.source_query_seconds = Histogram(
            "weft_source_query_seconds",
            "Queries to a metrics source of the settings, shared by its groups: outcome answered or failed.",
            ["source", "outcome"],
            buckets=SECONDS_BUCKETS,
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

    def event(self, about: Object, kind: str, reason: str) -> None:
        """Count an event."""
        self.events.labels(about.get("kind", ""), kind, reason).inc()
        if about.get("kind") == INFERENCE_GROUPS.kind:
            metadata = about["metadata"]
            self.group_events.labels(metadata["namespace"], metadata["name"], reason).inc()

    def hear(self, resource: ResourceType, before: Object | None, after: Object | None) -> None:
        """Forget a group that is gone: a tenant who makes one after the other must not fill the memory."""
        if resource == INFERENCE_GROUPS and after is None and before is not None:
            metadata = before["metadata"]
            self.group_events.remove_by_labels(
                {"namespace": metadata["namespace"], "group": metadata["name"]}
            )

    def fabric_called(self, fabric: str, call: str, outcome: str, seconds: float) -> None:
        """Count a call of a driver."""
        self.fabric_call_seconds.labels(fabric, call, outcome).observe(seconds)

    def fabric_requested(self, fabric: str, method: str, status: int) -> None:
        """Count a request of a driver."""
        self.fabric_requests.labels(fabric, method, str(status)).inc()

    def api_requested(self, method: str, status: int, seconds: float) -> None:
        """Count a request to the API server."""
        self.api_request_seconds.labels(method, str(status)).observe(seconds)

    def source_queried(self, source: str, outcome: str, seconds: float) -> None:
        """Count a query."""
        self.source_query_seconds.labels(source, outcome).observe(seconds)

    def drained(self, end: str, seconds: float) -> None:
        """Count a drain that ended."""
        self.drain_seconds.labels(end).observe(seconds)

    def follow(self, lease_seconds: Callable[[], float], depth: Callable[[], int]) -> None:
        """Show what these answer, whenever the metrics are read."""
        self.leader.set_function(lambda: float(lease_seconds() > 0))
        self.queue_depth.set_function(depth)

"""What Weft's objects say, as Prometheus metrics: made when they are scraped, from the cache, by the leader alone.

Labels are names of objects that administrators make, namespaces, and words of the API. Logical nodes are counted and
not named, since a tenant can make as many as they like; groups and roles are named.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from weft.api.resources import (
    DEVICE_QUOTAS,
    FABRICS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    POOLS,
)
from weft.balancing.conditions import IN_PROGRESS
from weft.balancing.keys import GroupKey
from weft.balancing.load import GroupLoad
from weft.balancing.plan import Expected
from weft.binding.status import STATES, Tally
from weft.cluster import Object
from weft.runtime.cache import ObjectCache
from weft.runtime.exposed_load import load_families
from weft.runtime.metering import Meter

WITH_CONDITIONS = (FABRICS, *POOLS, DEVICE_QUOTAS, INFERENCE_GROUPS, INFERENCE_ROLES)
AGES = {"0s": 0.0, "1m": 60.0, "10m": 600.0, "1h": 3600.0, "1d": 86400.0}
HOLDS = ("MetricsFresh", "DemandEstimated", "Balanced")
"""The conditions of a group that say why nothing is decided of it, or what was decided waits."""
VALUES = {"True": 1.0, "False": 0.0}
UNKNOWN = -1.0


class Exposed(Collector):
    """`leads`: two replicas that both showed the objects would be added up."""

    def __init__(
        self,
        cache: ObjectCache,
        meter: Meter,
        loads: Mapping[GroupKey, GroupLoad],
        expected: Mapping[GroupKey, Expected],
        tallies: Mapping[tuple[str, str], Tally],
        leads: Callable[[], bool],
        wall: Callable[[], float],
    ) -> None:
        self._cache = cache
        self._expected = expected
        self._tallies = tallies
        self._loads = loads
        self._meter = meter
        self._leads = leads
        self._wall = wall

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        if self._leads():
            yield from self._conditions()
            yield from self._fabrics()
            yield from self._pools()
            yield from self._logical_nodes()
            yield from self._groups()
            yield from load_families(self._loads, self._expected)
            yield from self._held()

    def _conditions(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "weft_condition",
            "A condition of an object: 1 True, 0 False, -1 Unknown. docs/reasons.md says what each means.",
            labels=["kind", "namespace", "name", "condition"],
        )
        for resource in WITH_CONDITIONS:
            for each in self._cache.list(resource):
                for one in _conditions(each):
                    value = VALUES.get(one["status"], UNKNOWN)
                    family.add_metric([resource.kind, *_name(each), one["type"]], value)
        yield family

    def _fabrics(self) -> Iterator[Metric]:
        for what, help_text in (
            ("devices", "Devices at the manager, offered by a pool or not."),
            ("hosts", "Hosts at the manager."),
            ("nodes", "Hosts of the manager whose Node is known."),
        ):
            family = GaugeMetricFamily(f"weft_fabric_{what}", help_text, labels=["fabric"])
            for each in self._cache.list(FABRICS):
                if what in each.get("status", {}):
                    family.add_metric([each["metadata"]["name"]], each["status"][what])
            yield family

    def _pools(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "weft_pool_devices",
            "Devices of a pool by what is done with them.",
            labels=["kind", "pool", "state"],
        )
        for resource in POOLS:
            for each in self._cache.list(resource):
                counts = each.get("status", {}).get("devices")
                for state in STATES if counts else ():
                    labels = [resource.kind, each["metadata"]["name"], state]
                    family.add_metric(labels, counts.get(state, 0))
        yield family
        kept = GaugeMetricFamily(
            "weft_pool_kept_devices",
            "Free devices that are kept for the head of the queue.",
            labels=["kind", "pool"],
        )
        stranded = GaugeMetricFamily(
            "weft_pool_stranded_devices",
            "Free devices that nobody who waits can use, by the reason.",
            labels=["kind", "pool", "reason"],
        )
        for resource in POOLS:
            for each in self._cache.list(resource):
                labels, status = [resource.kind, each["metadata"]["name"]], each.get("status", {})
                if "devices" in status:
                    kept.add_metric(labels, status.get("kept", 0))
                for one in status.get("stranded", ()):
                    stranded.add_metric([*labels, one["reason"]], one["devices"])
        yield kept
        yield stranded
        size = GaugeMetricFamily(
            "weft_pool_bytes",
            "Bytes of a pool's devices (of accelerators: their memory) by what is done with them.",
            labels=["kind", "pool", "state"],
        )
        unavailable = GaugeMetricFamily(
            "weft_pool_unavailable_devices",
            "Devices of a pool that are unavailable, by the first cause of it.",
            labels=["kind", "pool", "cause"],
        )
        for pool, tally in list(self._tallies.items()):
            for state, total in tally.bytes.items():
                size.add_metric([*pool, state], total)
            for cause, count in tally.causes.items():
                unavailable.add_metric([*pool, cause], count)
        yield size
        yield unavailable

    def _logical_nodes(self) -> Iterator[Metric]:
        counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
        oldest: dict[str, float] = {}
        longer: collections.Counter[tuple[str, str]] = collections.Counter()
        planned: collections.Counter[tuple[str, str]] = collections.Counter()
        for each in self._cache.list(LOGICAL_NODES):
            bound = _condition(each, "Bound")
            state, reason = (bound["status"], bound["reason"]) if bound else ("Unknown", "")
            counts[_name(each)[0], state, reason] += 1
            for device in each.get("status", {}).get("plan", {}).get("devices", ()):
                planned[_name(each)[0], device["fabric"]] += 1
            if state != "True":
                age = self._wall() - _seconds(each["metadata"]["creationTimestamp"])
                oldest[reason] = max(oldest.get(reason, 0.0), age)
                for name, seconds in AGES.items():
                    longer[reason, name] += age >= seconds
        family = GaugeMetricFamily(
            "weft_logical_nodes",
            "Logical nodes by the status and reason of their condition Bound.",
            labels=["namespace", "bound", "reason"],
        )
        for labels, count in sorted(counts.items()):
            family.add_metric(labels, count)
        yield family
        waiting = GaugeMetricFamily(
            "weft_logical_node_oldest_waiting_seconds",
            "Age of the oldest logical node that is not bound, by reason.",
            labels=["reason"],
        )
        for reason, age in sorted(oldest.items()):
            waiting.add_metric([reason], age)
        yield waiting
        aged = GaugeMetricFamily(
            "weft_logical_nodes_waiting",
            "Logical nodes that are not bound, by reason, and how long ago at least they were created.",
            labels=["reason", "longer_than"],
        )
        for name_of, number in sorted(longer.items()):
            aged.add_metric(name_of, number)
        yield aged
        plan = GaugeMetricFamily(
            "weft_planned_devices",
            "Devices that would be attached for a namespace if the fabrics in Observe mode were managed.",
            labels=["namespace", "fabric"],
        )
        for place, count in sorted(planned.items()):
            plan.add_metric(place, count)
        yield plan

    def _groups(self) -> Iterator[Metric]:
        replicas = GaugeMetricFamily(
            "weft_role_replicas",
            "Replicas of a role: desired by the group's allocation, with a pod, and serving.",
            labels=["namespace", "group", "role", "stage", "state"],
        )
        for each in self._cache.list(INFERENCE_ROLES):
            namespace, name = _name(each)
            status, spec = each.get("status", {}), each["spec"]
            for state, field in (
                ("desired", "desiredReplicas"),
                ("made", "replicas"),
                ("serving", "readyReplicas"),
            ):
                labels = [namespace, spec["groupRef"]["name"], name, spec["stage"], state]
                replicas.add_metric(labels, status.get(field, 0))
        yield replicas
        decided = GaugeMetricFamily(
            "weft_group_decision_timestamp_seconds",
            "When the group's present split was decided.",
            labels=["namespace", "group"],
        )
        moving = GaugeMetricFamily(
            "weft_group_transfers",
            "Replicas on their way to another role.",
            labels=["namespace", "group", "step"],
        )
        held = GaugeMetricFamily(
            "weft_group_hold",
            "Why a group's split is kept, or a move or a new replica waits, by reason (docs/reasons.md).",
            labels=["namespace", "group", "reason"],
        )
        for each in self._cache.list(INFERENCE_GROUPS):
            status = each.get("status", {})
            if "decision" in status:
                decided.add_metric(_name(each), _seconds(status["decision"]["decisionTime"]))
            steps = collections.Counter(one["step"] for one in status.get("transfers", ()))
            for step, count in sorted(steps.items()):
                moving.add_metric([*_name(each), step], count)
            for reason in sorted(
                {
                    one["reason"]
                    for one in _conditions(each)
                    if one["type"] in HOLDS and one["status"] != "True" and one["reason"] not in IN_PROGRESS
                }
            ):
                held.add_metric([*_name(each), reason], 1)
        yield decided
        yield moving
        yield held

    def _held(self) -> Iterator[Metric]:
        labels = ["namespace", "kind", "pool"]
        devices = GaugeMetricFamily("weft_held_devices", "Devices that a namespace holds now.", labels=labels)
        size = GaugeMetricFamily(
            "weft_held_bytes",
            "Bytes of memory and storage devices that a namespace holds now.",
            labels=labels,
        )
        device_seconds = CounterMetricFamily(
            "weft_held_device_seconds", "Devices that a namespace held, times seconds.", labels=labels
        )
        byte_seconds = CounterMetricFamily(
            "weft_held_byte_seconds", "Bytes that a namespace held, times seconds.", labels=labels
        )
        cost = CounterMetricFamily(
            "weft_held_cost", "What that cost by the pools' spec.cost, in its currency.", labels=labels
        )
        joules = CounterMetricFamily(
            "weft_held_joules", "What that drew by the pools' spec.power.busyWatts.", labels=labels
        )
        for holder, account in self._meter.read().items():
            devices.add_metric(holder, account.devices)
            size.add_metric(holder, account.bytes)
            device_seconds.add_metric(holder, account.device_seconds)
            byte_seconds.add_metric(holder, account.byte_seconds)
            cost.add_metric(holder, account.cost)
            joules.add_metric(holder, account.joules)
        yield from (devices, size, device_seconds, byte_seconds, cost, joules)


def _name(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _conditions(obj: Object) -> list[Object]:
    found: list[Object] = obj.get("status", {}).get("conditions", [])
    return found


def _condition(obj: Object, type: str) -> Object | None:
    return next((one for one in _conditions(obj) if one["type"] == type), None)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()

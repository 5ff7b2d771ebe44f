"""What a Prometheus server sees of Weft's objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from weft.api import Stage
from weft.api.resources import (
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    ResourceType,
)
from weft.balancing.keys import GroupKey
from weft.balancing.load import GroupLoad
from weft.balancing.plan import Expected
from weft.balancing.state import Kept
from weft.binding.status import Tally
from weft.runtime.cache import ObjectCache
from weft.runtime.exposed import Exposed
from weft.runtime.metering import Meter

Object = dict[str, Any]
NOW = 1_767_268_800.0  # 2026-01-01T12:00:00Z
EARLIER = "2026-01-01T11:00:00Z"


def said(type: str, status: str, reason: str = "Reason") -> Object:
    return {"type": type, "status": status, "reason": reason}


def put(
    cache: ObjectCache, resource: ResourceType, name: str, spec: Object, status: Object | None = None
) -> None:
    metadata: Object = {"name": name, "resourceVersion": "1", "creationTimestamp": EARLIER}
    if resource.namespaced:
        metadata["namespace"] = "team-a"
    body: Object = {"kind": resource.kind, "metadata": metadata, "spec": spec}
    cache.put(resource, body if status is None else {**body, "status": status})


def seen(
    cache: ObjectCache,
    leads: bool = True,
    loads: Mapping[GroupKey, GroupLoad] | None = None,
    expected: Mapping[GroupKey, Expected] | None = None,
    tallies: Mapping[tuple[str, str], Tally] | None = None,
) -> dict[tuple[str, frozenset[str]], float]:
    """Value by metric and labels' values, whatever their order."""
    registry = CollectorRegistry()
    meter = Meter(lambda: 0.0)
    registry.register(
        Exposed(cache, meter, loads or {}, expected or {}, tallies or {}, lambda: leads, lambda: NOW)
    )
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_pools_fabrics_and_conditions_are_numbers() -> None:
    cache = ObjectCache()
    conditions = [said("Connected", "True"), said("NoOrphans", "False"), said("Writable", "Unknown")]
    put(cache, FABRICS, "rack", {}, {"devices": 8, "hosts": 2, "nodes": 1, "conditions": conditions})
    put(
        cache,
        GPU_POOLS,
        "a100",
        {"fabricRef": {"name": "rack"}},
        {
            "devices": {"total": 8, "free": 3, "bound": 5},
            "kept": 1,
            "stranded": [{"reason": "NoHost", "devices": 2}],
        },
    )
    put(cache, GPU_POOLS, "unread", {"fabricRef": {"name": "rack"}})

    metrics = seen(cache)
    assert metrics["weft_pool_kept_devices", frozenset({"GPUPool", "a100"})] == 1
    assert metrics["weft_pool_stranded_devices", frozenset({"GPUPool", "a100", "NoHost"})] == 2
    assert metrics["weft_fabric_devices", frozenset({"rack"})] == 8
    assert metrics["weft_condition", frozenset({"Fabric", "", "rack", "Connected"})] == 1
    assert metrics["weft_condition", frozenset({"Fabric", "", "rack", "NoOrphans"})] == 0
    assert metrics["weft_condition", frozenset({"Fabric", "", "rack", "Writable"})] == -1
    assert metrics["weft_pool_devices", frozenset({"GPUPool", "a100", "free"})] == 3
    assert metrics["weft_pool_devices", frozenset({"GPUPool", "a100", "quarantined"})] == 0
    assert not any("unread" in labels for _, labels in metrics)


def test_what_is_planned_at_observed_fabrics_is_counted_by_namespace() -> None:
    cache = ObjectCache()
    plan = {"nodeName": "n", "devices": [{"fabric": "rack"}, {"fabric": "rack"}]}
    put(cache, LOGICAL_NODES, "n", {}, {"plan": plan, "conditions": [said("Bound", "False", "OnlyPlanned")]})
    assert seen(cache)["weft_planned_devices", frozenset({"team-a", "rack"})] == 2


def test_logical_nodes_are_counted_by_reason_and_never_named() -> None:
    cache = ObjectCache()
    put(cache, LOGICAL_NODES, "bound", {}, {"conditions": [said("Bound", "True", "Attached")]})
    for name in ("waits-1", "waits-2"):
        put(cache, LOGICAL_NODES, name, {}, {"conditions": [said("Bound", "False", "NoHost")]})
    put(cache, LOGICAL_NODES, "new", {})

    metrics = seen(cache)
    assert metrics["weft_logical_nodes", frozenset({"team-a", "True", "Attached"})] == 1
    assert metrics["weft_logical_nodes", frozenset({"team-a", "False", "NoHost"})] == 2
    assert metrics["weft_logical_nodes", frozenset({"team-a", "Unknown", ""})] == 1
    assert metrics["weft_logical_node_oldest_waiting_seconds", frozenset({"NoHost"})] == 3600
    assert [
        metrics["weft_logical_nodes_waiting", frozenset({"NoHost", age})]
        for age in ("0s", "1m", "10m", "1h", "1d")
    ] == [2, 2, 2, 2, 0]
    assert not any("waits-1" in labels for _, labels in metrics)


def test_a_groups_replicas_transfers_and_last_decision_are_shown() -> None:
    cache = ObjectCache()
    spec = {"groupRef": {"name": "llama"}, "stage": "Decode"}
    put(cache, INFERENCE_ROLES, "decode", spec, {"desiredReplicas": 3, "replicas": 3, "readyReplicas": 2})
    status = {"decision": {"decisionTime": EARLIER}, "transfers": [{"step": "Draining"}]}
    put(cache, INFERENCE_GROUPS, "llama", {}, status)

    metrics = seen(cache)
    assert metrics["weft_role_replicas", frozenset({"team-a", "llama", "decode", "Decode", "serving"})] == 2
    assert metrics["weft_group_decision_timestamp_seconds", frozenset({"team-a", "llama"})] == NOW - 3600
    assert metrics["weft_group_transfers", frozenset({"team-a", "llama", "Draining"})] == 1


def test_a_groups_traffic_need_and_lateness_are_shown_and_what_is_not_known_is_left_out() -> None:
    needed, within = {Stage.PREFILL: 1.6}, {"TimeToFirstToken": 0.97}
    loads = {
        GroupKey("team-a", "llama"): GroupLoad(4.5, 900.0, 120.0, needed, within),
        GroupKey("team-a", "idle"): GroupLoad(0.0, None, None, {}, {}),
    }

    metrics = seen(ObjectCache(), loads=loads)
    assert {key: value for key, value in metrics.items() if "team-a" in key[1]} == {
        ("weft_group_requests_per_second", frozenset({"team-a", "llama"})): 4.5,
        ("weft_group_requests_per_second", frozenset({"team-a", "idle"})): 0,
        ("weft_group_tokens_per_second", frozenset({"team-a", "llama", "prompts"})): 900,
        ("weft_group_tokens_per_second", frozenset({"team-a", "llama", "answers"})): 120,
        ("weft_group_needed_replicas", frozenset({"team-a", "llama", "Prefill"})): 1.6,
        ("weft_group_within_objective_ratio", frozenset({"team-a", "llama", "TimeToFirstToken"})): 0.97,
    }
    assert seen(ObjectCache(), leads=False, loads=loads) == {}


def test_what_engines_were_seen_to_do_is_shown_beside_what_was_expected_of_them() -> None:
    key = GroupKey("team-a", "llama")
    kept = Kept(in_time=0.93, requests=500.0, headroom=0.1)
    loads = {key: GroupLoad(4.5, 900.0, 120.0, {}, {}, {Stage.DECODE: 0.8}, kept)}

    metrics = seen(ObjectCache(), loads=loads, expected={key: Expected(before=0.4, after=0.02)})
    assert metrics["weft_group_speed_ratio", frozenset({"team-a", "llama", "Decode"})] == 0.8
    assert metrics["weft_group_kept_ratio", frozenset({"team-a", "llama"})] == 0.93
    assert metrics["weft_group_headroom_ratio", frozenset({"team-a", "llama"})] == 0.1
    assert metrics["weft_group_expected_late_ratio", frozenset({"team-a", "llama", "before"})] == 0.4
    assert metrics["weft_group_expected_late_ratio", frozenset({"team-a", "llama", "chosen"})] == 0.02


def test_why_a_groups_split_is_kept_is_shown_until_it_is_not_kept_any_more() -> None:
    cache = ObjectCache()
    blind = [said("MetricsFresh", "False", "EngineStale"), said("Balanced", "False", "BudgetTooSmall")]
    moving = [said("MetricsFresh", "True", "Fresh"), said("Balanced", "False", "Moving")]
    put(cache, INFERENCE_GROUPS, "blind", {}, {"conditions": [*blind, said("Ready", "False", "NoRoles")]})
    put(cache, INFERENCE_GROUPS, "moving", {}, {"conditions": moving})

    assert {labels for name, labels in seen(cache) if name == "weft_group_hold"} == {
        frozenset({"team-a", "blind", "EngineStale"}),
        frozenset({"team-a", "blind", "BudgetTooSmall"}),
    }


def test_a_pools_bytes_and_the_causes_of_what_is_unavailable_are_shown() -> None:
    found = Tally()
    found.bytes["free"], found.causes["Unhealthy"] = 80 << 30, 2

    metrics = seen(ObjectCache(), tallies={("GPUPool", "a100"): found})
    assert metrics["weft_pool_bytes", frozenset({"GPUPool", "a100", "free"})] == 80 << 30
    assert metrics["weft_pool_bytes", frozenset({"GPUPool", "a100", "bound"})] == 0
    assert metrics["weft_pool_unavailable_devices", frozenset({"GPUPool", "a100", "Unhealthy"})] == 2


def test_a_replica_that_does_not_lead_shows_no_objects() -> None:
    cache = ObjectCache()
    put(cache, FABRICS, "rack", {}, {"devices": 8})

    assert seen(cache, leads=False) == {}

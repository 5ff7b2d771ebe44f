"""What the operator's view of the cluster does to objects on a real API server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from support.connecting import kube_client
from support.eventually import eventually
from weft.api.resources import EVENTS, LOGICAL_NODES, PODS
from weft.cluster import InvalidError, Object
from weft.runtime.cache import ObjectCache
from weft.runtime.cluster import LiveCluster
from weft.runtime.metrics import OperatorMetrics
from weft_dev.controlplane import ControlPlane


def node(namespace: str) -> Object:
    spec = {"accelerators": [{"name": "main", "count": 1}]}
    return {"metadata": {"name": "n", "namespace": namespace}, "spec": spec}


async def test_a_status_written_from_the_cache_leaves_the_managed_fields_of_others(
    control_plane: ControlPlane, namespace: str
) -> None:
    client = await kube_client(control_plane)
    cluster = LiveCluster(client, ObjectCache(), "test", lambda: True, OperatorMetrics())
    try:
        await cluster.create(LOGICAL_NODES, node(namespace))
        cached = cluster.get(LOGICAL_NODES, "n", namespace)
        assert cached is not None
        assert "managedFields" not in cached["metadata"]
        await cluster.write_status(LOGICAL_NODES, cached, {"nodeName": "somewhere"})
        stored = await client.get(LOGICAL_NODES, "n", namespace)
    finally:
        await client.close()
    assert stored["status"] == {"nodeName": "somewhere"}
    parts = [sorted(entry["fieldsV1"]) for entry in stored["metadata"]["managedFields"]]
    assert sorted(parts) == [["f:spec"], ["f:status"]]


async def test_what_nothing_holds_is_out_of_the_cache_when_its_deletion_returns(
    control_plane: ControlPlane, namespace: str
) -> None:
    client = await kube_client(control_plane)
    cluster = LiveCluster(client, ObjectCache(), "test", lambda: True, OperatorMetrics())
    pod = {"spec": {"containers": [{"name": "main", "image": "job:1"}], "schedulerName": "nobody"}}
    held = {"name": "held", "namespace": namespace, "finalizers": ["weft.dev/fabric"]}
    try:
        await cluster.create(LOGICAL_NODES, node(namespace))
        await cluster.create(PODS, {**pod, "metadata": {"name": "n", "namespace": namespace}})
        await cluster.create(PODS, {**pod, "metadata": held})
        for resource, name in ((LOGICAL_NODES, "n"), (PODS, "n"), (PODS, "held")):
            await cluster.delete(resource, name, namespace)
        assert cluster.list(LOGICAL_NODES, namespace) == []
        (left,) = cluster.list(PODS, namespace)
        assert left["metadata"]["name"] == "held"
        await cluster.patch(PODS, "held", namespace, {"metadata": {"finalizers": None}})
        assert cluster.list(PODS, namespace) == []
    finally:
        await client.close()


async def test_a_misspelt_field_is_refused_and_not_dropped(
    control_plane: ControlPlane, namespace: str
) -> None:
    client = await kube_client(control_plane)
    cluster = LiveCluster(client, ObjectCache(), "test", lambda: True, OperatorMetrics())
    container = {"name": "main", "image": "job:1", "readynessProbe": {"httpGet": {"port": 1}}}
    pod = {"metadata": {"name": "n", "namespace": namespace}, "spec": {"containers": [container]}}
    try:
        with pytest.raises(InvalidError, match="readynessProbe"):
            await cluster.create(PODS, pod)
    finally:
        await client.close()


async def test_an_event_that_is_told_again_is_counted_and_not_made_anew(
    control_plane: ControlPlane, namespace: str
) -> None:
    client = await kube_client(control_plane)
    metrics = OperatorMetrics()
    cluster = LiveCluster(client, ObjectCache(), "test", lambda: True, metrics)

    async def found() -> list[Object]:
        return list(await client.find(EVENTS, namespace, "reason=Bound"))

    try:
        about = await cluster.create(LOGICAL_NODES, node(namespace))
        cluster.event(about, "Normal", "Bound", "all devices are attached")
        await eventually(found, what="the event")
        for _ in range(3):
            cluster.event(about, "Normal", "Bound", "all devices are attached")
        await eventually(lambda: _counted(found), what="its series")
    finally:
        await client.close()
    told = metrics.registry.get_sample_value(
        "weft_events_total", {"kind": "LogicalNode", "type": "Normal", "reason": "Bound"}
    )
    assert told == 4


async def _counted(found: Callable[[], Awaitable[list[Object]]]) -> bool:
    (event,) = await found()
    # Those that were told before the first was written are in it; the others follow within a minute.
    return bool(event.get("series", {}).get("count", 0) >= 2)

"""What the cache knows after a write, when a watch is silent."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest

from support.eventually import eventually
from weft.api.resources import DEVICE_ATTACHMENTS, INFERENCE_GROUPS, ResourceType
from weft.cluster import AlreadyExistsError, NotFoundError, Object
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient
from weft.runtime.cluster import LiveCluster
from weft.runtime.metrics import OperatorMetrics

pytestmark = pytest.mark.virtual_time

CLAIM = {"metadata": {"name": "rack.gpu-0", "uid": "u", "resourceVersion": "7"}}


class Empty:
    """An API server that has nothing any more."""

    async def _refuse(self, *_: Any, **__: Any) -> Any:
        raise NotFoundError(404, "NotFound", "no such object")

    patch = delete = _refuse


@pytest.fixture
def cluster() -> LiveCluster:
    cache = ObjectCache()
    cache.put(DEVICE_ATTACHMENTS, CLAIM)
    return LiveCluster(cast(KubeClient, Empty()), cache, "test", lambda: True, OperatorMetrics())


async def test_what_a_patch_does_not_find_is_not_decided_on_again(cluster: LiveCluster) -> None:
    with pytest.raises(NotFoundError):
        await cluster.patch(DEVICE_ATTACHMENTS, "rack.gpu-0", "", {})
    assert cluster.list(DEVICE_ATTACHMENTS) == []


async def test_what_a_deletion_does_not_find_is_not_deleted_again(cluster: LiveCluster) -> None:
    await cluster.delete(DEVICE_ATTACHMENTS, "rack.gpu-0")
    assert cluster.list(DEVICE_ATTACHMENTS) == []


async def test_what_is_told_of_a_group_is_counted_until_the_group_is_gone() -> None:
    cache, metrics = ObjectCache(), OperatorMetrics()
    cache.listen(metrics.hear)
    cluster = LiveCluster(cast(KubeClient, Recorded()), cache, "test", lambda: True, metrics)
    for name in ("llama", "other"):
        metadata = {"name": name, "namespace": "a", "uid": name, "resourceVersion": "1"}
        group = {"kind": "InferenceGroup", "metadata": metadata}
        cache.put(INFERENCE_GROUPS, group)
        cluster.event(group, "Normal", "Decided", "the split changed")

    def told() -> list[str]:
        samples = metrics.group_events.collect()[0].samples
        return [one.labels["group"] for one in samples if one.name == "weft_group_events_total"]

    assert told() == ["llama", "other"]
    cache.remove(INFERENCE_GROUPS, {**group, "metadata": {**group["metadata"], "resourceVersion": "2"}})
    assert told() == ["llama"]


class Recorded:
    """An API server that keeps the Events that it is sent."""

    def __init__(self) -> None:
        self.events: dict[str, Object] = {}
        self.series: list[Object] = []

    async def create(self, resource: ResourceType, body: Object) -> Object:
        name = body["metadata"]["name"]
        if name in self.events:
            raise AlreadyExistsError(409, "AlreadyExists", "")
        self.events[name] = body
        return body

    async def patch(self, resource: ResourceType, name: str, namespace: str, body: Object) -> Object:
        self.series.append(body["series"])
        return body

    def counted(self, counts: list[int]) -> bool:
        return [one["count"] for one in self.series] == counts


async def test_an_event_that_comes_again_and_again_is_counted_to_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weft.runtime.cluster.SERIES_SECONDS", 0.05)
    server = Recorded()
    cluster = LiveCluster(cast(KubeClient, server), ObjectCache(), "test", lambda: True, OperatorMetrics())
    about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b", "uid": "1"}}
    for times, counts in ((2, [2]), (3, [2, 5])):
        for _ in range(times):
            cluster.event(about, "Normal", "Told", "again", ["rack.gpu-1"])
        await eventually(partial(server.counted, counts), every_seconds=0.01)
    (event,) = server.events.values()
    assert event["metadata"]["annotations"] == {"weft.dev/devices": '["rack.gpu-1"]'}
    assert event["metadata"]["labels"] == {"weft.dev/devices": ""}

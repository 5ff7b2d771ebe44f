"""What the cache knows after a write, when a watch is silent."""

from __future__ import annotations

from typing import Any, cast

import pytest

from weft.api.resources import DEVICE_ATTACHMENTS
from weft.cluster import NotFoundError
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient
from weft.runtime.cluster import LiveCluster
from weft.runtime.metrics import OperatorMetrics

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

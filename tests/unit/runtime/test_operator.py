from __future__ import annotations

import asyncio
from typing import Any

import pytest

from weft.api.resources import FABRICS, LOGICAL_NODES, NODES, ResourceType
from weft.runtime import operator as operator_module
from weft.runtime.operator import Operator
from weft.runtime.queue import Key
from weft.runtime.settings import Settings


class Watched:
    """An operator's cache and queue without the operator."""

    def __init__(self) -> None:
        self.operator = Operator(Settings())
        self.operator._cache.listen(self.operator._enqueue)
        self._version = 0

    def see(self, resource: ResourceType, name: str, namespace: str = "", **parts: Any) -> None:
        self._version += 1
        metadata = {"name": name, "resourceVersion": str(self._version), **parts.pop("metadata", {})}
        if namespace:
            metadata["namespace"] = namespace
        self.operator._cache.put(resource, {"metadata": metadata, "spec": {}, **parts})

    async def keys(self) -> list[Key]:
        taken = []
        while len(self.operator._queue):
            taken.append(await self.operator._queue.take())
            self.operator._queue.done(taken[-1])
        return taken


async def test_a_fabric_is_not_read_again_because_its_status_was_written() -> None:
    watched = Watched()
    watched.see(FABRICS, "rack", metadata={"uid": "u", "generation": 1})
    assert await watched.keys() == [Key("fabric", "", "rack")]
    watched.see(FABRICS, "rack", metadata={"uid": "u", "generation": 1}, status={"devices": 1})
    assert await watched.keys() == []
    for change in (
        {"uid": "u", "generation": 2},
        {"uid": "u", "generation": 2, "annotations": {"weft.dev/accept-inventory": "3"}},
        {"uid": "u", "generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"uid": "v", "generation": 1},
    ):
        watched.see(FABRICS, "rack", metadata=change)
        assert await watched.keys() == [Key("fabric", "", "rack")], change
    gone = {"metadata": {"name": "rack", "uid": "v", "generation": 1, "resourceVersion": "99"}}
    watched.operator._cache.remove(FABRICS, gone)
    assert await watched.keys() == [Key("fabric", "", "rack")]


async def test_a_node_that_changes_concerns_the_logical_node_that_it_carries() -> None:
    watched = Watched()
    watched.see(LOGICAL_NODES, "n", "a", status={"nodeName": "sled"})
    await watched.keys()
    watched.see(NODES, "other")
    assert await watched.keys() == []
    watched.see(NODES, "sled")
    assert await watched.keys() == [Key("logicalnode", "a", "n")]


class _Nothing:
    """Stands for what an operator starts; everything it is asked takes no time and does nothing."""

    def __init__(self, *_: Any) -> None:
        self.ended = asyncio.Event()

    def remaining_seconds(self) -> float:
        return 0.0

    def watching(self) -> bool:
        return not self.ended.is_set()

    def start_watching(self, _: Any) -> None:
        self.ended.set()

    async def acquire(self) -> None:
        await asyncio.Event().wait()

    async def prime(self) -> None:
        return

    async def correct(self, _: float) -> None:
        return

    release = stop = close = prime


async def test_a_replica_that_waits_ends_when_its_watches_end_so_that_it_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It could never be ready again, and would leave as soon as it had become the leader."""

    async def configuration() -> None:
        return None

    monkeypatch.setattr(operator_module, "load_configuration", configuration)
    for name in ("KubeClient", "Informer", "Leadership"):
        monkeypatch.setattr(operator_module, name, _Nothing)
    operator = Operator(Settings(health_host="127.0.0.1", health_port=0))
    async with asyncio.timeout(10):
        assert await operator.run() == 1

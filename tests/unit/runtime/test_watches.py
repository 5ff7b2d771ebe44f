from __future__ import annotations

import asyncio
from collections.abc import Hashable
from types import SimpleNamespace
from typing import Any

import pytest

from weft.api.names import LABEL_GROUP
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    NODES,
    PODS,
    ResourceType,
)
from weft.balancing.controller import GroupController
from weft.balancing.keys import GroupKey
from weft.binding.controllers import controllers
from weft.binding.keys import FabricKey, LogicalNodeKey, PlacementKey, PoolsKey
from weft.runtime.cache import ObjectCache
from weft.runtime.queue import WorkQueue
from weft.runtime.watches import Watches

pytestmark = pytest.mark.virtual_time


class World:
    """A cache, and the keys that the controllers' watches make of its changes."""

    def __init__(self) -> None:
        self.cache = ObjectCache()
        self.queue = WorkQueue(1)
        nothing: Any = SimpleNamespace()
        cluster: Any = self.cache
        every = [
            *controllers(cluster, nothing, 15.0, self.queue.add).values(),
            GroupController(cluster, {}, {}),
        ]
        self.watches = Watches(every, cluster, self.queue)
        self._version = 0

    def see(self, resource: ResourceType, name: str, namespace: str = "", **parts: Any) -> None:
        self._version += 1
        metadata = {"name": name, "resourceVersion": str(self._version), **parts.pop("metadata", {})}
        if namespace:
            metadata["namespace"] = namespace
        self.cache.put(resource, {"metadata": metadata, "spec": {}, **parts})

    async def keys(self) -> list[Hashable]:
        """What is to be worked on at once."""
        taken = []
        while len(self.queue):
            taken.append(await self.queue.take())
            self.queue.done(taken[-1])
        return taken

    async def gathered(self, count: int) -> set[Hashable]:
        """The next so many keys, when their time has come."""
        taken = set()
        async with asyncio.timeout(5):
            for _ in range(count):
                taken.add(key := await self.queue.take())
                self.queue.done(key)
        return taken


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def leader(world: World) -> World:
    world.watches.begin(world.cache)
    return world


async def test_a_new_leader_works_on_all_there_is_and_a_replica_that_waits_on_nothing(world: World) -> None:
    world.see(FABRICS, "rack")
    world.see(LOGICAL_NODES, "n", "a")
    world.see(INFERENCE_GROUPS, "g", "b")
    assert await world.keys() == []
    world.watches.begin(world.cache)
    assert set(await world.keys()) == {FabricKey("rack"), LogicalNodeKey("a", "n"), GroupKey("b", "g")}


async def test_a_fabric_is_not_read_again_because_its_status_was_written(leader: World) -> None:
    leader.see(FABRICS, "rack", metadata={"uid": "u", "generation": 1})
    assert await leader.keys() == [FabricKey("rack")]
    leader.see(FABRICS, "rack", metadata={"uid": "u", "generation": 1}, status={"devices": 1})
    assert await leader.keys() == []
    for change in (
        {"uid": "u", "generation": 2},
        {"uid": "u", "generation": 2, "annotations": {"weft.dev/accept-inventory": "3"}},
        {"uid": "u", "generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"uid": "v", "generation": 1},
    ):
        leader.see(FABRICS, "rack", metadata=change)
        assert await leader.keys() == [FabricKey("rack")], change
    gone = {"metadata": {"name": "rack", "uid": "v", "generation": 1, "resourceVersion": "99"}}
    leader.cache.remove(FABRICS, gone)
    assert await leader.keys() == [FabricKey("rack")]


async def test_a_node_that_changes_concerns_the_logical_node_that_is_bound_to_it(leader: World) -> None:
    leader.see(LOGICAL_NODES, "n", "a", status={"nodeName": "sled"})
    await leader.keys()
    leader.see(NODES, "other")
    assert await leader.keys() == []
    leader.see(NODES, "sled")
    assert await leader.keys() == [LogicalNodeKey("a", "n")]


async def test_what_belongs_to_a_group_concerns_the_group(leader: World) -> None:
    leader.see(INFERENCE_ROLES, "decode", "a", spec={"groupRef": {"name": "g"}})
    assert await leader.keys() == [GroupKey("a", "g")]
    leader.see(PODS, "p", "a", metadata={"labels": {LABEL_GROUP: "g"}})
    assert await leader.keys() == [GroupKey("a", "g")]
    leader.see(PODS, "stranger", "a")
    assert await leader.keys() == []
    owner = {"kind": "InferenceGroup", "name": "g"}
    leader.see(LOGICAL_NODES, "n", "a", metadata={"ownerReferences": [owner]})
    assert set(await leader.keys()) == {GroupKey("a", "g"), LogicalNodeKey("a", "n")}


async def test_a_claim_concerns_its_logical_node_at_once_the_pools_soon_and_those_who_wait_when_it_goes(
    leader: World,
) -> None:
    leader.see(DEVICE_ATTACHMENTS, "d", spec={"claimRef": {"namespace": "a", "name": "n"}})
    assert await leader.keys() == [LogicalNodeKey("a", "n")]
    assert await leader.gathered(1) == {PoolsKey()}
    (claim,) = leader.cache.list(DEVICE_ATTACHMENTS)
    leader.cache.remove(DEVICE_ATTACHMENTS, claim)
    assert await leader.keys() == [LogicalNodeKey("a", "n")]
    assert await leader.gathered(2) == {PlacementKey(), PoolsKey()}


@pytest.mark.parametrize(
    ("change", "hurries"),
    [
        ({"status": {"phase": "Failed"}}, False),
        ({"metadata": {"generation": 2}}, True),
        ({"metadata": {"generation": 1, "annotations": {"a": "b"}}}, True),
    ],
)
async def test_a_key_that_fails_is_hurried_by_what_a_user_changes_and_not_by_the_status_it_writes(
    leader: World, change: Any, hurries: bool
) -> None:
    key = LogicalNodeKey("a", "n")
    leader.see(LOGICAL_NODES, "n", "a", metadata={"generation": 1})
    assert await leader.queue.take() == key
    leader.queue.retry(key)
    leader.queue.done(key)
    leader.see(LOGICAL_NODES, "n", "a", **{"metadata": {"generation": 1}, **change})
    assert len(leader.queue) == hurries

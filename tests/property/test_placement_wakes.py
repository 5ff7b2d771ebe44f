"""Whatever happens in whatever order: who still waits at the end would be refused by a leader that knows nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest

from support.rack import Rack, condition
from weft.api.resources import DEVICE_QUOTAS, LOGICAL_NODES, NAMESPACES, NODES
from weft.binding.keys import LogicalNodeKey, PlacementKey

SEEDS, EVENTS = 100, 30
WHAT = (*["new"] * 4, *["gone"] * 4, "cordon", "quota", "health", "label")


class Life:
    """A rack in which things happen while keys are worked on late, early, and in any order."""

    def __init__(self, rack: Rack, seed: int) -> None:
        self.rack = rack
        self.random = random.Random(seed)
        self.names: list[str] = []

    async def happen(self, number: int) -> None:
        """One thing that somebody does."""
        any_of, cluster = self.random, self.rack.cluster
        match any_of.choice(WHAT):
            case "new":
                name, count = f"n{number}", any_of.choice((2, 4))
                self.names.append(name)
                spec = {"accelerators": [{"name": "main", "count": count}]}
                body = {"metadata": {"name": name, "namespace": "a"}, "spec": spec}
                await cluster.create(LOGICAL_NODES, body)
                self._due(name)
            case "gone" if self.names:
                name = self.names.pop(any_of.randrange(len(self.names)))
                await cluster.delete(LOGICAL_NODES, name, "a")
                self._due(name)
            case "cordon":
                host = any_of.choice(self.rack.hosts)
                closed = {"spec": {"unschedulable": any_of.random() < 0.3}}
                await cluster.patch(NODES, f"node-{host}", "", closed)
            case "quota":
                await cluster.patch(DEVICE_QUOTAS, "q", "a", {"spec": quota(any_of.choice((1, 4, 4, 8)))})
            case "health":
                device = any_of.choice(list(self.rack.driver.devices))
                self.rack.driver.devices[device] = any_of.random() < 0.8
            case "label":
                labels = {"metadata": {"labels": {"x": str(number)}}}
                await cluster.patch(NAMESPACES, "a", "", labels)

    async def work(self) -> None:
        """Some of the keys that are asked for, placement's perhaps last."""
        keys = self.rack.keys
        self.random.shuffle(keys)
        if self.random.random() < 0.5:
            keys.sort(key=lambda key: isinstance(key, PlacementKey))
        if self.random.random() < 0.1:
            await self.rack.poll()
        for _ in range(self.random.randrange(6)):
            if keys:
                key = keys.pop(0)
                if await self.rack.reconcile(key) is not None:
                    keys.append(key)

    def _due(self, name: str) -> None:
        self.rack.keys.append(LogicalNodeKey("a", name))

    def bound(self) -> dict[str, str]:
        return {name: condition(self.rack.node(name), "Bound")[0] for name in self.names}


def quota(count: int) -> Any:
    return {"limits": [{"kind": "GPUPool", "name": "gpus", "count": count}]}


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_nobody_waits_for_what_is_free(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rack = Rack(monkeypatch)
    await rack.build()
    metadata = {"name": "q", "namespace": "a"}
    await rack.cluster.create(DEVICE_QUOTAS, {"metadata": metadata, "spec": quota(8)})
    life = Life(rack, seed)
    for number in range(EVENTS):
        await life.happen(number)
        rack.clock.forward(1)
        await life.work()
    for _ in range(3):
        await rack.poll()
    known = life.bound()
    rack.restart()
    await rack.poll()
    for name in life.names:
        await rack.work(name)
    assert life.bound() == known

"""Binds at one manager beside another that hangs: the real controllers, queue and workers, on a clock of the test's.

Nothing computes for any time on that clock: what a bind takes is what it waits for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from support.rack import MemoryDriver, Rack, condition
from support.simulated.loop import VirtualLoop
from weft.api.resources import GPU_POOLS, LOGICAL_NODES, NAMESPACES, ResourceType
from weft.binding.controllers import OF_ALL_THERE_IS
from weft.cluster import Object
from weft.controllers import Now
from weft.fabric.errors import OutcomeUnknown, Transient
from weft.runtime.metrics import OperatorMetrics
from weft.runtime.queue import WorkQueue
from weft.runtime.watches import Watches
from weft.runtime.workers import Workers

WORKERS = 8
BINDS = 8
HUNG = 2 * WORKERS
"""More logical nodes than there are workers wait for the manager that hangs."""
ANSWER_SECONDS, REQUEST_SECONDS = 0.001, 1.0


@dataclass(frozen=True)
class Binds:
    """What binds took, and cost."""

    seconds: list[float]
    writes: Mapping[str, int]
    """By verb: of the logical nodes, their attachments and their Nodes."""
    passes: Mapping[str, int]
    """Over these logical nodes, and of placement."""


class Site:
    """Two racks: `rack`, of the tenant `a`, and `other`, of the tenant `b`."""

    def __init__(self, patch: pytest.MonkeyPatch, loop: VirtualLoop) -> None:
        self._loop = loop
        self._queue = WorkQueue(WORKERS)
        self._rack = Rack(patch, gpus=3 * BINDS, hosts=3 * BINDS)
        self._rack._enqueue = self._queue.add  # type: ignore[assignment,method-assign]
        self._rack.restart()
        self.cluster = self._rack.cluster
        self._drivers = {"a": self._rack.driver, "b": MemoryDriver(HUNG, [f"blade-{n}" for n in range(HUNG)])}
        self._drivers["b"].devices = {f"other-{n}": True for n in range(HUNG)}
        self._rack.drivers["https://other"] = self._drivers["b"]
        self._known: dict[tuple[ResourceType, str, str], Object] = {}
        self._passes: Counter[str] = Counter()

    async def start(self) -> None:
        """Read both managers and begin to work."""
        made = {kind: Counted(each, self._passes) for kind, each in self._rack.controllers.items()}
        self._watches = Watches(made.values(), self.cluster, self._queue)
        self.cluster.heard = self._heard
        for tenant, name in (("a", "rack"), ("b", "other")):
            driver = self._drivers[tenant]
            driver.before_attach = driver.before_attached = driver.before_inventory = answer
            labels = {"tenant": tenant}
            await self.cluster.create(NAMESPACES, {"metadata": {"name": tenant, "labels": labels}})
            hosts = [{"host": host, "nodeName": f"node-{host}"} for host in driver.hosts]
            for host in hosts:
                await self._rack.add_node(host["nodeName"])
            await self._rack.add_fabric(name, endpoint=f"https://{name}", hosts=hosts)
            spec = {"fabricRef": {"name": name}, "selector": {}, "allowedNamespaces": {"matchLabels": labels}}
            await self.cluster.create(GPU_POOLS, {"metadata": {"name": name}, "spec": spec})
        for call in ("create", "patch", "write_status", "delete"):
            setattr(self.cluster, call, later(getattr(self.cluster, call)))
        workers = Workers(made, self._queue, OperatorMetrics(), self._now, OF_ALL_THERE_IS)
        self._tasks = [self._loop.create_task(workers.work()) for _ in range(WORKERS)]
        await asyncio.sleep(20.0)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _now(self) -> Now:
        return Now(self._rack.clock.wall, 1000.0 + self._loop.now)

    def _heard(self, kind: str, resource: ResourceType, obj: Object) -> None:
        key = (resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        before, after = self._known.get(key), None if kind == "DELETED" else obj
        self._known[key] = obj
        if resource in self._watches.resources:
            self._watches.heard(resource, before, after)

    def hang(self) -> None:
        """From now on the other manager answers nothing."""
        driver = self._drivers["b"]
        driver.before_attach = driver.before_attached = nothing_comes(OutcomeUnknown("no answer"))
        driver.before_inventory = nothing_comes(Transient("no answer"))

    async def ask(self, tenant: str, name: str) -> None:
        spec = {"accelerators": [{"name": "main", "count": 1}]}
        await self.cluster.create(
            LOGICAL_NODES, {"metadata": {"name": name, "namespace": tenant}, "spec": spec}
        )

    def is_bound(self, tenant: str, name: str) -> bool:
        node = self.cluster.get(LOGICAL_NODES, name, tenant)
        assert node is not None
        return condition(node, "Bound")[0] == "True"

    async def lone_binds(self, prefix: str) -> Binds:
        """Bind and bind again as `a`, one after the other."""
        self._passes.clear()
        self.cluster.writes.clear()
        seconds = []
        for number in range(BINDS):
            began, name = self._loop.now, f"{prefix}{number}"
            await self.ask("a", name)
            while not self.is_bound("a", name):  # noqa: ASYNC110  # on a clock that waits for nobody
                await asyncio.sleep(ANSWER_SECONDS / 4)
            seconds.append(self._loop.now - began)
            # The next one after what this one caused is over.
            await asyncio.sleep(0.3)
        own = Counter(
            verb for verb, _, name in self.cluster.writes if name.startswith((prefix, "rack.", "node-sled"))
        )
        passes = {
            name: count
            for name, count in self._passes.items()
            if name in ("LogicalNodeKey a", "PlacementKey ")
        }
        return Binds(seconds, own, passes)


class Counted:
    """A controller whose passes are counted."""

    def __init__(self, controller: Any, passes: Counter[str]) -> None:
        self._controller, self._passes = controller, passes
        self.watches = controller.watches

    async def reconcile(self, key: Any, now: Now) -> float | None:
        self._passes[f"{type(key).__name__} {getattr(key, 'namespace', '')}"] += 1
        again: float | None = await self._controller.reconcile(key, now)
        return again


async def answer() -> None:
    await asyncio.sleep(ANSWER_SECONDS)


def later(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def answered(*args: Any, **options: Any) -> Any:
        await answer()
        return await call(*args, **options)

    return answered


def nothing_comes(error: Exception) -> Callable[[], Awaitable[None]]:
    async def waits() -> None:
        await asyncio.sleep(REQUEST_SECONDS)
        raise error

    return waits


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop(0.0, lambda: ANSWER_SECONDS)
    yield loop
    loop.close()


def test_a_manager_that_hangs_costs_another_managers_binds_no_wait_no_pass_and_no_write(
    monkeypatch: pytest.MonkeyPatch, loop: VirtualLoop
) -> None:
    async def run() -> None:
        site = Site(monkeypatch, loop)
        await site.start()
        await site.lone_binds("first")
        alone = await site.lone_binds("alone")
        site.hang()
        for number in range(HUNG):
            await site.ask("b", f"hung{number}")
        beside = await site.lone_binds("beside")
        assert not any(site.is_bound("b", f"hung{number}") for number in range(HUNG))
        assert max(beside.seconds) <= 1.01 * max(alone.seconds)
        assert beside.writes == alone.writes
        assert beside.passes == alone.passes
        await site.stop()

    asyncio.set_event_loop(loop)
    loop.run_until_complete(run())

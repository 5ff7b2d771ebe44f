"""Binding without processes: the reconcilers over a cluster in memory and a fabric manager in memory.

`settle` works off the keys that reconcilers ask for at once, as the work queue would; appointments are the test's.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Hashable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.memory_cluster import MemoryCluster
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    NAMESPACES,
    NODES,
    ResourceType,
)
from weft.binding.controllers import controllers
from weft.binding.fabrics import Fabrics
from weft.binding.keys import FabricKey, LogicalNodeKey, PlacementKey
from weft.cluster import Object
from weft.controllers import Now
from weft.fabric.driver import (
    Capabilities,
    Device,
    DeviceKind,
    Host,
    Inventory,
    Operation,
    OperationPhase,
    Unread,
    Unused,
    Write,
)
from weft.fabric.errors import Unsupported

NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
DONE = Operation("", OperationPhase.SUCCEEDED)


async def nothing() -> None:
    """What happens before a call, unless a test says otherwise."""


class MemoryDriver:
    """A fabric manager with GPUs; `before_*` let a test fail, delay or look."""

    def __init__(self, gpus: int, hosts: list[str]) -> None:
        self.devices = {f"gpu-{n}": True for n in range(gpus)}
        """Healthy or not, by device."""
        self.memories: dict[str, int] = {}
        """Bytes by memory device."""
        self.others: tuple[Device, ...] = ()
        """Devices beside those."""
        self.hosts = hosts
        self.pairs: set[tuple[str, str]] = set()
        self.complete = True
        self.unread = Unread()
        self.other_owners: dict[str, str] = {}
        """Marks of other clusters, by device."""
        self.calls: list[str] = []
        self.closed = False
        self.first: frozenset[str] = frozenset()
        """The devices that the last reading was asked to begin with."""
        self.unused: tuple[Unused, ...] = ()
        self.uuids: dict[str, str] = {}
        """Of the machines, by host."""
        self.made = False
        """Whether machines are there only while devices are attached."""
        self.not_writable: dict[str, str] = {}
        """Why nothing can be attached, by host."""
        self.writes: tuple[Write, ...] = ()
        self.service = ""
        """The manager's own UUID."""
        self.before_inventory: Callable[[], Awaitable[None]] = nothing
        self.before_attach: Callable[[], Awaitable[None]] = nothing
        self.before_attached: Callable[[], Awaitable[None]] = nothing
        self.before_find: Callable[[], Awaitable[None]] = nothing

    async def capabilities(self) -> Capabilities:
        return Capabilities(False, True, self.writes)

    async def inventory(self, first: frozenset[str] = frozenset()) -> Inventory:
        self.first = first
        self.calls.append("inventory")
        devices = tuple(
            Device(name, DeviceKind.ACCELERATOR, {"model": "M"}, 1, healthy)
            for name, healthy in self.devices.items()
        )
        devices += tuple(
            Device(name, DeviceKind.MEMORY, {"type": "CXL"}, size, True)
            for name, size in self.memories.items()
        )
        devices += self.others
        hosts = tuple(
            Host(
                name,
                {},
                True,
                self.uuids.get(name, ""),
                made=self.made,
                closed=self.not_writable.get(name, ""),
            )
            for name in self.hosts
        )
        reading = Inventory(
            devices,
            hosts,
            tuple(sorted(self.pairs)),
            self.complete,
            unread=self.unread,
            unused=self.unused,
            other_owners=self.other_owners,
            service=self.service,
        )
        await self.before_inventory()
        return reading

    async def attached(self, host: str) -> frozenset[str]:
        self.calls.append("attached")
        await self.before_attached()
        return frozenset(device for device, at in self.pairs if at == host)

    async def attach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        self.calls.append("attach")
        await self.before_attach()
        self.pairs |= {(device, host) for device in devices}
        return DONE

    async def detach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        self.calls.append("detach")
        self.pairs -= {(device, host) for device in devices}
        return DONE

    async def operation(self, id: str) -> Operation:
        return DONE

    async def find_operation(self, key: str) -> Operation | None:
        await self.before_find()
        return None

    async def revoke_other_sessions(self) -> int:
        raise Unsupported("no sessions")

    async def close(self) -> None:
        self.closed = True


class FixedLeader:
    """A leader whose lease does not run out unless a test says so."""

    took_over = False
    lease_seconds = 15.0
    left = 15.0

    def remaining_seconds(self) -> float:
        return self.left


class Clock:
    """The wall clock and the machine's, which a test sets."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 1, 1, tzinfo=UTC)
        self.boot = 1000.0

    def now(self) -> Now:
        return Now(self.wall, self.boot)

    def forward(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.boot += seconds


class Rack:
    """A Fabric `rack` with one GPU pool, one Node per host, and the reconcilers."""

    def __init__(self, patch: pytest.MonkeyPatch, *, gpus: int = 4, hosts: int = 2, settle: int = 60) -> None:
        self.clock = Clock()
        self.cluster = MemoryCluster(lambda: self.clock.wall)
        self.hosts = [f"sled-{n}" for n in range(hosts)]
        self.driver = MemoryDriver(gpus, self.hosts)
        self.drivers: dict[str, MemoryDriver] = {"https://rack": self.driver}
        """Managers by endpoint."""
        self.leader = FixedLeader()
        self.secrets: dict[str, Object] = {}
        self.settle_seconds = settle
        self.keys: list[Hashable] = []
        patch.setattr(
            "weft.binding.fabrics.open_driver", lambda name, link, called: self.drivers[link.endpoint]
        )
        self.restart()

    def restart(self) -> None:
        """A new leader that remembers nothing."""
        self.keys.clear()
        self._due: dict[Hashable, float] = {}
        """When keys are to be looked at again, in boot time."""
        self._heard: dict[tuple[ResourceType, str, str], Object] = {}
        self.fabrics = Fabrics(self.cluster, self.read, "weft-system", self.leader)
        self.controllers = controllers(self.cluster, self.fabrics, 15.0, self._enqueue)

    async def read(self, resource: ResourceType, name: str, namespace: str) -> Object | None:
        """How controllers read a Secret."""
        return self.secrets.get(name)

    async def reconcile(self, key: Hashable) -> float | None:
        """One pass over one key."""
        self._hear()
        return await self.controllers[type(key)].reconcile(key, self.clock.now())

    def _hear(self) -> None:
        """Tell placement what changed, as its watches would, but at once."""
        before, self._heard = self._heard, dict(self.cluster.objects)
        for key in before.keys() | self._heard.keys():
            if self._heard.get(key) is before.get(key):
                continue
            last = self._heard.get(key) or before[key]
            for watch in self.controllers[PlacementKey].watches:
                if watch.resource == key[0]:
                    for found in watch.keys(self.cluster, last):
                        self._enqueue(found, 0)

    def _enqueue(self, key: Hashable, after_seconds: float) -> None:
        if after_seconds <= 0 and key not in self.keys:
            self.keys.append(key)

    def keys_of(self, resource: ResourceType, changed: Object) -> list[Hashable]:
        """What the watches make of a change of an object."""
        watches = [watch for each in self.controllers.values() for watch in each.watches]
        found = (watch.keys(self.cluster, changed) for watch in watches if watch.resource == resource)
        return [key for keys in found for key in keys]

    async def build(self, **fabric: Any) -> None:
        """Create the objects and look at the fabric for the first time."""
        await self.cluster.create(NAMESPACES, {"metadata": {"name": "a"}})
        for host in self.hosts:
            await self.add_node(f"node-{host}")
        await self.add_fabric("rack", **{"endpoint": "https://rack", **fabric})
        spec = {"fabricRef": {"name": "rack"}, "selector": {}, "allowedNamespaces": {}}
        await self.cluster.create(GPU_POOLS, {"metadata": {"name": "gpus"}, "spec": spec})
        await self.poll()

    async def add_fabric(self, name: str, **spec: Any) -> None:
        hosts = [{"host": host, "nodeName": f"node-{host}"} for host in self.hosts]
        limits = {"settleSeconds": self.settle_seconds, "requestTimeoutSeconds": 1}
        body = {"mode": "Manage", "limits": limits, "hosts": hosts, **spec}
        await self.cluster.create(FABRICS, {"metadata": {"name": name}, "spec": body})

    async def edit_fabric(self, **spec: Any) -> None:
        await self.cluster.patch(FABRICS, "rack", "", {"spec": spec})
        await self.poll()

    async def add_node(self, name: str) -> None:
        made = await self.cluster.create(NODES, {"metadata": {"name": name}, "spec": {}})
        await self.set_ready(name, made, True)

    async def set_ready(self, name: str, node: Object | None = None, ready: bool = True) -> None:
        node = node or self.cluster.get(NODES, name)
        assert node is not None
        status = {
            "allocatable": {"cpu": "32", "memory": "256Gi"},
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        }
        node = await self.cluster.write_status(NODES, node, status)
        # As the node lifecycle controller does.
        others = [one for one in node["spec"].get("taints", []) if one["key"] != NOT_READY["key"]]
        taints = others if ready else [*others, NOT_READY]
        await self.cluster.patch(NODES, name, "", {"spec": {"taints": taints}})

    async def ask(self, name: str, gpus: int = 2, **spec: Any) -> None:
        """Create a LogicalNode and do what can be done at once."""
        body = {"accelerators": [{"name": "main", "count": gpus}], **spec}
        await self.cluster.create(LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": body})
        await self.work(name)

    async def poll(self, name: str = "rack") -> float | None:
        """Read a fabric, a second later."""
        self.clock.forward(1)
        again = await self.reconcile(FabricKey(name))
        await self.settle()
        return again

    async def work(self, name: str) -> float | None:
        """Work on a LogicalNode until it waits for something, and on what was asked for meanwhile."""
        key = LogicalNodeKey("a", name)
        while (again := await self._look(key)) == 0:
            pass
        await self.settle()
        return again

    async def place_again(self) -> None:
        """A placement pass that was asked for a while ago."""
        await self.reconcile(PlacementKey())
        await self.settle()

    async def pass_by(self, seconds: int) -> None:
        """The fabric is read each second, and nothing else looked at before it is asked for."""
        for _ in range(seconds):
            await self.poll()
            for key in [key for key, at in self._due.items() if at <= self.clock.boot]:
                self._enqueue(key, 0)
            await self.settle()

    async def settle(self) -> None:
        for _ in range(200):
            self._hear()
            if not self.keys:
                return
            key = self.keys.pop(0)
            if await self._look(key) == 0:
                self._enqueue(key, 0)
        raise AssertionError(f"never idle; next would be {self.keys[0]}")

    async def _look(self, key: Hashable) -> float | None:
        """One pass, and when the next one is asked for."""
        again = await self.reconcile(key)
        self._due.pop(key, None)
        if again:
            self._due[key] = self.clock.boot + again
        return again

    def node(self, name: str) -> Object:
        found = self.cluster.get(LOGICAL_NODES, name, "a")
        assert found is not None
        return found

    def claims(self) -> list[Object]:
        return self.cluster.list(DEVICE_ATTACHMENTS)

    def tainted(self) -> dict[str, str]:
        """Value of Weft's taint by Node."""
        return {
            node["metadata"]["name"]: taint["value"]
            for node in self.cluster.list(NODES)
            for taint in node["spec"].get("taints", [])
            if taint["key"] == "weft.dev/logical-node"
        }


def condition(obj: Object, kind: str) -> tuple[str, str]:
    """Status and reason."""
    conditions = obj.get("status", {}).get("conditions", [])
    return next(((item["status"], item["reason"]) for item in conditions if item["type"] == kind), ("", ""))


def secret(**data: bytes) -> Object:
    return {"data": {key: base64.b64encode(value).decode() for key, value in data.items()}}

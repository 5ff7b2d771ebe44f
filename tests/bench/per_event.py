"""What one event costs the operator when much is bound: its own cache, watches and controller, without processes."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from typing import Any, cast

from counted import Row, at_most, noted

from support.rack import FixedLeader, MemoryDriver
from weft.api.names import FINALIZER, TAINT_LOGICAL_NODE
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, LOGICAL_NODES, NODES, ResourceType
from weft.binding.controllers import controllers
from weft.binding.fabrics import Fabrics
from weft.binding.inventory import accept
from weft.binding.keys import LogicalNodeKey
from weft.binding.session import FabricSession
from weft.cluster import Object
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient
from weft.runtime.clock import now
from weft.runtime.cluster import LiveCluster
from weft.runtime.metrics import OperatorMetrics
from weft.runtime.queue import WorkQueue
from weft.runtime.watches import Watches

EVENTS = 300
SIZES = (1_000, 10_000)
"""Devices, two to a logical node."""


class NoServer:
    """Answers a status write as the API server does."""

    def __init__(self, versions: itertools.count[int]) -> None:
        self._versions = versions

    async def replace_status(self, resource: ResourceType, body: Object) -> Object:
        return {**body, "metadata": {**body["metadata"], "resourceVersion": str(next(self._versions))}}

    async def create(self, resource: ResourceType, body: Object) -> Object:
        return body


async def microseconds(devices: int) -> float:
    """Median CPU time over events of logical nodes that change nothing."""
    versions, cache, queue = itertools.count(1), ObjectCache(), WorkQueue(32)
    cluster = LiveCluster(
        cast(KubeClient, NoServer(versions)), cache, "bench", lambda: True, OperatorMetrics()
    )
    leader, count = FixedLeader(), devices // 2
    fabrics = Fabrics(cluster, cluster.read, "weft-system", leader)

    def put(resource: ResourceType, name: str, spec: Object, **more: Any) -> None:
        metadata = {"name": name, "uid": f"{resource.plural}-{name}", "generation": 1}
        if resource.namespaced:
            metadata["namespace"] = "a"
        metadata |= more.pop("metadata", {})
        metadata["resourceVersion"] = str(next(versions))
        kind = {"apiVersion": resource.api_version, "kind": resource.kind}
        cache.put(resource, {**kind, "metadata": metadata, "spec": spec, **more})

    hosts = [{"host": f"sled-{n}", "nodeName": f"node-{n}"} for n in range(count)]
    put(FABRICS, "rack", {"mode": "Manage", "driver": "redfish", "endpoint": "https://rack", "hosts": hosts})
    driver = MemoryDriver(devices, [f"sled-{n}" for n in range(count)])
    for n in range(count):
        taint = {"key": TAINT_LOGICAL_NODE, "value": f"a.n{n}", "effect": "NoSchedule"}
        put(
            NODES,
            f"node-{n}",
            {"taints": [taint]},
            status={"conditions": [{"type": "Ready", "status": "True"}]},
        )
        requests = {"accelerators": [{"name": "main", "count": 2}]}
        put(LOGICAL_NODES, f"n{n}", requests, metadata={"finalizers": [FINALIZER]})
        for device in (f"gpu-{2 * n}", f"gpu-{2 * n + 1}"):
            driver.pairs.add((device, f"sled-{n}"))
            spec = {
                "fabric": "rack",
                "device": device,
                "poolRef": {"kind": "GPUPool", "name": "gpus"},
                "host": f"sled-{n}",
                "nodeName": f"node-{n}",
                "operation": f"op-{n}",
                "request": "main",
                "claimSize": 2,
                "claimRef": {"namespace": "a", "name": f"n{n}", "uid": f"logicalnodes-n{n}"},
            }
            put(DEVICE_ATTACHMENTS, f"rack.{device}", spec, metadata={"finalizers": [FINALIZER]})
    session = FabricSession(
        name="rack",
        uid="fabrics-rack",
        generation=1,
        endpoint="https://rack",
        driver=driver,
        leader=leader,
        request_timeout_seconds=1.0,
        settle_seconds=1.0,
        opened=0.0,
        epoch=1,
        managed=True,
    )
    reading = await driver.inventory()
    session.take(accept(None, 0, reading), reading, session.evidence.next(), 1.0)
    fabrics._sessions["rack"] = session
    made = controllers(cluster, fabrics, 15.0, queue.add)
    watches = Watches(made.values(), cluster, queue)
    watches.begin(cache)
    times = []
    for n in range(EVENTS + 20):
        name = f"n{n * 7 % count}"
        key, raw = LogicalNodeKey("a", name), cluster.get(LOGICAL_NODES, name, "a")
        assert raw is not None
        # The first pass finds it attached and publishes it; what is measured changes nothing any more.
        await made[LogicalNodeKey].reconcile(key, now())
        raw = cluster.get(LOGICAL_NODES, name, "a")
        assert raw is not None
        changed = {**raw["metadata"], "annotations": {"n": str(n)}, "resourceVersion": str(next(versions))}
        began = time.thread_time()
        cache.put(LOGICAL_NODES, {**raw, "metadata": changed})
        await made[LogicalNodeKey].reconcile(key, now())
        times.append(time.thread_time() - began)
    bound = cluster.get(LOGICAL_NODES, "n0", "a")
    assert bound is not None
    assert bound["status"]["deviceCount"] == 2, bound
    return 1e6 * statistics.median(times[20:])


def rows() -> list[Row]:
    """Cost of an event at both sizes, and their ratio."""
    # The quietest of three: something else may run on the machine.
    small, large = (min(asyncio.run(microseconds(size)) for _ in range(3)) for size in SIZES)
    return [
        noted(f"an event with {SIZES[0]} devices bound, median", small, "us"),
        noted(f"an event with {SIZES[1]} devices bound, median", large, "us"),
        at_most(f"an event with {SIZES[1]} devices, of with {SIZES[0]}", large / small, "ratio", 1.2),
    ]


if __name__ == "__main__":
    for row in rows():
        print(row.line())

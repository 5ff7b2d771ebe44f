"""What a pass of placement costs, in CPU time: a part of `make bench-binding`. No process, no API server.

Snapshots as the operator takes them are read and placed on: one request beside those who wait, and bursts that come in
batches while what was placed before becomes claims.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from counted import Row, at_most, noted

from weft.binding.inventory import Picture
from weft.binding.offers import Reader, Snapshot
from weft.binding.plan import Assignment, Placement, Remembered
from weft.binding.search import place_groups
from weft.fabric.driver import Device, DeviceKind, Host, Inventory
from weft.runtime.memory import collect_everything_rarely

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAITING = 1500
EXTRA_GOAL_MS = 3.0
"""A tenth of a lone bind at a manager without latency, which takes 30 ms (docs/performance.md)."""
BURSTS, BATCH = (500, 5000), 25
FABRICS, HOSTS, DEVICES = 5, 1000, 2000
"""Hosts and devices of each fabric."""
GROWTH_GOAL = 1.2


class Site:
    """Objects as the cache has them: one that changes is another object."""

    def __init__(self, fabrics: int, hosts: int, devices: int) -> None:
        self._versions = 0
        self.nodes: dict[str, dict[str, Any]] = {}
        self.claims: list[dict[str, Any]] = []
        self.logical_nodes: list[dict[str, Any]] = []
        self.namespaces = tuple({"metadata": self._meta(name)} for name in ("tenant", "crowd"))
        self.fabrics, self.pools, self.pictures = [], [], {}
        for number in range(fabrics):
            name = f"rack{number}"
            listed = [{"host": f"h{host}", "nodeName": f"{name}-n{host}"} for host in range(hosts)]
            spec: dict[str, Any] = {"endpoint": f"https://{name}", "mode": "Manage", "hosts": listed}
            self.fabrics.append({"kind": "Fabric", "metadata": self._meta(name), "spec": spec})
            spec = {"fabricRef": {"name": name}, "allowedNamespaces": {}}
            self.pools.append({"kind": "GPUPool", "metadata": self._meta(f"{name}-gpus"), "spec": spec})
            for host in range(hosts):
                self._node(f"{name}-n{host}", ())
            found = tuple(
                Device(
                    f"gpu-{device}",
                    DeviceKind.ACCELERATOR,
                    {"type": "GPU", "model": "A100", "nvlinkDomain": f"nvl-{device // 8}"},
                    80 * 2**30,
                    True,
                )
                for device in range(devices)
            )
            inventory = Inventory(found, tuple(Host(f"h{host}", {}, True) for host in range(hosts)), (), True)
            self.pictures[name] = Picture(inventory)

    def _meta(self, name: str, **more: Any) -> dict[str, Any]:
        self._versions += 1
        return {
            "name": name,
            "uid": f"u{self._versions}",
            "resourceVersion": str(self._versions),
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **more,
        }

    def _node(self, name: str, taints: Iterable[dict[str, str]]) -> None:
        status = {
            "allocatable": {"cpu": "64", "memory": "512Gi"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.nodes[name] = {"metadata": self._meta(name), "spec": {"taints": list(taints)}, "status": status}

    def ask(self, name: str, namespace: str, accelerators: dict[str, Any]) -> None:
        spec = {"accelerators": [{"name": "main", **accelerators}]}
        meta = self._meta(name, namespace=namespace)
        self.logical_nodes.append({"kind": "LogicalNode", "metadata": meta, "spec": spec, "status": {}})

    def carry_out(self, assignments: Iterable[Assignment]) -> None:
        """What the controllers of the logical nodes do with what was assigned."""
        for item in assignments:
            waiting, host = item.waiting, item.host
            value = f"{waiting.namespace}.{waiting.name}"
            self._node(
                host.node_name, [{"key": "weft.dev/logical-node", "value": value, "effect": "NoSchedule"}]
            )
            for chosen in item.devices:
                offer = chosen.offer
                spec = {
                    "fabric": offer.fabric,
                    "device": offer.device.id,
                    "host": host.host,
                    "nodeName": host.node_name,
                    "poolRef": {"kind": "GPUPool", "name": offer.pool[1]},
                    "request": chosen.need,
                    "operation": waiting.uid,
                    "claimSize": len(item.devices),
                    "claimRef": {"namespace": waiting.namespace, "name": waiting.name, "uid": waiting.uid},
                }
                meta = self._meta(f"{offer.fabric}.{offer.device.id}", finalizers=["weft.dev/fabric"])
                self.claims.append({"kind": "DeviceAttachment", "metadata": meta, "spec": spec})

    def snapshot(self) -> Snapshot:
        return Snapshot(
            logical_nodes=tuple(self.logical_nodes),
            claims=tuple(self.claims),
            gpu_pools=tuple(self.pools),
            memory_pools=(),
            storage_pools=(),
            quotas=(),
            fabrics=tuple(self.fabrics),
            namespaces=self.namespaces,
            nodes=tuple(self.nodes.values()),
            pictures=self.pictures,
        )


class Passes:
    """One pass after the other, as the placement controller makes them."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._remembered = Remembered()
        self.seconds: list[float] = []

    def run(self, snapshot: Snapshot) -> Placement:
        began = time.thread_time()
        wishes = self._reader.wishes(snapshot, NOW)
        placement = place_groups(wishes.groups, self._reader.stock(snapshot), self._remembered)
        self.seconds.append(time.thread_time() - began)
        self._remembered = placement.remembered
        return placement


def beside(waiting: int) -> float:
    """Median milliseconds of a pass for one new request beside so many that fit nowhere."""
    site, passes = Site(1, 64, 2000), Passes()
    for number in range(waiting):
        selector = {"matchAttributes": {"model": "H200"}}
        site.ask(f"w{number}", "crowd", {"count": 1 + number % 15, "selector": selector})
    passes.run(site.snapshot())
    passes.seconds.clear()
    for number in range(25):
        site.ask(f"n{number}", "tenant", {"count": 2})
        assert len(passes.run(site.snapshot()).assignments) == 1
        # It was bound and released: the next one finds what this one found.
        site.logical_nodes.pop()
    return 1000 * statistics.median(passes.seconds)


def burst(count: int) -> float:
    """Milliseconds for each of so many binds, on a site that has room for the larger burst."""
    site, passes = Site(FABRICS, HOSTS, DEVICES), Passes()
    passes.run(site.snapshot())
    passes.seconds.clear()
    placed = 0
    for first in range(0, count, BATCH):
        for number in range(first, first + BATCH):
            site.ask(f"n{number}", "tenant", {"count": 2})
        assignments = passes.run(site.snapshot()).assignments
        placed += len(assignments)
        site.carry_out(assignments)
    assert placed == count, f"{placed} of {count} were placed"
    return 1000 * sum(passes.seconds) / count


def rows() -> list[Row]:
    """All that was promised of passes, as measured."""
    # As the operator does: else a collection of all there is falls into some of the passes of the larger burst.
    collect_everything_rarely()
    alone, crowded = beside(0), beside(WAITING)
    few, many = (burst(count) for count in BURSTS)
    return [
        noted("a pass of placement for one request", alone, "ms of CPU"),
        noted(f"the same beside {WAITING} that wait", crowded, "ms of CPU"),
        at_most(f"what {WAITING} who wait add to a pass", crowded - alone, "ms of CPU", EXTRA_GOAL_MS),
        noted(f"placement of one of {BURSTS[0]} in batches of {BATCH}", few, "ms of CPU"),
        noted(f"placement of one of {BURSTS[1]}", many, "ms of CPU"),
        at_most(f"placement of one of {BURSTS[1]}, of one of {BURSTS[0]}", many / few, "ratio", GROWTH_GOAL),
    ]


def main() -> int:
    for row in rows():
        print(row.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Binds and releases many LogicalNodes, and counts what that costs: `python tests/bench/bind_many.py [--count 500]`.

Writes are counted by the API server (apiserver_request_total), fabric calls and attachments by the fabric manager
(its statistics and its journal), neither by Weft. Exits with 1 when a device was attached twice or anything was left.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support.world import World, condition
from weft.api.resources import LOGICAL_NODES, NAMESPACES
from weft_dev import controlplane
from weft_dev.kube import Kube

NAMESPACE = "bench"
HOSTS_PER_FABRIC = 250
PATIENCE_SECONDS = 600.0
WRITES = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
OURS = ("logicalnodes", "deviceattachments", "nodes", "events")


def api_writes(kube: Kube) -> Counter[str]:
    """Write requests that the API server has answered, by `verb resource`."""
    _, text = kube.raw("GET", "/metrics")
    count: Counter[str] = Counter()
    for labels, value in WRITES.findall(text.decode()):
        label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        # Kubernetes' own controllers still write events of the core group, Weft writes those of events.k8s.io.
        others = label["resource"] == "events" and label["group"] != "events.k8s.io"
        written = label["verb"] in ("POST", "PUT", "PATCH", "DELETE", "APPLY")
        if written and label["resource"] in OURS and not others:
            resource = label["resource"] + (f"/{label['subresource']}" if label["subresource"] else "")
            count[f"{label['verb']} {resource}"] += int(float(value))
    return count


def fabric_calls(worlds: list[World]) -> int:
    return sum(sum(world.stats()["requests"]["byMethod"].values()) for world in worlds)


def wait(what: str, count: int, look: Callable[[], int]) -> float:
    """Seconds until `look` reaches `count`, with progress."""
    began = time.monotonic()
    while (now := look()) < count:
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise SystemExit(f"only {now} of {count} {what} after {PATIENCE_SECONDS:.0f} s")
        print(f"  {now} of {count} {what}", flush=True)
        time.sleep(5.0)
    return time.monotonic() - began


def show(title: str, writes: Counter[str], calls: int, seconds: float, count: int) -> None:
    each = f"{sum(writes.values()) / count:.2f} API writes and {calls / count:.2f} fabric calls each"
    print(f"{title}: {seconds:.0f} s, {each}")
    for name, number in sorted(writes.items()):
        print(f"  {number / count:6.2f}  {name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--count", type=int, default=500, help="logical nodes (each: 1 GPU, 512 GiB of CXL memory)"
    )
    count: int = parser.parse_args().count
    with controlplane.start() as plane:
        kube = plane.client()
        controlplane.install_crds(kube, (Path(__file__).resolve().parents[2] / "crds").glob("*.yaml"))
        kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        worlds = []
        for start in range(0, count, HOSTS_PER_FABRIC):
            hosts = min(HOSTS_PER_FABRIC, count - start)
            worlds.append(World(plane, NAMESPACE, hosts=hosts, gpus=hosts, memories=hosts))
        try:
            return measure(kube, worlds, count)
        finally:
            for world in worlds:
                world.processes.close()


def measure(kube: Kube, worlds: list[World], count: int) -> int:
    for world in worlds:
        world.start_emulator("--permissive")
        world.create()
    print(f"{count} hosts, {2 * count} devices, {len(worlds)} fabrics")
    worlds[0].start_operator(lease_seconds=10, inventory_seconds=5)

    def nodes() -> list[dict[str, object]]:
        return kube.list(LOGICAL_NODES, NAMESPACE)

    before, calls = api_writes(kube), fabric_calls(worlds)
    names = [f"n{number}" for number in range(count)]
    for name in names:
        worlds[0].logical_node(name, gpus=1)
    seconds = wait("bound", count, lambda: sum(condition(node, "Bound") == "True" for node in nodes()))
    after, called = api_writes(kube), fabric_calls(worlds)
    # The creation of the LogicalNodes and the Nodes' heartbeats are this program's own.
    spent = after - before
    spent["POST logicalnodes"] -= count
    show("bind", +spent, called - calls, seconds, count)
    attached = sum(len(world.attached()) for world in worlds)
    assert attached == 2 * count, f"{attached} devices attached"

    before, calls = after, called
    for name in names:
        worlds[0].delete(name)
    seconds = wait("released", count, lambda: count - len(nodes()))
    spent = api_writes(kube) - before
    spent["DELETE logicalnodes"] -= count
    show("release", +spent, fabric_calls(worlds) - calls, seconds, count)

    left = sum(len(world.attached()) for world in worlds)
    acts = sum(len(world.acts()) for world in worlds)
    print(f"journal: {acts} acts, no device attached twice, {left} left attached")
    return 1 if left or acts != 4 * count else 0


if __name__ == "__main__":
    sys.exit(main())

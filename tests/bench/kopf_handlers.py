"""kopf as a reconciler beside kopf as an informer: what each writes to objects that it has nothing to do for.

Both run against the same API server, on the same kind, one after the other, over as many objects: created, changed
once, deleted; in the middle the process is restarted, and a part of the objects is deleted while it is down. Counted:
the API server's own write requests to the objects, and the deletions that the program heard of. `make bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bare
import kopf
from counted import Row, api_writes, noted

from weft.api.resources import LOGICAL_NODES, NAMESPACES
from weft_dev import controlplane
from weft_dev.kube import Kube

NAMESPACE = "kopf"
SETTLE_SECONDS = 3.0
RESOURCE = (LOGICAL_NODES.group, LOGICAL_NODES.version, LOGICAL_NODES.plural)


class Program:
    """A kopf program in a thread: with create/update/delete handlers, or with a raw event handler."""

    def __init__(self, plane: controlplane.ControlPlane, *, handlers: bool) -> None:
        self._plane = plane
        self._handlers = handlers
        self.heard: Counter[str] = Counter()
        self.gone: set[str] = set()

    def run_for(self, work: Any) -> None:
        """Start kopf, do `work`, let it settle, stop kopf."""
        registry = kopf.OperatorRegistry()
        stop, ready = threading.Event(), threading.Event()

        @kopf.on.login(registry=registry)  # type: ignore[arg-type]
        def login(**_: Any) -> kopf.ConnectionInfo:
            return kopf.ConnectionInfo(
                server=self._plane.url,
                ca_path=str(self._plane.ca_file),
                scheme="Bearer",
                token=self._plane.token,
            )

        if self._handlers:

            def handler(name: str, reason: str, **_: Any) -> None:
                self.heard[reason] += 1
                if reason == "delete":
                    self.gone.add(name)

            kopf.on.create(*RESOURCE, registry=registry)(handler)
            kopf.on.update(*RESOURCE, registry=registry)(handler)
            kopf.on.delete(*RESOURCE, registry=registry)(handler)
        else:

            def on_event(event: Any, name: str, **_: Any) -> None:
                self.heard[str(event["type"])] += 1
                if event["type"] == "DELETED":
                    self.gone.add(name)

            kopf.on.event(*RESOURCE, registry=registry)(on_event)
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True

        def serve() -> None:
            kopf.run(
                registry=registry,
                settings=settings,
                standalone=True,
                clusterwide=True,
                stop_flag=stop,
                ready_flag=ready,
            )

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        ready.wait(30)
        time.sleep(SETTLE_SECONDS)
        work()
        time.sleep(SETTLE_SECONDS)
        stop.set()
        thread.join(30)


def measure(plane: controlplane.ControlPlane, kube: Kube, count: int, *, handlers: bool) -> None:
    program = Program(plane, handlers=handlers)
    names = [f"n{number}" for number in range(count)]
    early, late = names[: count // 2], names[count // 2 :]
    before = api_writes(kube)

    def create_and_change() -> None:
        for name in names:
            spec = {"accelerators": [{"name": "main", "count": 1}]}
            body = {"apiVersion": LOGICAL_NODES.api_version, "kind": LOGICAL_NODES.kind}
            kube.create(LOGICAL_NODES, {**body, "metadata": {"name": name}, "spec": spec}, NAMESPACE)
        for name in names:
            kube.patch(LOGICAL_NODES, name, {"spec": {"ttlSecondsAfterBound": 60}}, NAMESPACE)

    program.run_for(create_and_change)
    # Down: half of the objects are deleted.
    for name in early:
        kube.delete(LOGICAL_NODES, name, NAMESPACE)
    waiting = len(kube.list(LOGICAL_NODES, NAMESPACE)) - len(late)
    program.run_for(lambda: [kube.delete(LOGICAL_NODES, name, NAMESPACE) for name in late])
    spent = api_writes(kube) - before
    own = {"POST logicalnodes": count, "PATCH logicalnodes": count, "DELETE logicalnodes": count}
    writes = sum(spent.values()) - sum(own.values())
    missed = len(set(names) - program.gone)
    title = "create/update/delete handlers" if handlers else "raw events (as Weft uses kopf)"
    print(f"{title}:")
    print(f"  {writes / count:.2f} writes per object by kopf")
    print(f"  {waiting} of {len(early)} deletions had to wait until it was back")
    print(f"  {missed} of {count} deletions not heard of")
    for obj in kube.list(LOGICAL_NODES, NAMESPACE):
        kube.patch(LOGICAL_NODES, obj["metadata"]["name"], {"metadata": {"finalizers": None}}, NAMESPACE)


def burst(plane: controlplane.ControlPlane, namespace: str, nodes: Sequence[str], count: int) -> Row:
    """Binds a second of a program of kopf's usual handlers that makes a bind's writes and calls no fabric."""
    registry, done = kopf.OperatorRegistry(), threading.Event()
    stop, ready = threading.Event(), threading.Event()
    left, clients = [count], {}

    @kopf.on.login(registry=registry)  # type: ignore[arg-type]
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(
            server=plane.url, ca_path=str(plane.ca_file), scheme="Bearer", token=plane.token
        )

    @kopf.on.create(*RESOURCE, registry=registry)
    async def bind(name: str, **_: Any) -> None:
        if "one" not in clients:
            clients["one"] = await bare.connect(plane.kubeconfig)
        node = nodes[int(name.removeprefix("k")) % len(nodes)]
        await bare.writes_of_a_bind(clients["one"], name, namespace, node, 2)
        left[0] -= 1
        if left[0] == 0:
            done.set()

    @kopf.on.cleanup(registry=registry)
    async def close(**_: Any) -> None:
        for client in clients.values():
            await client.close()

    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True

    def serve() -> None:
        kopf.run(
            registry=registry,
            settings=settings,
            standalone=True,
            namespaces=[namespace],
            stop_flag=stop,
            ready_flag=ready,
        )

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ready.wait(30)
    time.sleep(SETTLE_SECONDS)
    began = time.monotonic()

    async def create() -> None:
        client = await bare.connect(plane.kubeconfig)
        await bare.create_all(client, [f"k{number}" for number in range(count)], namespace)
        await client.close()

    asyncio.run(create())
    done.wait(600)
    seconds = time.monotonic() - began
    stop.set()
    thread.join(30)
    return noted(
        f"kopf's usual handlers with the same writes, {count - left[0]}",
        (count - left[0]) / seconds,
        "binds/s",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=40)
    count: int = parser.parse_args().count
    with controlplane.start(scheduler=False) as plane:
        kube = plane.client()
        controlplane.install_crds(kube, (Path(__file__).resolve().parents[2] / "crds").glob("*.yaml"))
        kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for handlers in (True, False):
            measure(plane, kube, count, handlers=handlers)
    return 0


if __name__ == "__main__":
    sys.exit(main())

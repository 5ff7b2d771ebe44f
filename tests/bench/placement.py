"""Placement while many wait: `python tests/bench/placement.py`. Goals are reported as met or missed; exits with 0.

One operator process, the API server, the emulator with 2,000 free GPUs on 64 hosts. Rounds of the same binds by one
tenant, one after the other: alone, beside 100 waiting nodes of 100 shapes that need a search over all devices and fit
nowhere, beside 100 roles of another tenant whose replicas wait, beside roles of 1.2 MB that are edited all the time,
and beside 1,500 waiting nodes that fit nowhere. Measured from outside: the time of a bind from its creation to
Bound, how late the operator's event loop answers /livez, and the status writes of LogicalNodes that the API server
counted.
"""

from __future__ import annotations

import http.client
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counted import api_writes

from support.world import World, condition, eventually
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, NAMESPACES, ResourceType
from weft_dev import controlplane
from weft_dev.kube import Kube

HOSTS, GPUS = 64, 2000
BINDS = 40
TENANT, CROWD = "tenant", "crowd"
PATIENCE_SECONDS = 180.0
PROBE_SECONDS = 0.01

LAG_GOAL_SECONDS = 0.1
RATIO_GOAL = 1.1
"""Of the median and of the slowest bind: one tenant does not move another's by more than a tenth."""
LARGE_BYTES = 1_200_000
"""Of one role's template; etcd takes objects of 1.5 MB."""


@dataclass(frozen=True)
class Round:
    """What one round of binds came to."""

    title: str
    waiting: int
    bind_seconds: float
    """Median."""
    slowest_seconds: float
    lag_p99_seconds: float
    status_writes_per_bind: float
    """Of all LogicalNodes: the tenant's own and those of the nodes that wait."""

    def line(self) -> str:
        return (
            f"{self.title:24} {self.waiting:5} waiting  bind {self.bind_seconds:6.3f} s,"
            f" slowest {self.slowest_seconds:6.3f} s"
            f"  lag p99 {1000 * self.lag_p99_seconds:6.1f} ms  "
            f"{self.status_writes_per_bind:5.2f} status writes per bind"
        )


class Lag:
    """How long the operator's event loop takes to answer, as its liveness probe sees it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self.seconds: list[float] = []

    def probe(self) -> None:
        link = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._stop.wait(PROBE_SECONDS):
            began = time.perf_counter()
            link.request("GET", "/livez")
            link.getresponse().read()
            self.seconds.append(time.perf_counter() - began)

    @contextmanager
    def measured(self) -> Iterator[None]:
        thread = threading.Thread(target=self.probe, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def p99(self) -> float:
        return sorted(self.seconds)[int(0.99 * len(self.seconds))]


def status_writes(kube: Kube) -> int:
    counts = api_writes(kube)
    return sum(number for name, number in counts.items() if name.endswith(" logicalnodes/status"))


def node(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": LOGICAL_NODES.api_version,
        "kind": LOGICAL_NODES.kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def hard(number: int) -> dict[str, Any]:
    """Nine GPUs of one NVLink domain, of which each has eight; no two of them have one shape."""
    selector = {"minimum": {"memory": f"{number + 1}Mi"}}
    return {
        "accelerators": [{"name": "main", "count": 9, "selector": selector}],
        "placement": {"constraints": [{"attribute": "nvlinkDomain"}]},
    }


def hopeless(number: int) -> dict[str, Any]:
    """A model that nobody has; 15 shapes."""
    return {
        "accelerators": [
            {"name": "main", "count": 1 + number % 15, "selector": {"matchAttributes": {"model": "H200"}}}
        ]
    }


def crowd(kube: Kube, specs: list[dict[str, Any]], prefix: str) -> None:
    """Make nodes that fit nowhere, and wait until each was told so."""
    with ThreadPoolExecutor(8) as pool:
        made = [
            pool.submit(kube.create, LOGICAL_NODES, node(f"{prefix}{number}", spec), CROWD)
            for number, spec in enumerate(specs)
        ]
        for each in made:
            each.result()

    def told() -> bool:
        return all(condition(each, "Bound") == "False" for each in kube.list(LOGICAL_NODES, CROWD))

    eventually(told, PATIENCE_SECONDS, every=1.0, what="all are told why they wait")


def role(number: int, group: str, stage: str, filler: int = 0) -> dict[str, Any]:
    """A role of two replicas that fit nowhere."""
    environment = [{"name": "FILLER", "value": "x" * filler}] if filler else []
    engine = {"name": "engine", "image": "engine:1", "env": environment}
    spec = {
        "groupRef": {"name": group},
        "stage": stage,
        "replicas": 2,
        "maxReplicas": 2,
        "profileRef": {"name": "none"},
        "node": hopeless(number),
        "template": {"spec": {"containers": [engine]}},
    }
    return {**_of(INFERENCE_ROLES), "metadata": {"name": f"{group}-{stage.lower()}"}, "spec": spec}


def groups(kube: Kube, count: int, prefix: str, filler: int = 0) -> list[str]:
    """Groups of two roles, whose replicas wait; the names of the roles."""
    names = []
    for number in range(count):
        name = f"{prefix}{number}"
        spec = {
            "objectives": {"timeToFirstTokenMilliseconds": 3000},
            "metrics": {"source": "default", "preset": "vllm", "models": [name]},
            "accelerators": {"maximum": 200},
            "rebalance": {"mode": "Paused"},
        }
        kube.create(
            INFERENCE_GROUPS, {**_of(INFERENCE_GROUPS), "metadata": {"name": name}, "spec": spec}, CROWD
        )
        for stage in ("Prefill", "Decode"):
            body = role(number, name, stage, filler)
            kube.create(INFERENCE_ROLES, body, CROWD)
            names.append(body["metadata"]["name"])

    def wait() -> bool:
        waiting = [
            each for each in kube.list(LOGICAL_NODES, CROWD) if each["metadata"]["name"].startswith(prefix)
        ]
        return len(waiting) == 4 * count and all(condition(each, "Bound") == "False" for each in waiting)

    eventually(wait, PATIENCE_SECONDS, every=1.0, what="the replicas of all roles wait")
    return names


def no_groups(kube: Kube) -> None:
    for resource in (INFERENCE_GROUPS, INFERENCE_ROLES):
        for each in kube.list(resource, CROWD):
            kube.delete(resource, each["metadata"]["name"], CROWD)
    eventually(lambda: not kube.list(LOGICAL_NODES, CROWD), PATIENCE_SECONDS, every=1.0, what="all are gone")


def _of(resource: ResourceType) -> dict[str, Any]:
    return {"apiVersion": resource.api_version, "kind": resource.kind}


@contextmanager
def edited(kube: Kube, names: list[str]) -> Iterator[None]:
    """These roles get another label meanwhile, one after the other, ten times a second."""
    stop = threading.Event()

    def edit() -> None:
        for number in itertools.count():
            if stop.wait(0.1):
                return
            labels = {"metadata": {"labels": {"edit": str(number)}}}
            kube.patch(INFERENCE_ROLES, names[number % len(names)], labels, CROWD)

    thread = threading.Thread(target=edit, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def round_of_binds(world: World, port: int, title: str, waiting: int) -> Round:
    """Bind and release one node after the other while the rest waits."""
    kube, lag, times = world.kube, Lag(port), []
    # What was asked for before is done with.
    time.sleep(2.0)
    before = status_writes(kube)
    with lag.measured():
        for number in range(BINDS):
            name = f"n{number}"
            began = time.perf_counter()
            kube.create(LOGICAL_NODES, node(name, {"accelerators": [{"name": "main", "count": 2}]}), TENANT)
            eventually(
                lambda name=name: condition(kube.get(LOGICAL_NODES, name, TENANT), "Bound") == "True",  # type: ignore[misc]
                PATIENCE_SECONDS,
                every=0.01,
                what=f"{name} is bound",
            )
            times.append(time.perf_counter() - began)
            kube.delete(LOGICAL_NODES, name, TENANT)
            eventually(
                lambda name=name: kube.get(LOGICAL_NODES, name, TENANT) is None,  # type: ignore[misc]
                PATIENCE_SECONDS,
                what=f"{name} is released",
            )
    time.sleep(2.0)
    writes = (status_writes(kube) - before) / BINDS
    result = Round(title, waiting, statistics.median(times), sorted(times)[-1], lag.p99(), writes)
    print(result.line(), flush=True)
    return result


def goals(alone: Round, rounds: list[Round]) -> list[tuple[str, bool]]:
    """What was promised of each round, and whether it holds."""
    said = []
    for each in rounds:
        ratio = each.bind_seconds / alone.bind_seconds
        slowest = each.slowest_seconds / alone.slowest_seconds
        extra = each.status_writes_per_bind - alone.status_writes_per_bind
        said += [
            (f"{each.title}: bind takes {ratio:.2f} of alone (goal: <= {RATIO_GOAL})", ratio <= RATIO_GOAL),
            (
                f"{each.title}: the slowest bind {slowest:.2f} of alone (goal: <= {RATIO_GOAL})",
                slowest <= RATIO_GOAL,
            ),
            (
                f"{each.title}: lag p99 {1000 * each.lag_p99_seconds:.0f} ms"
                f" (goal: <= {1000 * LAG_GOAL_SECONDS:.0f})",
                each.lag_p99_seconds <= LAG_GOAL_SECONDS,
            ),
            (f"{each.title}: {extra:.2f} writes per bind to those who wait (goal: 0)", extra <= 0),
        ]
    return said


def main() -> int:
    with controlplane.start() as plane:
        kube = plane.client()
        controlplane.install_crds(kube, (Path(__file__).resolve().parents[2] / "crds").glob("*.yaml"))
        for name in (TENANT, CROWD):
            kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        world = World(plane, TENANT, hosts=HOSTS, gpus=GPUS, memories=1)
        try:
            world.start_emulator("--permissive")
            world.create()
            operator = world.start_operator(lease_seconds=10, inventory_seconds=5)
            port = world.ports[operator]
            world.logical_node("first", gpus=1, memory="")
            eventually(lambda: world.is_bound("first"), PATIENCE_SECONDS, what="the operator works")
            print(f"{GPUS} free devices, {HOSTS} hosts, {BINDS} binds of 2 devices in each round")
            alone = round_of_binds(world, port, "alone", 0)
            crowd(kube, [hard(number) for number in range(100)], "hard")
            rounds = [round_of_binds(world, port, "100 hard shapes", 100)]
            for number in range(100):
                kube.delete(LOGICAL_NODES, f"hard{number}", CROWD)
            groups(kube, 50, "role")
            rounds.append(round_of_binds(world, port, "100 roles of a tenant", 200))
            no_groups(kube)
            large = groups(kube, 5, "large", LARGE_BYTES)
            with edited(kube, large):
                rounds.append(round_of_binds(world, port, "edits of ten 1.2 MB roles", 20))
            no_groups(kube)
            crowd(kube, [hopeless(number) for number in range(1500)], "none")
            rounds.append(round_of_binds(world, port, "1,500 that fit nowhere", 1500))
            again = round_of_binds(world, port, "1,500, once more", 1500)
            for text, holds in goals(alone, [*rounds, again]):
                print(f"{'met   ' if holds else 'MISSED'} {text}")
        finally:
            world.processes.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

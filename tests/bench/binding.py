"""What binding costs: `make bench-binding`. Prints a table, writes build/bench/binding.json, exits with 0.

Writes and reads are counted by the API server, calls by the fabric managers, attachments by their journals, times by
this program's own watch: nothing by Weft. Each size has a control plane of its own, without controllers: nothing else
writes. The yardstick (`bare.py`) makes the same writes with the same client on the same machine right afterwards.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import bare
import kopf_handlers
import packing
import per_event
import placement_passes
import uvloop
from counted import (
    OURS,
    WRITES,
    Row,
    api_requests,
    api_writes,
    at_least,
    at_most,
    compared,
    fabric_calls,
    noted,
    percentile,
    within,
    write,
)
from watching import Bound

from support.world import World, eventually
from weft.api.resources import DEVICE_ATTACHMENTS, LOGICAL_NODES, NAMESPACES, NODES
from weft_dev import controlplane
from weft_dev.kube import Kube

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "build" / "bench" / "binding.json"
HOSTS_PER_FABRIC = 500
DEVICES = 2
LONE_BINDS = 120
"""So many that the 99th percentile is not the slowest."""
HUNG = 8
"""Logical nodes that wait for the manager that hangs."""
HUNG_TURNS, HUNG_BINDS = 6, 20
"""How often it hangs, and the binds that are measured beside it each time, and alone."""
LEAST_FOR_MEMORY = 500
"""Logical nodes: with fewer, what the process takes for its first bind is most of it."""
IDLE_SECONDS = 8.0
PATIENCE_SECONDS = 900.0
QUICK_SEEDS = 20
"""Racks on which packing is measured where one size is."""
LOOKED = r'weft_reconcile_seconds_count\{controller="placement"\} [1-9]'
"""Placement is asked for by every Namespace that there is, behind all else that is known."""
SECTION = ("bench", "bare", "kopf", "hung")


@dataclass
class Site:
    """A control plane with racks for so many logical nodes, and one operator."""

    plane: controlplane.ControlPlane
    size: int
    home: World
    """Where the operator is started: without a rack of its own."""
    worlds: list[World] = field(default_factory=list)
    operator: str = ""

    @property
    def kube(self) -> Kube:
        return self.plane.client()

    @property
    def nodes(self) -> list[str]:
        return [f"{world.name}-{host}" for world in self.worlds for host in world.hosts]

    def add_rack(self, hosts: int, namespace: str) -> World:
        world = World(self.plane, namespace, hosts=hosts, gpus=hosts, memories=hosts)
        self.worlds.append(world)
        world.start_emulator("--permissive")
        world.create(timeout=10, heartbeats=False, tenants=(namespace,))
        self.untaint(f"{world.name}-{host}" for host in world.hosts)
        return world

    def untaint(self, nodes: Iterator[str]) -> None:
        """Without controllers nobody takes the taint off that admission gives to new Nodes."""
        for name in nodes:
            self.kube.patch(NODES, name, {"spec": {"taints": []}})

    def start_operator(self, world: World) -> float:
        """Start it; seconds until it leads, has looked at what there is, and has nothing left to do."""
        began = time.monotonic()
        self.operator = world.start_operator(lease_seconds=15, inventory_seconds=15)
        self.wait_until_idle(world)
        return time.monotonic() - began

    def wait_until_idle(self, world: World) -> None:
        def idle() -> bool:
            try:
                said = self.metrics(world)
            except OSError:
                return False
            # Between the lease and the first keys it lists once more, with nothing in its queue.
            has_looked = re.search(LOOKED, said) is not None
            return has_looked and "weft_leader 1.0" in said and "weft_queue_depth 0.0" in said

        eventually(idle, PATIENCE_SECONDS, every=0.02, what="the operator has nothing left to do")

    def metrics(self, world: World) -> str:
        url = f"http://127.0.0.1:{world.ports[self.operator]}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())

    def cpu_seconds(self, world: World) -> float:
        """What the operator has computed, on all its threads: unlike a rate it says something beside other work."""
        fields = Path(f"/proc/{world.pids[self.operator]}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kibibytes(self, world: World) -> float:
        """Resident memory of the operator."""
        status = Path(f"/proc/{world.pids[self.operator]}/status").read_text()
        return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


@contextmanager
def site(size: int) -> Iterator[Site]:
    with controlplane.start(controllers=False, scheduler=False) as plane:
        made = Site(plane, size, World(plane, "bench", hosts=0, gpus=0, memories=0))
        controlplane.install_crds(made.kube, (ROOT / "crds").glob("*.yaml"))
        for name in SECTION:
            made.kube.create(
                NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            )
        try:
            yield made
        finally:
            for world in (made.home, *made.worlds):
                world.processes.close()


def create(here: Site, names: Sequence[str], namespace: str = "bench") -> None:
    """Create logical nodes with the yardstick's client and at its pace."""

    async def all_of_them() -> None:
        client = await bare.connect(here.plane.kubeconfig)
        await bare.create_all(client, names, namespace)
        await client.close()

    uvloop.run(all_of_them())


def lone_binds(here: Site, prefix: str, count: int = LONE_BINDS) -> list[float]:
    """Seconds from the creation of a logical node to its Bound, one after the other."""
    seconds = []
    with Bound(here.plane, "bench") as bound:
        for number in range(count):
            name = f"{prefix}{number}"
            began = time.monotonic()
            here.kube.create(LOGICAL_NODES, bare.logical_node(name, "bench"))
            seconds.append(bound.when(name, PATIENCE_SECONDS) - began)
    return seconds


def counts(here: Site) -> tuple[list[Row], list[float]]:
    """Writes, reads and calls of lone binds, and how long those take."""
    kube, count = here.kube, LONE_BINDS
    lonely = ("GET", "LIST")
    own = 1  # the list that this program's watch begins with
    writes, reads, calls = api_writes(kube), api_requests(kube, lonely), fabric_calls(here.worlds)
    pools = api_requests(kube, WRITES, ("gpupools", "memorypools"))
    seconds = lone_binds(here, "lone")
    time.sleep(1.0)  # the last event is written in the background
    spent, read = api_writes(kube) - writes, api_requests(kube, lonely) - reads
    called = fabric_calls(here.worlds) - calls
    spent["POST logicalnodes"] -= count
    said = ", ".join(f"{name} {number / count:.2f}" for name, number in sorted((+spent).items()))
    print(f"  writes of a bind: {said}")
    print(f"  calls of a bind, with the polls of that time: {dict(called)}")
    polled = api_requests(kube, WRITES, ("gpupools", "memorypools")) - pools
    rows = [
        at_most(f"writes per bind of {DEVICES} devices", sum(spent.values()) / count, "writes", DEVICES + 4),
        at_most("reads at the API server per bind", (sum(read.values()) - own) / count, "reads", 0),
        noted("status writes of pools per lone bind", sum(polled.values()) / count, "writes"),
        at_most(
            "fabric calls per bind, $expand, no tasks, with the polls",
            sum(called.values()) / count,
            "calls",
            3,
        ),
    ]
    return rows, seconds


def idle(here: Site) -> Row:
    """What a cluster in which nothing happens costs."""
    resources = (*OURS, "fabrics", "gpupools", "memorypools", "storagepools", "devicequotas", "pods")
    before = api_requests(here.kube, WRITES, resources)
    time.sleep(IDLE_SECONDS)
    spent = api_requests(here.kube, WRITES, resources) - before
    return at_most(
        f"writes in {IDLE_SECONDS:.0f} idle seconds but the lease", sum(spent.values()), "writes", 0
    )


def hung_manager(here: Site, rack: World) -> Row:
    """Lone binds beside a manager that accepts connections and answers nothing, by turns with binds that are alone.

    Those beside begin when all that wait for the manager have their claims: what eight binds cost at the API server is
    not what a manager that hangs costs. What a turn meets, such as a reading of a rack, is chance, and the row says so.
    """
    pid = rack.processes.pids["emulator"]
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    for turn in range(HUNG_TURNS):
        alone.append(lone_binds(here, f"alone{turn}-", HUNG_BINDS))
        waiting = [f"h{turn}-{number}" for number in range(HUNG)]
        with Bound(here.plane, "hung") as bound:
            os.kill(pid, signal.SIGSTOP)
            try:
                create(here, waiting, "hung")
                claimed = (turn + 1) * HUNG * DEVICES
                eventually(
                    lambda n=claimed: _claims(here, "hung") == n, 60, every=0.3, what="all have claims"
                )
                beside.append(lone_binds(here, f"beside{turn}-", HUNG_BINDS))
            finally:
                os.kill(pid, signal.SIGCONT)
            for name in waiting:
                bound.when(name, PATIENCE_SECONDS)
    middle = compared(beside, alone, statistics.median)
    print(f"  beside a manager that hangs: the median {middle.value:.2f} of alone")
    ratio = compared(beside, alone, lambda seconds: percentile(seconds, 0.99))
    return within("p99 of lone binds beside a manager that hangs, of alone", ratio, "ratio", 1.1)


def _claims(here: Site, namespace: str) -> int:
    claims = here.kube.list(DEVICE_ATTACHMENTS)
    return sum(claim["spec"]["claimRef"]["namespace"] == namespace for claim in claims)


def burst(here: Site) -> float:
    """Binds a second: from the first creation to the last Bound."""
    names = [f"burst{number}" for number in range(here.size)]
    with Bound(here.plane, "bench") as bound:
        began = time.monotonic()
        create(here, names)
        ended = max(bound.when(name, PATIENCE_SECONDS) for name in names)
    return here.size / (ended - began)


def restart(here: Site, world: World) -> list[Row]:
    """How long a new process needs to know and have looked at everything, and to bind what came meanwhile."""
    world.processes.stop(here.operator, grace_seconds=20)
    here.kube.create(LOGICAL_NODES, bare.logical_node("meanwhile", "bench"))
    with Bound(here.plane, "bench") as bound:
        began = time.monotonic()
        here.start_operator(world)
        seconds = max(time.monotonic(), bound.when("meanwhile", PATIENCE_SECONDS)) - began
    goal = 3.0 if here.size <= 1000 else 10.0
    return [
        at_most(f"restart to consistent at {here.size} logical nodes", seconds, "s", goal),
        noted(f"CPU of that restart, {here.size}", here.cpu_seconds(world), "s"),
    ]


def measure(size: int, *, first: bool) -> tuple[list[Row], float]:
    """The lines of one size, and its rate."""
    rows: list[Row] = []
    print(f"{size} logical nodes, {DEVICES} devices each", flush=True)
    with site(size) as here:
        # The lone binds, those by turns with the manager that hangs, and the one after the restart need a place, too.
        left = size + (LONE_BINDS + 2 * HUNG_TURNS * HUNG_BINDS if first else 0) + 1
        world = here.home
        here.start_operator(world)
        time.sleep(1.0)
        empty = here.kibibytes(world)
        while left > 0:
            here.add_rack(min(HOSTS_PER_FABRIC, left), "bench")
            left -= HOSTS_PER_FABRIC
        devices = 2 * len(here.nodes)
        _wait_for_devices(here, devices)
        here.wait_until_idle(world)
        known = here.kibibytes(world)
        if first:
            rows.append(idle(here))
            counted, alone = counts(here)
            rows += counted
        computed = here.cpu_seconds(world)
        rate = burst(here)
        computed = here.cpu_seconds(world) - computed
        time.sleep(1.0)
        bound = here.kibibytes(world)
        if size >= LEAST_FOR_MEMORY:
            made = size + (LONE_BINDS if first else 0)
            per_device, per_node = (known - empty) / devices, (bound - known) / made
            rows += [
                at_most(f"RSS per device with its host's Node, {devices}", per_device, "KiB", 10),
                at_most(f"RSS per bound logical node, {made}", per_node, "KiB", 20 + 10 * DEVICES),
            ]
        if first:
            rack = here.add_rack(HUNG * HUNG_TURNS, "hung")
            _wait_for_devices(here, devices + DEVICES * HUNG * HUNG_TURNS)
            rows.append(hung_manager(here, rack))
        rows += restart(here, world)
        for rack in here.worlds:
            rack.attached()  # fails when a device was ever at two hosts
        world.processes.stop(here.operator, grace_seconds=20)
        seconds = bare.burst(here.plane.kubeconfig, [f"b{n}" for n in range(size)], "bare", here.nodes)
        rows += [
            noted(f"binds a second in a burst of {size}", rate, "binds/s"),
            noted(f"CPU of the operator for a bind in a burst of {size}", 1000 * computed / size, "ms"),
            noted(f"a bare loop with the same writes, {size}", size / seconds, "binds/s"),
            at_least(f"burst of {size}, of the bare loop", 100 * rate * seconds / size, "%", 70),
        ]
        if first:
            one = bare.status_writes(here.plane.kubeconfig, "bare", here.nodes[0], LONE_BINDS)
            middle = statistics.median(one)
            rows += [
                noted("one status write, median", 1000 * middle, "ms"),
                at_most(
                    "create to Bound, p50, of a status write", percentile(alone, 0.5) / middle, "ratio", 8
                ),
                at_most(
                    "create to Bound, p99, of a status write", percentile(alone, 0.99) / middle, "ratio", 16
                ),
                kopf_handlers.burst(here.plane, "kopf", here.nodes, size),
            ]
    for row in rows:
        print(row.line(), flush=True)
    return rows, rate


def _wait_for_devices(here: Site, count: int) -> None:
    from weft.api.resources import GPU_POOLS, MEMORY_POOLS

    def seen() -> bool:
        pools = [*here.kube.list(GPU_POOLS), *here.kube.list(MEMORY_POOLS)]
        return sum(pool.get("status", {}).get("devices", {}).get("total", 0) for pool in pools) >= count

    eventually(seen, PATIENCE_SECONDS, every=0.3, what=f"{count} devices are known")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="200", help="bursts, for example 500,1000,5000 (default: 200)")
    sizes = [int(each) for each in parser.parse_args().sizes.split(",")]
    # CP-SAT proves the optimum of two hundred racks in minutes: those of a quick run are the first of them.
    seeds = packing.SEEDS if len(sizes) > 1 else QUICK_SEEDS
    rows: list[Row] = [*per_event.rows(), *placement_passes.rows(), *packing.rows(seeds)]
    for row in rows:
        print(row.line(), flush=True)
    rates: dict[int, float] = {}
    for size in sizes:
        found, rates[size] = measure(size, first=size == sizes[0])
        rows += found
    if len(rates) > 1:
        share = 100 * rates[max(rates)] / rates[min(rates)]
        rows.append(at_least(f"rate at {max(rates)} of that at {min(rates)}", share, "%", 80))
    write(rows, RESULT)
    print(f"\n{'':6} {'value':>10} {'unit':12} {'what':70} goal")
    for row in rows:
        print(row.line())
    print(f"written to {RESULT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

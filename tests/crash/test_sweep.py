"""kill -9 of the leader before and after every message: each write to the API server, each call to the fabric manager.

`make crash-sweep`. An act (a bind, a release, ...) is repeated; the n-th time the leader is killed at the act's n-th
message, until an act ends before its n-th message. Whatever the moment, the next leader brings it to the same end, in
the act's usual time and two leases and five seconds. Then the API server's audit log and the manager's journal are
asked whether there were messages in that last, undisturbed act that the sweep had not struck.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support.idle_group import create_group, idle_engines, split
from support.replicas import Replicas
from support.wire import PASS, Message, Treatment, Way, Wire
from support.world import World, condition, eventually
from weft.api.names import TAINT_DRAINING
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    NAMESPACES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    ResourceType,
)
from weft.emulator.journal import entries
from weft_dev import PYTHONPATH, controlplane
from weft_dev.controlplane import AUDIT_LOG, ControlPlane

ROOT = Path(__file__).resolve().parents[2]
LEASE_SECONDS = 2
MOST_MESSAGES = 80
SETTINGS: dict[str, Any] = {"lease_seconds": LEASE_SECONDS, "inventory_seconds": 0.3}
ONE_HOST = re.compile(r"/redfish/v1/Systems/[^/?]+$")
SERVICE_ACCOUNTS = ResourceType("", "v1", "serviceaccounts", "ServiceAccount", True)
BINDINGS = ResourceType("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False)
PRESSURE = Path("/proc/pressure/cpu")
BUSY_PERCENT = 60.0
NAMESPACE = "crash"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:weft"

Object = dict[str, Any]


@dataclass
class Trap:
    """Where the leader is killed in one act."""

    at: int
    seen: list[str] = field(default_factory=list)
    struck: str = ""
    struck_at: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    """Seconds since the epoch; 0 while the act goes on."""
    disturbed: bool = False
    """Whether it took too long, and a replica had lost its lease, or the machine was busy: it is done once more."""


@dataclass(frozen=True)
class Act:
    """Something asked of the operator, and how it shows that it was done; `prepare` comes before, unobserved."""

    name: str
    do: Callable[[], object]
    done: Callable[[], bool]


@pytest.fixture(scope="module")
def plane(tool_paths: dict[str, Path]) -> Iterator[ControlPlane]:
    """A control plane of its own, for its audit log, with an account for the operator alone."""
    with controlplane.start(binaries=tool_paths, audit=True) as plane:
        kube = plane.client()
        controlplane.install_crds(kube, (ROOT / "crds").glob("*.yaml"))
        kube.create(NAMESPACES, own(NAMESPACES, NAMESPACE))
        kube.create(SERVICE_ACCOUNTS, own(SERVICE_ACCOUNTS, "weft"), NAMESPACE)
        role = {"apiGroup": BINDINGS.group, "kind": "ClusterRole", "name": "cluster-admin"}
        subject = {"kind": "ServiceAccount", "name": "weft", "namespace": NAMESPACE}
        kube.create(BINDINGS, own(BINDINGS, "weft") | {"roleRef": role, "subjects": [subject]})
        eventually(lambda: kube.get(SERVICE_ACCOUNTS, "default", NAMESPACE))
        yield plane


def own(resource: ResourceType, name: str) -> Object:
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}}


class Stage:
    """A rack, two replicas behind the wire, and the trap."""

    def __init__(self, plane: ControlPlane, *, hosts: int, gpus: int, settings: Object) -> None:
        self.world = World(plane, NAMESPACE, hosts=hosts, gpus=gpus, memories=2)
        self.kube = self.world.kube
        self.world.start_emulator("--permissive")
        self.wire = Wire(plane.ca_file)
        self.wire.treat = self._treat
        self._trap = Trap(0)
        self._way = Way.PASS
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/weft/token"
        token = self.kube.request("POST", path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
        kubeconfigs: dict[str, Path] = {}
        for side in ("api-1", "api-2"):
            kubeconfigs[side] = self.world.directory / f"{side}.kubeconfig"
            url = self.wire.add(side, plane.url)
            controlplane.write_kubeconfig(kubeconfigs[side], url, token, plane.ca_file)
        self.world.create(endpoint=self.wire.add("fabric", self.world.emulator_url))
        self._replicas = Replicas(self.world, kubeconfigs, SETTINGS | settings)
        self.wire.kill = self._kill

    def close(self) -> None:
        self._replicas.close()
        self.world.close()
        self.wire.close()

    def _kill(self) -> None:
        self._trap.struck_at = time.monotonic()
        self._replicas.kill_leader()

    def _treat(self, message: Message) -> Treatment:
        trap = self._trap
        if trap.ended or not _counts(message):
            return PASS
        trap.seen.append(str(message))
        if trap.struck or len(trap.seen) != trap.at:
            return PASS
        # The act may be done before the leader is killed.
        trap.struck, trap.struck_at = str(message), time.monotonic()
        return Treatment(self._way)

    def go(self, act: Act, at: int, way: Way, usual_seconds: float) -> Trap:
        """Do an act with the leader killed at its `at`-th message (0: not at all)."""
        # A standby that is still starting would make the time of the take-over a matter of the machine.
        eventually(lambda: self._replicas.is_complete(), 60, what="two replicas are ready")
        before = self._replicas.ended, self._replicas.lapses()
        trap = Trap(at, began=time.time())
        self._way, self._trap = way, trap
        act.do()
        eventually(act.done, 60, what=f"{act.name}, {way.value} of message {at}")
        trap.ended = time.time()
        if trap.struck:
            took = time.monotonic() - trap.struck_at
            limit = usual_seconds + 2 * LEASE_SECONDS + 5
            what = f"{act.name}, {way.value} {trap.struck}: {took:.1f} s > {limit:.1f} s"
            lost = (self._replicas.ended, self._replicas.lapses()) != before
            trap.disturbed = took > limit and (lost or is_busy())
            assert took <= limit or trap.disturbed, what
            if trap.disturbed:
                sys.stderr.write(f"{what}, the machine was busy\n")
        return trap

    def sweep(self, acts: list[Act], way: Way) -> None:
        """Strike each message of each of these acts, which follow one another and end where they began."""
        dry = {act.name: self.go(act, 0, way, 0) for act in acts}
        usual = {name: trap.ended - trap.began for name, trap in dry.items()}
        unstruck: dict[str, Trap] = {}
        at, rounds = 1, 0
        while len(unstruck) < len(acts) and at < MOST_MESSAGES and rounds < 2 * MOST_MESSAGES:
            # An act that was swept already goes on undisturbed, for the others' sake.
            traps = {
                act.name: self.go(act, 0 if act.name in unstruck else at, way, usual[act.name])
                for act in acts
            }
            unstruck |= {name: trap for name, trap in traps.items() if trap.at and not trap.struck}
            rounds += 1
            at += not any(trap.disturbed for trap in traps.values())
        assert unstruck.keys() == usual.keys(), "the messages have no end"
        for name, trap in unstruck.items():
            written, called = self._audited(trap), self._journalled(trap)
            sys.stderr.write(
                f"{name}, {way.value}: {trap.at - 1} messages struck; in the undisturbed act {len(trap.seen)} seen,"
                f" {written} in the audit log, {called} in the journal; {usual[name]:.1f} s\n"
            )
            assert trap.at - 1 >= len(trap.seen) >= written + called > 0

    def _audited(self, trap: Trap) -> int:
        """Writes of the operator, its Lease left out, in the API server's audit log."""
        lines = (self.world.plane.directory / AUDIT_LOG).read_text().splitlines()
        return sum(
            trap.began <= datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp()
            and datetime.fromisoformat(entry["stageTimestamp"]).timestamp() <= trap.ended
            and entry["user"]["username"] == OPERATOR
            and entry["verb"] in ("create", "update", "patch", "delete")
            and entry["objectRef"]["resource"] != "leases"
            for entry in map(json.loads, lines)
        )

    def _journalled(self, trap: Trap) -> int:
        """Requests that changed something, or were refused, in the manager's journal."""
        lines = entries(self.world.journal.read_text().splitlines())
        return len(
            {
                line["request"]
                for line in lines
                if line["request"]
                and trap.began <= datetime.fromisoformat(line["time"]).timestamp() <= trap.ended
            }
        )


def is_busy() -> bool:
    """Whether something waits for a core most of the time, by the kernel's own account where it keeps one."""
    if not PRESSURE.exists():
        return False
    share = re.search(r"some avg10=([0-9.]+)", PRESSURE.read_text())
    return share is not None and float(share[1]) > BUSY_PERCENT


def _counts(message: Message) -> bool:
    if message.side == "fabric":
        return message.method != "GET" or bool(ONE_HOST.search(message.path))
    return message.method != "GET" and "/leases" not in message.path


BOTH = pytest.mark.parametrize(
    "way", [Way.KILL_BEFORE, Way.KILL_AFTER], ids=["before-it", "after-its-effect"]
)


def holds_nothing(world: World) -> bool:
    nodes = [world.kube.get(NODES, f"{world.name}-{host}") for host in world.hosts]
    tainted = any(
        "weft" in taint["key"] for node in nodes if node for taint in node["spec"].get("taints", [])
    )
    return not world.claims() and not world.attached() and not tainted


def is_clean(world: World, name: str) -> bool:
    return world.get(name) is None and holds_nothing(world)


def is_bound_as_it_says(world: World, name: str) -> bool:
    node = world.get(name)
    if node is None or condition(node, "Bound") != "True" or "host" not in node["status"]:
        # Where its only device is replaced it has none for a moment.
        return False
    host, devices = node["status"]["host"], {item["device"] for item in node["status"]["devices"]}
    if world.attached() != {(device, host) for device in devices}:
        return False
    return {c["spec"]["device"] for c in world.claims() if condition(c, "Quarantined") != "True"} == devices


@pytest.fixture
def rack(plane: ControlPlane) -> Iterator[Stage]:
    stage = Stage(plane, hosts=2, gpus=3, settings={})
    try:
        yield stage
    finally:
        stage.close()


@BOTH
def test_a_bind_and_a_release(rack: Stage, way: Way) -> None:
    world = rack.world
    bind = Act(
        "bind",
        lambda: world.logical_node("trainer", gpus=1),
        lambda: is_bound_as_it_says(world, "trainer"),
    )
    release = Act("release", lambda: world.delete("trainer"), lambda: is_clean(world, "trainer"))
    rack.sweep([bind, release], way)


@BOTH
def test_a_bind_whose_device_fails_and_the_clearing_of_the_device(rack: Stage, way: Way) -> None:
    world = rack.world

    def ask() -> None:
        # The manager attaches the others: it is this device's fault.
        world.faults({"kind": "fail", "match": {"verb": "attach", "block": "gpu-0"}, "times": -1})
        world.logical_node("trainer", gpus=2, memory="")

    def failed_over() -> bool:
        kept = [c["spec"]["device"] for c in world.claims() if condition(c, "Quarantined") == "True"]
        return kept == ["gpu-0"] and is_bound_as_it_says(world, "trainer")

    def clear() -> None:
        world.clear_faults()
        world.delete("trainer")
        for claim in world.claims():
            if condition(claim, "Quarantined") == "True":
                world.kube.delete(DEVICE_ATTACHMENTS, claim["metadata"]["name"])

    failed = Act("failed bind", ask, failed_over)
    rack.sweep([failed, Act("clearing", clear, lambda: is_clean(world, "trainer"))], way)


def edits(world: World, resource: ResourceType, name: str, **spec: Any) -> Callable[[], object]:
    namespace = NAMESPACE if resource.namespaced else ""
    return lambda: world.kube.patch(resource, name, {"spec": spec}, namespace)


def stands(world: World, **wanted: Any) -> Callable[[], bool]:
    """Whether `trainer` is bound as it says, to `gpus` devices, of which `lacks` is none, at `host`; nothing leaves."""

    def look() -> bool:
        if not is_bound_as_it_says(world, "trainer"):
            return False
        node = world.get("trainer") or {}
        if condition(node, "Bound") != "True":
            # It was bound a moment ago.
            return False
        devices = [item["device"] for item in node["status"]["devices"]]
        at = world.kube.get(NODES, node["status"]["nodeName"]) or {}
        return (
            len(devices) == wanted.get("gpus", 1)
            and wanted.get("lacks") not in devices
            and node["status"]["host"] == wanted.get("host", node["status"]["host"])
            and condition(node, "Resized") != "False"
            and condition(node, "Draining") != "True"
            and all(taint["key"] != TAINT_DRAINING for taint in at["spec"].get("taints", []))
        )

    return look


def growing(world: World) -> list[Act]:
    def asks_for(count: int) -> Callable[[], object]:
        return edits(world, LOGICAL_NODES, "trainer", accelerators=[{"name": "main", "count": count}])

    return [
        Act("grow", asks_for(2), stands(world, gpus=2)),
        Act("shrink", asks_for(1), stands(world, gpus=1)),
    ]


def a_device(world: World) -> list[Act]:
    def maintain(*devices: str) -> Callable[[], object]:
        return edits(world, GPU_POOLS, world.name, maintenance={"devices": list(devices), "drain": {}})

    return [
        Act("maintenance of its device", maintain("gpu-0"), stands(world, lacks="gpu-0")),
        Act(
            "maintenance of the others",
            maintain("gpu-1", "gpu-2"),
            lambda: stands(world, lacks="gpu-1")() and stands(world, lacks="gpu-2")(),
        ),
    ]


def a_host(world: World) -> list[Act]:
    def maintain(host: str) -> Callable[[], object]:
        return edits(world, FABRICS, world.name, maintenance={"hosts": [host], "drain": {}})

    return [
        Act("maintenance of its host", maintain("sled-0"), stands(world, host="sled-1")),
        Act("maintenance of the other", maintain("sled-1"), stands(world, host="sled-0")),
    ]


def a_pool(world: World) -> list[Act]:
    def is_empty() -> bool:
        return condition(world.get("trainer"), "Bound") == "False" and holds_nothing(world)

    drain = edits(world, GPU_POOLS, world.name, maintenance={"allDevices": True, "drain": {}})
    return [
        Act("maintenance of the pool", drain, is_empty),
        Act("its end", edits(world, GPU_POOLS, world.name, maintenance=None), stands(world)),
    ]


def a_fault(world: World) -> list[Act]:
    failed: list[str] = []

    def fail() -> None:
        failed[:] = [item["device"] for item in (world.get("trainer") or {})["status"]["devices"]]
        world.faults({"kind": "unhealthy", "match": {"block": failed[0]}})

    def kept() -> list[str]:
        return [c["spec"]["device"] for c in world.claims() if condition(c, "Quarantined") == "True"]

    def clear() -> None:
        world.clear_faults()
        world.kube.delete(DEVICE_ATTACHMENTS, f"{world.name}.{failed[0]}")

    return [
        Act("replacement", fail, lambda: kept() == failed and stands(world, lacks=failed[0])()),
        Act("its clearing", clear, lambda: not kept() and len(world.claims()) == 1 and stands(world)()),
    ]


def a_preemption(world: World) -> list[Act]:
    kind = {"apiVersion": PRIORITY_CLASSES.api_version, "kind": PRIORITY_CLASSES.kind}
    world.kube.apply(PRIORITY_CLASSES, {**kind, "metadata": {"name": "weft-crash-urgent"}, "value": 10})
    edits(world, GPU_POOLS, world.name, preemption={"scope": "SameNamespace"})()

    def ask() -> None:
        world.logical_node("urgent", gpus=3, memory="", priorityClassName="weft-crash-urgent")

    return [
        Act(
            "preemption", ask, lambda: is_bound_as_it_says(world, "urgent") and not world.is_bound("trainer")
        ),
        Act(
            "return",
            lambda: world.delete("urgent"),
            lambda: world.get("urgent") is None and stands(world)(),
        ),
    ]


@BOTH
@pytest.mark.parametrize("change", [growing, a_device, a_host, a_pool, a_fault, a_preemption])
def test_what_is_changed_of_a_bound_node(rack: Stage, way: Way, change: Callable[[World], list[Act]]) -> None:
    world = rack.world
    acts = change(world)
    world.logical_node("trainer", gpus=1, memory="", onDeviceFailure="Replace")
    # The first of the acts begins where the last one ends.
    acts[-1].do() if change in (a_device, a_host) else None
    eventually(acts[-1].done if change is not a_fault else stands(world), 60)
    rack.sweep(acts, way)


@pytest.fixture
def serving(plane: ControlPlane) -> Iterator[Stage]:
    """A group of two and two replicas on a rack, whose pods a played kubelet runs."""
    with idle_engines(plane.client(), NAMESPACE) as settings:
        stage = Stage(plane, hosts=6, gpus=8, settings=settings)
        try:
            world = stage.world
            kubelet = (
                sys.executable,
                "-m",
                "weft_dev.kubelet",
                f"--kubeconfig={plane.kubeconfig}",
                f"--nodes={world.name}-sled-0..{len(world.hosts) - 1}",
            )
            environment = {"PYTHONPATH": PYTHONPATH, "PATH": "/usr/bin:/bin"}
            world.processes.start("kubelet", kubelet, environment=environment)
            create_group(stage.kube, NAMESPACE)
            eventually(lambda: split(stage.kube, NAMESPACE) == {"prefill": 2, "decode": 2}, 60)
            yield stage
        finally:
            stage.close()


def asks(stage: Stage, *replicas: tuple[str, int]) -> Callable[[], None]:
    def ask() -> None:
        for role, count in replicas:
            stage.kube.patch(INFERENCE_ROLES, role, {"spec": {"replicas": count}}, NAMESPACE)

    return ask


def has(stage: Stage, **wanted: int) -> Callable[[], bool]:
    """Whether these are the Ready pods by role, and each has a bound node, of which there are no others."""

    def look() -> bool:
        nodes = stage.kube.list(LOGICAL_NODES, NAMESPACE)
        bound = [node for node in nodes if condition(node, "Bound") == "True"]
        devices = {
            (item["device"], node["status"]["host"]) for node in bound for item in node["status"]["devices"]
        }
        pods = stage.kube.list(PODS, NAMESPACE)
        return (
            split(stage.kube, NAMESPACE) == wanted
            and len(pods) == len(nodes) == len(bound) == sum(wanted.values())
            and stage.world.attached() == devices
            and len(stage.world.claims()) == len(devices)
        )

    return look


@BOTH
def test_a_replica_that_is_added_and_one_that_is_removed(serving: Stage, way: Way) -> None:
    remove = Act("removal", asks(serving, ("decode", 1)), has(serving, prefill=2, decode=1))
    add = Act("growth", asks(serving, ("decode", 2)), has(serving, prefill=2, decode=2))
    serving.sweep([remove, add], way)


@BOTH
def test_a_transfer_and_its_way_back(serving: Stage, way: Way) -> None:
    # In this order the budget admits the second change as a move only: the replica keeps its pod.
    there = asks(serving, ("decode", 3), ("prefill", 1))
    back = asks(serving, ("prefill", 2), ("decode", 2))
    serving.sweep(
        [
            Act("transfer", there, has(serving, prefill=1, decode=3)),
            Act("transfer back", back, has(serving, prefill=2, decode=2)),
        ],
        way,
    )

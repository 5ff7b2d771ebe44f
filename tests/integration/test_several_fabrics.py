"""One logical node over the three managers of docs/examples/several-fabrics, on a real API server."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.world import World, condition, eventually
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    STORAGE_POOLS,
    ResourceType,
)
from weft.cluster import ClusterError
from weft.emulator.journal import check
from weft_dev.controlplane import ControlPlane

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
FABRIC_NAMES = ("pcie", "cxl", "nvmeof")
KINDS: dict[str, ResourceType] = {
    each.kind: each for each in (FABRICS, GPU_POOLS, MEMORY_POOLS, STORAGE_POOLS, LOGICAL_NODES)
}


def objects() -> list[dict[str, Any]]:
    files = sorted((EXAMPLES / "several-fabrics").glob("*.yaml"))
    return [body for path in files for body in yaml.safe_load_all(path.read_text())]


class Managers:
    """The three managers, and the example's objects with their addresses."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._urls = {name: self._start(name) for name in FABRIC_NAMES}
        self.node = next(body for body in objects() if body["kind"] == "LogicalNode")
        for body in objects():
            if body["kind"] == "LogicalNode":
                continue
            if body["kind"] == "Fabric":
                spec = body["spec"]
                spec["endpoint"] = self._urls[body["metadata"]["name"]]
                spec["limits"] = {"settleSeconds": 1, "requestTimeoutSeconds": 1, "requestsPerSecond": 1000}
                # The Nodes of this test's world: worker-0 is the machine sled-0.
                for host in spec["hosts"]:
                    host["nodeName"] = f"{world.name}-{host['nodeName'].replace('worker', 'sled')}"
            world.kube.create(KINDS[body["kind"]], body)

    def _start(self, name: str) -> str:
        directory = self._world.directory
        ready = directory / f"{name}.url"
        inventory = EXAMPLES / "emulator" / f"{name}.yaml"
        command = [
            sys.executable, "-m", "weft.cli.main", "emulator", "--permissive", "--inventory", inventory,
            "--journal", directory / f"{name}.jsonl", "--ready-file", ready,
        ]  # fmt: skip
        self._world.processes.start(name, command)
        eventually(lambda: self._world.processes.check(name) or ready.exists(), what=f"{name} listens")
        return ready.read_text().strip()

    def bind(self) -> None:
        self._world.kube.create(LOGICAL_NODES, self.node, self._world.namespace)

    def refuse_once(self, name: str) -> None:
        """Have a manager say to one attach that it has no capacity left."""
        fault = {"kind": "fail", "status": 507, "match": {"verb": "attach"}, "times": 1}
        known, self._world.emulator_url = self._world.emulator_url, self._urls[name]
        self._world.faults(fault)
        self._world.emulator_url = known

    def attached(self) -> dict[str, set[tuple[str, str]]]:
        """(device, host) by manager, by the journals alone; fails where a device was at two hosts at once."""
        found = {}
        for name in FABRIC_NAMES:
            report = check((self._world.directory / f"{name}.jsonl").read_text().splitlines())
            assert report.double_attached == ()
            found[name] = set(report.left_attached)
        return found

    def acts(self, name: str) -> list[tuple[str, str]]:
        """(act, host) of what was attached and detached, in order."""
        lines = map(json.loads, (self._world.directory / f"{name}.jsonl").read_text().splitlines())
        return [(act["act"], act["host"]) for act in lines if act["block"] and act["outcome"] == "done"]

    def remove(self) -> None:
        kube, namespace = self._world.kube, self._world.namespace
        claims = [body for body in kube.list(DEVICE_ATTACHMENTS) if body["spec"]["fabric"] in FABRIC_NAMES]
        for body in (self.node, *claims, *reversed(objects())):
            resource = KINDS.get(body["kind"], DEVICE_ATTACHMENTS)
            within = namespace if resource.namespaced else ""
            kube.delete(resource, body["metadata"]["name"], within)
            with contextlib.suppress(ClusterError):
                kube.patch(resource, body["metadata"]["name"], {"metadata": {"finalizers": None}}, within)


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=2, gpus=1, memories=1)
    try:
        world.start_emulator()
        world.create()
        yield world
    finally:
        world.close()


@pytest.fixture
def managers(world: World) -> Iterator[Managers]:
    made = Managers(world)
    made.node["metadata"]["namespace"] = world.namespace
    try:
        yield made
    finally:
        # First the operator: it would put its finalizer back.
        world.kill_operator("operator-1")
        made.remove()


def test_gpus_a_tpu_memory_and_a_drive_of_three_managers_are_one_logical_node_or_none(
    world: World, managers: Managers
) -> None:
    managers.refuse_once("nvmeof")
    world.start_operator()
    managers.bind()
    eventually(lambda: world.is_bound("mixed"), what="mixed is Bound")
    node = world.get("mixed")
    assert node is not None
    assert condition(node, "Ready") == "True"
    number = node["status"]["nodeName"][-1]
    attached = managers.attached()
    assert {host for _, host in attached["pcie"]} == {f"sled-{number}"}
    assert {device.split("-")[0] for device, _ in attached["pcie"]} == {"gpu", "tpu"}
    assert attached["cxl"] == {("cxl-0", f"blade-{number}"), ("cxl-1", f"blade-{number}")}
    assert {host for _, host in attached["nvmeof"]} == {f"initiator-{number}"}
    assert node["status"]["deviceCount"] == 6
    # What had been attached at the machine that one manager refused was taken back before another was tried.
    acts = managers.acts("cxl")
    assert [act for act, _ in acts] == ["attach"] * 2 + ["detach"] * 2 + ["attach"] * 2
    assert len({host for _, host in acts[:4]}) == 1
    assert {host for _, host in acts[:4]} != {host for _, host in attached["cxl"]}

    world.delete("mixed")
    eventually(lambda: world.get("mixed") is None, what="mixed is gone")
    assert not any(managers.attached().values())

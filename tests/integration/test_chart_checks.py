"""`weft check`, which Helm's hooks run: what it refuses, what it says, and that the hooks' accounts suffice for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chart import NAMESPACE, Helm, Object, find
from support.chart_cluster import TENANT, started, write_account
from support.replicas import Replicas
from support.world import World, eventually
from weft.api.resources import FABRICS, GPU_POOLS, LOGICAL_NODES, ResourceType
from weft_dev import tools
from weft_dev.controlplane import ControlPlane

Check = Callable[..., "subprocess.CompletedProcess[str]"]
SETTINGS: dict[str, Any] = {"lease_seconds": 2}
"""These operators have one Lease, one after the other, and none hands it over."""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    helm = Helm(tools.provide(["helm"])["helm"], Path(tmp_path_factory.mktemp("helm")))
    return helm.render({"crds": {"keep": False}})


@pytest.fixture(scope="module")
def plane(
    tool_paths: dict[str, Path], rendered: list[Object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """A control plane of its own: the checks ask about objects of the whole cluster."""
    with started(tool_paths, rendered, tmp_path_factory.mktemp("chart")) as plane:
        yield plane


@pytest.fixture
def check(plane: ControlPlane, rendered: list[Object], tmp_path: Path) -> Check:
    """`check(hook, **replaced)`: run what the hook's pod runs, as its account, with some arguments replaced."""

    def run(kind: str, name: str, **replaced: str) -> subprocess.CompletedProcess[str]:
        spec = find(rendered, kind, name)["spec"]
        spec = spec["template"]["spec"] if kind == "Job" else spec
        kubeconfig = tmp_path / "kubeconfig"
        write_account(plane, spec["serviceAccountName"], kubeconfig)
        arguments = list(spec["containers"][0]["args"])
        for option, value in replaced.items():
            arguments = [each for each in arguments if not each.startswith(f"--{option}=")]
            arguments.append(f"--{option}={value}")
        return subprocess.run(
            [sys.executable, "-m", "weft.cli.main", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": os.environ["PATH"], "KUBECONFIG": str(kubeconfig)},
        )

    return run


def is_ready(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@pytest.fixture
def kept_up(plane: ControlPlane) -> Iterator[Callable[[World], None]]:
    """Starts an operator, and another one when it ends: its watches may, or its lease on a busy machine."""
    with contextlib.ExitStack() as closing:
        yield lambda world: closing.callback(Replicas(world, {"api": plane.kubeconfig}, SETTINGS).close)


@pytest.fixture
def world(plane: ControlPlane) -> Iterator[World]:
    world = World(plane, NAMESPACE, hosts=1, gpus=2, memories=1)
    world.start_emulator()
    try:
        yield world
    finally:
        world.close()


def test_the_definitions_are_removable_once_nothing_holds_hardware_any_more(
    check: Check, world: World, kept_up: Callable[[World], object]
) -> None:
    done = check("Job", "weft-uninstall-check")
    assert (done.returncode, done.stderr) == (0, "")
    world.create()
    kept_up(world)
    world.logical_node("trainer")
    eventually(lambda: world.is_bound("trainer"), 60, what="trainer is bound")
    refused = check("Job", "weft-uninstall-check")
    assert refused.returncode == 1
    assert f"  logicalnodes: {NAMESPACE}/trainer\n" in refused.stderr
    assert f"  fabrics: {world.name}\n" in refused.stderr
    assert "\n  helm rollback weft 1 -n weft-system\n" in refused.stderr
    # What it says to do, in its order.
    commands = [line.split() for line in refused.stderr.splitlines() if line.startswith("  kubectl delete ")]
    assert commands[0][2] == "logicalnodes.weft.dev"
    by_plural = {each.plural: each for each in (LOGICAL_NODES, GPU_POOLS, FABRICS)}
    for command in commands:
        plural = command[2].partition(".")[0]
        if resource := by_plural.get(plural):
            for obj in world.kube.list(resource):
                world.kube.delete(resource, obj["metadata"]["name"], obj["metadata"].get("namespace", ""))
        else:
            world.kube.delete(ResourceType("weft.dev", "v1alpha2", plural, "", False), world.name)
    said: list[str] = []

    def removable() -> bool:
        done = check("Job", "weft-uninstall-check")
        said[:] = [done.stderr]
        return done.returncode == 0

    try:
        eventually(removable, 60, every=0.5, what="removable")
    except AssertionError as late:
        raise AssertionError(f"{late}; the last answer: {said}") from late
    assert not world.attached()


def test_an_installation_is_well_once_a_replica_is_ready_and_one_leads(check: Check, world: World) -> None:
    ended = check("Pod", "weft-test", url="http://127.0.0.1:9", timeout="1")
    assert ended.returncode == 1
    assert "no replica is ready behind http://127.0.0.1:9" in ended.stderr
    assert "kubectl get pods -n weft-system" in ended.stderr
    operator = world.start_operator(**SETTINGS)
    address = f"http://127.0.0.1:{world.ports[operator]}"
    done = check("Pod", "weft-test", url=address, timeout="60")
    assert (done.returncode, done.stdout) == (0, "weft check installed: yes\n"), done.stderr


def test_an_operator_that_does_not_lead_is_not_well(check: Check, world: World) -> None:
    operator = world.start_operator(namespace=TENANT, **SETTINGS)
    address = f"http://127.0.0.1:{world.ports[operator]}"
    eventually(lambda: is_ready(address), 60, what="the operator is ready")
    # A Lease that is held is renewed within a second.
    done = check("Pod", "weft-test", url=address, timeout="4")
    assert done.returncode == 1
    assert "nobody renews the Lease weft-system/weft-operator" in done.stderr

"""etcd set back to a copy of its data, while devices were bound since: nothing is placed on what was known before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.world import World, eventually, reason
from weft.api.resources import NAMESPACES, ResourceType
from weft_dev import controlplane
from weft_dev.controlplane import ControlPlane, server_environment

ROOT = Path(__file__).resolve().parents[2]
SERVICE_ACCOUNTS = ResourceType("", "v1", "serviceaccounts", "ServiceAccount", True)
NAMESPACE = "restored"


@pytest.fixture
def plane(tool_paths: dict[str, Path]) -> Iterator[ControlPlane]:
    with controlplane.start(binaries=tool_paths) as plane:
        kube = plane.client()
        controlplane.install_crds(kube, (ROOT / "crds").glob("*.yaml"))
        kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        eventually(lambda: kube.get(SERVICE_ACCOUNTS, "default", NAMESPACE))
        yield plane


@pytest.fixture
def world(plane: ControlPlane) -> Iterator[World]:
    world = World(plane, NAMESPACE, hosts=2, gpus=3, memories=1)
    world.start_emulator("--permissive")
    world.create()
    try:
        yield world
    finally:
        world.close()


def test_a_leader_whose_etcd_is_restored_to_an_older_state_ends_and_the_next_gives_no_device_twice(
    plane: ControlPlane, world: World
) -> None:
    etcd = Path(f"/proc/{plane.processes.pids['etcd']}/cmdline").read_bytes()
    command = etcd.decode().rstrip("\0").split("\0")
    data = plane.directory / "etcd"
    leader = world.start_operator(lease_seconds=5, relist_seconds=2)
    world.logical_node("before", gpus=1, memory="")
    eventually(lambda: world.is_bound("before"), what="before is Bound")
    plane.stop_apiserver()
    plane.processes.stop("etcd")
    shutil.copytree(data, plane.directory / "backup")
    plane.processes.start("etcd", command, environment=server_environment())
    plane.start_apiserver()
    world.logical_node("since", gpus=1, memory="")
    eventually(lambda: world.is_bound("since"), 60, what="since is Bound")
    attached = world.attached()

    plane.stop_apiserver()
    plane.processes.stop("etcd")
    shutil.rmtree(data)
    shutil.copytree(plane.directory / "backup", data)
    plane.processes.start("etcd", command, environment=server_environment())
    plane.start_apiserver()
    eventually(lambda: world.processes.exit_code(leader) is not None, 30, what="the leader ends")
    assert "etcd was restored to an earlier state" in world.processes.log(leader).read_text()

    # Of `since` nothing is known any more: what it had is nobody's, and the host is given to nobody.
    world.start_operator(lease_seconds=2, relist_seconds=2)
    world.logical_node("after", gpus=1, memory="")
    eventually(
        lambda: reason(world.get("after"), "Bound") == "NoHost", 60, what="it is said that there is no host"
    )
    assert world.attached() == attached
    assert world.is_bound("before")

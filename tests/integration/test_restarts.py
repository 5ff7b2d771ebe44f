"""A flip by restart on a real API server and a fabric manager: the pod is replaced, its devices stay attached."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from support import idle_group
from support.idle_group import GROUP, create_group, split
from support.world import World, eventually, reason
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS
from weft.emulator import journal
from weft_dev import PYTHONPATH
from weft_dev.controlplane import ControlPlane

Object = dict[str, Any]


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=3, gpus=3, memories=3)
    world.start_emulator()
    try:
        yield world
    finally:
        for resource in (INFERENCE_GROUPS, INFERENCE_ROLES):
            for obj in world.kube.list(resource, namespace):
                name = obj["metadata"]["name"]
                world.kube.patch(resource, name, {"metadata": {"finalizers": None}}, namespace)
                world.kube.delete(resource, name, namespace)
        world.close()


def template(role: str) -> Object:
    args = [f"--disaggregation-mode={role}"]
    pod = {"containers": [{"name": "engine", "image": "dynamo:1", "args": args}]}
    return {
        "metadata": {"labels": {"example.com/serves": role}},
        "spec": {**pod, "terminationGracePeriodSeconds": 1},
    }


def start_kubelet(world: World) -> None:
    """One that plays all of the world's Nodes."""
    nodes = f"{world.name}-sled-0..{len(world.hosts) - 1}"
    kubelet = (sys.executable, "-m", "weft_dev.kubelet", f"--kubeconfig={world.plane.kubeconfig}")
    environment = {"PYTHONPATH": PYTHONPATH, "PATH": "/usr/bin:/bin"}
    world.processes.start("kubelet", (*kubelet, f"--nodes={nodes}"), environment=environment)


def test_a_restart_gives_the_pod_the_other_roles_arguments_and_detaches_nothing(world: World) -> None:
    world.create(heartbeats=False)
    start_kubelet(world)
    with idle_group.idle_engines(world.kube, world.namespace) as settings:
        create_group(world.kube, world.namespace)
        change = {"spec": {"accelerators": {"maximum": 3}, "rebalance": {"flip": "Restart"}}}
        world.kube.patch(INFERENCE_GROUPS, GROUP, change, world.namespace)
        for role, replicas in (("prefill", 1), ("decode", 2)):
            change = {"spec": {"replicas": replicas, "template": template(role)}}
            world.kube.patch(INFERENCE_ROLES, role, change, world.namespace)
        world.start_operator(**settings)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 1, "decode": 2}, 60, what="it serves"
        )
        acts, attached = len(world.acts()), world.attached()
        assert len(attached) == 3
        logical = uids(world, LOGICAL_NODES)
        pods = uids(world, PODS)

        # In this order the budget admits the second change as a move only.
        for role, replicas in (("prefill", 2), ("decode", 1)):
            world.kube.patch(INFERENCE_ROLES, role, {"spec": {"replicas": replicas}}, world.namespace)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 2, "decode": 1}, 60, what="it restarts"
        )
        eventually(
            lambda: (
                reason(world.kube.get(INFERENCE_GROUPS, GROUP, world.namespace), "Balanced") == "AsDecided"
            ),
            what="it is as decided",
        )
        assert (len(world.acts()), world.attached()) == (acts, attached)
        assert uids(world, LOGICAL_NODES) == logical
        now = uids(world, PODS)
        assert now.keys() == pods.keys()
        assert len(set(now.items()) - set(pods.items())) == 1
        for pod in world.kube.list(PODS, world.namespace):
            labels = pod["metadata"]["labels"]
            assert labels["example.com/serves"] == labels["weft.dev/role"] == labels["weft.dev/stage"]
            args = pod["spec"]["containers"][0]["args"]
            assert args == [f"--disaggregation-mode={labels['weft.dev/role']}"]
        world.kube.delete(INFERENCE_GROUPS, GROUP, world.namespace)
        eventually(lambda: not world.attached(), 60, what="all is released")


def test_devices_go_from_host_to_host_where_the_hardware_under_a_role_changes(world: World) -> None:
    world.create(heartbeats=False)
    start_kubelet(world)
    with idle_group.idle_engines(world.kube, world.namespace) as settings:
        create_group(world.kube, world.namespace)
        # There is room for a fourth in the budget, and no fourth GPU.
        change = {"spec": {"accelerators": {"maximum": 4}, "rebalance": {"flip": "Recompose"}}}
        world.kube.patch(INFERENCE_GROUPS, GROUP, change, world.namespace)
        gpu = [{"name": "main", "count": 1}]
        decode: Object = {"accelerators": gpu, "memory": [{"name": "kv", "size": "512Gi"}]}
        for role, replicas, node in (("prefill", 1, {"accelerators": gpu}), ("decode", 2, decode)):
            change = {"spec": {"replicas": replicas, "node": node}}
            world.kube.patch(INFERENCE_ROLES, role, change, world.namespace)
        world.start_operator(**settings)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 1, "decode": 2}, 60, what="it serves"
        )
        assert len(world.attached()) == 5, "three GPUs, memory for two"
        logical = uids(world, LOGICAL_NODES)
        for role, replicas in (("prefill", 2), ("decode", 1)):
            world.kube.patch(INFERENCE_ROLES, role, {"spec": {"replicas": replicas}}, world.namespace)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 2, "decode": 1}, 60, what="it follows"
        )
        assert len(world.attached()) == 4
        assert len(set(uids(world, LOGICAL_NODES).items()) - set(logical.items())) == 1
        report = journal.check(world.journal.read_text().splitlines())
        assert report.double_attached == ()
        assert (report.attaches, report.detaches) == (6, 2), "one GPU went and came, one memory went"
        world.kube.delete(INFERENCE_GROUPS, GROUP, world.namespace)
        eventually(lambda: not world.attached(), 60, what="all is released")


def uids(world: World, resource: Any) -> dict[str, str]:
    found = world.kube.list(resource, world.namespace)
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}

"""A group that has moved is paused on a real API server: nothing moves until a role is scaled, and resume goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from support import idle_group
from support.broken import ENDS_AT_ONCE
from support.idle_group import GROUP, create_group, split
from support.world import World, eventually, start_kubelet
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, PODS
from weft_dev.controlplane import ControlPlane

Object = dict[str, Any]


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    with closing(World(control_plane, namespace, hosts=4, gpus=4, memories=4)) as world:
        world.start_emulator()
        yield world


def weft(world: World, *arguments: str) -> str:
    command = [sys.executable, "-m", "weft.cli.main", *arguments, f"infg/{GROUP}", "-n", world.namespace]
    command += ["--kubeconfig", str(world.plane.kubeconfig)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_moved_group_that_is_paused_keeps_its_split_until_a_role_is_scaled(world: World) -> None:
    def group() -> Object:
        return world.kube.get(INFERENCE_GROUPS, GROUP, world.namespace) or {}

    def scale(role: str, replicas: int) -> None:
        change = {"spec": {"replicas": replicas}}
        world.kube.patch(INFERENCE_ROLES, role, change, world.namespace, subresource="scale")

    def seen() -> bool:
        return bool(group()["status"]["observedGeneration"] == group()["metadata"]["generation"])

    def asked() -> dict[str, int]:
        return {one["role"]: one["replicas"] for one in group()["status"]["replicasAsked"]}

    def pods() -> dict[str, str]:
        found = world.kube.list(PODS, world.namespace)
        return {one["metadata"]["uid"]: one["metadata"]["labels"]["weft.dev/role"] for one in found}

    world.create(heartbeats=False)
    start_kubelet(world)
    with idle_group.idle_engines(world.kube, world.namespace) as settings:
        create_group(world.kube, world.namespace)
        world.start_operator(program=ENDS_AT_ONCE, **settings)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 2, "decode": 2}, 60, what="it serves"
        )
        scale("prefill", 3)
        scale("decode", 1)
        moved = {"prefill": 3, "decode": 1}
        eventually(lambda: split(world.kube, world.namespace) == moved, 60, what="it moves")
        # In Auto the roles say something else than they have: nobody follows that.
        auto = {"spec": {"rebalance": {"mode": "Auto"}}}
        world.kube.patch(INFERENCE_GROUPS, GROUP, auto, world.namespace)
        eventually(seen, what="it is in Auto")
        scale("prefill", 2)
        scale("decode", 2)
        eventually(lambda: asked() == {"prefill": 2, "decode": 2}, what="it has seen what they ask for")
        before = pods()
        assert sorted(before.values()) == ["decode", "prefill", "prefill", "prefill"]

        assert "Auto -> Paused: the split stays as it is" in weft(world, "pause")
        eventually(seen, what="it is paused")
        # A group is looked at every 2 s: what is to happen would.
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert not group()["status"].get("transfers")
            assert pods() == before
            time.sleep(0.2)

        scale("prefill", 1)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 1, "decode": 1}, 60, what="it follows"
        )
        scale("decode", 3)
        now = {"prefill": 1, "decode": 3}
        eventually(lambda: split(world.kube, world.namespace) == now, 60, what="it follows")
        after = pods()
        assert "Paused -> Auto" in weft(world, "resume")
        eventually(seen, what="it is resumed")
        time.sleep(3)  # A look or two in Auto.
        assert pods() == after
        world.kube.delete(INFERENCE_GROUPS, GROUP, world.namespace)
        eventually(lambda: not world.attached(), 60, what="all is released")

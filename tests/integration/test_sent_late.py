"""A router that never stops sending to a replica that leaves, on a real API server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from support import idle_group
from support.broken import WAITS_FOR_ROUTERS_BRIEFLY
from support.idle_group import GROUP, Object, create_group, split
from support.world import World, eventually, reason, start_kubelet
from weft.api.resources import EVENTS, INFERENCE_GROUPS, INFERENCE_ROLES
from weft_dev.controlplane import ControlPlane


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    with closing(World(control_plane, namespace, hosts=4, gpus=4, memories=4)) as world:
        world.start_emulator()
        yield world


class Router:
    """Sends each pod two requests a second, which take a second: `follows` readiness, or not."""

    def __init__(self) -> None:
        self.follows = False
        self._since: dict[str, float] = {}

    def engine(self, pod: Object) -> dict[str, float]:
        """What the pod's engine counts."""
        began = self._since.setdefault(pod["metadata"]["uid"], time.monotonic())
        if self.follows:
            return {}
        return {"running": 2.0, "ended": 2.0 * (time.monotonic() - began)}


def test_a_flip_behind_a_router_that_follows_no_readiness_is_taken_back_and_said_and_none_follows(
    world: World,
) -> None:
    def group() -> Object:
        return world.kube.get(INFERENCE_GROUPS, GROUP, world.namespace) or {}

    def told() -> list[str]:
        return [one["reason"] for one in world.kube.list(EVENTS, world.namespace)]

    router = Router()
    world.create(heartbeats=False)
    start_kubelet(world)
    with idle_group.idle_engines(world.kube, world.namespace, engine=router.engine) as settings:
        create_group(world.kube, world.namespace)
        change = {"spec": {"rebalance": {"drainFirst": True, "cooldownSeconds": 1}}}
        world.kube.patch(INFERENCE_GROUPS, GROUP, change, world.namespace)
        for role in ("prefill", "decode"):
            change = {"spec": {"drain": {"timeoutSeconds": 300}}}
            world.kube.patch(INFERENCE_ROLES, role, change, world.namespace)
        world.start_operator(program=WAITS_FOR_ROUTERS_BRIEFLY, **settings)
        whole = {"prefill": 2, "decode": 2}
        eventually(lambda: split(world.kube, world.namespace) == whole, 60, what="it serves")

        for role, replicas in (("prefill", 3), ("decode", 1)):
            world.kube.patch(INFERENCE_ROLES, role, {"spec": {"replicas": replicas}}, world.namespace)
        eventually(lambda: group()["status"].get("transfers"), what="a flip begins")
        (moving,) = group()["status"]["transfers"]
        eventually(lambda: reason(group(), "Balanced") == "RouterKeepsSending", 90, what="it says so")
        (said,) = (one for one in group()["status"]["conditions"] if one["type"] == "Balanced")
        assert moving["replica"] in said["message"]
        assert "docs/engines.md" in said["message"]
        eventually(lambda: split(world.kube, world.namespace) == whole, what="the replica is back")
        time.sleep(8)  # a replica whose move was rolled back is left alone for 3 s anyway: a look or two more
        assert not group()["status"].get("transfers")
        assert reason(group(), "Balanced") == "RouterKeepsSending"
        assert told().count("TransferStarted") == told().count("RouterKeepsSending") == 1

        router.follows = True
        world.kube.delete(INFERENCE_GROUPS, GROUP, world.namespace)
        eventually(lambda: not world.attached(), 60, what="all is released")

"""Binding on a real API server through managers that are changed in other ways than by PATCH of a system."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.world import World, condition, eventually, reason
from weft.api.resources import FABRICS, NODES
from weft_dev.controlplane import ControlPlane

IDIOMS = {"compose-by-post": "ComposeByPost", "zone-endpoints": "ZoneEndpoints"}
"""What the driver finds in a dialect: one with resource blocks, one with endpoints."""


pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=2, gpus=4, memories=2)
    try:
        yield world
    finally:
        world.close()


@pytest.mark.parametrize("dialect", IDIOMS)
def test_a_logical_node_is_bound_and_released_in_other_idioms_although_the_manager_fails_after_the_work(
    world: World, dialect: str
) -> None:
    world.start_emulator(f"--dialect={dialect}", "--quirks=500-although-done")
    made = dialect == "compose-by-post"
    hosts = {f"host-{host}" if made else host: f"{world.name}-{host}" for host in world.hosts}
    listed = [{"host": host, "nodeName": node} for host, node in hosts.items()]
    world.create(hosts=listed)
    if made:
        for node in hosts.values():
            world.kube.delete(NODES, node)
    world.logical_node("trainer", gpus=2, memory="512Gi")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    fabric = world.kube.get(FABRICS, world.name)
    assert fabric is not None
    assert fabric["status"]["writes"] == [IDIOMS[dialect]]
    assert condition(fabric, "Writable") == "True"

    node = world.get("trainer")
    assert node is not None
    host = node["status"]["host"]
    assert node["status"]["nodeName"] == hosts[host]
    sled = host.removeprefix("host-")
    assert world.attached() == {(item["device"], sled) for item in node["status"]["devices"]}
    if made:
        assert reason(node, "Ready") == "WaitingForNode"
        world._create_node(hosts[host])
    eventually(lambda: condition(world.get("trainer"), "Ready") == "True", what="trainer is Ready")
    taints = (world.kube.get(NODES, hosts[host]) or {})["spec"]["taints"]
    assert [taint["key"] for taint in taints if "weft" in taint["key"]] == ["weft.dev/logical-node"]

    world.delete("trainer")
    eventually(lambda: world.get("trainer") is None, what="trainer is gone")
    assert (world.attached(), world.claims()) == (set(), [])

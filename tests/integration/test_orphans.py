"""Attachments that somebody made at the manager itself, before Weft or beside it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import pytest

from support.world import World, condition, eventually, reason
from weft.api.resources import EVENTS, FABRICS
from weft_dev.controlplane import ControlPlane

BLOCKS = "/redfish/v1/CompositionService/ResourceBlocks"


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=2, gpus=4, memories=1)
    try:
        world.start_emulator("--permissive")
        yield world
    finally:
        world.close()


def attach_by_hand(world: World, host: str, *devices: str) -> None:
    body = {"Links": {"ResourceBlocks": [{"@odata.id": f"{BLOCKS}/{device}"} for device in devices]}}
    url = f"{world.emulator_url}/redfish/v1/Systems/{host}"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="PATCH")
    with urllib.request.urlopen(request, timeout=10):
        pass


def test_what_was_attached_by_hand_is_adopted_by_name_or_detached_in_time(world: World) -> None:
    attach_by_hand(world, "sled-0", "gpu-0", "gpu-1")
    attach_by_hand(world, "sled-1", "gpu-2")
    world.create(orphanPolicy="Adopt")
    world.start_operator()
    adopt = [{"fabric": world.name, "device": device} for device in ("gpu-0", "gpu-1")]
    world.logical_node("adopter", gpus=2, memory="", adopt=adopt)
    eventually(lambda: world.is_bound("adopter"), what="adopter is Bound")
    assert [act["act"] for act in world.acts()] == ["attach"] * 3
    assert world.attached() == {("gpu-0", "sled-0"), ("gpu-1", "sled-0"), ("gpu-2", "sled-1")}

    def fabric() -> dict[str, object] | None:
        return world.kube.get(FABRICS, world.name)

    eventually(lambda: reason(fabric(), "NoOrphans") == "OrphansFound", what="gpu-2 is reported")
    changes = {"orphanPolicy": "Detach", "limits": {"orphanSeconds": 1}}
    world.kube.patch(FABRICS, world.name, {"spec": changes})
    eventually(lambda: condition(fabric(), "NoOrphans") == "True", what="gpu-2 is detached")
    assert world.attached() == {("gpu-0", "sled-0"), ("gpu-1", "sled-0")}
    (event,) = eventually(
        lambda: [each for each in world.kube.list(EVENTS) if each["reason"] == "OrphansDetached"],
        what="an event says so",
    )
    assert event["note"].startswith("gpu-2: detached from sled-1")

    world.delete("adopter")
    eventually(lambda: world.get("adopter") is None, what="adopter is gone")
    assert world.attached() == set()

"""The queue on a real API server: who waits sees its place and what would unblock it, and the head has its turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.world import World, condition, eventually, reason
from weft.api.resources import DEVICE_QUOTAS, FABRICS, GPU_POOLS, PRIORITY_CLASSES
from weft.cluster import Object
from weft_dev.controlplane import ControlPlane

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "queue"


pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=4, gpus=8, memories=4)
    try:
        world.start_emulator("--permissive")
        yield world
    finally:
        world.close()


@pytest.fixture
def urgent(world: World) -> Iterator[str]:
    """The PriorityClass of the example, applied."""
    yield from _class(world, "10-priority.yaml")


@pytest.fixture
def takes(world: World) -> Iterator[str]:
    """The one that preempts."""
    yield from _class(world, "40-preemption.yaml")


def _class(world: World, example: str) -> Iterator[str]:
    body: Object = next(iter(yaml.safe_load_all((EXAMPLES / example).read_text())))
    world.kube.create(PRIORITY_CLASSES, body)
    yield body["metadata"]["name"]
    world.kube.delete(PRIORITY_CLASSES, body["metadata"]["name"])


def status(world: World, name: str) -> Object:
    return (world.get(name) or {}).get("status", {})


def test_each_that_waits_is_told_its_place_and_a_greater_priority_takes_what_pools_let_it_take(
    world: World, urgent: str, takes: str
) -> None:
    quota: Object = yaml.safe_load((EXAMPLES / "20-shares.yaml").read_text().split("---")[1])
    quota["metadata"]["namespace"] = world.namespace
    world.kube.create(DEVICE_QUOTAS, quota, world.namespace)
    world.create()
    world.logical_node("first", gpus=6, memory="", ttlSecondsAfterBound=3600)
    eventually(lambda: world.is_bound("first"), what="first is Bound")
    world.logical_node("large", gpus=4, memory="")
    eventually(lambda: status(world, "large").get("queuePlace") == "1", what="large is the head")
    world.logical_node("never", gpus=9, memory="")
    world.logical_node("small", gpus=1, memory="")
    world.logical_node("unknown", gpus=1, memory="", priorityClassName="system-node-critical")
    eventually(lambda: condition(world.get("never"), "Accepted") == "False", what="never is not accepted")
    eventually(
        lambda: condition(world.get("unknown"), "Accepted") == "False", what="its class is not allowed"
    )
    assert reason(world.get("never"), "Accepted") == "NoSuchDevices"
    assert reason(world.get("unknown"), "Accepted") == "PriorityClassNotAllowed"
    # Two devices are free, and kept.
    eventually(lambda: status(world, "small").get("queuePlace") == "2", what="small waits behind it")
    (text,) = (each["message"] for each in status(world, "large")["conditions"] if each["type"] == "Bound")
    assert "of this namespace first is the next that releases such devices" in text
    eventually(
        lambda: (world.kube.get(GPU_POOLS, world.name) or {}).get("status", {}).get("kept") == 2,
        what="the pool says what is kept",
    )
    # A greater priority of its own namespace goes before the head.
    world.logical_node("urgent", gpus=2, memory="", priorityClassName=urgent)
    eventually(lambda: world.is_bound("urgent"), what="urgent is Bound")
    world.delete("first")
    eventually(lambda: world.is_bound("large") and world.is_bound("small"), what="both are Bound")
    assert "queuePlace" not in status(world, "large")
    assert condition(world.get("large"), "Accepted") == "True"

    # One device is free. Who takes three more takes them from the one that has them, and from nobody else.
    allowed = {"spec": {"priorityClasses": [urgent, takes]}}
    world.kube.patch(DEVICE_QUOTAS, quota["metadata"]["name"], allowed, world.namespace)
    world.kube.patch(GPU_POOLS, world.name, {"spec": {"preemption": {"scope": "SameNamespace"}}})
    kept = {
        (each["device"], status(world, name)["host"])
        for name in ("small", "urgent")
        for each in status(world, name)["devices"]
    }
    world.logical_node("greater", gpus=4, memory="", priorityClassName=takes)
    eventually(lambda: world.is_bound("greater"), what="greater is Bound")
    assert kept < world.attached()
    eventually(lambda: reason(world.get("large"), "Bound") == "NotEnoughDevices", what="large waits again")
    world.delete("greater")
    eventually(lambda: world.is_bound("large"), what="large is Bound again")
    detached = {(act["block"], act["host"]) for act in world.acts() if act["act"] == "detach"}
    assert not detached & kept


def test_a_fabric_that_leaves_observe_does_what_its_plan_said(world: World) -> None:
    world.create(mode="Observe")
    for name in ("n1", "n2"):
        world.logical_node(name, gpus=4, memory="")
        eventually(lambda name=name: "plan" in status(world, name), what="a plan")  # type: ignore[misc]
    world.logical_node("n3", gpus=4, memory="")
    eventually(lambda: status(world, "n3").get("conditions"), what="n3 is told")
    plans = {name: status(world, name).get("plan") for name in ("n1", "n2", "n3")}
    assert plans["n3"] is None
    assert world.acts() == []
    assert world.claims() == []
    world.kube.patch(FABRICS, world.name, {"spec": {"mode": "Manage"}})
    for name in ("n1", "n2"):
        eventually(lambda name=name: world.is_bound(name), what=f"{name} is Bound")  # type: ignore[misc]
        found, plan = status(world, name), plans[name]
        assert found["nodeName"] == plan["nodeName"]
        assert {each["device"] for each in found["devices"]} == {each["device"] for each in plan["devices"]}

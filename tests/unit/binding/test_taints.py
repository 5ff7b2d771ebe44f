"""Weft's taint of a Node: put back, taken off, and never another's."""

from __future__ import annotations

import pytest

from support.rack import Rack, condition
from weft.api.names import TAINT_DRAINING, TAINT_LOGICAL_NODE
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    LOGICAL_NODES,
    NODES,
)
from weft.binding.keys import LogicalNodeKey
from weft.fabric.errors import CapacityExhausted, DeviceFault


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


async def test_a_place_that_was_given_up_does_not_keep_the_taint(monkeypatch: pytest.MonkeyPatch) -> None:
    rack = Rack(monkeypatch, hosts=1)
    await rack.build()
    failures = [CapacityExhausted("no lane is free")]

    async def fail_once() -> None:
        if failures:
            raise failures.pop()

    rack.driver.before_attach = fail_once
    await rack.ask("n")
    await rack.work("n")
    # The manager never showed the devices: they settle first, which a restarted leader cannot know to be quick.
    rack.fabrics.session("rack").settle_seconds = 1  # type: ignore[union-attr]
    for _ in range(4):
        await rack.poll()
        await rack.work("n")
    await rack.place_again()
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert rack.tainted() == {"node-sled-0": "a.n"}


async def test_a_node_placed_elsewhere_after_a_failure_taints_its_own_node_alone(rack: Rack) -> None:
    await rack.build()
    failures = [DeviceFault("broken", "gpu-0")]

    async def fail_once() -> None:
        if failures:
            raise failures.pop()

    rack.driver.before_attach = fail_once
    await rack.ask("n")
    rack.fabrics.session("rack").settle_seconds = 1  # type: ignore[union-attr]
    for _ in range(4):
        await rack.poll()
        await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert list(rack.tainted()) == [rack.node("n")["status"]["nodeName"]]


async def test_a_node_that_registers_anew_gets_its_taint_back(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    name = rack.node("n")["status"]["nodeName"]
    await rack.cluster.delete(NODES, name)
    await rack.work("n")
    assert condition(rack.node("n"), "Ready") == ("False", "NodeNotReady")
    await rack.add_node(name)
    await rack.work("n")
    assert rack.tainted() == {name: "a.n"}
    assert condition(rack.node("n"), "Ready")[0] == "True"


async def test_who_takes_the_taint_off_each_time_is_told_and_not_fought(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    name = rack.node("n")["status"]["nodeName"]
    put_back, fights = 0, True

    def take_off() -> None:
        nonlocal put_back
        node = rack.cluster.objects[NODES, "", name]
        if fights and node["spec"].get("taints"):
            put_back += 1
            rack.cluster._store((NODES, "", name), {**node, "spec": {**node["spec"], "taints": []}})

    rack.cluster.after_write = take_off
    take_off()
    for _ in range(120):
        await rack.pass_by(1)
        await rack.work("n")
    assert put_back < 20
    assert condition(rack.node("n"), "Ready") == ("False", "NodeTaken")
    fights = False
    await rack.pass_by(70)
    assert rack.tainted() == {name: "a.n"}
    assert condition(rack.node("n"), "Ready")[0] == "True"


async def test_what_is_said_of_a_taken_node_names_no_other_tenant(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    name = rack.node("n")["status"]["nodeName"]
    taint = {"key": "weft.dev/logical-node", "value": "secret-team.secret-name", "effect": "NoSchedule"}
    await rack.cluster.patch(NODES, name, "", {"spec": {"taints": [taint]}})
    await rack.work("n")
    assert condition(rack.node("n"), "Ready") == ("False", "NodeTaken")
    assert "secret" not in str(rack.node("n")["status"]) + str(rack.cluster.events)


@pytest.mark.parametrize(
    "left", [(TAINT_LOGICAL_NODE,), (TAINT_LOGICAL_NODE, TAINT_DRAINING), (TAINT_DRAINING,)]
)
async def test_a_taint_that_was_left_of_a_logical_node_that_is_gone_is_taken_off(
    rack: Rack, left: tuple[str, ...]
) -> None:
    await rack.build()
    name = f"node-{rack.hosts[0]}"
    taints = [{"key": key, "value": "a.gone", "effect": "NoSchedule"} for key in left]
    node = await rack.cluster.patch(NODES, name, "", {"spec": {"taints": taints}})
    for key in rack.keys_of(NODES, node):
        await rack.reconcile(key)
    assert not (rack.cluster.get(NODES, name) or {})["spec"].get("taints")


@pytest.mark.parametrize("length", [61, 62, 63, 200])
async def test_a_taint_that_was_left_of_one_that_is_gone_is_taken_off_however_long_its_name_was(
    rack: Rack, length: int
) -> None:
    await rack.build()
    name = "n" * length
    await rack.ask(name)
    (tainted,) = rack.tainted()
    # As if the operator had died after the last claim went and before the clean-up.
    for claim in rack.claims():
        await rack.cluster.patch(
            DEVICE_ATTACHMENTS, claim["metadata"]["name"], "", {"metadata": {"finalizers": None}}
        )
        await rack.cluster.delete(DEVICE_ATTACHMENTS, claim["metadata"]["name"])
    await rack.cluster.patch(LOGICAL_NODES, name, "a", {"metadata": {"finalizers": None}})
    await rack.cluster.delete(LOGICAL_NODES, name, "a")
    rack.driver.pairs.clear()
    rack.restart()
    for key in rack.keys_of(NODES, rack.cluster.get(NODES, tainted) or {}):
        await rack.reconcile(key)
    assert rack.tainted() == {}
    left = rack.cluster.get(NODES, tainted) or {}
    assert "weft.dev/logical-node" not in left["metadata"].get("annotations", {})


async def test_an_annotation_that_others_wrote_does_not_lead_to_another_ones_taint(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n" * 80)
    (tainted,) = rack.tainted()
    forged = {"metadata": {"annotations": {"weft.dev/logical-node": "a/other"}}}
    node = await rack.cluster.patch(NODES, tainted, "", forged)
    assert LogicalNodeKey("a", "other") not in rack.keys_of(NODES, node)


@pytest.mark.parametrize("length", [1, 60, 62, 63, 120])
async def test_a_node_that_is_bound_keeps_its_taint_however_long_its_name_is(rack: Rack, length: int) -> None:
    await rack.build()
    name = "n" * length
    await rack.ask(name)
    assert condition(rack.node(name), "Bound")[0] == "True"
    (tainted,) = rack.tainted()
    for key in rack.keys_of(NODES, rack.cluster.get(NODES, tainted) or {}):
        await rack.reconcile(key)
    assert list(rack.tainted()) == [tainted]

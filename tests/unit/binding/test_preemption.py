"""Who has to give way to a greater priority where pools allow that, and what becomes of both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.placing import GPUS, gpu, gpus, host, place_on, request, tied
from support.rack import Rack, condition
from weft.api.maintenance import Drain
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    PODS,
    PRIORITY_CLASSES,
    ResourceType,
)
from weft.binding.asked import Waiting
from weft.binding.stock import Holder, Offer, Stock
from weft.fabric.driver import Device, DeviceKind

TOLERATION = {"key": "weft.dev/logical-node", "operator": "Exists"}


def holder(name: str, *devices: str, priority: int = 0, since: str = "1", **more: Any) -> Holder:
    at = frozenset(("rack", device) for device in devices)
    more = {"drain": Drain(), **more}
    return Holder(f"uid-{name}", "a", name, priority, since, f"node-h-{name}", at, {GPUS: len(at)}, **more)


def urgent(count: int, **more: Any) -> Waiting:
    return replace(request("urgent", gpus(count), **more), priority=10)


def victims(waiting: Waiting, holders: list[Holder], offers: list[Offer], **stock: Any) -> list[str]:
    devices = {device for each in holders for _, device in each.devices}
    known = [replace(each, free=False, held=True) if each.device.id in devices else each for each in offers]
    busy = tuple(replace(host(f"h-{each.name}"), node_name=each.node_name) for each in holders)
    all_ = Stock(tuple(known), (host("free"),), busy_hosts=busy, holders=tuple(holders), **stock)
    return sorted(each.name for each in place_on([waiting], all_).victims)


def rack_of(count: int) -> list[Offer]:
    return [gpu(f"g{n}") for n in range(count)]


# --- whom ---


def test_the_lowest_priority_gives_way_and_of_equals_the_youngest() -> None:
    holders = [
        holder("high", "g0", "g1", priority=5, since="9"),
        holder("old", "g2", "g3", since="1"),
        holder("young", "g4", "g5", since="2"),
    ]
    assert victims(urgent(2), holders, rack_of(6)) == ["young"]
    assert victims(urgent(4), holders, rack_of(6)) == ["old", "young"]


def test_no_more_give_way_than_what_is_free_leaves_missing() -> None:
    holders = [holder("small", "g0", since="1"), holder("large", "g1", "g2", "g3", since="9")]
    assert victims(urgent(3), holders, rack_of(6)) == ["small"]


def test_nobody_gives_way_where_all_of_them_together_would_not_be_enough() -> None:
    holders = [holder("low", "g0", "g1"), holder("equal", "g2", "g3", priority=10)]
    assert victims(urgent(3), holders, rack_of(4)) == []


def test_nobody_gives_way_for_devices_that_are_not_together() -> None:
    offers = [gpu("g0", domain="a"), gpu("g1", domain="b")]
    holders = [holder("x", "g0"), holder("y", "g1")]
    assert victims(urgent(2, constraints=tied("nvlinkDomain")), holders, offers) == []
    assert victims(urgent(2), holders, offers) == ["x", "y"]


def test_a_pool_that_says_nothing_keeps_its_logical_nodes() -> None:
    assert victims(urgent(2), [holder("low", "g0", "g1", drain=None)], rack_of(2)) == []


def test_a_priority_class_that_never_preempts_waits() -> None:
    calm = replace(urgent(2), may_preempt=False)
    assert victims(calm, [holder("low", "g0", "g1")], rack_of(2)) == []


def test_another_namespace_gives_way_only_where_the_pool_says_any() -> None:
    other = replace(urgent(2), namespace="b")
    assert victims(other, [holder("low", "g0", "g1")], rack_of(2)) == []
    assert victims(other, [holder("low", "g0", "g1", by_any=True)], rack_of(2)) == ["low"]


def test_who_is_leaving_already_is_waited_for_and_nobody_else_is_asked() -> None:
    holders = [holder("leaving", "g0", "g1", priority=9, is_leaving=True), holder("low", "g2", "g3")]
    assert victims(urgent(2), holders, rack_of(4)) == []
    assert victims(urgent(4), holders, rack_of(4)) == ["low"]


def test_who_was_asked_stays_the_one_when_a_younger_one_comes() -> None:
    holders = [holder("asked", "g0", "g1", since="1", is_told=True), holder("younger", "g2", "g3", since="5")]
    assert victims(urgent(2), holders, rack_of(4)) == ["asked"]


def test_who_gives_way_frees_its_host_and_its_part_of_the_quota() -> None:
    holders = [holder("low", "g0", "g1")]
    known = tuple(replace(each, free=False, held=True) for each in rack_of(2))
    busy = (replace(host("h-low"), node_name="node-h-low"),)
    wish = urgent(2)
    stock = Stock(known, (), busy_hosts=busy, holders=tuple(holders))
    assert [each.name for each in place_on([wish], stock).victims] == ["low"]
    # No such host is there, whoever goes.
    nowhere = replace(stock, busy_hosts=())
    assert place_on([wish], nowhere).victims == ()


# --- what becomes of them ---


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch, gpus=2, hosts=2)


async def begin(rack: Rack, preemption: dict[str, Any] | None, value: int = 10, **more: Any) -> None:
    """`low` has both devices, and `urgent` comes."""
    await rack.build()
    if preemption is not None:
        await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"preemption": preemption}})
    await rack.cluster.create(PRIORITY_CLASSES, {"metadata": {"name": "urgent"}, "value": value, **more})
    await rack.ask("low", 2)
    await go_on(rack)
    assert reason(rack, "low") == "Bound"
    await ask(rack)


async def ask(rack: Rack, namespace: str = "a") -> None:
    spec = {"accelerators": [{"name": "main", "count": 2}], "priorityClassName": "urgent"}
    body = {"metadata": {"name": "urgent", "namespace": namespace}, "spec": spec}
    await rack.cluster.create(LOGICAL_NODES, body)
    await go_on(rack)


async def go_on(rack: Rack, times: int = 8) -> None:
    for _ in range(times):
        await rack.place_again()
        for name in ("urgent", "low"):
            if rack.cluster.get(LOGICAL_NODES, name, "a") is not None:
                await rack.work(name)
        await rack.poll()


def reason(rack: Rack, name: str, kind: str = "Bound") -> str:
    return condition(rack.node(name), kind)[1]


@pytest.mark.shows("*Pool.spec.preemption.scope")
async def test_a_greater_priority_gets_the_devices_and_the_other_waits_again(rack: Rack) -> None:
    await begin(rack, {"scope": "SameNamespace"})

    assert reason(rack, "urgent") == "Bound"
    assert condition(rack.node("low"), "Bound") == ("False", "NotEnoughDevices")
    claims = [each["spec"]["claimRef"]["name"] for each in rack.cluster.list(DEVICE_ATTACHMENTS)]
    assert claims == ["urgent", "urgent"]
    # It does not take them back, and gets them when they are free.
    await go_on(rack)
    assert reason(rack, "urgent") == "Bound"


@pytest.mark.parametrize(
    ("preemption", "more"),
    [(None, {}), ({}, {"value": 0}), ({}, {"preemptionPolicy": "Never"})],
    ids=["pool says nothing", "equal priority", "a class that never preempts"],
)
async def test_without_a_pool_that_allows_it_or_a_class_that_asks_for_it_nobody_gives_way(
    rack: Rack, preemption: dict[str, Any] | None, more: dict[str, Any]
) -> None:
    await begin(rack, preemption, **more)

    assert reason(rack, "low") == "Bound"
    assert reason(rack, "urgent") == "NotEnoughDevices"


async def test_who_has_devices_of_a_pool_that_says_nothing_as_well_stays(rack: Rack) -> None:
    await rack.build()
    await rack.cluster.patch(
        GPU_POOLS, "gpus", "", {"spec": {"selector": {"matchAttributes": {"grade": "x"}}}}
    )
    rack.driver.others = tuple(
        Device(name, DeviceKind.ACCELERATOR, {"grade": grade}, 80, True)
        for name, grade in (("x", "x"), ("y", "y"))
    )
    body = {
        "fabricRef": {"name": "rack"},
        "selector": {"matchAttributes": {"grade": "y"}},
        "allowedNamespaces": {},
    }
    await rack.cluster.create(GPU_POOLS, {"metadata": {"name": "others"}, "spec": body})
    await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"preemption": {}}})
    await rack.cluster.create(PRIORITY_CLASSES, {"metadata": {"name": "urgent"}, "value": 10})
    await rack.poll()
    await rack.ask("low", 2)
    await go_on(rack)
    assert reason(rack, "low") == "Bound"
    await ask(rack)
    assert reason(rack, "low") == "Bound"


@pytest.mark.shows("*Pool.spec.preemption.drain.timeoutSeconds", "*Pool.spec.preemption.drain.afterTimeout")
async def test_pods_are_evicted_before_a_device_is_detached_and_the_victim_is_told(rack: Rack) -> None:
    await rack.build()
    await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"preemption": {}}})
    await rack.cluster.create(PRIORITY_CLASSES, {"metadata": {"name": "urgent"}, "value": 10})
    await rack.ask("low", 2)
    await go_on(rack)
    node = rack.node("low")["status"]["nodeName"]
    spec = {"nodeName": node, "tolerations": [TOLERATION], "containers": [{"name": "c", "image": "job:1"}]}
    await rack.cluster.create(PODS, {"metadata": {"name": "job", "namespace": "a"}, "spec": spec})
    rack.cluster.kept_by_budgets.add("job")
    await ask(rack)

    assert reason(rack, "low", "Draining") == "Preempted"
    assert reason(rack, "low") == "Bound"
    assert reason(rack, "urgent") == "NotEnoughDevices"

    # The other one no longer wants it: nobody has to leave.
    await rack.cluster.delete(LOGICAL_NODES, "urgent", "a")
    await go_on(rack)
    assert condition(rack.node("low"), "Draining") == ("False", "NotDraining")
    assert rack.cluster.get(PODS, "job", "a") is not None


@pytest.mark.parametrize(
    ("resource", "name", "spec"),
    [
        (FABRICS, "rack", {"suspend": True}),
        (FABRICS, "rack", {"windows": [{"from": "02:00", "to": "03:00"}]}),
        (LOGICAL_NODES, "urgent", {"suspend": True}),
    ],
)
async def test_nobody_has_to_leave_any_more_for_one_that_may_take_nothing_now(
    rack: Rack, resource: ResourceType, name: str, spec: dict[str, Any]
) -> None:
    await begin(rack, {})
    assert reason(rack, "urgent") == "Bound"
    await rack.cluster.delete(LOGICAL_NODES, "urgent", "a")
    await go_on(rack)
    node = rack.node("low")["status"]["nodeName"]
    pod = {"nodeName": node, "tolerations": [TOLERATION], "containers": [{"name": "c", "image": "job:1"}]}
    await rack.cluster.create(PODS, {"metadata": {"name": "job", "namespace": "a"}, "spec": pod})
    rack.cluster.kept_by_budgets.add("job")
    await ask(rack)
    assert reason(rack, "low", "Draining") == "Preempted"
    await rack.cluster.patch(resource, name, "a" if resource.namespaced else "", {"spec": spec})
    await go_on(rack)
    assert condition(rack.node("low"), "Draining") == ("False", "NotDraining")
    await rack.cluster.delete(PODS, "job", "a")
    await go_on(rack)
    assert reason(rack, "low") == "Bound"

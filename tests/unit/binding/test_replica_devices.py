"""A single device in maintenance under a group's replica: both controllers together, over one rack."""

from __future__ import annotations

from typing import Any

import pytest

from support.rack import condition
from support.rail import Rail, rail, serves
from weft.api.resources import GPU_POOLS, LOGICAL_NODES, PODS
from weft.cluster import Object


async def maintain(one: Rail, *devices: str, **drain: Any) -> None:
    maintenance = {"devices": list(devices), "drain": drain} if devices else None
    await one.rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"maintenance": maintenance}})


async def running(monkeypatch: pytest.MonkeyPatch, gpus: int, maximum: int = 64) -> Rail:
    """Prefill has two replicas and decode one, of two GPUs each, in a rack of so many."""
    one = await rail(monkeypatch, ib0=gpus)
    wanted: Any = {"accelerators": {"maximum": maximum}, "rebalance": {"mode": "Paused"}}
    await one.ask("llama", prefill=2, placement=None, **wanted)
    await one.run("llama")
    assert serving(one) == {"llama-prefill": 2, "llama-decode": 1}
    return one


def serving(one: Rail) -> dict[str, int]:
    roles = [
        pod["metadata"]["labels"]["weft.dev/role"] for pod in one.rack.cluster.list(PODS, "a") if serves(pod)
    ]
    return {role: roles.count(role) for role in roles}


def of_role(one: Rail, role: str) -> Object:
    """The logical node of its first replica."""
    nodes = one.rack.cluster.list(LOGICAL_NODES, "a")
    return next(each for each in nodes if each["metadata"]["labels"]["weft.dev/role"] == role)


def device(node: Object) -> str:
    return str(node["status"]["devices"][0]["device"])


def is_pulled(one: Rail) -> bool:
    """Whether the pool says that what is in maintenance may be taken out, and the fabric agrees."""
    pool = one.rack.cluster.get(GPU_POOLS, "gpus") or {}
    out = pool["spec"]["maintenance"]["devices"]
    attached = {name for name, _ in one.rack.driver.pairs}
    return condition(pool, "Drained")[0] == "True" and attached.isdisjoint(out)


def said(obj: Object | None, kind: str) -> str:
    assert obj is not None
    return next(each["message"] for each in obj["status"]["conditions"] if each["type"] == kind)


async def test_the_last_that_serves_its_role_serves_until_another_does_and_then_gives_the_device_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await running(monkeypatch, gpus=9)
    node = of_role(one, "llama-decode")
    await maintain(one, device(node))
    counts = []
    for _ in range(10):
        await one.run("llama")
        counts.append(serving(one)["llama-decode"])
        await one.rack.poll()
    assert min(counts) == 1
    assert of_role(one, "llama-decode")["metadata"]["uid"] != node["metadata"]["uid"]
    assert is_pulled(one)
    assert serving(one) == {"llama-prefill": 2, "llama-decode": 1}
    # Three nodes of two, and the two of the one that was moved, each attached once and given back once.
    assert (one.rack.driver.calls.count("attach"), one.rack.driver.calls.count("detach")) == (4, 1)


async def test_its_pod_leaves_the_router_and_is_never_evicted_and_the_condition_says_who_moves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await running(monkeypatch, gpus=8)
    node = of_role(one, "llama-prefill")
    name = node["metadata"]["name"]
    await maintain(one, device(node))
    await one.rack.work(name)
    assert condition(one.rack.node(name), "Draining") == ("True", "Maintenance")
    message = said(one.rack.node(name), "Draining")
    assert (
        f"taken out of service: of its devices, with which a replica gives back all, {device(node)}"
        in message
    )
    assert "its InferenceGroup makes another and drains it, for at most 600 s" in message
    await one.look("llama")
    pod = one.rack.cluster.get(PODS, name, "a") or {}
    assert condition(pod, "weft.dev/serving") == ("False", "Removing")
    assert "deletionTimestamp" not in pod["metadata"]
    # What it still does not finish is its group's to wait for.
    assert one.rack.driver.calls.count("detach") == 0


async def test_without_a_spare_device_it_goes_and_what_takes_its_place_says_that_it_waits_for_hardware(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await running(monkeypatch, gpus=6)
    node = of_role(one, "llama-prefill")
    out = device(node)
    await maintain(one, out)
    for _ in range(8):
        await one.run("llama")
        await one.rack.poll()
    assert is_pulled(one)
    assert serving(one) == {"llama-prefill": 1, "llama-decode": 1}
    assert condition(one.group("llama"), "Balanced") == ("False", "WaitingForHardware")
    waits = next(
        each for each in one.rack.cluster.list(LOGICAL_NODES, "a") if condition(each, "Bound")[0] != "True"
    )
    assert condition(waits, "Reserved") == ("False", "NotEnoughDevices")
    await maintain(one)
    for _ in range(4):
        await one.rack.poll()
        await one.run("llama")
    assert serving(one) == {"llama-prefill": 2, "llama-decode": 1}


async def test_the_last_of_its_role_without_room_in_the_budget_says_what_to_raise_and_is_evicted_at_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await running(monkeypatch, gpus=8, maximum=6)
    node = of_role(one, "llama-decode")
    name = node["metadata"]["name"]
    await maintain(one, device(node), timeoutSeconds=100)
    for _ in range(3):
        await one.run("llama")
    assert serving(one) == {"llama-prefill": 2, "llama-decode": 1}
    assert condition(one.group("llama"), "Balanced") == ("False", "WaitingForBudget")
    message = said(one.group("llama"), "Balanced")
    assert f"{name}, the last that serves role llama-decode, is to give its devices back" in message
    assert "raise accelerators.maximum, 6, so that another serves before it is evicted" in message
    one.rack.clock.forward(100)
    for _ in range(8):
        await one.run("llama")
        await one.rack.poll()
    assert is_pulled(one)
    assert serving(one) == {"llama-prefill": 2, "llama-decode": 1}


async def test_a_maintenance_that_ends_before_the_replica_has_left_leaves_it_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await running(monkeypatch, gpus=6, maximum=6)
    node = of_role(one, "llama-decode")
    await maintain(one, device(node))
    await one.run("llama")
    await maintain(one)
    await one.run("llama")
    after = of_role(one, "llama-decode")
    assert (after["metadata"]["uid"], device(after)) == (node["metadata"]["uid"], device(node))
    assert condition(after, "Draining")[0] != "True"
    assert condition(one.group("llama"), "Balanced") == ("True", "AsDecided")


async def test_of_four_replicas_of_which_three_are_taken_out_three_serve_and_each_is_told_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=13)
    wanted: Any = {"accelerators": {"maximum": 10}, "rebalance": {"mode": "Paused"}}
    await one.ask("llama", prefill=4, placement=None, **wanted)
    await one.run("llama")
    nodes = one.rack.cluster.list(LOGICAL_NODES, "a")
    nodes = [each for each in nodes if each["metadata"]["labels"]["weft.dev/role"] == "llama-prefill"][:3]
    await maintain(one, *map(device, nodes), timeoutSeconds=1800)
    for each in nodes:
        await one.rack.work(each["metadata"]["name"])
        assert one.rack.node(each["metadata"]["name"])["status"]["drainTimeoutSeconds"] == 1800
    counts = []
    one.rack.cluster.after_write = lambda: counts.append(serving(one)["llama-prefill"])
    await one.look("llama")
    assert condition(one.group("llama"), "Balanced") == ("False", "WaitingForTurn")
    for _ in range(20):
        await one.run("llama")
        await one.rack.poll()
    assert min(counts) == 3
    assert is_pulled(one)
    assert serving(one) == {"llama-prefill": 4, "llama-decode": 1}
    assert condition(one.group("llama"), "Balanced") == ("True", "AsDecided")
    assert not [
        each for each in one.rack.cluster.list(LOGICAL_NODES, "a") if "drainTimeoutSeconds" in each["status"]
    ]


async def test_a_replica_is_told_of_a_timeout_that_is_changed_and_of_none_once_the_maintenance_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await running(monkeypatch, gpus=6, maximum=6)
    name = of_role(one, "llama-decode")["metadata"]["name"]
    out = device(of_role(one, "llama-decode"))
    for seconds in (1800, 900):
        await maintain(one, out, timeoutSeconds=seconds)
        await one.rack.work(name)
        assert one.rack.node(name)["status"]["drainTimeoutSeconds"] == seconds
    await maintain(one)
    await one.rack.work(name)
    assert "drainTimeoutSeconds" not in one.rack.node(name)["status"]


async def test_the_domain_stays_chosen_while_replicas_serve_in_it_and_no_other_has_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=6)
    await one.ask("llama", prefill=2, rebalance={"mode": "Paused"})
    await one.run("llama")
    nodes = one.rack.cluster.list(LOGICAL_NODES, "a")
    await maintain(one, *map(device, nodes), timeoutSeconds=1800)
    for each in nodes:
        await one.rack.work(each["metadata"]["name"])
    for _ in range(3):
        await one.look("llama")
        assert one.domain("llama") == "ib0"
    await maintain(one)
    for _ in range(4):
        await one.rack.poll()
        await one.run("llama")
    assert one.domain("llama") == "ib0"
    assert serving(one) == {"llama-prefill": 2, "llama-decode": 1}
    assert condition(one.group("llama"), "Balanced") == ("True", "AsDecided")

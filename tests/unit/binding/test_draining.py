"""Nodes that are closed to new pods while devices leave them, and what a drain believes of clocks and watches."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from support.rack import Rack, condition
from weft.api.resources import FABRICS, GPU_POOLS, LOGICAL_NODES, NODES, PODS, ResourceType
from weft.fabric.driver import Operation

TOLERATION = {"key": "weft.dev/logical-node", "operator": "Exists"}
PATIENT = {"timeoutSeconds": 3600, "afterTimeout": "Force"}


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch, gpus=6, hosts=2, settle=2)


async def run_pod(rack: Rack, name: str = "job") -> None:
    """A pod of the tenant on the Node of the logical node, whatever taints that has."""
    spec = {
        "nodeName": rack.node("n")["status"]["nodeName"],
        "tolerations": [TOLERATION],
        "containers": [{"name": "main", "image": "job:1"}],
    }
    await rack.cluster.create(PODS, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})


def is_closed(rack: Rack, name: str = "") -> bool:
    """Whether the scheduler keeps pods that tolerate Weft's first taint off the logical node's Node."""
    node = rack.cluster.get(NODES, name or rack.node("n")["status"]["nodeName"])
    assert node is not None
    return any(each["key"] == "weft.dev/draining" for each in node["spec"].get("taints", ()))


async def pass_by(rack: Rack, seconds: int = 8) -> None:
    for _ in range(seconds):
        await rack.poll()
        await rack.work("n")


async def edit(rack: Rack, resource: ResourceType, name: str, **spec: Any) -> None:
    namespace = "a" if resource == LOGICAL_NODES else ""
    await rack.cluster.patch(resource, name, namespace, {"spec": spec})
    await rack.work("n")


async def shrink(rack: Rack) -> None:
    await edit(rack, LOGICAL_NODES, "n", accelerators=[{"name": "main", "count": 1}])


@pytest.fixture
def at_detach(rack: Rack, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the Node was closed, at each detach."""
    closed: list[bool] = []
    detach = rack.driver.detach

    async def noted(operation: str, host: str, devices: frozenset[str]) -> Operation:
        closed.append(is_closed(rack))
        return await detach(operation, host, devices)

    monkeypatch.setattr(rack.driver, "detach", noted)
    return closed


@pytest.mark.parametrize("why", ["shrink", "maintenance", "failure"])
async def test_a_node_is_closed_to_new_pods_before_one_of_its_devices_is_detached_and_open_afterwards(
    rack: Rack, at_detach: list[bool], why: str
) -> None:
    await rack.build()
    await rack.ask("n", 2, onDeviceFailure="Replace")
    device = rack.node("n")["status"]["devices"][0]["device"]
    if why == "shrink":
        await shrink(rack)
    elif why == "maintenance":
        await edit(rack, GPU_POOLS, "gpus", maintenance={"devices": [device], "drain": {}})
    else:
        rack.driver.devices[device] = False
    await pass_by(rack)
    assert at_detach == [True]
    assert not is_closed(rack)
    assert rack.tainted()[rack.node("n")["status"]["nodeName"]] == "a.n"


async def test_a_pod_that_came_before_the_node_was_closed_keeps_the_device_though_no_watch_told_of_it(
    rack: Rack, at_detach: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    patch = rack.cluster.patch

    async def pod_comes_first(resource: ResourceType, *args: Any, **more: Any) -> Any:
        if resource == NODES and not is_closed(rack) and rack.cluster.get(PODS, "job", "a") is None:
            await run_pod(rack)
            rack.cluster.unheard_of.add((PODS, "a", "job"))
        return await patch(resource, *args, **more)

    monkeypatch.setattr(rack.cluster, "patch", pod_comes_first)
    await shrink(rack)
    await pass_by(rack)
    assert at_detach == []
    # It was there first: nobody else comes, and what is to go goes after it.
    assert is_closed(rack)
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    await pass_by(rack)
    assert at_detach == [True]
    assert not is_closed(rack)


async def test_a_node_that_somebody_opens_is_closed_again_and_its_pods_are_looked_for_again(
    rack: Rack, at_detach: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    looked: list[bool] = []

    async def opened_meanwhile(*_: Any, **__: Any) -> None:
        looked.append(is_closed(rack))
        if len(looked) == 1:
            taints = [{"key": "weft.dev/logical-node", "value": "a.n", "effect": "NoSchedule"}]
            name = rack.node("n")["status"]["nodeName"]
            await rack.cluster.patch(NODES, name, "", {"spec": {"taints": taints}})

    monkeypatch.setattr(rack.cluster, "refresh", opened_meanwhile)
    await shrink(rack)
    assert looked == [True, True]
    assert at_detach == [True]


async def test_while_a_shrink_waits_for_pods_to_end_by_themselves_others_may_come(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    await run_pod(rack)
    await shrink(rack)
    await pass_by(rack)
    assert condition(rack.node("n"), "Resized") == ("False", "Drain")
    assert not is_closed(rack)


async def test_what_is_evicted_from_a_host_cannot_come_back_while_it_is_drained(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    host, first = rack.node("n")["status"]["host"], rack.node("n")["status"]["nodeName"]
    await run_pod(rack)
    rack.cluster.kept_by_budgets.add("job")
    await edit(rack, FABRICS, "rack", maintenance={"hosts": [host], "drain": {}})
    assert is_closed(rack)
    # A Node that registers anew has lost its taints, and gets both back.
    await rack.cluster.patch(NODES, first, "", {"spec": {"taints": None}})
    await rack.work("n")
    assert is_closed(rack)
    await edit(rack, FABRICS, "rack", maintenance=None)
    assert not is_closed(rack)
    await edit(rack, FABRICS, "rack", maintenance={"hosts": [host], "drain": {}})
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    await pass_by(rack)
    assert rack.node("n")["status"]["host"] != host
    assert not is_closed(rack)
    assert not is_closed(rack, first)


@pytest.mark.parametrize("what", ["host", "device"])
async def test_a_clock_that_is_set_ahead_forces_no_pod_to_go(rack: Rack, what: str) -> None:
    await rack.build()
    await rack.ask("n", 2)
    await run_pod(rack)
    rack.cluster.kept_by_budgets.add("job")
    status = rack.node("n")["status"]
    if what == "host":
        await edit(rack, FABRICS, "rack", maintenance={"hosts": [status["host"]], "drain": PATIENT})
    else:
        lent = [status["devices"][0]["device"]]
        await edit(rack, GPU_POOLS, "gpus", maintenance={"devices": lent, "drain": PATIENT})
    await pass_by(rack, 2)
    rack.clock.wall += timedelta(hours=10)
    # Nor does a leader that starts on such a machine.
    for _ in range(2):
        await pass_by(rack, 2)
        assert "deletionTimestamp" not in (rack.cluster.get(PODS, "job", "a") or {})["metadata"]
        rack.restart()
    await pass_by(rack, 2)
    rack.clock.boot += 3600
    await pass_by(rack, 1)
    assert "deletionTimestamp" in (rack.cluster.get(PODS, "job", "a") or {})["metadata"]


async def test_a_node_that_is_ready_again_is_not_released_by_a_watch_that_has_not_told_so(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    await rack.ask("n", 2, releaseAfterNotReadySeconds=30)
    name = rack.node("n")["status"]["nodeName"]
    await rack.set_ready(name, ready=False)
    await rack.work("n")
    asked: list[tuple[ResourceType, str]] = []

    async def answers(resource: ResourceType, namespace: str, *, field: str, value: str) -> None:
        asked.append((resource, value))
        await rack.set_ready(name)

    monkeypatch.setattr(rack.cluster, "refresh", answers)
    rack.clock.forward(40)
    await pass_by(rack, 2)
    assert asked == [(NODES, name)]
    assert rack.driver.calls.count("detach") == 0
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_node_that_was_ready_while_nobody_could_see_it_is_counted_anew(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2, releaseAfterNotReadySeconds=30)
    name, before = rack.node("n")["status"]["nodeName"], set(rack.driver.pairs)
    await rack.set_ready(name, ready=False)
    await rack.work("n")
    # The API server was away; what it says now began a moment ago.
    rack.clock.forward(40)
    node = rack.cluster.get(NODES, name)
    assert node is not None
    since = rack.clock.wall.isoformat()
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": since}]
    await rack.cluster.write_status(NODES, node, {**node["status"], "conditions": conditions})
    await pass_by(rack, 2)
    assert rack.driver.pairs == before
    rack.clock.forward(40)
    await pass_by(rack, 2)
    assert rack.driver.pairs.isdisjoint(before)

"""Grows, shrinks, drains and preemptions that something else comes in the middle of."""

from __future__ import annotations

import pytest

from support.rack import DONE, Rack, condition, nothing
from weft.api.resources import (
    DEVICE_QUOTAS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
)
from weft.fabric.driver import Operation
from weft.fabric.errors import OutcomeUnknown

TOLERATION = {"key": "weft.dev/logical-node", "operator": "Exists"}


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch, gpus=4, hosts=2, settle=2)


async def edit(rack: Rack, count: int) -> None:
    spec = {"accelerators": [{"name": "main", "count": count}]}
    await rack.cluster.patch(LOGICAL_NODES, "n", "a", {"spec": spec})
    await rack.work("n")


async def run_pod(rack: Rack, name: str = "n") -> None:
    spec = {
        "nodeName": rack.node(name)["status"]["nodeName"],
        "tolerations": [TOLERATION],
        "containers": [{"name": "main", "image": "job:1"}],
    }
    await rack.cluster.create(PODS, {"metadata": {"name": "job", "namespace": "a"}, "spec": spec})


async def go_on(rack: Rack, seconds: int = 8) -> None:
    for _ in range(seconds):
        await rack.place_again()
        for node in rack.cluster.list(LOGICAL_NODES):
            await rack.work(node["metadata"]["name"])
        await rack.poll()


def devices(rack: Rack, name: str = "n") -> set[str]:
    return {each["device"] for each in rack.node(name)["status"].get("devices", ())}


def is_whole(rack: Rack) -> bool:
    """Whether all that is attached is claimed and listed, and no Node is closed or held for nobody."""
    nodes = rack.cluster.list(LOGICAL_NODES)
    listed = {
        (each["device"], node["status"]["host"])
        for node in nodes
        for each in node["status"].get("devices", ())
    }
    claimed = {(each["spec"]["device"], each["spec"]["host"]) for each in rack.claims()}
    keys = [taint["key"] for node in rack.cluster.list(NODES) for taint in node["spec"].get("taints", ())]
    bound = [node for node in nodes if condition(node, "Bound")[0] == "True"]
    return rack.driver.pairs == claimed == listed and sorted(keys) == ["weft.dev/logical-node"] * len(bound)


async def set_quota(rack: Rack, count: int) -> None:
    spec = {"limits": [{"kind": "GPUPool", "name": "gpus", "count": count}]}
    if rack.cluster.get(DEVICE_QUOTAS, "q", "a") is None:
        await rack.cluster.create(DEVICE_QUOTAS, {"metadata": {"name": "q", "namespace": "a"}, "spec": spec})
    else:
        await rack.cluster.patch(DEVICE_QUOTAS, "q", "a", {"spec": spec})


async def test_a_quota_that_is_lowered_below_what_is_held_takes_nothing_away_and_gives_nothing_more(
    rack: Rack,
) -> None:
    await rack.build()
    await set_quota(rack, 3)
    await rack.ask("n", 3)
    held = devices(rack)
    await set_quota(rack, 1)
    await go_on(rack)
    assert devices(rack) == held
    await edit(rack, 4)
    await go_on(rack)
    assert devices(rack) == held
    assert condition(rack.node("n"), "Resized") == ("False", "QuotaExceeded")
    assert condition(rack.node("n"), "Ready")[0] == "True"
    await edit(rack, 2)
    await go_on(rack)
    assert len(devices(rack)) == 2
    assert is_whole(rack)


async def test_a_fabric_that_is_deleted_while_a_node_grows_waits_for_what_may_be_attached_there(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", 2)

    async def deleted_meanwhile() -> None:
        rack.driver.before_attach = nothing
        await rack.cluster.delete(FABRICS, "rack")
        raise OutcomeUnknown("no answer")

    rack.driver.before_attach = deleted_meanwhile
    await edit(rack, 3)
    await go_on(rack)
    assert len(devices(rack)) == 3
    assert is_whole(rack)
    assert rack.cluster.get(FABRICS, "rack") is not None
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await go_on(rack)
    assert rack.driver.pairs == set()
    assert rack.cluster.get(FABRICS, "rack") is None


async def begin_preemption(rack: Rack) -> None:
    await rack.build()
    await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"preemption": {"scope": "SameNamespace"}}})
    await rack.cluster.create(PRIORITY_CLASSES, {"metadata": {"name": "urgent"}, "value": 10})
    await rack.ask("n", 4)


async def test_a_victim_gets_its_devices_back_when_the_one_it_gave_way_to_is_deleted_during_the_detach(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin_preemption(rack)
    detach = rack.driver.detach

    async def deleted_meanwhile(operation: str, host: str, these: frozenset[str]) -> Operation:
        if rack.cluster.get(LOGICAL_NODES, "urgent", "a") is not None:
            await rack.cluster.delete(LOGICAL_NODES, "urgent", "a")
        return await detach(operation, host, these)

    monkeypatch.setattr(rack.driver, "detach", deleted_meanwhile)
    await rack.ask("urgent", 4, priorityClassName="urgent")
    await go_on(rack)
    assert rack.cluster.get(LOGICAL_NODES, "urgent", "a") is None
    assert len(devices(rack)) == 4
    assert is_whole(rack)


async def test_a_leader_that_ends_between_the_choice_of_a_victim_and_its_drain_is_followed_by_one_that_chooses_it_again(
    rack: Rack,
) -> None:
    await begin_preemption(rack)
    await run_pod(rack)
    rack.cluster.kept_by_budgets.add("job")
    await rack.ask("urgent", 4, priorityClassName="urgent")
    await go_on(rack, 2)
    assert condition(rack.node("n"), "Draining") == ("True", "Preempted")
    rack.restart()
    await go_on(rack, 3)
    assert len(rack.driver.pairs) == 4
    assert condition(rack.node("n"), "Draining") == ("True", "Preempted")
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    rack.restart()
    await go_on(rack)
    assert len(devices(rack, "urgent")) == 4
    assert is_whole(rack)


async def test_a_window_that_is_closed_during_a_detach_loses_nothing(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    host, detach = rack.node("n")["status"]["host"], rack.driver.detach

    async def closed_meanwhile(operation: str, at: str, these: frozenset[str]) -> Operation:
        await rack.cluster.patch(FABRICS, "rack", "", {"spec": {"maintenance": None}})
        return await detach(operation, at, these)

    monkeypatch.setattr(rack.driver, "detach", closed_meanwhile)
    await rack.edit_fabric(maintenance={"hosts": [host], "drain": {}})
    await go_on(rack)
    assert len(devices(rack)) == 2
    assert is_whole(rack)


async def test_a_node_object_that_is_deleted_and_registers_anew_under_maintenance_keeps_its_devices_for_its_pod(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    name, host = rack.node("n")["status"]["nodeName"], rack.node("n")["status"]["host"]
    await run_pod(rack)
    rack.cluster.kept_by_budgets.add("job")
    await rack.edit_fabric(maintenance={"hosts": [host], "drain": {}})
    await go_on(rack, 2)
    await rack.cluster.delete(NODES, name)
    await go_on(rack, 4)
    assert rack.driver.calls.count("detach") == 0
    await rack.add_node(name)
    await go_on(rack, 2)
    node = rack.cluster.get(NODES, name)
    assert node is not None
    assert {each["key"] for each in node["spec"]["taints"]} == {"weft.dev/logical-node", "weft.dev/draining"}
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    await go_on(rack)
    assert rack.node("n")["status"]["host"] != host
    assert is_whole(rack)


async def test_a_node_that_grows_while_its_machine_is_lost_and_shrinks_again_holds_what_it_lists(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    name = rack.node("n")["status"]["nodeName"]

    async def lost_meanwhile() -> None:
        await rack.set_ready(name, ready=False)

    rack.driver.before_attach = lost_meanwhile
    await edit(rack, 4)
    await go_on(rack)
    assert condition(rack.node("n"), "Ready") == ("False", "NodeNotReady")
    assert len(devices(rack)) == len(rack.driver.pairs)
    await edit(rack, 1)
    await go_on(rack)
    assert len(devices(rack)) == 1
    assert len(rack.driver.pairs) == 1


async def test_a_shrink_in_the_middle_of_an_attach_that_has_no_answer_frees_nothing_before_it_has_settled(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    held = devices(rack)
    late: list[tuple[str, frozenset[str]]] = []

    async def hangs(operation: str, host: str, these: frozenset[str]) -> Operation:
        late.append((host, these))
        await rack.cluster.patch(
            LOGICAL_NODES, "n", "a", {"spec": {"accelerators": [{"name": "main", "count": 1}]}}
        )
        raise OutcomeUnknown("no answer")

    monkeypatch.setattr(rack.driver, "attach", hangs)
    await edit(rack, 4)
    await rack.poll()
    more = {each["spec"]["device"] for each in rack.claims()} - held
    assert more
    # It takes effect after all.
    host, these = late[0]
    rack.driver.pairs |= {(device, host) for device in these}
    monkeypatch.setattr(rack.driver, "attach", lambda *_: DONE)
    await go_on(rack, 12)
    assert len(devices(rack)) == 1
    assert is_whole(rack)


@pytest.mark.parametrize("copied", ["before the edit", "after the edit", "after the claim"])
async def test_a_grow_before_which_etcd_is_set_back_attaches_nothing_twice_and_takes_nothing_away(
    rack: Rack, copied: str
) -> None:
    await rack.build(orphanPolicy="Detach", limits={"settleSeconds": 2, "orphanSeconds": 600})
    await rack.ask("n", 1)
    copy = dict(rack.cluster.objects)

    async def back_up() -> None:
        if copied == "after the claim":
            copy.update(rack.cluster.objects)

    rack.driver.before_attach = back_up
    spec = {"accelerators": [{"name": "main", "count": 2}]}
    await rack.cluster.patch(LOGICAL_NODES, "n", "a", {"spec": spec})
    if copied == "after the edit":
        copy = dict(rack.cluster.objects)
    await rack.work("n")
    await rack.pass_by(3)
    attached = set(rack.driver.pairs)
    assert len(attached) == 2

    rack.driver.before_attach = nothing
    rack.cluster.objects.clear()
    rack.cluster.objects.update(copy)
    rack.restart()
    await rack.work("n")
    await rack.ask("other", 1)
    await rack.pass_by(20)
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert attached < rack.driver.pairs
    devices = [device for device, _ in rack.driver.pairs]
    assert len(devices) == len(set(devices)) == 3

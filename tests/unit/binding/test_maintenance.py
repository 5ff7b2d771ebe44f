"""Devices, hosts and pools that are taken out of service, and devices and hosts that fail, under logical nodes."""

from __future__ import annotations

from typing import Any

import pytest

from support.rack import Rack, condition
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, GPU_POOLS, LOGICAL_NODES, NODES, PODS
from weft.binding.keys import LogicalNodeKey
from weft.cluster import Object

TOLERATION = {"key": "weft.dev/logical-node", "operator": "Exists"}


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch, gpus=6, hosts=2, settle=5)


async def use(rack: Rack, name: str = "n") -> None:
    """A pod of the tenant runs on the logical node."""
    spec = {
        "nodeName": rack.node(name)["status"]["nodeName"],
        "tolerations": [TOLERATION],
        "containers": [{"name": "main", "image": "job:1"}],
    }
    await rack.cluster.create(PODS, {"metadata": {"name": "job", "namespace": "a"}, "spec": spec})


async def maintain(rack: Rack, name: str = "n", **maintenance: Any) -> None:
    await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"maintenance": maintenance}})
    await rack.work(name)


async def maintain_host(rack: Rack, name: str = "n", **maintenance: Any) -> None:
    await rack.edit_fabric(maintenance=maintenance)
    await rack.work(name)


async def pass_by(rack: Rack, seconds: int = 8, name: str = "n") -> None:
    for _ in range(seconds):
        await rack.poll()
        await rack.work(name)


def devices(rack: Rack, name: str = "n") -> list[str]:
    return sorted(each["device"] for each in rack.node(name)["status"].get("devices", ()))


def said(obj: Object | None, kind: str) -> str:
    assert obj is not None
    return next(each["message"] for each in obj["status"]["conditions"] if each["type"] == kind)


def pod(rack: Rack) -> Object | None:
    return rack.cluster.get(PODS, "job", "a")


async def end_pod(rack: Rack) -> None:
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    await rack.work("n")


async def test_a_device_that_is_drained_is_replaced_and_the_others_are_not_touched(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    first, second = devices(rack)
    host = rack.node("n")["status"]["host"]
    # Without drain nothing happens to what is attached.
    await maintain(rack, devices=[first])
    assert devices(rack) == [first, second]
    await maintain(rack, devices=[first], drain={})
    await pass_by(rack, 2)
    assert second in devices(rack)
    assert first not in devices(rack)
    assert len(devices(rack)) == 2
    assert rack.node("n")["status"]["host"] == host
    assert condition(rack.node("n"), "Resized") == ("True", "Resized")
    pool = rack.cluster.get(GPU_POOLS, "gpus")
    assert pool is not None
    assert pool["status"]["devices"]["unavailable"] == 1
    assert condition(pool, "Drained") == ("True", "Drained")
    # Its end offers it again.
    await maintain(rack, devices=None, drain=None)
    await rack.ask("all", 4)
    assert first in devices(rack, "all")


async def test_a_replicas_pod_is_evicted_only_when_its_group_has_not_moved_it_in_time(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    await rack.cluster.patch(LOGICAL_NODES, "n", "a", {"metadata": {"labels": {"weft.dev/role": "decode"}}})
    await use(rack)
    host = rack.node("n")["status"]["host"]
    await maintain_host(rack, hosts=[host], drain={"timeoutSeconds": 5})
    await pass_by(rack, 3)
    assert condition(rack.node("n"), "Draining") == ("True", "Maintenance")
    waiting = pod(rack)
    assert waiting is not None
    assert "deletionTimestamp" not in waiting["metadata"]

    await pass_by(rack, 6)
    going = pod(rack)
    assert going is not None
    assert "deletionTimestamp" in going["metadata"]


@pytest.mark.shows("Fabric.spec.maintenance.hosts", "LogicalNode.spec.onMaintenance")
async def test_a_host_that_is_drained_is_left_as_budgets_allow_and_its_node_is_placed_elsewhere(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    await use(rack)
    host = rack.node("n")["status"]["host"]
    await maintain_host(rack, hosts=[host])
    assert pod(rack) is not None
    fabric = rack.cluster.get(FABRICS, "rack")
    assert condition(fabric or {}, "HostsDrained") == ("False", "InUse")
    assert f"{host} (a/n)" in said(fabric, "HostsDrained")

    rack.cluster.kept_by_budgets.add("job")
    await maintain_host(rack, hosts=[host], drain={"timeoutSeconds": 3600})
    assert condition(rack.node("n"), "Draining") == ("True", "Maintenance")
    assert "a PodDisruptionBudget keeps job" in said(rack.node("n"), "Draining")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert len(rack.driver.pairs) == 2

    rack.cluster.kept_by_budgets.clear()
    await rack.work("n")
    going = pod(rack)
    assert going is not None
    assert "deletionTimestamp" in going["metadata"]
    # It is on its way out, and nothing is detached under it.
    assert len(rack.driver.pairs) == 2
    await end_pod(rack)
    await pass_by(rack)
    assert rack.node("n")["status"]["host"] != host
    assert condition(rack.node("n"), "Draining") == ("", "")
    fabric = rack.cluster.get(FABRICS, "rack")
    assert condition(fabric or {}, "HostsDrained") == ("True", "Drained")
    assert said(fabric, "HostsDrained") == f"safe to pull: {host}"
    # Nobody else is placed there until it ends.
    await rack.ask("other", 1)
    assert condition(rack.node("other"), "Bound") == ("False", "NoHost")
    assert "in maintenance" in said(rack.node("other"), "Bound")
    await maintain_host(rack, "other", hosts=None, drain=None)
    await pass_by(rack, 1, "other")
    assert rack.node("other")["status"]["host"] == host


@pytest.mark.shows(
    "Fabric.spec.maintenance.drain.timeoutSeconds",
    "Fabric.spec.maintenance.drain.afterTimeout",
    "*Pool.spec.maintenance.drain.timeoutSeconds",
    "*Pool.spec.maintenance.drain.afterTimeout",
)
@pytest.mark.parametrize("what", ["host", "device"])
async def test_what_an_owner_does_not_want_evicted_is_forced_after_the_timeout_alone(
    rack: Rack, what: str
) -> None:
    await rack.build()
    await rack.ask("n", 2, onMaintenance="Wait")
    await use(rack)
    drain, before = {"timeoutSeconds": 60, "afterTimeout": "Force"}, set(rack.driver.pairs)
    if what == "host":
        await maintain_host(rack, hosts=[rack.node("n")["status"]["host"]], drain=drain)
    else:
        await maintain(rack, devices=[devices(rack)[0]], drain=drain)
    await pass_by(rack, 5)
    assert "deletionTimestamp" not in (pod(rack) or {})["metadata"]
    assert before <= rack.driver.pairs
    rack.cluster.kept_by_budgets.add("job")
    rack.clock.forward(60)
    await pass_by(rack, 1)
    assert "deletionTimestamp" in (pod(rack) or {})["metadata"]
    assert before <= rack.driver.pairs


async def test_a_drain_that_waits_never_forces(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    await use(rack)
    rack.cluster.kept_by_budgets.add("job")
    await maintain_host(rack, hosts=[rack.node("n")["status"]["host"]], drain={"timeoutSeconds": 1})
    await pass_by(rack, 20)
    assert "deletionTimestamp" not in (pod(rack) or {})["metadata"]


@pytest.mark.shows("*Pool.spec.maintenance.allDevices")
async def test_a_whole_pool_is_taken_out_and_who_has_nothing_else_waits(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    await maintain(rack, allDevices=True)
    await rack.ask("other", 1)
    assert condition(rack.node("other"), "Bound")[0] == "False"
    assert len(devices(rack)) == 2
    await maintain(rack, allDevices=True, drain={})
    await pass_by(rack)
    assert rack.driver.pairs == set()
    assert condition(rack.node("n"), "Bound")[0] == "False"
    pool = rack.cluster.get(GPU_POOLS, "gpus")
    assert condition(pool or {}, "Drained") == ("True", "Drained")
    await maintain(rack, allDevices=None, drain=None)
    await pass_by(rack, 2)
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_host_that_the_manager_does_not_have_is_said(rack: Rack) -> None:
    await rack.build()
    await rack.edit_fabric(maintenance={"hosts": ["sled-9"]})
    fabric = rack.cluster.get(FABRICS, "rack")
    assert condition(fabric or {}, "HostsDrained") == ("False", "HostNotFound")
    assert "sled-9" in said(fabric, "HostsDrained")


@pytest.mark.shows("LogicalNode.spec.onDeviceFailure")
async def test_a_device_that_fails_is_quarantined_and_replaced_where_its_owner_wants_it(rack: Rack) -> None:
    await rack.build()
    await rack.ask("waits", 2)
    await rack.ask("n", 2, onDeviceFailure="Replace")
    broken, fine = devices(rack)
    for each in (broken, devices(rack, "waits")[0]):
        rack.driver.devices[each] = False
    kept = devices(rack, "waits")
    # A fault of a moment is none.
    await pass_by(rack, 3)
    assert devices(rack) == [broken, fine]
    await pass_by(rack, 10)
    assert broken not in devices(rack)
    assert fine in devices(rack)
    assert len(devices(rack)) == 2
    claim = rack.cluster.get(DEVICE_ATTACHMENTS, f"rack.{broken}")
    assert condition(claim or {}, "Quarantined") == ("True", "DeviceFailed")
    assert broken not in {device for device, _ in rack.driver.pairs}
    assert devices(rack, "waits") == kept
    # It is not offered though it is well again, until an administrator says so.
    rack.driver.devices[broken] = True
    await pass_by(rack, 1)
    await rack.ask("more", 2)
    assert condition(rack.node("more"), "Bound")[0] == "False"
    assert condition(rack.node("n"), "Ready")[0] == "True"
    # Nor does a restart take it for a part of the claim.
    rack.restart()
    await pass_by(rack, 3)
    assert len(devices(rack)) == 2


async def test_the_only_device_of_a_node_is_replaced_also_where_it_has_to_settle_first(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 1, onDeviceFailure="Replace")
    (broken,) = devices(rack)
    rack.driver.devices[broken] = False
    rack.restart()
    await pass_by(rack, 20)
    assert len(devices(rack)) == 1
    assert broken not in devices(rack)
    assert condition(rack.node("n"), "Ready")[0] == "True"
    claim = rack.cluster.get(DEVICE_ATTACHMENTS, f"rack.{broken}")
    assert condition(claim or {}, "Quarantined") == ("True", "DeviceFailed")
    assert len(rack.driver.pairs) == 1


async def test_a_device_whose_fault_an_earlier_leader_has_told_is_replaced_by_the_next_one(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", 1, onDeviceFailure="Replace")
    (broken,) = devices(rack)
    rack.driver.devices[broken] = False
    await rack.poll()
    assert condition(rack.node("n"), "Ready") == ("False", "DeviceUnhealthy")
    rack.restart()
    # It looks at the node before it knows the fabric.
    await rack.work("n")
    rack.driver.calls.clear()
    await rack.pass_by(20)
    assert devices(rack) not in ([], [broken])
    # What settles on its way out is not attached again.
    assert rack.driver.calls.count("attach") == rack.driver.calls.count("detach") == 1


async def test_a_fault_goes_on_to_count_after_a_reading_that_lacked_something(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 1, onDeviceFailure="Replace")
    (broken,) = devices(rack)
    rack.driver.devices[broken] = False
    await rack.pass_by(2)
    rack.driver.complete = False
    await rack.pass_by(8)
    assert devices(rack) == [broken]
    rack.driver.complete = True
    await rack.pass_by(20)
    assert devices(rack) not in ([], [broken])


async def test_a_failed_device_waits_for_the_pods_that_use_it(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2, onDeviceFailure="Replace")
    await use(rack)
    broken = devices(rack)[0]
    rack.driver.devices[broken] = False
    await pass_by(rack, 10)
    assert "deletionTimestamp" in (pod(rack) or {})["metadata"]
    assert broken in {device for device, _ in rack.driver.pairs}
    await end_pod(rack)
    await pass_by(rack, 3)
    assert broken not in {device for device, _ in rack.driver.pairs}


@pytest.mark.shows("LogicalNode.spec.releaseAfterNotReadySeconds")
async def test_a_node_that_is_gone_for_long_is_released_where_its_owner_wants_it(rack: Rack) -> None:
    await rack.build()
    await rack.ask("waits", 2)
    await rack.ask("n", 2, releaseAfterNotReadySeconds=30)
    for name in ("n", "waits"):
        await rack.set_ready(rack.node(name)["status"]["nodeName"], ready=False)
        await rack.work(name)
    rack.clock.forward(20)
    await pass_by(rack, 1)
    assert condition(rack.node("n"), "Bound")[0] == "True"
    # A machine that was back for a moment counts anew.
    await rack.set_ready(rack.node("n")["status"]["nodeName"])
    await rack.work("n")
    await rack.set_ready(rack.node("n")["status"]["nodeName"], ready=False)
    await rack.work("n")
    rack.clock.forward(20)
    await pass_by(rack, 1)
    assert condition(rack.node("n"), "Bound")[0] == "True"
    rack.clock.forward(20)
    await pass_by(rack, 2)
    assert condition(rack.node("n"), "Bound")[0] == "False"
    await pass_by(rack, 2, "waits")
    assert condition(rack.node("waits"), "Bound")[0] == "True"


async def test_an_edit_of_maintenance_asks_for_those_that_it_concerns_and_a_status_does_not(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"maintenance": {"devices": ["gpu-0"]}}})
    pool = rack.cluster.get(GPU_POOLS, "gpus")
    assert pool is not None
    assert LogicalNodeKey("a", "n") in rack.keys_of(GPU_POOLS, pool)
    assert LogicalNodeKey("a", "n") not in rack.keys_of(GPU_POOLS, pool)


async def test_the_directions_of_a_drain_outlive_a_restart(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    host = rack.node("n")["status"]["host"]
    await use(rack)
    await maintain_host(rack, hosts=[host], drain={})
    rack.restart()
    await pass_by(rack, 2)
    assert len(rack.driver.pairs) == 2
    await end_pod(rack)
    rack.restart()
    await pass_by(rack, 10)
    assert {at for _, at in rack.driver.pairs} == {next(each for each in rack.hosts if each != host)}
    assert rack.cluster.get(LOGICAL_NODES, "n", "a") is not None
    assert rack.cluster.get(NODES, f"node-{host}") is not None

"""What pools and quotas say of the devices, and what keeps a pool from going."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.rack import Rack, condition
from weft.api.resources import DEVICE_ATTACHMENTS, DEVICE_QUOTAS, GPU_POOLS, LOGICAL_NODES, MEMORY_POOLS
from weft.binding.keys import PoolsKey
from weft.binding.pools import PoolsController
from weft.cluster import Object
from weft.fabric.driver import Device, DeviceKind
from weft.fabric.errors import DeviceFault


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


async def limit(
    rack: Rack,
    *limits: dict[str, Any],
    name: str = "devices",
    namespace: str = "a",
    hosts: int | None = None,
) -> None:
    """Write a DeviceQuota as an administrator would; the watch asks for what depends on it."""
    metadata = {"name": name, "namespace": namespace}
    spec: dict[str, Any] = {"limits": list(limits), "hosts": hosts}
    if hosts is None:
        del spec["hosts"]
    if rack.cluster.get(DEVICE_QUOTAS, name, namespace) is None:
        await rack.cluster.create(DEVICE_QUOTAS, {"metadata": metadata, "spec": spec})
    else:
        await rack.cluster.patch(DEVICE_QUOTAS, name, namespace, {"spec": spec})
    await rack.poll()
    await rack.place_again()


def quota(rack: Rack, name: str = "devices") -> Object:
    found = rack.cluster.get(DEVICE_QUOTAS, name, "a")
    assert found is not None
    return found


def gpus(count: int) -> dict[str, Any]:
    return {"kind": "GPUPool", "name": "gpus", "count": count}


async def test_a_pool_goes_although_a_pool_of_another_kind_with_its_name_is_in_use(rack: Rack) -> None:
    await rack.build()
    await rack.cluster.create(
        MEMORY_POOLS,
        {
            "metadata": {"name": "gpus", "finalizers": ["weft.dev/fabric"]},
            "spec": {"fabricRef": {"name": "rack"}},
        },
    )
    await rack.ask("n")
    await rack.poll()
    await rack.cluster.delete(MEMORY_POOLS, "gpus")
    await rack.cluster.delete(GPU_POOLS, "gpus")
    await rack.poll()
    assert rack.cluster.get(MEMORY_POOLS, "gpus") is None
    assert condition(rack.cluster.get(GPU_POOLS, "gpus") or {}, "Ready") == ("False", "InUse")


async def test_a_pool_whose_selector_matches_no_device_says_so(rack: Rack) -> None:
    await rack.build()
    misspelt = {"fabricRef": {"name": "rack"}, "selector": {"matchAttributes": {"modl": "H200"}}}
    await rack.cluster.create(GPU_POOLS, {"metadata": {"name": "misspelt"}, "spec": misspelt})
    await rack.poll()
    empty, full = rack.cluster.get(GPU_POOLS, "misspelt") or {}, rack.cluster.get(GPU_POOLS, "gpus") or {}
    assert condition(empty, "Ready") == ("True", "NoDevices")
    (said,) = (each["message"] for each in empty["status"]["conditions"] if each["type"] == "Ready")
    there = full["status"]["devices"]["total"]
    assert said == f"spec.selector selects none of the {there} devices of its kind at Fabric rack"
    assert condition(full, "Ready") == ("True", "FabricRead")


async def test_devices_are_counted_when_a_pool_is_edited_and_not_because_they_were_counted(
    rack: Rack,
) -> None:
    await rack.build()

    def pool() -> Object:
        found = rack.cluster.get(GPU_POOLS, "gpus")
        assert found is not None
        return found

    rack.keys_of(GPU_POOLS, pool())
    await rack.cluster.write_status(GPU_POOLS, pool(), {**pool()["status"], "devices": {"total": 9}})
    assert PoolsKey() not in rack.keys_of(GPU_POOLS, pool())
    await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"maintenance": {"devices": ["gpu-0"]}}})
    assert PoolsKey() in rack.keys_of(GPU_POOLS, pool())
    await rack.cluster.delete(GPU_POOLS, "gpus")
    assert PoolsKey() in rack.keys_of(GPU_POOLS, {"metadata": {"name": "gpus"}})


async def test_a_pool_is_held_only_while_something_refers_to_it(rack: Rack) -> None:
    def held() -> bool:
        return "weft.dev/fabric" in rack.cluster.get(GPU_POOLS, "gpus")["metadata"].get("finalizers", [])  # type: ignore[index]

    await rack.build()
    assert not held()
    await rack.ask("n")
    await rack.poll()
    assert held()
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    await rack.poll()
    # So that it goes at once when it is deleted, whether or not Weft hears of that.
    assert not held()
    await rack.cluster.delete(GPU_POOLS, "gpus")
    assert rack.cluster.get(GPU_POOLS, "gpus") is None


@pytest.mark.shows("DeviceQuota.spec.limits[].count", "DeviceQuota.spec.limits[].name")
async def test_a_request_beyond_the_quota_waits_until_the_quota_is_raised(rack: Rack) -> None:
    await rack.build()
    await limit(rack, gpus(1))
    await rack.ask("n", gpus=2)
    assert condition(rack.node("n"), "Bound") == ("False", "QuotaExceeded")
    await limit(rack, gpus(2))
    assert condition(rack.node("n"), "Bound")[0] == "True"


@pytest.mark.shows("DeviceQuota.spec.limits[].capacity", "DeviceQuota.spec.limits[].kind")
@pytest.mark.shows("DeviceAttachment.spec.capacity")
async def test_bytes_beyond_the_quota_of_the_memory_pool_are_refused_and_accelerators_are_not(
    rack: Rack,
) -> None:
    rack.driver.memories = {f"cxl-{n}": 2**30 for n in range(3)}
    await rack.build()
    # A pool of another kind may have the GPU pool's name.
    spec = {"fabricRef": {"name": "rack"}, "allowedNamespaces": {}}
    await rack.cluster.create(MEMORY_POOLS, {"metadata": {"name": "gpus"}, "spec": spec})
    await limit(rack, {"kind": "MemoryPool", "name": "gpus", "capacity": "2Gi"})
    await rack.ask("much", gpus=1, memory=[{"name": "kv", "size": "3Gi"}])
    assert condition(rack.node("much"), "Bound") == ("False", "QuotaExceeded")
    await rack.ask("less", gpus=1, memory=[{"name": "kv", "size": "2Gi"}])
    assert condition(rack.node("less"), "Bound")[0] == "True"
    await rack.poll()
    assert quota(rack)["status"]["used"] == [{"kind": "MemoryPool", "name": "gpus", "capacity": "2Gi"}]


async def test_of_two_quotas_the_lower_limit_holds(rack: Rack) -> None:
    await rack.build()
    await limit(rack, gpus(4))
    await limit(rack, gpus(1), name="lower")
    await rack.ask("n", gpus=2)
    assert condition(rack.node("n"), "Bound") == ("False", "QuotaExceeded")


async def test_a_quota_limits_its_own_namespace_alone(rack: Rack) -> None:
    await rack.build()
    await limit(rack, gpus(0), namespace="b")
    await rack.ask("n", gpus=2)
    assert condition(rack.node("n"), "Bound")[0] == "True"


@pytest.mark.shows("DeviceAttachment.spec.poolRef.kind", "DeviceAttachment.spec.poolRef.name")
async def test_a_quota_says_what_is_used_and_that_a_lowered_limit_is_exceeded(rack: Rack) -> None:
    await rack.build()
    await limit(rack, gpus(2))
    await rack.ask("n", gpus=2)
    await rack.poll()
    assert quota(rack)["status"]["used"] == [gpus(2)]
    assert condition(quota(rack), "WithinLimits")[0] == "True"
    await limit(rack, gpus(1))
    assert condition(quota(rack), "WithinLimits") == ("False", "LimitLowered")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    await rack.poll()
    assert quota(rack)["status"]["used"] == [gpus(0)]


@pytest.mark.shows("DeviceQuota.spec.hosts")
async def test_hosts_beyond_the_quota_are_refused_and_the_status_shows_what_is_used(rack: Rack) -> None:
    await rack.build()
    await limit(rack, hosts=1)
    await rack.ask("first", gpus=1)
    await rack.ask("second", gpus=1)
    assert condition(rack.node("first"), "Bound")[0] == "True"
    assert condition(rack.node("second"), "Bound") == ("False", "QuotaExceeded")
    await rack.poll()
    assert quota(rack)["status"]["hosts"] == 1
    assert condition(quota(rack), "WithinLimits")[0] == "True"
    await limit(rack, hosts=2)
    assert condition(rack.node("second"), "Bound")[0] == "True"
    await limit(rack, hosts=1)
    assert quota(rack)["status"]["hosts"] == 2
    assert condition(quota(rack), "WithinLimits") == ("False", "LimitLowered")
    assert condition(rack.node("first"), "Bound")[0] == "True"
    await rack.cluster.delete(LOGICAL_NODES, "first", "a")
    await rack.work("first")
    await rack.poll()
    assert quota(rack)["status"]["hosts"] == 1


async def test_of_what_is_asked_for_at_once_no_more_hosts_are_given_than_the_quota_allows(rack: Rack) -> None:
    await rack.build()
    await limit(rack, hosts=1)
    spec = {"accelerators": [{"name": "main", "count": 1}]}
    for name in ("first", "second"):
        await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})
    await rack.settle()
    await rack.work("first")
    await rack.work("second")
    assert len({claim["spec"]["host"] for claim in rack.cluster.list(DEVICE_ATTACHMENTS)}) == 1


async def test_a_quota_of_a_pool_that_does_not_exist_says_so(rack: Rack) -> None:
    await rack.build()
    await limit(rack, {"kind": "MemoryPool", "name": "gpus", "capacity": "1Ti"})
    assert condition(quota(rack), "PoolsFound") == ("False", "PoolNotFound")
    await limit(rack, gpus(1))
    assert condition(quota(rack), "PoolsFound")[0] == "True"


async def test_a_device_to_be_maintained_that_the_pool_does_not_have_is_said(rack: Rack) -> None:
    await rack.build()

    def pool() -> Object:
        return rack.cluster.get(GPU_POOLS, "gpus") or {}

    await rack.poll()
    assert condition(pool(), "MaintenanceMatched") == ("", "")
    for devices, said in (
        (["gpu-0", "gpu-O"], ("False", "DeviceNotFound")),
        (["gpu-0"], ("True", "DevicesFound")),
    ):
        await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"maintenance": {"devices": devices}}})
        await rack.poll()
        assert condition(pool(), "MaintenanceMatched") == said


async def test_a_quarantined_device_does_not_count_against_the_tenant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch, settle=1)
    await rack.build()
    await limit(rack, gpus(2))
    faults = [DeviceFault("broken", "gpu-0")]

    async def fail_once() -> None:
        if faults:
            raise faults.pop()

    rack.driver.before_attach = fail_once
    await rack.ask("n", gpus=2)
    for _ in range(4):
        await rack.poll()
        await rack.work("n")
    assert len(rack.cluster.list(DEVICE_ATTACHMENTS)) == 3
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert quota(rack)["status"]["used"] == [gpus(2)]


async def test_a_pools_bytes_are_counted_and_each_unavailable_device_by_its_cause(rack: Rack) -> None:
    await rack.build()
    spec = {"fabricRef": {"name": "rack"}, "selector": {}}
    await rack.cluster.create(MEMORY_POOLS, {"metadata": {"name": "none"}, "spec": spec})
    rack.driver.devices["gpu-1"] = False
    rack.driver.pairs.add(("gpu-2", rack.hosts[0]))
    rack.driver.others = (Device("gpu-x", DeviceKind.ACCELERATOR, {"model": "M"}, 1, True, reserved=True),)
    await rack.poll()
    await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"maintenance": {"devices": ["gpu-0"]}}})
    pools = rack.controllers[PoolsKey]
    assert isinstance(pools, PoolsController)
    seen: list[int] = []
    rack.cluster.after_write = lambda: seen.append(len(pools.tallies))
    await rack.reconcile(PoolsKey())

    assert set(seen) == {2}, "a scrape between two statuses finds all pools"
    counted = pools.tallies["GPUPool", "gpus"]
    assert counted.causes == {"Maintenance": 1, "AttachedByOthers": 1, "ReservedByOthers": 1, "Unhealthy": 1}
    # A GPU of this manager has one byte.
    assert counted.bytes == counted.devices
    assert (counted.devices["unavailable"], counted.devices["free"]) == (4, len(rack.driver.devices) - 3)


async def test_what_another_client_of_the_manager_has_reserved_is_given_to_nobody(rack: Rack) -> None:
    await rack.build()
    rack.driver.devices = dict.fromkeys(rack.driver.devices, False)
    theirs = Device("gpu-x", DeviceKind.ACCELERATOR, {"model": "M"}, 1, True, reserved=True)
    rack.driver.others = (theirs,)
    await rack.poll()
    await rack.ask("n", gpus=1)
    assert condition(rack.node("n"), "Bound")[0] == "False"
    rack.driver.others = (replace(theirs, reserved=False),)
    await rack.poll()
    await rack.work("n")
    assert {claim["spec"]["device"] for claim in rack.cluster.list(DEVICE_ATTACHMENTS)} == {"gpu-x"}

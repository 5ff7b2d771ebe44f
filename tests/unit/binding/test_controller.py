"""What a logical node goes through, over a cluster and a fabric manager in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from support.rack import Rack, condition
from weft.api.names import FINALIZER
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    MEMORY_POOLS,
)
from weft.binding.inventory import LivePicture
from weft.binding.keys import FabricKey, LogicalNodeKey, PoolsKey


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


async def test_a_bind_and_a_release_leave_nothing_behind(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    assert condition(rack.node("n"), "Ready")[0] == "True"
    assert len(rack.driver.pairs) == 2
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.cluster.get(LOGICAL_NODES, "n", "a") is None
    assert (rack.claims(), rack.tainted(), rack.driver.pairs) == ([], {}, set())


async def test_a_host_taken_out_of_the_fabric_while_bound_keeps_its_node_name_and_is_releasable(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n")
    name = rack.node("n")["status"]["nodeName"]
    await rack.edit_fabric(hosts=[])
    await rack.work("n")
    assert rack.node("n")["status"]["nodeName"] == name
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert (rack.claims(), rack.tainted(), rack.driver.pairs) == ([], {}, set())


async def test_a_bound_node_without_one_of_its_attachments_says_so_before_the_rest_is_detached(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n")
    seen: list[tuple[str, str]] = []
    detach = rack.driver.detach

    async def look(*args: Any) -> Any:
        seen.append(condition(rack.node("n"), "Ready"))
        return await detach(*args)

    rack.driver.detach = look  # type: ignore[method-assign]
    await rack.cluster.delete(DEVICE_ATTACHMENTS, rack.claims()[0]["metadata"]["name"])
    await rack.work("n")
    assert seen
    assert {status for status, _ in seen} == {"False"}


async def test_a_device_that_fails_and_recovers_is_said_at_the_next_polls(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    device = rack.node("n")["status"]["devices"][0]["device"]
    rack.driver.devices[device] = False
    await rack.poll()
    assert condition(rack.node("n"), "Ready") == ("False", "DeviceUnhealthy")
    rack.driver.devices[device] = True
    await rack.poll()
    assert condition(rack.node("n"), "Ready")[0] == "True"


async def test_a_restart_or_an_incomplete_reading_does_not_make_a_broken_node_ready(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    device = rack.node("n")["status"]["devices"][0]["device"]
    rack.driver.devices[device] = False
    await rack.poll()
    rack.restart()
    await rack.work("n")
    assert condition(rack.node("n"), "Ready") == ("False", "DeviceUnhealthy")
    rack.driver.complete = False
    await rack.poll()
    assert condition(rack.node("n"), "Ready") == ("False", "DeviceUnhealthy")


async def test_a_pool_that_appears_while_pools_are_counted_does_not_stop_the_count(rack: Rack) -> None:
    await rack.build()
    spec = {"fabricRef": {"name": "rack"}, "selector": {}}

    def appear() -> None:
        metadata = {"name": "late", "uid": "u-late", "resourceVersion": "1", "generation": 1}
        rack.cluster.objects.setdefault((MEMORY_POOLS, "", "late"), {"metadata": metadata, "spec": spec})

    rack.driver.devices["gpu-9"] = True
    await rack.reconcile(FabricKey("rack"))
    rack.cluster.after_write = appear
    await rack.reconcile(PoolsKey())
    assert (rack.cluster.get(GPU_POOLS, "gpus") or {})["status"]["devices"]["total"] == 5


async def test_a_fabric_deleted_while_claims_are_made_is_kept_until_they_are_released(rack: Rack) -> None:
    await rack.build()
    await rack.cluster.delete(FABRICS, "rack")
    close = rack.driver.close

    async def claimed_meanwhile() -> None:
        ref = {"namespace": "a", "name": "n", "uid": "u"}
        spec = {"fabric": "rack", "device": "gpu-0", "host": "sled-0", "operation": "op"}
        spec["nodeName"] = "node-sled-0"
        pool = {"kind": "GPUPool", "name": "gpus"}
        more = {"poolRef": pool, "request": "main", "claimSize": 1, "claimRef": ref}
        body = {"metadata": {"name": "rack.gpu-0", "finalizers": [FINALIZER]}, "spec": {**spec, **more}}
        await rack.cluster.create(DEVICE_ATTACHMENTS, body)
        await close()

    rack.driver.close = claimed_meanwhile  # type: ignore[method-assign]
    await rack.reconcile(FabricKey("rack"))
    assert rack.cluster.get(FABRICS, "rack") is not None


async def test_a_status_that_a_tenant_made_up_stops_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    rack = Rack(monkeypatch, hosts=3)
    await rack.build()
    spec = {"accelerators": [{"name": "main", "count": 1}], "ttlSecondsAfterBound": 1}
    made = await rack.cluster.create(
        LOGICAL_NODES, {"metadata": {"name": "odd", "namespace": "a"}, "spec": spec}
    )
    bound = {"type": "Bound", "status": "True", "reason": "B", "lastTransitionTime": "9999-12-31T23:59:59Z"}
    made = await rack.cluster.write_status(LOGICAL_NODES, made, {"conditions": [bound]})
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    made = rack.node("odd")
    await rack.cluster.write_status(
        LOGICAL_NODES, made, {"conditions": [{**bound, "lastTransitionTime": "0000-01-01T00:00:00Z"}]}
    )
    await rack.ask("m", gpus=1)
    assert condition(rack.node("m"), "Bound")[0] == "True"


async def test_a_device_that_is_shown_at_two_hosts_makes_the_nodes_of_both_not_ready_until_it_is_gone_from_one(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", gpus=1)
    await rack.ask("m", gpus=1)
    mine, theirs = (rack.node(name)["status"] for name in ("n", "m"))
    assert mine["host"] != theirs["host"]
    rack.driver.pairs.add((mine["devices"][0]["device"], theirs["host"]))
    await rack.poll()
    for name in ("n", "m"):
        assert condition(rack.node(name), "Ready") == ("False", "DeviceAtTwoHosts")
        assert condition(rack.node(name), "Bound")[0] == "True"
    assert [reason for _, reason, _ in rack.cluster.events].count("DeviceAtTwoHosts") == 2
    assert condition(rack.cluster.get(FABRICS, "rack") or {}, "NoOrphans") == ("False", "OrphansFound")
    rack.driver.pairs.discard((mine["devices"][0]["device"], theirs["host"]))
    await rack.poll()
    assert [condition(rack.node(name), "Ready")[0] for name in ("n", "m")] == ["True", "True"]


async def test_a_host_with_a_device_that_nobody_here_claims_is_not_offered_until_it_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch, hosts=1)
    await rack.build()
    rack.driver.pairs = {("gpu-3", "sled-0")}
    await rack.poll()
    await rack.ask("n", gpus=1)
    assert condition(rack.node("n"), "Bound") == ("False", "NoHost")
    assert condition(rack.cluster.get(FABRICS, "rack") or {}, "NoOrphans") == ("False", "OrphansFound")
    rack.driver.pairs.clear()
    await rack.poll()
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_clock_that_is_set_ahead_or_back_neither_ends_nor_lengthens_a_nodes_time(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", ttlSecondsAfterBound=60)
    # The watch tells of the status that was written.
    await rack.work("n")
    rack.clock.wall += timedelta(hours=10)
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    rack.clock.wall -= timedelta(hours=20)
    rack.clock.forward(61)
    await rack.work("n")
    assert condition(rack.node("n"), "Expired")[0] == "True"


async def test_a_pass_over_one_logical_node_does_not_look_at_what_the_whole_fabric_shows(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    await rack.ask("n")
    whole: list[object] = []
    monkeypatch.setattr(LivePicture, "whole", whole.append)
    await rack.reconcile(LogicalNodeKey("a", "n"))
    assert whole == []
    assert condition(rack.node("n"), "Ready")[0] == "True"

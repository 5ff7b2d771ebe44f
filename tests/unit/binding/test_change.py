"""A bound logical node that grows and shrinks: what it keeps is not touched, whatever happens meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from support.rack import Rack, condition
from weft.api.resources import DEVICE_ATTACHMENTS, DEVICE_QUOTAS, LOGICAL_NODES, MEMORY_POOLS, PODS
from weft.binding.keys import LogicalNodeKey, PlacementKey
from weft.cluster import Object
from weft.fabric.driver import Device, DeviceKind
from weft.fabric.errors import DeviceFault, OutcomeUnknown

TOLERATION = {"key": "weft.dev/logical-node", "operator": "Exists"}


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch, gpus=8, hosts=2)


async def resize(rack: Rack, gpus: int, name: str = "n", **spec: Any) -> None:
    body = {"accelerators": [{"name": "main", "count": gpus}], **spec}
    await rack.cluster.patch(LOGICAL_NODES, name, "a", {"spec": body})
    await rack.work(name)


async def use(rack: Rack, name: str = "n") -> None:
    """A pod of the tenant runs on the logical node."""
    spec = {
        "nodeName": rack.node(name)["status"]["nodeName"],
        "tolerations": [TOLERATION],
        "containers": [{"name": "main", "image": "job:1"}],
    }
    await rack.cluster.create(PODS, {"metadata": {"name": "job", "namespace": "a"}, "spec": spec})


def devices(rack: Rack, name: str = "n") -> list[str]:
    return sorted(each["device"] for each in rack.node(name)["status"]["devices"])


def said(rack: Rack, kind: str, name: str = "n") -> Object:
    return next(each for each in rack.node(name)["status"]["conditions"] if each["type"] == kind)


@pytest.mark.shows("DeviceAttachment.spec.extends")
async def test_a_bound_node_grows_at_its_host_and_what_it_had_is_not_touched(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    before, host = devices(rack), rack.node("n")["status"]["host"]
    uids = {claim["metadata"]["uid"] for claim in rack.claims()}
    called: list[frozenset[str]] = []
    attach = rack.driver.attach

    async def note(operation: str, at: str, these: frozenset[str]) -> Any:
        # It stays bound and ready while more is attached.
        assert condition(rack.node("n"), "Bound")[0] == condition(rack.node("n"), "Ready")[0] == "True"
        called.append(these)
        return await attach(operation, at, these)

    rack.driver.attach = note  # type: ignore[method-assign]
    await use(rack)
    await resize(rack, 4)
    assert condition(rack.node("n"), "Resized") == ("True", "Resized")
    assert len(devices(rack)) == 4
    assert set(before) < set(devices(rack))
    assert rack.driver.pairs == {(device, host) for device in devices(rack)}
    assert called == [frozenset(devices(rack)) - set(before)]
    assert uids < {claim["metadata"]["uid"] for claim in rack.claims()}
    assert "detach" not in rack.driver.calls


async def test_what_is_added_waits_in_the_queue_with_a_place_and_a_reason_and_the_rest_stays_ready(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", 4)
    await rack.ask("other", 3)
    await resize(rack, 6)
    node = rack.node("n")
    assert condition(node, "Ready") == ("True", "Ready")
    assert condition(node, "Resized") == ("False", "NotEnoughDevices")
    assert said(rack, "Resized")["message"].startswith("growing: waits: main: 2 accelerators asked for")
    assert node["status"]["queuePlace"] == "1"
    # All or nothing: the one that is free is not attached alone, and is kept for the head of the queue.
    assert len(rack.driver.pairs) == 7
    await rack.cluster.delete(LOGICAL_NODES, "other", "a")
    await rack.work("other")
    await rack.work("n")
    assert len(devices(rack)) == 6
    assert "queuePlace" not in rack.node("n")["status"]


async def test_growth_that_no_pool_can_meet_says_so_and_withholds_nothing(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 6)
    await resize(rack, 9)
    assert condition(rack.node("n"), "Resized") == ("False", "NoSuchDevices")
    assert condition(rack.node("n"), "Ready")[0] == "True"
    await rack.ask("other", 2)
    assert condition(rack.node("other"), "Bound")[0] == "True"


async def test_growth_stays_within_the_quota_and_needs_no_second_host(rack: Rack) -> None:
    await rack.build()
    limits = [{"kind": "GPUPool", "name": "gpus", "count": 3}]
    quota = {"metadata": {"name": "q", "namespace": "a"}, "spec": {"limits": limits, "hosts": 1}}
    await rack.cluster.create(DEVICE_QUOTAS, quota)
    await rack.ask("n", 2)
    await resize(rack, 4)
    assert condition(rack.node("n"), "Resized") == ("False", "QuotaExceeded")
    assert len(rack.claims()) == 2
    await resize(rack, 3)
    assert condition(rack.node("n"), "Resized")[0] == "True"
    assert len(devices(rack)) == 3


async def test_growth_keeps_to_the_domain_that_the_node_has(rack: Rack) -> None:
    rack.driver.devices = {}
    rack.driver.others = tuple(
        Device(f"gpu-{n}", DeviceKind.ACCELERATOR, {"nvlinkDomain": "left" if n < 3 else "right"}, 1, True)
        for n in range(8)
    )
    await rack.build()
    await rack.ask("n", 2, placement={"constraints": [{"attribute": "nvlinkDomain"}]})
    assert devices(rack) == ["gpu-0", "gpu-1"]
    await resize(rack, 3)
    assert devices(rack) == ["gpu-0", "gpu-1", "gpu-2"]
    # Five are free in the other domain.
    await resize(rack, 4)
    assert condition(rack.node("n"), "Resized") == ("False", "NoSuchDevices")


async def test_a_request_that_is_added_gets_devices_and_one_that_is_taken_out_gives_them_back(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    first = devices(rack)
    two = [{"name": "main", "count": 2}, {"name": "more", "count": 3}]
    await resize(rack, 2, accelerators=two)
    assert len(devices(rack)) == 5
    await resize(rack, 3, accelerators=[{"name": "more", "count": 3}])
    assert len(devices(rack)) == 3
    assert not set(first) & set(devices(rack))


async def test_a_shrinking_node_gives_back_what_is_faulty_first_and_detaches_nothing_else(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 4)
    before = devices(rack)
    rack.driver.devices[before[1]] = False
    await rack.poll()
    gone: list[frozenset[str]] = []
    detach = rack.driver.detach

    async def note(operation: str, at: str, these: frozenset[str]) -> Any:
        gone.append(these)
        return await detach(operation, at, these)

    rack.driver.detach = note  # type: ignore[method-assign]
    await resize(rack, 2)
    left = set(before) - {before[1], before[3]}
    assert gone == [frozenset({before[1], before[3]})]
    assert set(devices(rack)) == left
    assert condition(rack.node("n"), "Resized") == ("True", "Resized")
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_shrinking_node_leaves_the_domain_of_which_it_has_least(rack: Rack) -> None:
    rack.driver.devices = {}
    rack.driver.others = tuple(
        Device(f"gpu-{n}", DeviceKind.ACCELERATOR, {"nvlinkDomain": "small" if n == 0 else "large"}, 1, True)
        for n in range(4)
    )
    await rack.build()
    await rack.ask("n", 4)
    await resize(rack, 3)
    assert devices(rack) == ["gpu-1", "gpu-2", "gpu-3"]


async def test_what_is_to_go_waits_for_the_pods_and_the_node_stays_ready_meanwhile(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 3)
    await use(rack)
    await resize(rack, 2)
    assert len(rack.driver.pairs) == 3
    assert condition(rack.node("n"), "Ready")[0] == "True"
    assert condition(rack.node("n"), "Resized") == ("False", "Drain")
    # Which one goes is stored, and stays so for the next leader.
    marked = [each for each in rack.claims() if condition(each, "Leaving")[0] == "True"]
    assert [each["spec"]["device"] for each in marked] == [devices(rack)[-1]]
    rack.restart()
    await rack.poll()
    await rack.work("n")
    assert len(rack.driver.pairs) == 3
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    rack.fabrics.session("rack").settle_seconds = 1  # type: ignore[union-attr]
    for _ in range(4):
        await rack.poll()
        await rack.work("n")
    assert len(rack.driver.pairs) == len(devices(rack)) == 2, said(rack, "Resized")
    assert condition(rack.node("n"), "Resized")[0] == "True"


async def test_a_node_of_which_a_part_was_given_back_is_no_claim_that_was_cut_short(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 3)
    await resize(rack, 2)
    kept = devices(rack)
    rack.restart()
    await rack.poll()
    await rack.work("n")
    assert devices(rack) == kept
    # Not even where the status was lost, as by a restore from a backup.
    await rack.cluster.write_status(LOGICAL_NODES, rack.node("n"), {})
    rack.restart()
    await rack.poll()
    await rack.work("n")
    assert devices(rack) == kept
    assert len(rack.driver.pairs) == 2


async def test_an_increment_of_which_one_device_fails_goes_back_whole_and_another_is_tried(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    kept = devices(rack)
    failures = [DeviceFault("broken", "gpu-3")]

    async def fail_once() -> None:
        if failures:
            raise failures.pop()

    rack.driver.before_attach = fail_once
    await resize(rack, 4)
    assert set(kept) <= set(devices(rack))
    assert condition(rack.node("n"), "Bound")[0] == "True"
    rack.fabrics.session("rack").settle_seconds = 1  # type: ignore[union-attr]
    for _ in range(5):
        await rack.poll()
        await rack.work("n")
    assert len(devices(rack)) == 4
    assert "gpu-3" not in devices(rack)


async def test_an_increment_that_was_cut_short_by_a_crash_is_given_back_and_claimed_anew(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    await resize(rack, 4)
    kept = devices(rack)
    extra = next(each for each in rack.claims() if "extends" in each["spec"])
    # As if the other had never been created, and the status never written.
    rack.driver.pairs -= {(extra["spec"]["device"], extra["spec"]["host"])}
    status = rack.node("n")["status"]
    listed = [each for each in status["devices"] if each["attachment"] in _base(rack)]
    await rack.cluster.write_status(LOGICAL_NODES, rack.node("n"), {**status, "devices": listed})
    await rack.cluster.patch(
        DEVICE_ATTACHMENTS, extra["metadata"]["name"], "", {"metadata": {"finalizers": None}}
    )
    await rack.cluster.delete(DEVICE_ATTACHMENTS, extra["metadata"]["name"])
    rack.restart()
    rack.settle_seconds = 1
    for _ in range(4):
        await rack.poll()
        rack.fabrics.session("rack").settle_seconds = 1  # type: ignore[union-attr]
        await rack.work("n")
    assert len(devices(rack)) == 4
    assert len(rack.driver.pairs) == 4
    assert len(set(kept) & set(devices(rack))) >= 2


def _base(rack: Rack) -> set[str]:
    return {each["metadata"]["name"] for each in rack.claims() if "extends" not in each["spec"]}


async def test_a_wish_that_is_taken_back_while_it_waits_leaves_nothing(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 4)
    await rack.ask("other", 4)
    await resize(rack, 5)
    assert condition(rack.node("n"), "Resized")[0] == "False"
    await resize(rack, 4)
    assert condition(rack.node("n"), "Resized")[0] == "True"
    assert "queuePlace" not in rack.node("n")["status"]
    await rack.cluster.delete(LOGICAL_NODES, "other", "a")
    await rack.work("other")
    assert len(rack.claims()) == len(rack.driver.pairs) == 4


async def test_an_increment_that_is_no_longer_asked_for_goes_back_before_it_is_counted(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    kept = devices(rack)

    async def silent() -> None:
        raise OutcomeUnknown("no answer")

    rack.driver.before_attach = silent
    await resize(rack, 4)
    assert len(rack.claims()) == 4
    await resize(rack, 2)
    rack.fabrics.session("rack").settle_seconds = 1  # type: ignore[union-attr]
    for _ in range(4):
        await rack.poll()
        await rack.work("n")
    assert devices(rack) == kept
    assert len(rack.claims()) == 2


async def test_a_node_that_grew_is_released_whole(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    await resize(rack, 4)
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert (rack.claims(), rack.tainted(), rack.driver.pairs) == ([], {}, set())


async def test_memory_grows_and_shrinks_by_whole_devices(rack: Rack) -> None:
    rack.driver.memories = {"cxl-0": 2**30, "cxl-1": 2**30, "cxl-2": 2**30}
    await rack.build()
    pool = {"fabricRef": {"name": "rack"}, "selector": {}, "allowedNamespaces": {}}
    await rack.cluster.create(MEMORY_POOLS, {"metadata": {"name": "cxl"}, "spec": pool})
    await rack.ask("n", 1, memory=[{"name": "mem", "size": "1Gi"}])
    await resize(rack, 1, memory=[{"name": "mem", "size": "2500Mi"}])
    assert sum(each.startswith("cxl") for each in devices(rack)) == 3
    await resize(rack, 1, memory=[{"name": "mem", "size": "2Gi"}])
    assert sum(each.startswith("cxl") for each in devices(rack)) == 2
    assert condition(rack.node("n"), "Resized")[0] == "True"


async def test_a_bound_node_to_which_nothing_happens_is_not_written(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", 2)
    before = rack.node("n")["metadata"]["resourceVersion"]
    for _ in range(3):
        await rack.poll()
        await rack.work("n")
    assert rack.node("n")["metadata"]["resourceVersion"] == before
    assert condition(rack.node("n"), "Resized") == ("", "")


async def test_a_place_for_more_is_forgotten_when_the_spec_or_the_node_changes_before_it_is_claimed(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n", 2)
    key = LogicalNodeKey("a", "n")

    async def find_a_place_for(gpus: int) -> None:
        """Placement has found one, and the controller of the node has not come to it."""
        body = {"accelerators": [{"name": "main", "count": gpus}]}
        await rack.cluster.patch(LOGICAL_NODES, "n", "a", {"spec": body})
        await rack.reconcile(key)
        await rack.reconcile(PlacementKey())
        rack.keys.clear()

    await find_a_place_for(4)
    await rack.cluster.patch(
        LOGICAL_NODES, "n", "a", {"spec": {"accelerators": [{"name": "main", "count": 3}]}}
    )
    await rack.reconcile(key)
    assert len(rack.claims()) == 2
    await rack.settle()
    assert len(devices(rack)) == 3

    await find_a_place_for(5)
    await rack.cluster.delete(DEVICE_ATTACHMENTS, rack.claims()[0]["metadata"]["name"])
    await rack.work("n")
    await rack.poll()
    await rack.work("n")
    # An administrator took the node back whole: it is placed anew with all that it asks for now.
    assert len(devices(rack)) == len(rack.driver.pairs) == 5


async def test_who_asks_for_less_before_anything_is_claimed_gets_less_at_once(rack: Rack) -> None:
    await rack.build()
    spec = {"accelerators": [{"name": "main", "count": 4}]}
    await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": "n", "namespace": "a"}, "spec": spec})
    await rack.reconcile(PlacementKey())
    rack.keys.clear()
    await resize(rack, 1)
    assert len(devices(rack)) == 1
    assert "detach" not in rack.driver.calls

"""What a logical node goes through, over a cluster and a fabric manager in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from support.rack import Rack, condition
from support.refusals import Policy, Write
from weft.api.names import FINALIZER
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    NODES,
    PODS,
)
from weft.binding.inventory import LivePicture
from weft.binding.keys import FabricKey, LogicalNodeKey, PlacementKey, PoolsKey
from weft.cluster import ClusterError, InvalidError, Object
from weft.fabric.driver import Operation, OperationPhase
from weft.fabric.errors import CapacityExhausted, DeviceFault, NotFound, OutcomeUnknown

CONTAINERS = [{"name": "main", "image": "job:1"}]


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


TOLERATIONS = ({"key": "weft.dev/logical-node", "operator": "Exists"},)


async def add_pod(
    rack: Rack, node: str, name: str = "job", tolerations: Sequence[Object] = TOLERATIONS
) -> None:
    spec = {"nodeName": node, "tolerations": list(tolerations), "containers": CONTAINERS}
    await rack.cluster.create(PODS, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})


async def test_a_bind_and_a_release_leave_nothing_behind(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    assert condition(rack.node("n"), "Ready")[0] == "True"
    assert len(rack.driver.pairs) == 2
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.cluster.get(LOGICAL_NODES, "n", "a") is None
    assert (rack.claims(), rack.tainted(), rack.driver.pairs) == ([], {}, set())


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


async def test_deleting_an_attachment_does_not_take_the_device_from_under_a_running_pod(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    before = set(rack.driver.pairs)
    await add_pod(rack, rack.node("n")["status"]["nodeName"])
    await rack.cluster.delete(DEVICE_ATTACHMENTS, rack.claims()[0]["metadata"]["name"])
    await rack.work("n")
    assert rack.driver.pairs == before
    assert "detach" not in rack.driver.calls
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert len(rack.driver.pairs) == 2


async def test_a_node_whose_time_is_up_stays_expired_while_a_pod_holds_its_devices(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", ttlSecondsAfterBound=1)
    await add_pod(rack, rack.node("n")["status"]["nodeName"])
    rack.clock.forward(1.1)
    for _ in range(3):
        await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "False"
    assert condition(rack.node("n"), "Expired")[0] == "True"
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    await rack.work("n")
    await rack.poll()
    assert (rack.claims(), rack.tainted(), rack.driver.pairs) == ([], {}, set())


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


async def test_a_place_that_had_no_capacity_is_tried_again_when_nothing_else_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch, hosts=2, settle=1)
    await rack.build()
    full = [CapacityExhausted("full")] * 2

    async def fail() -> None:
        if full:
            raise full.pop()

    rack.driver.before_attach = fail
    await rack.ask("n")
    for _ in range(8):
        await rack.poll()
        await rack.work("n")
    await rack.place_again()
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_one_claim_that_the_api_server_refuses_does_not_stop_the_others(rack: Rack) -> None:
    await rack.build()

    def bad(write: Write) -> str | None:
        return "no" if write.body["spec"]["claimRef"]["name"] == "bad" else None

    rack.cluster.rules.append(Policy(DEVICE_ATTACHMENTS, bad))
    for name in ("bad", "good"):
        spec = {"accelerators": [{"name": "main", "count": 1}]}
        await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})
    await rack.reconcile(PlacementKey())
    with pytest.raises(InvalidError):
        await rack.reconcile(LogicalNodeKey("a", "bad"))
    await rack.reconcile(LogicalNodeKey("a", "good"))
    assert condition(rack.node("good"), "Bound")[0] == "True"


async def test_a_node_whose_claim_the_api_server_refuses_says_so_in_its_words_and_binds_when_it_may(
    rack: Rack,
) -> None:
    await rack.build()

    def not_the_last(write: Write) -> str | None:
        last = write.verb == "create" and write.body["spec"]["device"] == "gpu-3"
        return "gpu-3 is reserved" if last else None

    rack.cluster.rules.append(Policy(DEVICE_ATTACHMENTS, not_the_last))
    for _ in range(2):
        rack.clock.forward(60)
        with pytest.raises(InvalidError):
            await rack.ask("n", gpus=4) if not rack.cluster.list(LOGICAL_NODES) else await rack.work("n")
        assert condition(rack.node("n"), "Reserved") == ("False", "ClaimRefused")
        (bound,) = (one for one in rack.node("n")["status"]["conditions"] if one["type"] == "Bound")
        assert "gpu-3 is reserved" in bound["message"]
        assert rack.driver.pairs == set()
    assert {event[1] for event in rack.cluster.events} == {"ClaimRefused"}
    rack.cluster.rules.clear()
    rack.clock.forward(60)
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_claim_that_the_api_server_refuses_is_made_again_at_growing_intervals_whoever_asks(
    rack: Rack,
) -> None:
    await rack.build()
    tries: list[str] = []

    def no(write: Write) -> ClusterError | None:
        if write.resource != DEVICE_ATTACHMENTS:
            return None
        tries.append(write.name)
        return ClusterError(500, "InternalError", "failed calling webhook")

    rack.cluster.rules.append(no)
    with pytest.raises(ClusterError):
        await rack.ask("n", gpus=1)
    for _ in range(100):
        # Its Node changes, a place is found: a second passes in which it is asked for again and again.
        rack.clock.forward(0.2)
        with contextlib.suppress(ClusterError):
            await rack.work("n")
    assert 3 <= len(tries) <= 6
    rack.cluster.rules.clear()
    rack.clock.forward(60)
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_deleted_node_whose_release_the_api_server_refuses_says_so_in_its_words(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    for verb in ("delete", "patch"):
        words = f"no {verb} today"

        def no(write: Write, verb: str = verb, words: str = words) -> ClusterError | None:
            hit = write.resource == DEVICE_ATTACHMENTS and write.verb == verb
            return ClusterError(500, "InternalError", words) if hit else None

        rack.cluster.rules.append(no)
        with pytest.raises(ClusterError):
            await rack.work("n")
        (bound,) = (one for one in rack.node("n")["status"]["conditions"] if one["type"] == "Bound")
        assert (bound["status"], bound["reason"]) == ("False", "Releasing")
        assert words in bound["message"]
        rack.cluster.rules.clear()
    await rack.work("n")
    assert rack.cluster.list(LOGICAL_NODES) == []


async def test_a_node_whose_machine_may_not_be_tainted_says_so_and_nothing_is_attached(rack: Rack) -> None:
    await rack.build()
    words = 'nodes "node-sled-0" is forbidden: User "weft" cannot patch resource "nodes"'

    def no(write: Write) -> ClusterError | None:
        return ClusterError(403, "Forbidden", words) if write.resource == NODES else None

    rack.cluster.rules.append(no)
    with pytest.raises(ClusterError):
        await rack.ask("n")
    (bound,) = (one for one in rack.node("n")["status"]["conditions"] if one["type"] == "Bound")
    assert (bound["status"], bound["reason"]) == ("False", "ClaimRefused")
    assert words in bound["message"]
    assert any(words in message for _, _, message in rack.cluster.events)
    assert rack.driver.pairs == set()
    rack.cluster.rules.clear()
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    # Bound, it stays so: what is refused then is an event.
    rack.cluster.rules.append(no)
    node = rack.cluster.objects[NODES, "", "node-sled-0"]
    rack.cluster.objects[NODES, "", "node-sled-0"] = {**node, "spec": {}}
    with pytest.raises(ClusterError):
        await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    # So it is said when the taint may not be taken off again.
    rack.cluster.objects[NODES, "", "node-sled-0"] = node
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    with pytest.raises(ClusterError):
        await rack.work("n")
    (bound,) = (one for one in rack.node("n")["status"]["conditions"] if one["type"] == "Bound")
    assert bound["reason"] == "Releasing"
    assert words in bound["message"]
    rack.cluster.rules.clear()
    await rack.work("n")
    assert (rack.cluster.list(LOGICAL_NODES), rack.tainted()) == ([], {})


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


async def test_a_quarantined_device_does_not_take_its_host_out_of_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch, hosts=1, settle=1)
    await rack.build()
    faults = [DeviceFault("broken", "gpu-0")]

    async def fail_once() -> None:
        if faults:
            raise faults.pop()

    rack.driver.before_attach = fail_once
    await rack.ask("n")
    for _ in range(3):
        await rack.poll()
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert ("gpu-0", "sled-0") not in rack.driver.pairs


async def test_a_pod_that_tolerates_everything_holds_the_devices_too_and_an_agent_does_not(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n")
    where = rack.node("n")["status"]["nodeName"]
    spec = {"nodeName": where, "tolerations": [{"operator": "Exists"}], "containers": CONTAINERS}
    daemon_set = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "1"}
    owner = {"ownerReferences": [daemon_set]}
    await rack.cluster.create(
        PODS, {"metadata": {"name": "agent-1", "namespace": "a", **owner}, "spec": spec}
    )
    await rack.cluster.create(PODS, {"metadata": {"name": "job", "namespace": "a"}, "spec": spec})
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert len(rack.driver.pairs) == 2
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    await rack.work("n")
    assert rack.driver.pairs == set()


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


async def test_a_node_whose_status_cannot_be_written_does_not_keep_others_from_their_answers(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    spec = {"accelerators": [{"name": "main", "count": 16}]}
    for name in ("bad", "good"):
        await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})
    write = rack.cluster.write_status

    async def refuse(resource: Any, current: Object, status: Any) -> Object:
        if current["metadata"]["name"] == "bad":
            raise InvalidError(422, "Invalid", "too many conditions")
        return await write(resource, current, status)

    monkeypatch.setattr(rack.cluster, "write_status", refuse)
    await rack.reconcile(PlacementKey())
    with pytest.raises(InvalidError):
        await rack.reconcile(LogicalNodeKey("a", "bad"))
    await rack.reconcile(LogicalNodeKey("a", "good"))
    assert condition(rack.node("good"), "Reserved") == ("False", "NoSuchDevices")


@pytest.mark.parametrize("count", [1, 16], ids=["one-that-cannot-be-read", "as-many-as-there-may-be"])
async def test_a_status_that_its_owner_made_up_does_not_keep_the_devices(rack: Rack, count: int) -> None:
    await rack.build()
    await rack.ask("n")
    time = "0000-01-01T00:00:00Z" if count == 1 else "2026-01-01T00:00:00Z"
    made_up = [
        {"type": f"Made{n}", "status": "True", "reason": "M", "lastTransitionTime": time}
        for n in range(count)
    ]
    await rack.cluster.write_status(LOGICAL_NODES, rack.node("n"), {"conditions": made_up})
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert len(rack.node("n")["status"]["conditions"]) <= 16
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert (rack.claims(), rack.driver.pairs) == ([], set())


async def test_a_device_whose_first_attach_had_no_answer_is_not_free_before_it_has_settled(
    rack: Rack,
) -> None:
    await rack.build()
    answers = [OutcomeUnknown("no answer")]

    async def hang() -> None:
        if answers:
            raise answers.pop()

    rack.driver.before_attach = hang
    await rack.ask("n")
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.driver.pairs == set()
    assert len(rack.claims()) == 2
    # Whoever asks next does not get them, and the next leader knows, too.
    rack.restart()
    await rack.poll()
    await rack.ask("m", gpus=3)
    await rack.work("n")
    assert condition(rack.node("m"), "Bound")[0] == "False"
    for _ in range(2):
        rack.clock.forward(60)
        await rack.poll()
    assert rack.cluster.get(LOGICAL_NODES, "n", "a") is None
    await rack.work("m")
    assert condition(rack.node("m"), "Bound")[0] == "True"


async def test_a_claim_that_an_earlier_leader_was_attaching_settles_although_the_host_shows_its_device(
    rack: Rack,
) -> None:
    await rack.build()

    async def die() -> None:
        rack.driver.pairs |= {("gpu-0", "sled-0"), ("gpu-1", "sled-0")}
        raise asyncio.CancelledError

    rack.driver.before_attach = die
    with pytest.raises(asyncio.CancelledError):
        await rack.ask("n")
    rack.restart()
    await rack.poll()
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.driver.pairs == set()
    assert len(rack.claims()) == 2
    for _ in range(2):
        rack.clock.forward(60)
        await rack.poll()
    assert rack.claims() == []


async def test_a_running_task_keeps_its_host_although_the_node_is_deleted(rack: Rack) -> None:
    await rack.build()
    phase = OperationPhase.RUNNING

    async def start(operation: str, host: str, devices: frozenset[str]) -> Operation:
        return Operation("task-1", OperationPhase.RUNNING)

    async def look(id: str) -> Operation:
        return Operation(id, phase)

    rack.driver.attach = start  # type: ignore[method-assign]
    rack.driver.operation = look  # type: ignore[method-assign]
    rack.fabrics.session("rack").settle_seconds = 1  # type: ignore[union-attr]
    await rack.ask("n")
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    for _ in range(3):
        await rack.work("n")
        await rack.poll()
    assert len(rack.claims()) == 2
    assert "works on it" in str(rack.node("n")["status"]["conditions"])
    phase = OperationPhase.SUCCEEDED
    rack.driver.pairs |= {(claim["spec"]["device"], claim["spec"]["host"]) for claim in rack.claims()}
    await rack.work("n")
    assert (rack.claims(), rack.driver.pairs) == ([], set())


async def test_a_task_that_an_earlier_leader_began_keeps_its_host_although_nothing_is_shown_yet(
    rack: Rack,
) -> None:
    await rack.build()
    keys: list[str] = []

    async def die(operation: str, host: str, devices: frozenset[str]) -> Operation:
        keys.append(operation)
        raise asyncio.CancelledError

    async def find(key: str) -> Operation | None:
        return Operation("task-1", OperationPhase.RUNNING) if key in keys else None

    async def look(id: str) -> Operation:
        return Operation(id, OperationPhase.RUNNING)

    rack.driver.attach = die  # type: ignore[method-assign]
    rack.driver.find_operation = find  # type: ignore[method-assign]
    rack.driver.operation = look  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await rack.ask("n")
    rack.restart()
    await rack.poll()
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    for _ in range(3):
        await rack.work("n")
        rack.clock.forward(60)
        await rack.poll()
    assert len(rack.claims()) == 2


@pytest.mark.shows("DeviceAttachment.spec.nodeName")
@pytest.mark.parametrize("loss", ["the taint", "the Node", "the Fabric's list of hosts"])
async def test_devices_stay_under_a_running_pod_whatever_else_is_taken_away(rack: Rack, loss: str) -> None:
    await rack.build()
    await rack.ask("n")
    name = rack.node("n")["status"]["nodeName"]
    # Without a toleration: it was scheduled while the taint was gone.
    await add_pod(rack, name, tolerations=[])
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    if loss == "the taint":
        await rack.cluster.patch(NODES, name, "", {"spec": {"taints": []}})
    elif loss == "the Node":
        await rack.cluster.delete(NODES, name)
    else:
        await rack.edit_fabric(hosts=[])
    await rack.work("n")
    assert len(rack.driver.pairs) == 2
    assert "pods still use the devices: job" in str(rack.node("n")["status"]["conditions"])
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    await rack.work("n")
    assert (rack.claims(), rack.driver.pairs) == ([], set())


async def test_a_pod_that_was_there_before_the_claim_and_tolerates_nothing_does_not_hold_the_devices(
    rack: Rack,
) -> None:
    await rack.build()
    for host in rack.hosts:
        await add_pod(rack, f"node-{host}", f"old-{host}", tolerations=[])
    rack.clock.forward(1)
    await rack.ask("n")
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.driver.pairs == set()


async def test_a_host_that_the_manager_removed_does_not_keep_the_node_for_ever(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    host = rack.node("n")["status"]["host"]
    rack.hosts.remove(host)
    rack.driver.pairs.clear()

    async def gone() -> None:
        raise NotFound(f"no system {host}")

    rack.driver.before_attached = gone
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert len(rack.claims()) == 2
    assert condition(rack.node("n"), "Bound") == ("False", "Releasing")
    for _ in range(3):
        rack.clock.forward(30)
        await rack.poll()
    assert (rack.claims(), rack.cluster.get(LOGICAL_NODES, "n", "a")) == ([], None)


async def test_a_device_that_appears_late_is_waited_for_and_not_quarantined(rack: Rack) -> None:
    await rack.build()
    await rack.ask("other", gpus=1)
    late = {"gpu-1"}
    attached = rack.driver.attached

    async def without_the_late_one(host: str) -> frozenset[str]:
        return await attached(host) - late

    rack.driver.attached = without_the_late_one  # type: ignore[method-assign]
    await rack.ask("n")
    for _ in range(5):
        rack.clock.forward(0.5)
        await rack.work("n")
    assert condition(rack.node("n"), "Bound") == ("False", "Attaching")
    late.clear()
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert {condition(claim, "Quarantined")[0] for claim in rack.claims()} == {""}


async def test_a_device_that_fails_for_settle_seconds_while_others_attach_is_quarantined_with_a_sentence(
    rack: Rack,
) -> None:
    await rack.build()
    attached = rack.driver.attached

    async def without_one(host: str) -> frozenset[str]:
        return await attached(host) - {"gpu-0"}

    rack.driver.attached = without_one  # type: ignore[method-assign]
    await rack.ask("n")
    rack.clock.forward(59)
    await rack.work("n")
    assert condition(rack.claims()[0], "Quarantined")[0] == ""
    rack.clock.forward(1)
    await rack.work("n")
    claim = rack.cluster.get(DEVICE_ATTACHMENTS, "rack.gpu-0") or {}
    (quarantined,) = (each for each in claim["status"]["conditions"] if each["type"] == "Quarantined")
    assert quarantined["message"].startswith(
        "gpu-0 could not be attached for settleSeconds, while the manager attached others; the last try: "
        "the manager takes the request and does not show it at sled-0"
    )


async def test_an_administrators_release_of_a_quarantined_device_is_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch, settle=1)
    await rack.build()
    faults = [DeviceFault("broken", "gpu-0")]

    async def fail_once() -> None:
        if faults:
            raise faults.pop()

    rack.driver.before_attach = fail_once
    await rack.ask("n")
    for _ in range(3):
        await rack.poll()
    assert condition(rack.node("n"), "Bound")[0] == "True"
    await rack.cluster.delete(DEVICE_ATTACHMENTS, "rack.gpu-0")
    for _ in range(3):
        await rack.poll()
        await rack.work("n")
    assert rack.cluster.get(DEVICE_ATTACHMENTS, "rack.gpu-0") is None
    assert "QuarantineCleared" in {reason for _, reason, _ in rack.cluster.events}


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


async def test_what_is_said_of_a_taken_node_names_no_other_tenant(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    name = rack.node("n")["status"]["nodeName"]
    taint = {"key": "weft.dev/logical-node", "value": "secret-team.secret-name", "effect": "NoSchedule"}
    await rack.cluster.patch(NODES, name, "", {"spec": {"taints": [taint]}})
    await rack.work("n")
    assert condition(rack.node("n"), "Ready") == ("False", "NodeTaken")
    assert "secret" not in str(rack.node("n")["status"]) + str(rack.cluster.events)


async def test_a_device_that_vanishes_while_its_node_is_released_is_detached_when_it_comes_back(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n")
    pairs = set(rack.driver.pairs)
    rack.driver.pairs.clear()
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert len(rack.claims()) == 2
    rack.driver.pairs |= pairs
    await rack.work("n")
    assert (rack.claims(), rack.driver.pairs) == ([], set())


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


async def test_a_pod_that_no_watch_has_told_of_holds_the_devices(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    await add_pod(rack, rack.node("n")["status"]["nodeName"])
    rack.cluster.unheard_of.add((PODS, "a", "job"))
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert len(rack.driver.pairs) == 2
    assert "pods still use the devices: job" in str(rack.node("n")["status"]["conditions"])


async def test_a_taint_that_was_left_of_a_logical_node_that_is_gone_is_taken_off(rack: Rack) -> None:
    await rack.build()
    name = f"node-{rack.hosts[0]}"
    taint = {"key": "weft.dev/logical-node", "value": "a.gone", "effect": "NoSchedule"}
    node = await rack.cluster.patch(NODES, name, "", {"spec": {"taints": [taint]}})
    for key in rack.keys_of(NODES, node):
        await rack.reconcile(key)
    assert rack.tainted() == {}


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

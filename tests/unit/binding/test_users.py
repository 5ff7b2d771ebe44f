"""What uses devices holds them: pods on the Node of a logical node, by whatever they are found."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from support.rack import Rack, condition
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    LOGICAL_NODES,
    NODES,
    PODS,
)
from weft.cluster import Object

CONTAINERS = [{"name": "main", "image": "job:1"}]
TOLERATIONS = ({"key": "weft.dev/logical-node", "operator": "Exists"},)


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


async def add_pod(
    rack: Rack, node: str, name: str = "job", tolerations: Sequence[Object] = TOLERATIONS
) -> None:
    spec = {"nodeName": node, "tolerations": list(tolerations), "containers": CONTAINERS}
    await rack.cluster.create(PODS, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})


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


@pytest.mark.parametrize("matching", ["List", "SystemUUID"])
async def test_a_machine_that_registers_under_another_name_keeps_its_devices_its_taint_and_its_pods(
    rack: Rack, matching: str
) -> None:
    rack.driver.uuids = {host: f"uuid-{host}" for host in rack.hosts}
    await rack.build()
    for host in rack.hosts:
        await register(rack, f"node-{host}", host)
    if matching == "SystemUUID":
        await rack.edit_fabric(hosts=None, hostMatching=matching)
    await rack.ask("n")
    name, host = rack.node("n")["status"]["nodeName"], rack.node("n")["status"]["host"]

    await rack.cluster.delete(NODES, name)
    await rack.work("n")
    assert condition(rack.node("n"), "Ready") == ("False", "NodeNotReady")
    await rack.add_node("renamed")
    await register(rack, "renamed", host)
    if matching == "List":
        names = {each: f"node-{each}" for each in rack.hosts} | {host: "renamed"}
        await rack.edit_fabric(hosts=[{"host": at, "nodeName": node} for at, node in names.items()])
    await rack.poll()
    assert condition(rack.node("n"), "Ready") == ("True", "Ready")
    assert rack.node("n")["status"]["nodeName"] == "renamed"
    assert rack.tainted() == {"renamed": "a.n"}

    # A pod that no watch has told of, without a toleration.
    await add_pod(rack, "renamed", tolerations=[])
    rack.cluster.unheard_of.add((PODS, "a", "job"))
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert len(rack.driver.pairs) == 2
    assert "pods still use the devices: job" in str(rack.node("n")["status"]["conditions"])
    await rack.cluster.delete(PODS, "job", "a", grace_seconds=0)
    await rack.work("n")
    assert (rack.claims(), rack.driver.pairs, rack.tainted()) == ([], set(), {})


async def test_a_logical_node_does_not_move_to_a_node_that_carries_another(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    await rack.ask("m")
    name, host = rack.node("n")["status"]["nodeName"], rack.node("n")["status"]["host"]
    other = rack.node("m")["status"]["nodeName"]
    await rack.cluster.delete(NODES, name)
    await rack.edit_fabric(hosts=[{"host": host, "nodeName": other}])
    await rack.work("n")
    assert condition(rack.node("n"), "Ready") == ("False", "NodeNotReady")
    assert rack.tainted() == {other: "a.m"}
    assert rack.node("n")["status"]["nodeName"] == name


async def register(rack: Rack, name: str, host: str) -> None:
    """What a kubelet reports of its machine."""
    node = rack.cluster.get(NODES, name)
    assert node is not None
    await rack.cluster.write_status(
        NODES, node, {**node["status"], "nodeInfo": {"systemUUID": f"uuid-{host}"}}
    )


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


async def test_a_pod_that_no_watch_has_told_of_holds_the_devices(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    await add_pod(rack, rack.node("n")["status"]["nodeName"])
    rack.cluster.unheard_of.add((PODS, "a", "job"))
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert len(rack.driver.pairs) == 2
    assert "pods still use the devices: job" in str(rack.node("n")["status"]["conditions"])

"""Placement's controller: when it looks for places, where it does so, and what that costs those who wait."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from support.rack import MemoryDriver, Rack, condition
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, LOGICAL_NODES, NODES
from weft.binding import offers, placement, requests
from weft.binding.assignments import Assignments
from weft.binding.holdings import Holding
from weft.binding.keys import FabricKey, PlacementKey
from weft.binding.offers import Reader, Snapshot
from weft.binding.placement import PlacementController
from weft.binding.plan import Assignment, Placement, Refusal
from weft.cluster import Object
from weft.fabric.driver import Inventory


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


def controller(rack: Rack) -> PlacementController:
    found = rack.controllers[PlacementKey]
    assert isinstance(found, PlacementController)
    return found


def message(rack: Rack, name: str) -> str:
    conditions = rack.node(name)["status"]["conditions"]
    return next(str(one["message"]) for one in conditions if one["type"] == "Bound")


async def cordon(rack: Rack, name: str, *, unschedulable: bool) -> None:
    await rack.cluster.patch(NODES, name, "", {"spec": {"unschedulable": unschedulable}})
    await rack.settle()


async def test_what_another_binds_writes_nothing_to_those_who_wait(rack: Rack) -> None:
    await rack.build()
    await rack.ask("waits", gpus=16)
    rack.cluster.writes.clear()
    await rack.ask("other", gpus=2)
    await rack.cluster.delete(LOGICAL_NODES, "other", "a")
    await rack.work("other")
    await rack.poll()
    assert condition(rack.node("waits"), "Bound") == ("False", "NoSuchDevices")
    assert [write for write in rack.cluster.writes if write[2] == "waits"] == []


async def test_a_change_on_which_nothing_depends_causes_no_look_for_places(rack: Rack) -> None:
    await rack.build()
    await rack.ask("waits", gpus=16)
    before = controller(rack).passes
    await rack.set_ready("node-sled-0")
    status = {**rack.node("waits")["status"], "observedGeneration": 9}
    await rack.cluster.write_status(LOGICAL_NODES, rack.node("waits"), status)
    await rack.poll()
    assert controller(rack).passes == before
    await cordon(rack, "node-sled-0", unschedulable=True)
    assert controller(rack).passes == before + 1


async def test_a_bind_costs_one_look_for_places_and_what_it_takes_no_other(rack: Rack) -> None:
    await rack.build()
    await rack.ask("waits", gpus=16)
    before = controller(rack).passes
    await rack.ask("other", gpus=2)
    assert condition(rack.node("other"), "Bound")[0] == "True"
    assert controller(rack).passes == before + 1
    await rack.cluster.delete(LOGICAL_NODES, "other", "a")
    await rack.work("other")
    assert controller(rack).passes > before + 1


async def test_what_is_bound_and_stays_is_not_parsed_to_place_others(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    await rack.ask("bound")
    await rack.ask("ends", ttlSecondsAfterBound=3600)
    read: list[str] = []

    def note(raw: Object) -> requests.Request | None:
        read.append(raw["metadata"]["name"])
        return reading(raw)

    reading = requests.read
    reader = Reader()
    await rack.ask("waits", gpus=16)
    monkeypatch.setattr(requests, "read", note)
    for _ in range(2):
        snapshot = Snapshot.take(
            rack.cluster, rack.fabrics.pictures(), Assignments(lambda key, seconds: None)
        )
        assert [each.name for each in reader.waiting(snapshot, datetime.now(UTC))] == ["waits"]
        assert set(reader.stock(snapshot).next_release.values()) == {"ends"}
    assert sorted(read) == ["ends", "waits"]


async def test_places_are_looked_for_beside_the_event_loop(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    threads: list[threading.Thread] = []
    place = placement.place_groups

    def look(*arguments: Any) -> Placement:
        threads.append(threading.current_thread())
        return place(*arguments)

    monkeypatch.setattr(placement, "place_groups", look)
    await rack.ask("n")
    assert threads
    assert threading.main_thread() not in threads


async def test_what_a_rack_offers_is_made_before_anybody_waits_for_it(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    class Noted(offers._FabricOffers):
        def __init__(self, fabric: str, *more: Any) -> None:
            made.append(fabric)
            super().__init__(fabric, *more)

    monkeypatch.setattr(offers, "_FabricOffers", Noted)
    await rack.build()
    await rack.poll()
    assert made == ["rack"]
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    await rack.poll()
    assert made == ["rack"]


async def test_a_node_that_was_deleted_meanwhile_withholds_nothing(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    loop = asyncio.get_running_loop()
    place = placement.place_groups

    def look(*arguments: Any) -> Placement:
        deletion = rack.cluster.delete(LOGICAL_NODES, "gone", "a")
        asyncio.run_coroutine_threadsafe(deletion, loop).result()
        return place(*arguments)

    monkeypatch.setattr(placement, "place_groups", look)
    await rack.ask("gone", gpus=4)
    monkeypatch.undo()
    rack.drivers["https://rack"] = rack.driver
    assert rack.claims() == []
    await rack.ask("n", gpus=4)
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_cordoned_node_is_no_place_and_is_one_again_when_it_is_uncordoned(rack: Rack) -> None:
    await rack.build()
    for host in rack.hosts:
        await cordon(rack, f"node-{host}", unschedulable=True)
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound") == ("False", "NoHost")
    assert "node-sled-0 (cordoned), node-sled-1 (cordoned)" in message(rack, "n")
    await cordon(rack, "node-sled-1", unschedulable=False)
    assert rack.node("n")["status"]["nodeName"] == "node-sled-1"


async def test_an_observed_fabric_is_named_to_those_who_wait_for_it(rack: Rack) -> None:
    await rack.build(mode="Observe")
    await rack.ask("n")
    assert "Fabric rack is only observed: set spec.mode to Manage" in message(rack, "n")


@pytest.mark.shows(
    "DeviceAttachment.spec.fabric",
    "DeviceAttachment.spec.device",
    "DeviceAttachment.spec.host",
    "DeviceAttachment.spec.request",
    "DeviceAttachment.spec.alternative",
    "DeviceAttachment.spec.claimRef.namespace",
    "DeviceAttachment.spec.claimRef.name",
)
async def test_a_status_shows_of_each_claim_what_it_serves_and_which_alternative_was_taken(
    rack: Rack,
) -> None:
    await rack.build()
    alternatives = [
        {"name": "best", "selector": {"matchAttributes": {"model": "none"}}},
        {"name": "good", "selector": {"matchAttributes": {"model": "M"}}},
    ]
    await rack.ask("n", accelerators=[{"name": "main", "count": 1, "firstAvailable": alternatives}])
    ((view,), status) = rack.node("n")["status"]["devices"], rack.node("n")["status"]
    assert (view["request"], view["alternative"], view["device"]) == ("main", "good", "gpu-0")
    assert (status["host"], status["deviceCount"]) == ("sled-0", 1)
    assert rack.driver.pairs == {("gpu-0", "sled-0")}


class WithUuids(MemoryDriver):
    """A manager that knows the machines' UUIDs."""

    async def inventory(self, *arguments: Any) -> Inventory:
        reading = await super().inventory(*arguments)
        return replace(reading, hosts=tuple(replace(one, uuid=f"UUID-{one.id}") for one in reading.hosts))


async def set_uuid(rack: Rack, name: str, uuid: str) -> None:
    node = rack.cluster.get(NODES, name)
    assert node is not None
    await rack.cluster.write_status(NODES, node, {**node["status"], "nodeInfo": {"systemUUID": uuid}})


def fabric(rack: Rack) -> Object:
    found = rack.cluster.get(FABRICS, "rack")
    assert found is not None
    return found


@pytest.mark.shows("Fabric.spec.hostMatching")
async def test_hosts_find_their_nodes_by_the_machines_uuids_where_the_administrator_says_so(
    rack: Rack,
) -> None:
    rack.drivers["https://rack"] = rack.driver = WithUuids(4, rack.hosts)
    await rack.build(hostMatching="SystemUUID", hosts=[])
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound") == ("False", "NoHost")
    await set_uuid(rack, "node-sled-1", "uuid-sled-1")
    await rack.settle()
    status = rack.node("n")["status"]
    assert (status["host"], status["nodeName"]) == ("sled-1", "node-sled-1")
    await rack.poll()
    assert (fabric(rack)["status"]["nodes"], fabric(rack)["status"]["hosts"]) == (1, 2)


async def test_a_node_that_reports_another_machines_uuid_gets_nothing_and_is_named(rack: Rack) -> None:
    rack.drivers["https://rack"] = rack.driver = WithUuids(4, rack.hosts)
    await rack.build(hostMatching="SystemUUID", hosts=[])
    for node in ("node-sled-0", "node-sled-1"):
        await set_uuid(rack, node, "uuid-sled-0")
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound") == ("False", "NoHost")
    await rack.poll()
    assert condition(fabric(rack), "HostsMatched") == ("False", "HostsAmbiguous")


@pytest.mark.shows("Fabric.spec.hosts[].host", "Fabric.spec.hosts[].nodeName")
async def test_a_node_at_two_hosts_of_the_list_is_used_at_neither(rack: Rack) -> None:
    await rack.build()
    hosts = [{"host": host, "nodeName": "node-sled-0"} for host in rack.hosts]
    await rack.edit_fabric(hosts=hosts)
    assert condition(fabric(rack), "HostsMatched") == ("False", "HostsAmbiguous")
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound") == ("False", "NoHost")
    await rack.edit_fabric(hosts=hosts[:1])
    assert condition(fabric(rack), "HostsMatched")[0] == "True"
    assert rack.node("n")["status"]["host"] == "sled-0"


async def test_a_host_or_node_of_the_list_that_is_not_there_is_said(rack: Rack) -> None:
    await rack.build()
    listed = [{"host": host, "nodeName": f"node-{host}"} for host in rack.hosts]
    await rack.edit_fabric(hosts=[*listed, {"host": "sled-O", "nodeName": "node-x"}])
    assert condition(fabric(rack), "HostsMatched") == ("False", "HostNotFound")
    assert "the manager has no host sled-O; there is no Node node-x: correct spec.hosts" in str(
        fabric(rack)["status"]
    )
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    await rack.edit_fabric(hosts=listed)
    assert condition(fabric(rack), "HostsMatched")[0] == "True"


@pytest.mark.shows("Fabric.spec.hostsWithUnclaimedDevices")
async def test_a_host_with_unclaimed_devices_is_offered_where_its_fabric_says_so_and_an_event_tells(
    rack: Rack,
) -> None:
    await rack.build()
    rack.driver.pairs |= {("gpu-2", "sled-0"), ("gpu-3", "sled-1")}
    await rack.poll()
    await rack.ask("n", gpus=2)
    assert condition(rack.node("n"), "Bound") == ("False", "NoHost")
    rack.cluster.events.clear()
    await rack.edit_fabric(hostsWithUnclaimedDevices=["sled-1"])
    await rack.place_again()
    assert rack.node("n")["status"]["host"] == "sled-1"
    assert condition(fabric(rack), "UnclaimedOffered") == ("True", "OfferedOnPurpose")
    await rack.poll()
    told = [event for event in rack.cluster.events if event[1] == "OfferedOnPurpose"]
    assert ["sled-1" in message for _, _, message in told] == [True]
    # The device that nobody claims stays when the node goes.
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    await rack.poll()
    assert ("gpu-3", "sled-1") in rack.driver.pairs
    rack.driver.pairs.discard(("gpu-3", "sled-1"))
    await rack.poll()
    assert condition(fabric(rack), "UnclaimedOffered") == ("False", "NoneThere")


async def test_a_node_that_binds_while_others_wait_is_looked_for_once_per_shape(rack: Rack) -> None:
    await rack.build()
    for number in range(20):
        await rack.ask(f"w{number}", gpus=16)
    searched: list[int] = []
    place = placement.place_groups
    placement.place_groups = lambda *arguments: _noted(place(*arguments), searched)  # type: ignore[assignment]
    try:
        await rack.ask("n", gpus=2)
    finally:
        placement.place_groups = place
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert max(searched) <= 2
    assert len(rack.cluster.list(DEVICE_ATTACHMENTS)) == 2


def _noted(found: Placement, searched: list[int]) -> Placement:
    searched.append(found.effort.searches)
    return found


async def test_those_who_wait_for_the_same_reason_as_before_are_not_told_it_again(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    for number in range(20):
        await rack.ask(f"w{number}", gpus=16)
    said: list[str] = []
    record = Assignments.record

    def noted(self: Assignments, outcome: Assignment | Refusal) -> None:
        said.append(outcome.waiting.name)
        record(self, outcome)

    monkeypatch.setattr(Assignments, "record", noted)
    await rack.ask("n", gpus=2)
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert said == ["n"]


async def test_a_pass_reads_only_what_changed_of_what_there_is(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    await rack.ask("first", gpus=2)
    await rack.ask("waits", gpus=16)
    read: list[str] = []
    of = Holding.of

    def noted(raw: Object) -> Holding:
        read.append(raw["metadata"]["name"])
        return of(raw)

    monkeypatch.setattr(Holding, "of", noted)
    for number in range(3):
        await rack.ask(f"also{number}", gpus=16)
    assert read == []


async def test_a_new_leader_answers_those_who_wait_without_any_change(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", gpus=16)
    rack.restart()
    await rack.reconcile(FabricKey("rack"))
    await rack.settle()
    assert controller(rack).passes == 1


async def test_what_was_promised_to_a_node_that_went_is_given_to_the_next_that_waits(rack: Rack) -> None:
    await rack.build()
    for name in ("first", "second"):
        rack.clock.forward(1)
        spec = {"accelerators": [{"name": "main", "count": 4}]}
        await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})
    await rack.reconcile(PlacementKey())
    assert condition(rack.node("second"), "Bound") == ("", "")
    rack.keys.clear()
    # Its own key has to wait for a worker; placement looks while what was promised to it is still withheld.
    await rack.cluster.delete(LOGICAL_NODES, "first", "a")
    await rack.reconcile(PlacementKey())
    await rack.settle()
    await rack.work("first")
    assert condition(rack.node("second"), "Bound")[0] == "True"


async def test_who_was_refused_for_another_in_the_same_pass_gets_what_that_one_gives_back(rack: Rack) -> None:
    await rack.build()
    for name in ("first", "second"):
        rack.clock.forward(1)
        spec = {"accelerators": [{"name": "main", "count": 4}]}
        await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})
    await rack.reconcile(PlacementKey())
    await rack.settle()
    assert condition(rack.node("first"), "Bound")[0] == "True"
    assert condition(rack.node("second"), "Bound") == ("False", "NotEnoughDevices")
    # Faster than changes are gathered: placement never sees the devices taken.
    await rack.cluster.delete(LOGICAL_NODES, "first", "a")
    await rack.work("first")
    assert condition(rack.node("second"), "Bound")[0] == "True"

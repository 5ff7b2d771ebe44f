"""Managers without resource blocks, whose hosts get devices by the endpoints of their zones, as PCIe switches do it."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from support.foreign import FABRICS, PCIE, Foreign, endpoint, switch, zone
from support.replay import SYSTEMS, Tree, collection, link, reading
from weft.fabric.driver import DeviceKind, not_used
from weft.fabric.errors import Conflict, InvalidRequest, NotFound, OutcomeUnknown, Unsupported

SLEDS = (f"{SYSTEMS}/sled-0", f"{SYSTEMS}/sled-1")
SLOT = "/redfish/v1/Chassis/drawer/PCIeDevices"
ZONES = (f"{PCIE}/Zones/1", f"{PCIE}/Zones/2")


def card(number: int, device_class: str = "DisplayController") -> Tree:
    """A PCIe device with one function, as `{path: body}`."""
    path = f"{SLOT}/{number}"
    function = f"{path}/PCIeFunctions/0"
    return {
        path: {
            **link(path),
            "Id": str(number),
            "Model": "H200",
            "PCIeFunctions": link(f"{path}/PCIeFunctions"),
        },
        f"{path}/PCIeFunctions": collection(f"{path}/PCIeFunctions", [function]),
        function: {**link(function), "Id": "0", "DeviceClass": device_class},
    }


def falcon(cards: int = 3, **more: Any) -> Foreign:
    """A drawer with host ports 1 and 2, of whose machines it knows nothing, as H3's Falcon describes it."""
    ports = [endpoint(f"hostport{n}", "Initiator", "", "RootComplex", **more) for n in (1, 2)]
    devices = [endpoint(f"card{n}", "Target", f"{SLOT}/{n}", "PCIeDevice") for n in range(cards)]
    zones = [zone(str(n), f"hostport{n}") for n in (1, 2)]
    tree = switch(*ports, *devices, *zones)
    for n in range(cards):
        tree |= card(n)
    return Foreign(tree)


def rack() -> Foreign:
    """The same with systems behind the host ports, by way of a device in each of them."""
    served = falcon()
    tree = served.tree
    sleds = {
        path: {
            **link(path),
            "Id": path.rpartition("/")[2],
            "UUID": f"uuid-{path[-1]}",
            "SystemType": "Physical",
        }
        for path in SLEDS
    }
    tree |= sleds
    tree[SYSTEMS]["Members"] = [link(path) for path in SLEDS]
    tree[SYSTEMS]["Members@odata.count"] = 2
    for n, path in enumerate(SLEDS):
        entity = {
            "EntityType": "RootComplex",
            "EntityRole": "Initiator",
            "EntityLink": link(f"{path}/Processors/0"),
        }
        tree[f"{PCIE}/Endpoints/hostport{n + 1}"]["ConnectedEntities"] = [entity]
    return served


def members(served: Foreign, at: str) -> list[str]:
    return [entry["@odata.id"].rpartition("/")[2] for entry in served.tree[at]["Links"]["Endpoints"]]


async def test_host_ports_are_hosts_where_the_manager_knows_nothing_of_the_machines() -> None:
    async with reading(falcon()) as (served, driver):
        read = await driver.inventory()
        assert (read.complete, read.no_devices) == (True, "")
        assert [h.id for h in read.hosts] == ["hostport1", "hostport2"]
        assert [d.id for d in read.devices] == ["card0", "card1", "card2"]
        assert {d.kind for d in read.devices} == {DeviceKind.ACCELERATOR}
        assert {d.attributes["model"] for d in read.devices} == {"H200"}
        assert {d.reachable_hosts for d in read.devices} == {frozenset({"hostport1", "hostport2"})}
        assert not_used(read) == "2 endpoints not used: 2 are of hosts"
        await driver.attach("a", "hostport1", frozenset({"card0", "card2"}))
        assert await driver.attached("hostport1") == {"card0", "card2"}
        assert members(served, ZONES[0]) == ["hostport1", "card0", "card2"]


async def test_systems_behind_the_host_ports_are_the_hosts() -> None:
    async with reading(rack()) as (served, driver):
        read = await driver.inventory()
        assert [(h.id, h.uuid) for h in read.hosts] == [("sled-0", "uuid-0"), ("sled-1", "uuid-1")]
        await driver.attach("a", "sled-1", frozenset({"card1"}))
        assert (await driver.inventory()).attachments == (("card1", "sled-1"),)
        await driver.detach("b", "sled-1", frozenset({"card1", "card2"}))
        assert members(served, ZONES[1]) == ["hostport2"]
        assert served.writes() == [("PATCH", ZONES[1])] * 2


@pytest.mark.parametrize("kept", ["both", "system", "block"])
@pytest.mark.parametrize("known", ["this process", "another process"])
async def test_a_device_in_another_host_s_zone_is_a_conflict_whichever_side_the_manager_keeps(
    kept: str, known: str
) -> None:
    served = rack()
    served.kept = kept
    if kept == "block":
        for n in (1, 2):
            served.set_endpoints(ZONES[n - 1], [f"{PCIE}/Endpoints/hostport{n}"])
            del served.tree[ZONES[n - 1]]["Links"]["Endpoints"]
    async with reading(served) as (_, driver):
        if known == "this process":
            await driver.attach("a", "sled-0", frozenset({"card0"}))
            assert await driver.attached("sled-0") == {"card0"}
        else:
            names = ("hostport1", "card0")
            served.set_endpoints(ZONES[0], [f"{PCIE}/Endpoints/{each}" for each in names])
        before = len(served.changes)
        with pytest.raises(Conflict, match="card0 is attached to sled-0"):
            await driver.attach("b", "sled-1", frozenset({"card0", "card1"}))
        assert len(served.changes) == before
        await driver.detach("c", "sled-0", frozenset({"card0"}))
        assert await driver.attached("sled-0") == frozenset()
        read = await driver.inventory()
        assert (read.attachments, read.complete) == ((), True)


async def test_a_zone_of_several_hosts_attaches_nothing_and_is_a_domain() -> None:
    served = rack()
    served.tree |= zone("near", "hostport1", "hostport2", "card0")
    served.tree[f"{PCIE}/Zones"]["Members"].append(link(f"{PCIE}/Zones/near"))
    served.tree[f"{PCIE}/Zones"]["Members@odata.count"] = 3
    async with reading(served) as (_, driver):
        read = await driver.inventory()
        assert read.attachments == ()
        assert {d.id: d.attributes.get("pcieDomain") for d in read.devices}["card0"] == "near"
        await driver.attach("a", "sled-0", frozenset({"card0"}))
        assert await driver.attached("sled-0") == {"card0"}


async def test_a_host_without_a_zone_of_its_own_is_closed_and_no_zone_is_written() -> None:
    served = rack()
    served.tree[ZONES[0]]["Links"]["Endpoints"] = []
    async with reading(served) as (_, driver):
        hosts = {host.id: host.closed for host in (await driver.inventory()).hosts}
        assert "no zone of a fabric has its endpoint" in hosts["sled-0"]
        assert hosts["sled-1"] == ""
        with pytest.raises(Unsupported, match="no zone of a fabric"):
            await driver.attach("a", "sled-0", frozenset({"card0"}))
        assert served.changes == []


async def test_zones_that_take_no_patch_offer_nothing() -> None:
    served = rack()
    served.allow[f"{PCIE}/Zones/"] = "GET"
    async with reading(served) as (_, driver):
        await driver.inventory()
        (none,) = (await driver.capabilities()).writes
        assert none.idiom == "None"
        assert "its zones take GET only" in none.evidence


async def test_the_endpoints_of_an_interconnect_are_no_devices() -> None:
    """NVLink connects what is attached by other means."""
    served = Foreign(falcon().tree)
    served.tree[PCIE]["FabricType"] = "NVLink"
    async with reading(served) as (_, driver):
        read = await driver.inventory()
        assert read.devices == ()
        assert read.no_devices.startswith("no devices: the manager has no CompositionService")


async def test_one_thing_with_endpoints_in_two_fabrics_is_one_device() -> None:
    served = rack()
    other = "/redfish/v1/Fabrics/CXL"
    more = switch(
        endpoint("card0", "Target", f"{SLOT}/0", "PCIeDevice", fabric=other), kind="CXL", fabric=other
    )
    served.tree |= {path: body for path, body in more.items() if path.startswith(other)}
    served.tree["/redfish/v1/Fabrics"]["Members"].append(link(other))
    served.tree["/redfish/v1/Fabrics"]["Members@odata.count"] = 2
    async with reading(served) as (_, driver):
        read = await driver.inventory()
        assert [d.id for d in read.devices] == ["card0", "card1", "card2"]
        assert "1 is another way to a device" in not_used(read)
        await driver.attach("a", "sled-0", frozenset({"card0"}))
        assert members(served, ZONES[0]) == ["hostport1", "card0"]


@pytest.mark.parametrize(
    ("device", "kind"),
    [("hostport2", InvalidRequest), ("card9", NotFound), ("../card0", NotFound)],
)
async def test_what_is_no_device_is_not_attached(device: str, kind: type[Exception]) -> None:
    async with reading(rack()) as (served, driver):
        with pytest.raises(kind):
            await driver.attach("a", "sled-0", frozenset({device}))
        assert served.changes == []


async def test_zones_that_cannot_be_read_leave_their_hosts_unread() -> None:
    served = rack()
    async with reading(served) as (_, driver):
        await driver.attach("a", "sled-0", frozenset({"card0"}))
        await driver.inventory()
        served.tree[ZONES[0]] = {"STATUS": 500}
        read = await driver.inventory()
        assert read.unread.hosts == {"sled-0"}
        assert not read.shows_absence("card1", "sled-0")
        assert ("card0", "sled-0") in read.attachments


async def test_devices_in_two_fabrics_are_two_changes_and_the_second_refusal_is_no_refusal_of_both() -> None:
    served = rack()
    other = "/redfish/v1/Fabrics/CXL"
    memory = "/redfish/v1/Chassis/drawer/Memory/m0"
    more = switch(
        endpoint("port1", "Initiator", SLEDS[0], "RootComplex", fabric=other),
        endpoint("mem0", "Target", memory, "Memory", fabric=other),
        zone("h0", "port1", fabric=other),
        kind="CXL",
        fabric=other,
    )
    served.tree |= {path: body for path, body in more.items() if path.startswith(other)}
    served.tree[memory] = {**link(memory), "Id": "m0", "CXL": {}, "CapacityMiB": 1024}
    served.tree["/redfish/v1/Fabrics"]["Members"].append(link(other))
    served.tree["/redfish/v1/Fabrics"]["Members@odata.count"] = 2
    async with reading(served) as (_, driver):
        read = await driver.inventory()
        assert {d.id: d.reachable_hosts for d in read.devices}["mem0"] == {"sled-0"}
        both = frozenset({"card0", "mem0"})
        await driver.attach("a", "sled-0", both)
        assert await driver.attached("sled-0") == both
        await driver.detach("b", "sled-0", both)
        last = served.changes[-1][1]
        served.answers["PATCH", last] = lambda: web.Response(status=409)
        with pytest.raises(OutcomeUnknown, match="1 of 2"):
            await driver.attach("c", "sled-0", both)
        assert len(await driver.attached("sled-0")) == 1


async def test_what_has_no_entity_type_is_what_its_link_leads_to() -> None:
    """As Intel's RSD has its NVMe over fabrics (rsd-lib 1.2.0, json_samples/v2_3)."""
    fabric, volume = f"{FABRICS}/NVMeoE", "/redfish/v1/StorageServices/1/Volumes/1"
    initiator = endpoint("2", "Initiator", "", "", fabric)
    target = endpoint("1", "Target", volume, "", fabric)
    for part in (initiator, target):
        (body,) = part.values()
        del body["ConnectedEntities"][0]["EntityType"]
        body["Links"] = {"Oem": {"Intel_RackScale": {"Zones": [link(f"{fabric}/Zones/1")]}}}
    tree = switch(
        initiator, target, zone("1", "1", "2", fabric=fabric), kind="NVMeOverFabrics", fabric=fabric
    )
    tree[volume] = {**link(volume), "Id": "1", "Model": None, "CapacityBytes": 3071983104}
    served = Foreign(tree)
    served.kept = "system"
    async with reading(served) as (_, driver):
        read = await driver.inventory()
        assert [(d.id, d.kind, d.capacity_bytes) for d in read.devices] == [
            ("1", DeviceKind.STORAGE, 3071983104)
        ]
        assert (read.attachments, read.complete) == ((("1", "2"),), True)
        await driver.detach("a", "2", frozenset({"1"}))
        assert served.changes == [
            ("PATCH", f"{fabric}/Zones/1", {"Links": {"Endpoints": [link(f"{fabric}/Endpoints/2")]}})
        ]

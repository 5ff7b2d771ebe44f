"""Managers in whose fabrics connections say who has what: in the shapes of the OpenFabrics Alliance's own mock-ups."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from support.foreign import FABRICS, Foreign, endpoint, switch, zone
from support.replay import SYSTEMS, Tree, collection, link, reading
from weft.fabric.driver import DeviceKind, Inventory, not_used
from weft.fabric.errors import Unsupported

CXL = f"{FABRICS}/CXL"
CONNECTIONS = f"{CXL}/Connections"
HBM = "/redfish/v1/Chassis/PCXL2/Memory/HBM"


def connection(name: str, initiator: str, *targets: str, **body: Any) -> Tree:
    path = f"{CONNECTIONS}/{name}"
    ends = {
        "InitiatorEndpoints": [link(f"{CXL}/Endpoints/{initiator}")] if initiator else [],
        "TargetEndpoints": [link(f"{CXL}/Endpoints/{target}") for target in targets],
    }
    return {path: {**link(path), "Id": name, "Name": f"Connection {name}", "Links": ends, **body}}


def manager(*more: Tree) -> Tree:
    """Two hosts and two memories in one fabric, whose zone has all of them."""
    hosts = [
        endpoint(f"I{n}", "Initiator", f"{SYSTEMS}/host-{n}/Processors/CPU", "Processor", CXL) for n in (1, 2)
    ]
    targets = [endpoint(f"T{n}", "Target", f"{HBM}{n}", "Memory", CXL) for n in (1, 2)]
    every = zone("1", "I1", "I2", "T1", "T2", fabric=CXL)
    systems = tuple(f"{SYSTEMS}/host-{n}" for n in (1, 2))
    tree = switch(*hosts, *targets, every, kind="CXL", fabric=CXL, systems=systems)
    tree |= {
        path: {**link(path), "Id": path.rpartition("/")[2], "SystemType": "Physical"} for path in systems
    }
    for n in (1, 2):
        memory = {**link(f"{HBM}{n}"), "Id": f"HBM{n}", "CapacityMiB": 4096, "CXL": {}, "Manufacturer": "HPE"}
        tree[f"{HBM}{n}"] = memory
    made = {path: body for part in more for path, body in part.items()}
    tree |= made | {
        CONNECTIONS: collection(CONNECTIONS, [path for path in made if path.startswith(CONNECTIONS)])
    }
    tree[CXL]["Connections"] = link(CONNECTIONS)
    return tree


async def inventory(tree: Tree) -> Inventory:
    async with reading(tree) as (_, driver):
        return await driver.inventory()


async def test_a_connection_says_who_has_a_device_and_the_zone_only_who_could() -> None:
    read = await inventory(manager(connection("12", "I2", "T1")))
    assert read.attachments == (("T1", "host-2"),)
    devices = {device.id: device for device in read.devices}
    assert {d.capacity_bytes for d in devices.values()} == {4 << 30}
    assert devices["T2"].reachable_hosts == frozenset({"host-1", "host-2"})
    assert not_used(read).startswith("2 endpoints not used: 2 are of hosts")


async def test_a_zone_without_a_host_keeps_it_from_the_devices_in_it() -> None:
    tree = manager()
    tree[f"{CXL}/Zones/1"]["Links"]["Endpoints"] = [link(f"{CXL}/Endpoints/{name}") for name in ("I1", "T1")]
    read = await inventory(tree)
    devices = {device.id: device for device in read.devices}
    assert devices["T1"].reachable_hosts == frozenset({"host-1"})
    assert devices["T2"].reachable_hosts == frozenset()


async def test_connections_that_cannot_be_read_leave_open_what_hosts_have() -> None:
    tree = manager(connection("12", "I2", "T1"))
    tree[f"{CONNECTIONS}/12"] = {"STATUS": 500}
    read = await inventory(tree)
    assert (read.complete, read.attachments) == (False, ())
    assert not read.shows_absence("T1", "host-2")
    assert not read.shows_absence("T2", "host-1")


@pytest.mark.parametrize(
    "broken", [{"Links": None}, {"Links": {"TargetEndpoints": "T1"}}, {"MemoryChunkInfo": 3}]
)
async def test_a_connection_of_odd_form_is_no_crash(broken: Tree) -> None:
    read = await inventory(manager(connection("12", "I2", "T1", **broken)))
    assert len(read.devices) == 2


def chunked(tree: Tree, number: int, mebibytes: int) -> str:
    """Let the memory behind a target have a chunk of this size, as the mock-ups describe one; its URI."""
    chunk = f"/redfish/v1/Chassis/PCXL{number}/MemoryDomains/1/MemoryChunks/1"
    logical = f"/redfish/v1/Chassis/PCXL{number}/PCIeDevices/1/CXLLogicalDevices/1"
    entities = [
        {"EntityType": "CXLDevice", "EntityRole": "Target", "EntityLink": link(logical)},
        {"EntityType": "MemoryChunk", "EntityRole": "Target", "EntityLink": link(chunk)},
    ]
    tree[f"{CXL}/Endpoints/T{number}"]["ConnectedEntities"] = entities
    tree[logical] = {**link(logical), "Id": "1", "Name": "logical device", "MemorySizeMiB": 8192}
    tree[chunk] = {**link(chunk), "Id": "1", "MemoryChunkSizeMiB": mebibytes, "AddressRangeType": "Volatile"}
    return chunk


async def test_chunks_of_the_same_id_are_devices_of_their_own_and_a_connection_says_which_it_reaches() -> (
    None
):
    info = {"MemoryChunkInfo": [{"AccessCapabilities": ["Read"], "MemoryChunk": link("")}]}
    tree = manager(connection("12", "I2", "T2", ConnectionType="Memory", **info))
    chunked(tree, 1, 1024)
    info["MemoryChunkInfo"][0]["MemoryChunk"] = link(chunked(tree, 2, 4096))
    read = await inventory(tree)
    assert sorted(d.capacity_bytes >> 20 for d in read.devices) == [1024, 4096]
    assert {d.attributes["type"] for d in read.devices} == {"CXL"}
    [(device, host)] = read.attachments
    assert ({d.id: d.capacity_bytes >> 20 for d in read.devices}[device], host) == (4096, "host-2")
    assert "2 are given in parts" in not_used(read)


async def test_a_connection_to_the_whole_holds_its_parts_too() -> None:
    tree = manager(connection("12", "I2", "T2"))
    chunked(tree, 2, 4096)
    read = await inventory(tree)
    assert [host for _, host in read.attachments] == ["host-2"]


async def test_a_whole_is_in_use_where_a_part_of_it_is_that_its_endpoint_does_not_show() -> None:
    info = {
        "MemoryChunkInfo": [{"MemoryChunk": link("/redfish/v1/Chassis/PCXL2/MemoryDomains/1/MemoryChunks/7")}]
    }
    read = await inventory(manager(connection("12", "I2", "T2", **info)))
    assert read.attachments == (("T2", "host-2"),)


@pytest.mark.parametrize(("status", "complete"), [(404, True), (500, False)])
async def test_a_collection_of_a_fabric_that_fails_costs_itself_and_not_the_devices(
    status: int, complete: bool
) -> None:
    tree = manager()
    tree[CONNECTIONS] = {"STATUS": status}
    read = await inventory(tree)
    assert (len(read.devices), read.complete) == (2, complete)


def accelerator(tree: Tree, number: int, kind: str, mebibytes: int, chunk: str = "") -> None:
    """Let a target be a CXL device with a processor, as the mock-ups describe types 1 and 2: by its logical device,
    its processor, and the chunk of the processor's own memory."""
    at = f"/redfish/v1/Chassis/PCXL{number}"
    logical, processor, function = (
        f"{at}/PCIeDevices/1/CXLLogicalDevices/1",
        f"{at}/Processors/{kind}",
        f"{at}/PCIeDevices/1/PCIeFunctions/1",
    )
    entities = {"CXLDevice": logical, "Processor": processor, **({"MemoryChunk": chunk} if chunk else {})}
    tree[f"{CXL}/Endpoints/T{number}"]["ConnectedEntities"] = [
        {"EntityType": type_, "EntityRole": "Target", "EntityLink": link(path)}
        for type_, path in entities.items()
    ]
    tree[logical] = {**link(logical), "Id": "1", "Links": {"PCIeFunctions": [link(function)]}}
    tree[function] = {**link(function), "Id": "1", "DeviceClass": "ProcessingAccelerators"}
    memory = {"MemorySummary": {"TotalMemorySizeMiB": mebibytes}}
    tree[processor] = {**link(processor), "Id": kind, "ProcessorType": kind, **memory}
    if chunk:
        tree[chunk] = {**link(chunk), "Id": "1", "MemoryChunkSizeMiB": 4096}


async def test_a_cxl_device_with_a_processor_is_that_processor_with_its_type_and_memory() -> None:
    tree = manager()
    accelerator(tree, 1, "FPGA", 0)
    accelerator(tree, 2, "GPU", 16384)
    read = await inventory(tree)
    found = {d.id: (d.kind, d.attributes["type"], d.capacity_bytes >> 20) for d in read.devices}
    assert found == {
        "T1": (DeviceKind.ACCELERATOR, "FPGA", 0),
        "T2": (DeviceKind.ACCELERATOR, "GPU", 16384),
    }


async def test_a_chunk_of_a_gpus_own_memory_is_no_device_beside_it_and_a_connection_to_it_holds_the_gpu() -> (
    None
):
    chunk = "/redfish/v1/Chassis/PCXL2/MemoryDomains/1/MemoryChunks/1"
    info = {"MemoryChunkInfo": [{"AccessCapabilities": ["Read", "Write"], "MemoryChunk": link(chunk)}]}
    tree = manager(connection("12", "I2", "T2", ConnectionType="Memory", **info))
    accelerator(tree, 2, "GPU", 16384, chunk)
    read = await inventory(tree)
    assert {d.id: d.kind for d in read.devices} == {"T1": DeviceKind.MEMORY, "T2": DeviceKind.ACCELERATOR}
    assert read.attachments == (("T2", "host-2"),)
    assert "in parts" not in not_used(read)


async def test_a_cxl_memory_without_chunks_has_the_size_that_its_logical_device_tells() -> None:
    tree = manager()
    logical = "/redfish/v1/Chassis/PCXL1/PCIeDevices/1/CXLLogicalDevices/1"
    entity = {"EntityType": "CXLDevice", "EntityRole": "Target", "EntityLink": link(logical)}
    tree[f"{CXL}/Endpoints/T1"]["ConnectedEntities"] = [entity]
    semantics = {"CXLSemanticsSupported": ["CXLio", "CXLmem"], "MemorySizeMiB": 8192}
    tree[logical] = {**link(logical), "Id": "1", **semantics}
    read = await inventory(tree)
    found = {d.id: (d.kind, d.attributes["type"], d.capacity_bytes >> 20) for d in read.devices}
    assert found["T1"] == (DeviceKind.MEMORY, "CXL", 8192)


@pytest.mark.parametrize("shown", [True, False])
async def test_a_connection_to_what_is_no_device_of_its_own_is_one_to_the_whole_and_ends_with_it(
    shown: bool,
) -> None:
    """As Sunfish's reference server begins: a host has a chunk of a GPU's memory; or one that no endpoint shows."""
    chunk = "/redfish/v1/Chassis/PCXL2/MemoryDomains/1/MemoryChunks/1"
    info = {"MemoryChunkInfo": [{"MemoryChunk": link(chunk)}]}
    tree = manager(connection("12", "I2", "T2", **info), connection("13", "I2", "T1"))
    if shown:
        accelerator(tree, 2, "GPU", 16384, chunk)
    served = Foreign(tree)
    served.answers["DELETE", f"{CONNECTIONS}/12"] = lambda: web.Response(status=204)
    async with reading(served) as (_, driver):
        read = await driver.inventory()
        assert (read.attachments, read.complete) == ((("T1", "host-2"), ("T2", "host-2")), True)
        assert await driver.attached("host-2") == {"T1", "T2"}
        await driver.detach("a", "host-2", frozenset({"T2"}))
        assert served.writes() == [("DELETE", f"{CONNECTIONS}/12")]


async def test_what_others_carved_and_no_endpoint_shows_keeps_nobody_from_the_other_parts() -> None:
    domain = "/redfish/v1/Chassis/PCXL1/MemoryDomains/1"
    theirs = f"{domain}/MemoryChunks/7"
    tree = manager(connection("12", "I2", "T1", MemoryChunkInfo=[{"MemoryChunk": link(theirs)}]))
    domains = domain.rpartition("/")[0]
    tree["/redfish/v1/Chassis/PCXL1"] = {**link("/redfish/v1/Chassis/PCXL1"), "MemoryDomains": link(domains)}
    tree[domains] = collection(domains, [domain])
    tree[domain] = {
        **link(domain),
        "InterleavableMemorySets": [{"MemorySet": [link(f"{HBM}1".replace("PCXL2", "PCXL1"))]}],
        "MemoryChunks": link(f"{domain}/MemoryChunks"),
        "MemorySizeMiB": 4096,
    }
    memory = tree.pop(f"{HBM}1") | link(f"{HBM}1".replace("PCXL2", "PCXL1"))
    tree[memory["@odata.id"]] = memory
    tree[f"{CXL}/Endpoints/T1"]["ConnectedEntities"][0]["EntityLink"] = link(memory["@odata.id"])
    tree[f"{domain}/MemoryChunks"] = collection(f"{domain}/MemoryChunks", [theirs])
    tree[theirs] = {**link(theirs), "Id": "7", "Name": "theirs", "MemoryChunkSizeMiB": 1024}
    served = Foreign(tree)
    async with reading(served, part_bytes={DeviceKind.MEMORY: 1 << 30}) as (_, driver):
        read = await driver.inventory()
        assert {d.id for d in read.devices} >= {"T1.1", "T1.2", "T1.3"}
        with pytest.raises(Unsupported):  # the stand-in carves nothing
            await driver.attach("a", "host-1", frozenset({"T1.2"}))
        assert served.writes() == [("POST", f"{domain}/MemoryChunks")]

"""Connections in fabrics: whole devices, and parts that a client carves first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from support.dialects import ROOT, ByConnection, link
from weft.emulator.journal import check
from weft.emulator.quirks import Quirks

Start = Callable[..., Awaitable[ByConnection]]
CXL = f"{ROOT}/Fabrics/cxl"
NVME = f"{ROOT}/Fabrics/nvmeof"
CHUNKS = f"{ROOT}/Chassis/cxl-0/MemoryDomains/cxl-0/MemoryChunks"
VOLUMES = f"{ROOT}/Storage/nvme-0/Volumes"
GIB = 1024**3


@pytest.fixture
def start(emulate: Callable[..., Awaitable[Any]]) -> Start:
    async def run(quirks: str = "", **settings: Any) -> ByConnection:
        rack = await emulate(dialect="connections", quirks=Quirks.parse(quirks), **settings)
        return ByConnection(rack.http)

    return run


async def carve(client: ByConnection, mebibytes: int, **more: Any) -> tuple[int, Any, Any]:
    body = {"AddressRangeType": "Volatile", "MemoryChunkSizeMiB": mebibytes, **more}
    return await client.send("POST", CHUNKS, body)


def to_chunk(client: ByConnection, host: str, chunk: str) -> dict[str, Any]:
    info = [{"AccessCapabilities": ["Read", "Write"], "MemoryChunk": link(chunk)}]
    return client.wanted(CXL, host, "cxl-0", ConnectionType="Memory", MemoryChunkInfo=info)


def key(answer: Any) -> str:
    return str(answer["error"]["code"]).rpartition(".")[2]


async def test_both_ends_show_a_connection_and_its_name_is_kept(start: Start) -> None:
    client = await start()
    body = client.wanted(f"{ROOT}/Fabrics/pcie", "sled-0", "gpu-0", Name="op-1", Description="cluster a")
    status, made, headers = await client.send("POST", f"{ROOT}/Fabrics/pcie/Connections", body)
    assert (status, made["@odata.id"]) == (201, headers["Location"])
    assert (made["Name"], made["Description"], made["Links"]) == ("op-1", "cluster a", body["Links"])
    for end in ("host-sled-0", "gpu-0"):
        endpoint = await client.get(f"{ROOT}/Fabrics/pcie/Endpoints/{end}")
        assert endpoint["Links"]["Connections"] == [link(headers["Location"])]
    assert (await client.send("DELETE", headers["Location"]))[0] == 204
    assert (await client.get(f"{ROOT}/Fabrics/pcie/Endpoints/gpu-0"))["Links"]["Connections"] == []


async def test_a_domain_says_what_can_be_carved_and_a_chunk_goes_to_a_host(start: Start) -> None:
    client = await start()
    domain = await client.get(f"{ROOT}/Chassis/cxl-0/MemoryDomains/cxl-0")
    assert (domain["MemorySizeMiB"], domain["MemoryChunkIncrementMiB"]) == (512 * 1024, 1024)
    memory = domain["InterleavableMemorySets"][0]["MemorySet"][0]["@odata.id"]
    assert (await client.get(memory))["CapacityMiB"] == 512 * 1024
    places = []
    for host in ("sled-0", "sled-1"):
        status, chunk, headers = await carve(client, 2048, Name=f"for {host}")
        places.append((status, chunk["AddressRangeOffsetMiB"]))
        body = to_chunk(client, host, headers["Location"])
        assert (await client.send("POST", f"{CXL}/Connections", body))[0] == 201
        assert (await client.send("DELETE", headers["Location"]))[0] == 409  # it is connected
    assert places == [(201, 0), (201, 2048)]
    endpoint = await client.get(f"{CXL}/Endpoints/cxl-0")
    assert [e["EntityType"] for e in endpoint["ConnectedEntities"]] == [
        "Memory",
        "MemoryChunk",
        "MemoryChunk",
    ]


async def test_a_chunk_has_one_host(start: Start, tmp_path: Path) -> None:
    client = await start()
    _, _, headers = await carve(client, 1024)
    for host, status in (("sled-0", 201), ("sled-1", 409)):
        body = to_chunk(client, host, headers["Location"])
        assert (await client.send("POST", f"{CXL}/Connections", body))[0] == status


@pytest.mark.parametrize(
    ("size", "status", "message"),
    [
        (1000, 400, "PropertyValueIncorrect"),
        (0, 400, "PropertyValueIncorrect"),
        (-1024, 400, "PropertyValueIncorrect"),
        ("1024", 400, "PropertyValueTypeError"),
        (513 * 1024, 507, "ResourceExhaustion"),
    ],
)
async def test_a_size_that_cannot_be_carved_is_refused(
    start: Start, size: Any, status: int, message: str
) -> None:
    client = await start()
    answer = await carve(client, size)
    assert (answer[0], key(answer[1])) == (status, message)


async def test_room_that_a_chunk_left_is_used_again(start: Start) -> None:
    client = await start()
    made = [(await carve(client, 256 * 1024))[2]["Location"] for _ in range(2)]
    assert (await carve(client, 1024))[0] == 507
    assert (await client.send("DELETE", made[0]))[0] == 204
    assert (await carve(client, 1024))[1]["AddressRangeOffsetMiB"] == 0


async def test_a_device_is_given_whole_or_in_parts(start: Start) -> None:
    client = await start()
    _, _, headers = await carve(client, 1024)
    assert await client.attach("sled-0", "cxl-0") == 409
    await client.send("DELETE", headers["Location"])
    assert await client.attach("sled-0", "cxl-0") == 201
    assert (await carve(client, 1024))[0] == 409


async def test_the_journal_tells_a_part_that_is_attached_beside_its_whole(
    emulate: Callable[..., Awaitable[Any]],
) -> None:
    rack = await emulate(dialect="connections", permissive=True)
    client = ByConnection(rack.http)
    _, _, headers = await carve(client, 1024)
    await client.send("POST", f"{CXL}/Connections", to_chunk(client, "sled-0", headers["Location"]))
    assert check(rack.journal_path.read_text().splitlines()).double_attached == ()
    assert await client.attach("sled-1", "cxl-0") == 201
    [double] = check(rack.journal_path.read_text().splitlines()).double_attached
    assert (double.block, double.hosts) == ("cxl-0", ("sled-1", "sled-0"))


async def test_a_volume_goes_to_a_host_over_nvme_of(start: Start) -> None:
    client = await start()
    status, volume, headers = await client.send("POST", VOLUMES, {"Name": "v", "CapacityBytes": 64 * GIB})
    assert (status, volume["CapacityBytes"]) == (201, 64 * GIB)
    storage = await client.get(f"{ROOT}/Storage/nvme-0")
    assert storage["Drives"] == [link(f"{ROOT}/Chassis/nvme-0/Drives/nvme-0")]
    info = [{"AccessCapabilities": ["Read", "Write"], "Volume": link(headers["Location"])}]
    body = client.wanted(NVME, "sled-0", "nvme-0", ConnectionType="Storage", VolumeInfo=info)
    status, _, made = await client.send("POST", f"{NVME}/Connections", body)
    assert status == 201
    assert (await client.send("DELETE", made["Location"]))[0] == 204
    assert (await client.send("DELETE", headers["Location"]))[0] == 204


async def test_parts_and_connections_survive_a_restart(start: Start, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    client = await start(state=state)
    _, _, headers = await carve(client, 1024)
    _, _, made = await client.send(
        "POST", f"{CXL}/Connections", to_chunk(client, "sled-0", headers["Location"])
    )
    again = await start(state=state)
    assert (await again.get(headers["Location"]))["MemoryChunkSizeMiB"] == 1024
    assert (await again.send("DELETE", headers["Location"]))[0] == 409
    assert (await again.send("DELETE", made["Location"]))[0] == 204
    assert (await carve(again, 1024))[2]["Location"] not in (headers["Location"], made["Location"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Links": None}, "PropertyMissing"),
        ({"Links": {"InitiatorEndpoints": [], "TargetEndpoints": []}}, "PropertyValueNotInList"),
        ({"Gears": 1}, "PropertyUnknown"),
        ({"Id": "mine"}, "PropertyNotWritable"),
        ({"VolumeInfo": [{"Volume": link(f"{VOLUMES}/9")}]}, "PropertyValueNotInList"),
        ({"ConnectionType": "Storage", "MemoryChunkInfo": [{}]}, "PropertyValueConflict"),
    ],
)
async def test_a_body_that_connects_nothing_is_refused(start: Start, change: Any, message: str) -> None:
    client = await start()
    body = client.wanted(CXL, "sled-0", "cxl-0") | change
    status, answer, _ = await client.send("POST", f"{CXL}/Connections", body)
    assert (status, key(answer)) == (400, message)


async def test_the_same_connection_twice(start: Start) -> None:
    client = await start()
    assert await client.attach("sled-0", "gpu-0") == 201
    assert await client.attach("sled-0", "gpu-0") == 409
    client = await start("permit-duplicates")
    for _ in range(2):
        assert await client.attach("sled-0", "gpu-0") == 201
    one, other = await client.members(f"{ROOT}/Fabrics/pcie/Connections")
    await client.send("DELETE", one["@odata.id"])
    assert await client.attach("sled-1", "gpu-0") == 409  # the other one still holds it
    await client.send("DELETE", other["@odata.id"])
    assert await client.attach("sled-1", "gpu-0") == 201


async def test_stale_copies_of_ends_and_collection(start: Start) -> None:
    client = await start("stale=3600")
    assert await client.attach("sled-0", "gpu-0") == 201
    assert (await client.get(f"{ROOT}/Fabrics/pcie/Connections"))["Members"] == []
    assert (await client.get(f"{ROOT}/Fabrics/pcie/Endpoints/gpu-0"))["Links"]["Connections"] == []

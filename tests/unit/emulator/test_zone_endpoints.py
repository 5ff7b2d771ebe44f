"""Zones of endpoints that a client fills, as PCIe switches have them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.dialects import ROOT, ByZone, link
from weft.emulator.quirks import Quirks

Start = Callable[..., Awaitable[ByZone]]
PCIE = f"{ROOT}/Fabrics/pcie"
OWN = link(f"{PCIE}/Endpoints/host-sled-0")


@pytest.fixture
def start(emulate: Callable[..., Awaitable[Any]]) -> Start:
    async def run(quirks: str = "") -> ByZone:
        return ByZone((await emulate(dialect="zone-endpoints", quirks=Quirks.parse(quirks))).http)

    return run


async def test_there_is_no_composition_service_and_devices_are_found_by_their_endpoints(start: Start) -> None:
    client = await start()
    assert "CompositionService" not in await client.get(f"{ROOT}/")
    assert (await client.send("GET", f"{ROOT}/CompositionService/ResourceBlocks"))[0] == 404
    endpoint = await client.get(f"{PCIE}/Endpoints/gpu-0")
    [entity] = endpoint["ConnectedEntities"]
    assert (entity["EntityRole"], entity["EntityType"]) == ("Target", "Processor")
    assert (await client.get(entity["EntityLink"]["@odata.id"]))["ProcessorType"] == "GPU"
    group = await client.get(f"{ROOT}/Chassis/gpu")
    assert len((await client.get(group["Processors"]["@odata.id"]))["Members"]) == 4


async def test_the_zone_and_the_endpoint_show_an_attached_device(start: Start) -> None:
    client = await start()
    await client.attach("sled-0", "gpu-0")
    zone = await client.get(f"{PCIE}/Zones/zone-sled-0")
    assert zone["Links"]["Endpoints"] == [OWN, link(f"{PCIE}/Endpoints/gpu-0")]
    endpoint = await client.get(f"{PCIE}/Endpoints/gpu-0")
    assert endpoint["Links"]["Zones"] == [link(f"{PCIE}/Zones/zone-sled-0")]


@pytest.mark.parametrize(
    "endpoints",
    [
        [],
        [OWN, link(f"{PCIE}/Endpoints/gpu-99")],
        [OWN, link(f"{ROOT}/Fabrics/cxl/Endpoints/cxl-0")],
        [OWN, "x"],
    ],
)
async def test_a_list_that_means_nothing_is_refused(start: Start, endpoints: list[Any]) -> None:
    client = await start()
    body = {"Links": {"Endpoints": endpoints}}
    assert (await client.send("PATCH", f"{PCIE}/Zones/zone-sled-0", body))[0] == 400


async def test_a_zone_of_one_fabric_says_nothing_of_another(start: Start) -> None:
    client = await start()
    await client.attach("sled-0", "gpu-0", "cxl-0")
    body = {"Links": {"Endpoints": [OWN]}}
    assert (await client.send("PATCH", f"{PCIE}/Zones/zone-sled-0", body))[0] == 200
    assert await client.attached("sled-0") == ["cxl-0"]


async def test_an_interconnect_domain_is_a_zone_too_and_cannot_be_written(start: Start) -> None:
    client = await start()
    path = f"{ROOT}/Fabrics/nvlink/Zones/nvl-0"
    assert len((await client.get(path))["Links"]["Endpoints"]) == 2
    assert (await client.send("PATCH", path, {"Links": {"Endpoints": []}}))[0] == 405


async def test_one_sided_zones(start: Start) -> None:
    client = await start("system-only")
    await client.attach("sled-0", "gpu-0")
    assert (await client.get(f"{PCIE}/Endpoints/gpu-0"))["Links"]["Zones"] == []
    client = await start("block-only")
    assert "Endpoints" not in (await client.get(f"{PCIE}/Zones/zone-sled-0"))["Links"]

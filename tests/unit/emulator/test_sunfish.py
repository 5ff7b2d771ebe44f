"""Connections behind an aggregator, as Sunfish has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from support.dialects import ROOT, BySunfish
from weft.emulator.quirks import Quirks

Start = Callable[..., Awaitable[BySunfish]]
TYPE = {"@odata.type": "#Connection.v1_2_0.Connection"}


@pytest.fixture
def start(emulate: Callable[..., Awaitable[Any]]) -> Start:
    async def run(quirks: str = "") -> BySunfish:
        return BySunfish((await emulate(dialect="sunfish", quirks=Quirks.parse(quirks))).http)

    return run


async def test_the_composition_service_is_there_and_empty(start: Start) -> None:
    client = await start()
    composition = await client.get((await client.get(f"{ROOT}/"))["CompositionService"]["@odata.id"])
    for name in ("ResourceBlocks", "ResourceZones"):
        assert (await client.get(composition[name]["@odata.id"]))["Members"] == []


async def test_fabrics_have_the_aggregators_names_everywhere_and_resources_their_agent(start: Start) -> None:
    client = await start()
    fabric = await client.fabric("gpu-0")
    assert fabric.rpartition("/")[2].startswith("Sunfish_")
    assert (await client.send("GET", f"{ROOT}/Fabrics/pcie"))[0] == 404
    shown = await client.get(f"{fabric}/Endpoints/gpu-0")
    assert shown["@odata.id"] == f"{fabric}/Endpoints/gpu-0"
    agent = await client.get(shown["Oem"]["Sunfish_RM"]["ManagingAgent"]["@odata.id"])
    assert agent["Links"]["ResourcesAccessed"] == [{"@odata.id": fabric}]


async def test_a_creation_is_answered_with_200_and_its_path_is_the_clients(start: Start) -> None:
    client = await start()
    fabric = await client.fabric("gpu-0")
    path = f"{fabric}/Connections/op-1"
    body = client.wanted(fabric, "sled-0", "gpu-0", Id="op-1", **{"@odata.id": path}, **TYPE)
    status, made, headers = await client.send("POST", f"{fabric}/Connections", body)
    assert (status, made["@odata.id"], "Location" in headers) == (200, path, False)
    assert (await client.send("POST", f"{fabric}/Connections", body))[0] == 409
    status, text, _ = await client.send("DELETE", path)
    assert (status, text) == (200, f"Object {path} deleted")


async def test_what_the_reference_server_fails_on_is_answered_with_500(start: Start) -> None:
    client = await start()
    fabric = await client.fabric("gpu-0")
    for more in ({}, {"Id": "op-1", **TYPE}):
        body = client.wanted(fabric, "sled-0", "gpu-0", **more)
        assert (await client.send("POST", f"{fabric}/Connections", body))[0] == 500
    assert await client.attached("sled-0") == []


async def test_a_duplicate_that_is_not_answered_at_all(start: Start) -> None:
    client = await start("drop-on-duplicate")
    fabric = await client.fabric("gpu-0")
    body = client.wanted(fabric, "sled-0", "gpu-0", **TYPE)
    assert (await client.send("POST", f"{fabric}/Connections", body))[0] == 200
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.send("POST", f"{fabric}/Connections", body)

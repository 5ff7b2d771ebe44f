"""Composed systems, made by POST and ended by DELETE, as DSP2050 has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.dialects import BLOCKS, SYSTEMS, ByPost, link
from weft.emulator.main import StartError
from weft.emulator.quirks import Quirks

Start = Callable[..., Awaitable[ByPost]]


@pytest.fixture
def start(emulate: Callable[..., Awaitable[Any]]) -> Start:
    async def run(quirks: str = "", **settings: Any) -> ByPost:
        rack = await emulate(dialect="compose-by-post", quirks=Quirks.parse(quirks), **settings)
        return ByPost(rack.http)

    return run


def wanted(name: str, *blocks: str) -> Any:
    return {"Name": name, "Links": {"ResourceBlocks": [link(f"{BLOCKS}/{block}") for block in blocks]}}


async def test_there_is_no_system_before_and_the_collection_says_how_to_make_one(start: Start) -> None:
    client = await start()
    systems = await client.get(SYSTEMS)
    assert systems["Members"] == []
    [capability] = systems["@Redfish.CollectionCapabilities"]["Capabilities"]
    assert capability["UseCase"] == "ComputerSystemComposition"
    form = await client.get(capability["CapabilitiesObject"]["@odata.id"])
    assert form["Links"]["ResourceBlocks@Redfish.RequiredOnCreate"] is True
    host = await client.get(f"{BLOCKS}/host-sled-0")
    assert (host["ResourceBlockType"], host["CompositionStatus"]["CompositionState"]) == (
        ["Compute"],
        "Unused",
    )
    assert (await client.get(host["Processors"][0]["@odata.id"]))["ProcessorType"] == "CPU"


async def test_a_system_appears_at_its_location_and_its_end_frees_the_blocks(start: Start) -> None:
    client = await start()
    body = wanted("op-1", "host-sled-0", "gpu-0") | {"Description": "cluster a"}
    status, system, headers = await client.send("POST", SYSTEMS, body)
    assert (status, system["@odata.id"]) == (201, headers["Location"])
    assert (system["SystemType"], system["Name"], system["Description"]) == ("Composed", "op-1", "cluster a")
    for block in ("host-sled-0", "gpu-0"):
        shown = await client.get(f"{BLOCKS}/{block}")
        assert shown["Links"]["ComputerSystems"] == [link(headers["Location"])]
        assert shown["CompositionStatus"]["CompositionState"] == "Composed"
    assert (await client.send("DELETE", headers["Location"]))[0] == 204
    assert (await client.send("GET", headers["Location"]))[0] == 404
    assert (await client.get(f"{BLOCKS}/gpu-0"))["CompositionStatus"]["CompositionState"] == "Unused"


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (wanted("a", "gpu-0"), "PropertyValueIncorrect"),
        (wanted("a", "host-sled-0", "host-sled-1"), "PropertyValueIncorrect"),
        (wanted("a", "host-sled-0", "gpu-99"), "PropertyValueNotInList"),
        ({"Name": "a"}, "PropertyMissing"),
        ({"Links": {"ResourceBlocks": []}}, "PropertyMissing"),
        (wanted("a", "host-sled-0") | {"Gears": 1}, "PropertyUnknown"),
        (wanted("a", "host-sled-0") | {"UUID": "x"}, "PropertyNotWritable"),
    ],
)
async def test_a_body_that_makes_no_system_is_refused(start: Start, body: Any, key: str) -> None:
    client = await start()
    status, answer, _ = await client.send("POST", SYSTEMS, body)
    assert (status, answer["error"]["code"].rpartition(".")[2]) == (400, key)
    assert await client.members(SYSTEMS) == []


async def test_a_host_in_a_system_is_not_for_another(start: Start) -> None:
    client = await start()
    await client.send("POST", SYSTEMS, wanted("a", "host-sled-0"))
    assert (await client.send("POST", SYSTEMS, wanted("b", "host-sled-0", "gpu-0")))[0] == 409


async def test_a_name_twice(start: Start) -> None:
    for quirks, status in (("", 409), ("permit-duplicates", 201)):
        client = await start(quirks)
        await client.send("POST", SYSTEMS, wanted("a", "host-sled-0"))
        assert (await client.send("POST", SYSTEMS, wanted("a", "host-sled-1")))[0] == status
    client = await start("drop-on-duplicate")
    await client.send("POST", SYSTEMS, wanted("a", "host-sled-0"))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.send("POST", SYSTEMS, wanted("a", "host-sled-1"))


async def test_a_system_is_not_ended_on_an_etag_that_is_out_of_date(start: Start) -> None:
    client = await start()
    _, _, headers = await client.send("POST", SYSTEMS, wanted("a", "host-sled-0", "gpu-0"))
    assert (await client.send("DELETE", headers["Location"], **{"If-Match": '"other"'}))[0] == 412
    assert (await client.send("DELETE", headers["Location"], **{"If-Match": headers["ETag"]}))[0] == 204


async def test_a_partial_end_leaves_a_system_with_what_was_not_detached(start: Start) -> None:
    client = await start()
    _, _, headers = await client.send("POST", SYSTEMS, wanted("a", "host-sled-0", "gpu-0", "gpu-1"))
    fault = {"kind": "partial", "match": {"verb": "detach", "block": "gpu-1"}}
    await client.send("POST", "/emulator/faults", fault)
    assert (await client.send("DELETE", headers["Location"]))[0] == 500
    assert await client.attached("sled-0") == ["gpu-1"]
    assert await client.detach("sled-0") == 204
    assert await client.attached("sled-0") == []


async def test_a_state_file_of_another_dialect_is_refused(
    start: Start, emulate: Callable[..., Awaitable[Any]], tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    client = await start(state=state)
    await client.send("POST", SYSTEMS, wanted("a", "host-sled-0"))
    with pytest.raises(StartError, match="it was written in the dialect compose-by-post"):
        await emulate(dialect="connections", state=state)

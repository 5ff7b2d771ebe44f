"""The actions AddResourceBlock and RemoveResourceBlock, as ComputerSystem's schema has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from support.dialects import BLOCKS, ByAction, link
from weft.emulator.quirks import Quirks

SLED = "/redfish/v1/Systems/sled-0"
ADD = f"{SLED}/Actions/ComputerSystem.AddResourceBlock"
REMOVE = f"{SLED}/Actions/ComputerSystem.RemoveResourceBlock"
Start = Callable[..., Awaitable[ByAction]]


@pytest.fixture
def start(emulate: Callable[..., Awaitable[Any]]) -> Start:
    async def run(quirks: str = "", **settings: Any) -> ByAction:
        rack = await emulate(dialect="add-resource-block", quirks=Quirks.parse(quirks), **settings)
        return ByAction(rack.http)

    return run


async def test_a_system_advertises_both_actions_and_their_parameters(start: Start) -> None:
    client = await start()
    actions = (await client.get(SLED))["Actions"]
    assert {name: action["target"] for name, action in actions.items()} == {
        "#ComputerSystem.AddResourceBlock": ADD,
        "#ComputerSystem.RemoveResourceBlock": REMOVE,
    }
    info = await client.get(actions["#ComputerSystem.AddResourceBlock"]["@Redfish.ActionInfo"])
    assert [p["Name"] for p in info["Parameters"] if p["Required"]] == ["ResourceBlock"]


async def test_the_list_of_blocks_is_not_written_by_patch(start: Start) -> None:
    client = await start()
    status, body, headers = await client.send("PATCH", SLED, {"Links": {"ResourceBlocks": []}})
    assert status == 405
    assert body["error"]["code"].endswith("OperationNotAllowed")
    assert "PATCH" not in headers["Allow"]


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({}, "ActionParameterMissing"),
        ({"ResourceBlock": link(f"{BLOCKS}/gpu-0"), "Gears": 1}, "ActionParameterUnknown"),
        ({"ResourceBlock": "gpu-0"}, "PropertyValueTypeError"),
        ({"ResourceBlock": link(f"{BLOCKS}/gpu-99")}, "ActionParameterValueNotInList"),
        ({"ResourceBlock": link(f"{BLOCKS}/host-sled-1")}, "ActionParameterValueNotInList"),
    ],
)
async def test_parameters_that_mean_nothing_are_refused(start: Start, body: Any, key: str) -> None:
    client = await start()
    status, answer, _ = await client.send("POST", ADD, body)
    assert (status, answer["error"]["code"].rpartition(".")[2]) == (400, key)


async def test_an_etag_among_the_parameters_that_is_not_current_is_refused_with_428(start: Start) -> None:
    client = await start()
    etag = (await client.get(SLED))["@odata.etag"]
    first = {"ResourceBlock": link(f"{BLOCKS}/gpu-0"), "ComputerSystemETag": etag}
    assert (await client.send("POST", ADD, first))[0] == 204
    second = {"ResourceBlock": link(f"{BLOCKS}/gpu-1"), "ComputerSystemETag": etag}
    status, answer, _ = await client.send("POST", ADD, second)
    assert (status, answer["error"]["code"].rpartition(".")[2]) == (428, "PreconditionRequired")
    block = (await client.get(f"{BLOCKS}/gpu-1"))["@odata.etag"]
    third = {"ResourceBlock": link(f"{BLOCKS}/gpu-1"), "ResourceBlockETag": block}
    assert (await client.send("POST", ADD, third))[0] == 204


@pytest.mark.parametrize(("quirks", "status"), [("", 409), ("permit-duplicates", 204)])
async def test_adding_a_block_twice(start: Start, quirks: str, status: int) -> None:
    client = await start(quirks)
    assert await client.attach("sled-0", "gpu-0") == 204
    assert await client.attach("sled-0", "gpu-0") == status
    assert await client.attached("sled-0") == ["gpu-0"]


async def test_a_connection_that_is_dropped_on_a_duplicate(start: Start) -> None:
    client = await start("drop-on-duplicate")
    assert await client.attach("sled-0", "gpu-0") == 204
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.attach("sled-0", "gpu-0")
    assert await client.attached("sled-0") == ["gpu-0"]

"""Habits of managers that show in what is read, in the usual dialect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.dialects import BLOCKS, SYSTEMS, ByPatch
from weft.emulator.quirks import Quirks

Start = Callable[..., Awaitable[ByPatch]]


@pytest.fixture
def start(emulate: Callable[..., Awaitable[Any]]) -> Start:
    async def run(quirks: str) -> ByPatch:
        return ByPatch((await emulate(quirks=Quirks.parse(quirks))).http)

    return run


@pytest.mark.parametrize("quirks", ["weak-etags", "changing-etags"])
async def test_an_etag_that_can_never_be_matched(start: Start, quirks: str) -> None:
    client = await start(quirks)
    etag = (await client.get(f"{SYSTEMS}/sled-0"))["@odata.etag"]
    assert await client.attach("sled-0", "gpu-0", **{"If-Match": etag}) == 412
    assert await client.attach("sled-0", "gpu-0", **{"If-Match": "*"}) == 200
    assert etag.startswith("W/") == (quirks == "weak-etags")
    assert (
        (await client.get(f"{BLOCKS}/gpu-1"))["@odata.etag"]
        == (await client.get(f"{BLOCKS}/gpu-1"))["@odata.etag"]
    ) == (quirks == "weak-etags")


async def test_only_the_system_says_what_it_has(start: Start) -> None:
    client = await start("system-only")
    await client.attach("sled-0", "gpu-0")
    assert await client.attached("sled-0") == ["gpu-0"]
    assert "ComputerSystems" not in (await client.get(f"{BLOCKS}/gpu-0"))["Links"]
    assert "ComputerSystems" in (await client.get(f"{BLOCKS}/host-sled-0"))["Links"]


async def test_only_the_block_says_who_has_it(start: Start) -> None:
    client = await start("block-only")
    body = {"Links": {"ResourceBlocks": [{"@odata.id": f"{BLOCKS}/gpu-0"}]}}
    assert (await client.send("PATCH", f"{SYSTEMS}/sled-0", body))[0] == 200
    assert "ResourceBlocks" not in (await client.get(f"{SYSTEMS}/sled-0"))["Links"]
    assert [s["@odata.id"] for s in (await client.get(f"{BLOCKS}/gpu-0"))["Links"]["ComputerSystems"]] == [
        f"{SYSTEMS}/sled-0"
    ]


async def test_a_stale_copy_of_the_block_is_shown_for_a_while(start: Start) -> None:
    client = await start("stale=3600")
    await client.get(f"{BLOCKS}?$expand=.")
    await client.attach("sled-0", "gpu-0")
    assert await client.attached("sled-0") == ["gpu-0"]
    assert (await client.get(f"{BLOCKS}/gpu-0"))["Links"]["ComputerSystems"] == []
    expanded = {b["Id"]: b for b in (await client.get(f"{BLOCKS}?$expand=."))["Members"]}
    assert expanded["gpu-0"]["CompositionStatus"]["CompositionState"] == "Unused"


@pytest.mark.parametrize("text", ["gears", "late=x", "late=0", "weak-etags=1", "system-only,block-only"])
def test_a_quirk_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quirk"):
        Quirks.parse(text)

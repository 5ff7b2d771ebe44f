"""Faults: each looks to a client as its kind says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.virtual_time

Emulate = Callable[..., Awaitable[Any]]


@pytest.mark.parametrize(
    ("kind", "status", "attached"),
    [
        ("fail", 500, []),
        ("fail-after-commit", 500, ["gpu-0", "gpu-1"]),
        ("lie", 200, []),
        ("partial", 500, []),
        ("error-in-200", 200, []),
        ("drop", None, []),
        ("drop-after-commit", None, ["gpu-0", "gpu-1"]),
        ("garbage", None, []),
    ],
)
async def test_a_fault_of_a_change(rack: Any, kind: str, status: int | None, attached: list[str]) -> None:
    await rack.fault(kind=kind, match={"verb": "attach"})
    if status is None:
        with pytest.raises((aiohttp.ClientError, ValueError)):
            await rack.send("sled-0", "gpu-0", "gpu-1")
    else:
        answered, body = await rack.send("sled-0", "gpu-0", "gpu-1")
        assert answered == status
        assert ("error" in body) == (kind != "lie")
    assert await rack.attached("sled-0") == attached
    assert [block for _, _, block, _ in rack.journal("attach")] == attached
    status, _ = await rack.send("sled-0", "gpu-0", "gpu-1")
    assert (status, await rack.attached("sled-0")) == (200, ["gpu-0", "gpu-1"])


@pytest.mark.parametrize("kind", ["lie", "partial"])
async def test_a_selective_fault_lets_the_other_blocks_through(rack: Any, kind: str) -> None:
    await rack.fault(kind=kind, match={"block": "gpu-1"})
    await rack.send("sled-0", "gpu-0", "gpu-1")
    assert await rack.attached("sled-0") == ["gpu-0"]
    assert rack.journal("refused") == [("refused", "sled-0", "gpu-1", f"fault:{kind}")]


async def test_a_rate_limit_says_when_to_come_back(rack: Any) -> None:
    await rack.fault(kind="fail", status=429, retryAfterSeconds=7, match={"verb": "read", "path": "Systems$"})
    async with rack.http.get("/redfish/v1/Systems") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
    assert await rack.status("Systems") == 200


async def test_a_hang_outlives_the_client_and_the_change_lands_later(rack: Any) -> None:
    await rack.fault(kind="hang", seconds=0.1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.03):
            await rack.send("sled-0", "gpu-0")
    assert rack.journal("attach") == []
    async with asyncio.timeout(10):
        while not rack.journal("attach"):  # noqa: ASYNC110  the other side is a file, it sets no event
            await asyncio.sleep(0.01)
    assert await rack.attached("sled-0") == ["gpu-0"]


async def test_a_fault_strikes_only_what_it_matches_and_only_so_often(rack: Any) -> None:
    await rack.fault(kind="fail", times=2, match={"verb": "detach", "block": "gpu-*", "host": "sled-0"})
    for host, block in (("sled-0", "gpu-0"), ("sled-1", "gpu-1")):
        assert (await rack.send(host, block))[0] == 200
    answers = [(await rack.send(host))[0] for host in ("sled-1", "sled-0", "sled-0", "sled-0")]
    assert answers == [200, 500, 500, 200]
    assert [fault["struck"] for fault in await rack.get("/emulator/faults")] == [2]


async def test_a_vanished_block_is_nowhere_but_stays_attached(rack: Any) -> None:
    await rack.send("sled-0", "gpu-0", "gpu-1")
    await rack.fault(kind="vanish", match={"block": "gpu-0"})
    assert await rack.status("CompositionService/ResourceBlocks/gpu-0") == 404
    collection = await rack.get("CompositionService/ResourceBlocks")
    assert collection["Members@odata.count"] == 8
    assert await rack.attached("sled-0") == ["gpu-1"]
    for path in ("CompositionService/ResourceZones/default", "Fabrics/nvlink/Zones/nvl-0"):
        assert "gpu-0" not in rack.ids((await rack.get(path))["Links"]["ResourceBlocks"])
    await rack.send("sled-0")
    await rack.http.delete("/emulator/faults")
    assert await rack.attached("sled-0") == ["gpu-0"]


async def test_an_unhealthy_device_is_critical_on_block_and_device(rack: Any) -> None:
    path = "CompositionService/ResourceBlocks?$expand=.($levels=2)"
    await rack.get(path)
    await rack.fault(kind="unhealthy", match={"block": "gpu-*"})
    blocks = {block["Id"]: block for block in (await rack.get(path))["Members"]}
    assert blocks["gpu-2"]["Status"]["Health"] == "Critical"
    assert blocks["gpu-2"]["Processors"][0]["Status"]["Health"] == "Critical"
    assert blocks["cxl-0"]["Status"]["Health"] == "OK"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"kind": "explode"}, "kind"),
        ({"kind": "fail", "match": {"path": "("}}, "not a regular expression"),
        ({"kind": "lie", "match": {"verb": "read"}}, "not to a read"),
        ({"kind": "vanish", "times": 3}, "stands until it is removed"),
    ],
)
async def test_a_fault_that_means_nothing_is_refused(rack: Any, fault: dict[str, Any], said: str) -> None:
    async with rack.http.post("/emulator/faults", json=fault) as response:
        assert response.status == 400
        assert said in str(await response.json())

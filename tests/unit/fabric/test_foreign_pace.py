"""Managers that may be asked slowly only, or whose shortcuts do not work: the picture grows with every reading."""

import asyncio

import pytest
from aiohttp import web

from support.replay import BLOCKS, ROOT, SYSTEMS, Replay, Tree, block, link, rack, reading, system
from weft.fabric.driver import Inventory
from weft.fabric.errors import RateLimited
from weft.fabric.redfish import RedfishDriver
from weft.fabric.redfish import driver as redfish_driver

pytestmark = pytest.mark.virtual_time
EXPAND = {"ProtocolFeaturesSupported": {"ExpandQuery": {"NoLinks": True, "Levels": True, "MaxLevels": 2}}}
DEEP, SHALLOW = "?$expand=.($levels=2)", "?$expand=."


def big(blocks: int, hosts: int) -> Tree:
    gpus = [block(f"{BLOCKS}/gpu-{n:03}") for n in range(blocks)]
    return rack(*gpus, *(system(f"{SYSTEMS}/sled-{n:02}") for n in range(hosts)))


async def whole(driver: RedfishDriver, blocks: int, first: frozenset[str] = frozenset()) -> list[Inventory]:
    """Readings until all devices are there."""
    readings = [await driver.inventory(first)]
    while len(readings[-1].devices) < blocks:
        assert len(readings) < 20
        readings.append(await driver.inventory(first))
    return readings


async def test_a_slow_rack_shows_its_hosts_at_once_and_all_devices_in_twice_the_time_of_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redfish_driver, "READING_SECONDS", 0.6)
    async with reading(big(200, 10), requests_per_second=200.0, request_timeout_seconds=0.3) as (
        served,
        driver,
    ):
        began = asyncio.get_running_loop().time()
        readings = await whole(driver, 200)
        seconds = asyncio.get_running_loop().time() - began
    assert len(readings[0].hosts) == 10
    assert 0 < len(readings[0].devices) < 200
    assert not readings[0].complete
    assert any("limits.requestsPerSecond" in problem for problem in readings[0].problems)
    assert seconds <= 2 * (200 * 2 + 10 + 4) / 200
    # What was read stays, and nothing is read twice before all was read once.
    counts = [len(r.devices) for r in readings]
    assert counts == sorted(counts)
    # (but for the requests that were under way when a reading ended)
    assert len(set(served.asked("/gpu-")[: 400 + 8 * len(readings)])) == 400


async def test_claimed_and_attached_devices_are_read_before_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redfish_driver, "READING_SECONDS", 0.6)
    tree = big(200, 1)
    tree[f"{SYSTEMS}/sled-00"]["Links"]["ResourceBlocks"] = [link(f"{BLOCKS}/gpu-150")]
    async with reading(tree, requests_per_second=20.0, request_timeout_seconds=0.3) as (served, driver):
        read = await driver.inventory(frozenset({"gpu-199"}))
        assert {"gpu-150", "gpu-199"} <= {d.id for d in read.devices}
        asked = [path for path in served.asked("/gpu-") if "Processors" not in path]
        assert set(asked[:2]) == {f"{BLOCKS}/gpu-150", f"{BLOCKS}/gpu-199"}
        # Every reading begins with them, so that each says what became of them.
        again = await driver.inventory(frozenset({"gpu-199"}))
        assert {"gpu-150", "gpu-199"}.isdisjoint(again.unread.devices)


async def test_zones_of_a_big_rack_leave_time_for_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redfish_driver, "READING_SECONDS", 0.4)
    tree = big(20, 1)
    zones = [f"/redfish/v1/Zones/{n:03}" for n in range(120)]
    tree["/redfish/v1/CompositionService"]["ResourceZones"] = link("/redfish/v1/Zones")
    tree["/redfish/v1/Zones"] = {**link("/redfish/v1/Zones"), "Members": [link(z) for z in zones]}
    tree |= {z: {**link(z), "Id": z[-3:], "Links": {"ResourceBlocks": []}} for z in zones}
    async with reading(tree, requests_per_second=100.0, request_timeout_seconds=0.2) as (served, driver):
        read = await driver.inventory()
        assert read.devices
        assert read.unread.topology
        while read.unread.topology:
            read = await driver.inventory()
        asked = served.asked("/Zones/")
        assert (len(set(asked)), len(asked) < 140) == (120, True)


async def test_a_manager_that_asks_for_a_pause_gets_it_and_keeps_what_was_read() -> None:
    served = Replay(big(50, 2))
    answered = 0
    plain = served.handle

    async def limited(request: web.Request) -> web.StreamResponse:
        nonlocal answered
        answered += 1
        if answered > 30:
            return web.json_response({}, status=429, headers={"Retry-After": "7"})
        return await plain(request)

    served.handle = limited  # type: ignore[method-assign]
    async with reading(served, max_in_flight=1) as (_, driver):
        read = await driver.inventory()
        assert 0 < len(read.devices) < 50
        assert answered == 31
        with pytest.raises(RateLimited) as pause:
            await driver.inventory()
        assert pause.value.retry_after_seconds == 7.0
        answered = -1000
        assert len((await driver.inventory()).devices) == 50


async def test_documents_that_come_along_are_read_and_not_kept() -> None:
    tree = big(5, 2)
    tree[ROOT] |= EXPAND
    for number in range(5):
        body = tree[f"{BLOCKS}/gpu-{number:03}"]
        body["Processors"] = [tree[each["@odata.id"]] for each in body["Processors"]]
    served = Replay(tree)
    served.expand = True
    async with reading(served) as (_, driver):
        for _ in range(2):
            read = await driver.inventory()
            assert {each.attributes["model"] for each in read.devices} == {"H200"}
            entries = driver._poller._blocks.entries.values()
            assert [entry.value.expanded for entry in entries if entry.value is not None] == [()] * 5
        assert [path for path in served.asked("Processors") if "?" not in path] == []


@pytest.mark.parametrize("status", [400, 404, 500, 501, 503])
@pytest.mark.parametrize("failing", [(DEEP,), (DEEP, SHALLOW)])
async def test_an_expand_that_fails_is_done_without_and_left_out_for_a_while(
    status: int, failing: tuple[str, ...]
) -> None:
    tree = big(5, 2)
    tree[ROOT] |= EXPAND
    tree |= {f"{path}{query}": {"STATUS": status} for path in (BLOCKS, SYSTEMS) for query in failing}
    served = Replay(tree)
    served.expand = True
    async with reading(served) as (_, driver):
        for _ in range(3):
            read = await driver.inventory()
            assert (len(read.devices), len(read.hosts), read.complete) == (5, 2, True)
        assert len(served.asked(f"ResourceBlocks{DEEP}")) == 1
        for _ in range(8):
            await driver.inventory()
        assert len(served.asked(f"ResourceBlocks{DEEP}")) == 2


async def test_an_expand_that_does_not_answer_in_time_is_done_without() -> None:
    tree = big(5, 2)
    tree[ROOT] |= EXPAND
    served = Replay(tree)
    served.expand = True
    served.silent = {f"{BLOCKS}{DEEP}", f"{BLOCKS}{SHALLOW}"}
    async with reading(served, request_timeout_seconds=0.3) as (_, driver):
        read = await driver.inventory()
        assert (len(read.devices), len(read.hosts), read.complete) == (5, 2, True)
        assert any("$expand fails" in problem for problem in read.problems)
        assert f"{BLOCKS}{SHALLOW}" not in served.asked("ResourceBlocks")


async def test_an_expand_that_is_ignored_is_done_without() -> None:
    tree = big(5, 2)
    tree[ROOT] |= EXPAND
    async with reading(tree) as (_, driver):
        read = await driver.inventory()
    assert (len(read.devices), len(read.hosts), read.complete) == (5, 2, True)

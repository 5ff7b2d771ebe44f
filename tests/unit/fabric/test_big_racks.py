"""A reading of a big rack keeps no bind waiting: what takes long is done beside the event loop."""

import asyncio
import json
import sys
import threading
from typing import Any

import pytest

from support.replay import BLOCKS, SYSTEMS, Replay, block, rack, serve, system
from weft.fabric.driver import Inventory
from weft.fabric.redfish import RedfishDriver, polling, transport
from weft.fabric.redfish.inventory import assemble
from weft.runtime.threads import let_the_event_loop_in


async def test_binds_go_on_while_a_big_answer_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"Members": [{"@odata.id": f"{BLOCKS}/gpu-{n}", "Links": {}} for n in range(60_000)]}
    turns, seen = [0], list[int]()

    def parsed_object(obj: object) -> object:
        seen.append(turns[0])
        return obj

    monkeypatch.setattr(transport, "_as_it_is", parsed_object)
    before = sys.getswitchinterval()
    let_the_event_loop_in()
    try:
        parsing = asyncio.create_task(transport._parsed(json.dumps(document).encode()))
        while not parsing.done():
            await asyncio.sleep(0)
            turns[0] += 1
    finally:
        sys.setswitchinterval(before)
    assert await parsing == document
    assert len(set(seen)) > 1, "the event loop had turns between objects of one answer"


async def test_a_big_rack_is_put_together_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    put_together_by = list[int]()

    def assembled(*args: Any, **more: Any) -> Inventory:
        put_together_by.append(threading.get_ident())
        return assemble(*args, **more)

    monkeypatch.setattr(polling, "assemble", assembled)
    async with serve(Replay(rack(*(block(f"{BLOCKS}/gpu-{n}") for n in range(3))))) as manager:
        driver = RedfishDriver(manager.connection())
        assert len((await driver.inventory()).devices) == 3
        await driver.close()
    assert put_together_by != [threading.get_ident()]
    assert len(put_together_by) == 1


async def test_the_answers_of_many_managers_are_parsed_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = {"Members": [{"@odata.id": f"{BLOCKS}/gpu-{n}"} for n in range(3_000)]}
    threads = set[int]()
    monkeypatch.setattr(transport, "_as_it_is", lambda obj: threads.add(threading.get_ident()) or obj)
    data = json.dumps(document).encode()
    assert await asyncio.gather(*(transport._parsed(data) for _ in range(4))) == [document] * 4
    assert len(threads) == 1


async def test_the_hosts_that_list_a_block_are_known_as_if_every_host_were_looked_at() -> None:
    blocks = [block(f"{BLOCKS}/gpu-{n}") for n in range(3)]
    hosts = [system(f"{SYSTEMS}/sled-{n}") for n in range(3)]
    async with serve(Replay(rack(*blocks, *hosts))) as manager:
        driver = RedfishDriver(manager.connection())
        await driver.inventory()
        poller = driver._poller

        def check(*pairs: tuple[str, str]) -> None:
            by_block = {uri: poller.listed_at(uri) for uri in poller.blocks}
            every = poller.systems.values()
            assert by_block == {uri: {s.uri for s in every if uri in (s.blocks or ())} for uri in by_block}
            shown = {(uri, host) for uri, here in by_block.items() for host in here}
            assert shown == {(f"{BLOCKS}/{gpu}", f"{SYSTEMS}/{sled}") for gpu, sled in pairs}

        check()
        await driver.attach("a", "sled-0", frozenset({"gpu-0", "gpu-1"}))
        await driver.attached("sled-0")
        check(("gpu-0", "sled-0"), ("gpu-1", "sled-0"))
        await driver.detach("b", "sled-0", frozenset({"gpu-0"}))
        await driver.attached("sled-0")
        check(("gpu-1", "sled-0"))
        await driver.attach("c", "sled-2", frozenset({"gpu-0"}))
        await driver.inventory()
        check(("gpu-1", "sled-0"), ("gpu-0", "sled-2"))
        await driver.close()

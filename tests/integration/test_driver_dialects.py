"""The Redfish driver against each dialect of `weft emulator`, with the habits of real managers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from weft.emulator.inventory import parse
from weft.emulator.journal import check, entries
from weft.emulator.main import Settings, build
from weft.emulator.quirks import Quirks
from weft.fabric.driver import Connection, DeviceKind, OperationPhase, not_used
from weft.fabric.errors import Conflict, OutcomeUnknown, Transient
from weft.fabric.redfish import RedfishDriver

DIALECTS = {
    "compose-by-patch": "ComposeByPatch",
    "add-resource-block": "AddResourceBlock",
    "compose-by-post": "ComposeByPost",
    "zone-endpoints": "ZoneEndpoints",
    "connections": "Connections",
    "sunfish": "Connections",
}
"""The idiom that the driver finds in each."""
INVENTORY = {
    "name": "rack",
    "hosts": [{"name": "sled", "count": 2, "zones": ["a"]}],
    "devices": [
        {
            "name": "gpu",
            "type": "GPU",
            "count": 4,
            "model": "H200",
            "memory": "141Gi",
            "zones": ["a"],
            "domains": {"nvlinkDomain": {"prefix": "nvl", "size": 2}},
        },
        {
            "name": "cxl",
            "type": "CXL",
            "count": 2,
            "model": "C",
            "memory": "512Gi",
            "zones": ["a"],
            "domains": {"cxlDomain": {"prefix": "cxl", "size": 2}},
        },
        {"name": "nvme", "type": "NVMe", "count": 2, "model": "N", "size": "4T", "zones": ["a"]},
    ],
}
NODE = frozenset({"gpu-0", "gpu-1", "cxl-0", "nvme-1"})


HOSTS = {"compose-by-post": ("host-sled-0", "host-sled-1")}
"""What the hosts are called, where that is not the name of a system."""


def hosts(dialect: str) -> tuple[str, str]:
    return HOSTS.get(dialect, ("sled-0", "sled-1"))


class Rack:
    """An emulated manager in this process, and what its journal says."""

    def __init__(self, url: str, journal: Path) -> None:
        self.url = url
        self.journal = journal

    def acts(self, *names: str) -> list[tuple[str, str, str]]:
        found = entries(self.journal.read_text().splitlines())
        return [
            (e["act"], e["host"], e["block"]) for e in found if e["act"] in names and e["outcome"] == "done"
        ]

    def exclusive(self) -> bool:
        return not check(self.journal.read_text().splitlines()).double_attached


@contextlib.asynccontextmanager
async def rack(
    folder: Path,
    dialect: str,
    quirks: str = "",
    *,
    part_bytes: Mapping[DeviceKind, int] = MappingProxyType({}),
    **settings: Any,
) -> AsyncIterator[tuple[Rack, Any]]:
    """A manager, and a way to make drivers for it."""
    made = Settings(dialect=dialect, quirks=Quirks.parse(quirks), journal=folder / "journal", **settings)
    server = TestServer(build(parse(INVENTORY), made))
    await server.start_server()
    drivers: list[RedfishDriver] = []

    def driver() -> RedfishDriver:
        url = str(server.make_url("")).rstrip("/")
        drivers.append(
            RedfishDriver(
                Connection(
                    url, requests_per_second=5000.0, request_timeout_seconds=5.0, part_bytes=part_bytes
                )
            )
        )
        return drivers[-1]

    try:
        yield Rack(str(server.make_url("")), folder / "journal"), driver
    finally:
        for each in drivers:
            await each.close()
        await server.close()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_inventory_is_the_same_in_every_dialect_and_one_idiom_is_found(
    dialect: str, tmp_path: Path
) -> None:
    async with rack(tmp_path, dialect) as (_, driver):
        seen = driver()
        read = await seen.inventory()
        assert (read.complete, read.problems, read.attachments) == (True, (), ())
        devices = {d.id: d for d in read.devices}
        assert sorted(devices) == [
            *(f"cxl-{n}" for n in range(2)),
            *(f"gpu-{n}" for n in range(4)),
            *(f"nvme-{n}" for n in range(2)),
        ]
        gpu = devices["gpu-2"]
        assert (gpu.kind, gpu.capacity_bytes, gpu.healthy) == (DeviceKind.ACCELERATOR, 141 << 30, True)
        assert gpu.attributes.get("nvlinkDomain") == "nvl-1"
        assert "pcieDomain" not in gpu.attributes
        assert devices["cxl-0"].attributes["cxlDomain"] == "cxl-0"
        assert devices["nvme-0"].capacity_bytes == 4_000_000_000_000
        assert [h.id for h in read.hosts] == [*hosts(dialect)]
        assert [h.closed for h in read.hosts] == ["", ""]
        assert gpu.reachable_hosts in (None, frozenset(hosts(dialect)))
        assert [w.idiom for w in (await seen.capabilities()).writes] == [DIALECTS[dialect]]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "quirks",
    [
        "",
        "permit-duplicates",
        "drop-on-duplicate",
        "system-only",
        "block-only",
        "weak-etags",
        "changing-etags",
        "no-location",
    ],
)
async def test_a_node_is_attached_verified_and_released_and_the_journal_agrees(
    dialect: str, quirks: str, tmp_path: Path
) -> None:
    host, other = hosts(dialect)
    async with rack(tmp_path, dialect, quirks) as (manager, driver):
        one = driver()
        await one.inventory()
        done = await one.attach("bind-1", host, NODE)
        assert done.phase is OperationPhase.SUCCEEDED
        assert await one.attached(host) == NODE
        read = await one.inventory()
        assert read.attachments == tuple(sorted((d, host) for d in NODE))
        again = driver()
        assert await again.attached(host) == NODE
        with pytest.raises(Conflict):
            await again.attach("bind-2", other, frozenset({"gpu-0", "gpu-3"}))
        await again.attach("bind-1", host, NODE)
        await again.detach("release-1", host, NODE)
        assert await again.attached(host) == frozenset()
        assert (await again.inventory()).attachments == ()
        assert sorted(manager.acts("attach")) == sorted(("attach", "sled-0", d) for d in NODE)
        assert sorted(manager.acts("detach")) == sorted(("detach", "sled-0", d) for d in NODE)
        assert manager.exclusive()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("quirks", ["500-although-done", "error-in-200"])
async def test_an_answer_that_lies_is_settled_by_reading(dialect: str, quirks: str, tmp_path: Path) -> None:
    async with rack(tmp_path, dialect, quirks) as (_, driver):
        one = driver()
        await one.inventory()
        wanted, host = frozenset({"gpu-0"}), hosts(dialect)[0]
        with contextlib.suppress(OutcomeUnknown):
            await one.attach("bind-1", host, wanted)
        assert await one.attached(host) == wanted
        with contextlib.suppress(OutcomeUnknown):
            await one.detach("release-1", host, wanted)
        assert await one.attached(host) == frozenset()


@pytest.mark.parametrize("dialect", ["connections", "sunfish"])
async def test_what_others_have_carved_is_a_device_and_its_whole_is_none(
    dialect: str, tmp_path: Path
) -> None:
    async with rack(tmp_path, dialect) as (manager, driver):
        await carve(manager.url, "cxl-1", 64, 128)
        one, other = driver(), driver()
        read = await one.inventory()
        sizes = {d.id: d.capacity_bytes >> 30 for d in read.devices if d.kind is DeviceKind.MEMORY}
        parts = sorted(sizes, key=lambda name: (sizes[name] == 512, sizes[name]))
        assert [sizes[name] for name in parts] == [64, 128, 512]
        assert (read.problems, "cxl-1" in sizes) == ((), False)
        small, big, _ = parts
        attributes = {d.id: d.attributes for d in read.devices}[small]
        assert (attributes["type"], attributes["model"], attributes["cxlDomain"]) == ("CXL", "C", "cxl-0")
        await one.attach("bind-1", "sled-0", frozenset({small}))
        await other.inventory()
        await other.attach("bind-2", "sled-1", frozenset({big}))
        with pytest.raises(Conflict):
            await driver().attach("bind-3", "sled-1", frozenset({small}))
        assert (await one.inventory()).attachments == tuple(sorted([(small, "sled-0"), (big, "sled-1")]))
        await driver().detach("release-1", "sled-0", frozenset({small}))
        assert await one.attached("sled-0") == frozenset()
        assert await one.attached("sled-1") == {big}
        assert manager.exclusive()


@pytest.mark.parametrize(
    ("dialect", "quirks"),
    [
        ("connections", ""),
        ("connections", "tasks"),
        ("sunfish", "no-location"),
        ("sunfish", "stale=0.1,500-although-done,drop-on-duplicate"),
    ],
)
async def test_parts_are_carved_when_they_are_attached_and_given_back_when_they_are_not(
    dialect: str, quirks: str, tmp_path: Path
) -> None:
    sizes = {DeviceKind.MEMORY: 128 << 30, DeviceKind.STORAGE: 1 << 40}
    async with rack(tmp_path, dialect, quirks, part_bytes=sizes) as (manager, driver):
        await carve(manager.url, "cxl-1", 200)
        one = driver()
        read = await one.inventory()
        names = {d.id: d.capacity_bytes >> 30 for d in read.devices if d.kind is DeviceKind.MEMORY}
        [strange] = [name for name, size in names.items() if size == 200]
        assert sorted(names.keys() - {strange}) == [
            *(f"cxl-0.{n}" for n in (1, 2, 3, 4)),
            "cxl-1.1",
            "cxl-1.2",
        ]
        assert {names[name] for name in names if name != strange} == {128}
        assert [d.id for d in read.devices if d.kind is DeviceKind.STORAGE] == [
            f"nvme-{n}.{part}" for n in (0, 1) for part in (1, 2, 3)
        ]
        wanted = frozenset({"cxl-0.2", "cxl-1.1", "nvme-0.1", "gpu-0"})
        await settle(driver, wanted, attach=True)
        assert (await driver().inventory()).attachments == tuple((d, "sled-0") for d in sorted(wanted))
        with pytest.raises((Conflict, OutcomeUnknown)):
            await driver().attach("bind-2", "sled-1", frozenset({"cxl-0.2"}))
        assert len(manager.acts("attach")) == len(wanted)
        await settle(driver, wanted, attach=False)
        # What others carved is left: it was the first that was made.
        assert len(manager.acts("create")) == len(manager.acts("delete")) + 1
        assert (await driver().inventory()).attachments == ()
        assert manager.exclusive()


async def settle(driver: Callable[[], Any], wanted: frozenset[str], *, attach: bool) -> None:
    """Ask, each time by the driver that this makes, until the manager shows it.

    A list and the members that come along with it are copies of different ages, so that a member may be lacking: it is
    read again.
    """
    end = asyncio.get_running_loop().time() + 20
    while asyncio.get_running_loop().time() < end:
        each = driver()
        ask = each.attach if attach else each.detach
        with contextlib.suppress(OutcomeUnknown, Conflict, Transient):
            operation = await ask("bind-1" if attach else "release-1", "sled-0", wanted)
            while not operation.phase.is_terminal:
                operation = await each.operation(operation.id)
        await asyncio.sleep(0.15)
        with contextlib.suppress(Transient):
            if await each.attached("sled-0") == (wanted if attach else frozenset()):
                return
    raise AssertionError(await driver().attached("sled-0"))


async def test_sizes_that_cannot_be_carved_are_refused_with_the_sizes_that_can(tmp_path: Path) -> None:
    async with rack(tmp_path, "connections", part_bytes={DeviceKind.MEMORY: 1500 << 20}) as (_, driver):
        read = await driver().inventory()
        assert [d for d in read.devices if d.kind is DeviceKind.MEMORY] == []
        assert read.problems == (
            "cxl-0, cxl-1: it cannot be carved into parts of 1500Mi: sizes are multiples of 1Gi from 1Gi to 512Gi;"
            " nearest: 1Gi and 2Gi",
        )
        assert "2 cannot be carved into parts of the size asked for" in not_used(read)


async def carve(url: str, device: str, *gibibytes: int) -> None:
    """Parts of a memory device that are there before Weft is."""
    path = f"{url.rstrip('/')}/redfish/v1/Chassis/cxl/MemoryDomains/{device}/MemoryChunks"
    async with aiohttp.ClientSession() as http:
        for size in gibibytes:
            body = {"AddressRangeType": "Volatile", "MemoryChunkSizeMiB": size * 1024}
            async with http.post(path, json=body) as answer:
                assert answer.status in (201, 202, 204, 500)  # it is made in any case
    await asyncio.sleep(0.15)  # longer than its copies are old


@pytest.mark.parametrize("dialect", ["connections", "sunfish"])
async def test_an_aggregator_with_all_its_habits_makes_no_connection_twice(
    dialect: str, tmp_path: Path
) -> None:
    habits = "stale=0.3,500-although-done,drop-on-duplicate"
    async with rack(tmp_path, dialect, habits) as (manager, driver):
        for number in range(3):
            # Each time a process that knows nothing of the one before, which was killed after its request.
            with contextlib.suppress(OutcomeUnknown, Conflict, Transient):
                await driver().attach("bind-1", "sled-0", NODE)
            assert len(manager.acts("create")) <= len(NODE), number
        one = driver()
        await settle(lambda: one, NODE, attach=True)
        assert sorted(manager.acts("attach")) == sorted(("attach", "sled-0", d) for d in NODE)
        await settle(lambda: one, NODE, attach=False)
        assert sorted(manager.acts("detach")) == sorted(("detach", "sled-0", d) for d in NODE)
        assert manager.exclusive()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_tasks_are_followed_in_every_dialect(dialect: str, tmp_path: Path) -> None:
    async with rack(tmp_path, dialect, "tasks") as (_, driver):
        one = driver()
        await one.inventory()
        host = hosts(dialect)[0]
        operation = await one.attach("bind-1", host, NODE)
        while not operation.phase.is_terminal:
            operation = await one.operation(operation.id)
        assert operation.phase is OperationPhase.SUCCEEDED
        assert await one.attached(host) == NODE


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_a_permissive_manager_would_share_is_a_conflict(dialect: str, tmp_path: Path) -> None:
    async with rack(tmp_path, dialect, permissive=True) as (manager, driver):
        one, other = driver(), driver()
        host, second = hosts(dialect)
        await one.attach("bind-1", host, frozenset({"gpu-0"}))
        for each in (one, other):
            with pytest.raises(Conflict, match=f"gpu-0 is attached to {host}"):
                await each.attach("bind-2", second, frozenset({"gpu-0"}))
        assert manager.acts("attach") == [("attach", "sled-0", "gpu-0")]

from __future__ import annotations

import pytest

from support.rack import FixedLeader, MemoryDriver
from weft.binding.inventory import Picture, accept
from weft.binding.session import FabricSession
from weft.fabric.errors import Busy

HOST = "sled-0"


def session(settle_seconds: float = 0.0) -> tuple[FabricSession, MemoryDriver, FixedLeader]:
    driver, leader = MemoryDriver(4, [HOST, "sled-1"]), FixedLeader()
    made = FabricSession(
        name="rack",
        uid="u",
        generation=1,
        endpoint="https://rack",
        driver=driver,
        leader=leader,
        request_timeout_seconds=1.0,
        settle_seconds=settle_seconds,
        epoch=1,
        managed=True,
    )
    return made, driver, leader


async def read(made: FabricSession) -> None:
    began = await made.read_inventory()
    made.take(accept(None, 0, made.reading), began)


async def test_a_device_settles_though_its_host_is_read_during_every_inventory() -> None:
    made, driver, _ = session()

    async def look() -> None:
        await made.attached(HOST)

    driver.before_inventory = look
    await made.attach("op", HOST, frozenset({"gpu-0"}), frozenset({"uid"}))
    driver.pairs.clear()
    for _ in range(3):
        await read(made)
    assert made.settled_absent("gpu-0", HOST)


async def test_a_device_does_not_settle_in_a_reading_that_began_before_the_call() -> None:
    made, driver, _ = session()
    await read(made)
    await made.attach("op", HOST, frozenset({"gpu-0"}), frozenset({"uid"}))
    driver.pairs.clear()
    assert not made.settled_absent("gpu-0", HOST)


async def test_a_device_seen_attached_settles_only_after_it_is_gone() -> None:
    made, driver, _ = session()
    driver.pairs = {("gpu-0", HOST)}
    await read(made)
    await read(made)
    assert not made.settled_absent("gpu-0", HOST)
    driver.pairs = set()
    await read(made)
    assert made.settled_absent("gpu-0", HOST)


async def test_a_device_that_somebody_attached_elsewhere_is_absent_from_our_host() -> None:
    made, driver, _ = session()
    driver.pairs = {("gpu-0", "sled-1")}
    await read(made)
    await read(made)
    assert made.settled_absent("gpu-0", HOST)


async def test_two_readings_have_to_be_as_far_apart_as_the_fabric_asks() -> None:
    made, _, _ = session(settle_seconds=60)
    await read(made)
    await read(made)
    assert not made.settled_absent("gpu-0", HOST)


async def test_an_incomplete_reading_settles_nothing() -> None:
    made, driver, _ = session()
    driver.complete = False
    await read(made)
    await read(made)
    assert not made.settled_absent("gpu-0", HOST)


async def test_an_inventory_that_began_earlier_does_not_overwrite_what_was_read_of_a_host_since() -> None:
    made, driver, _ = session()
    await read(made)

    async def attach() -> None:
        driver.before_inventory = _nothing
        driver.pairs.add(("gpu-1", "sled-1"))
        await made.attach("op", HOST, frozenset({"gpu-0"}), frozenset({"uid"}))
        await made.attached(HOST)

    driver.before_inventory = attach
    await read(made)
    assert made.picture is not None
    assert made.picture.inventory.attachments == (("gpu-0", HOST),)
    await read(made)
    assert made.picture.inventory.attachments == (("gpu-0", HOST), ("gpu-1", "sled-1"))


async def test_no_call_starts_when_the_lease_ran_out_while_an_earlier_operation_was_looked_for() -> None:
    made, driver, leader = session()

    async def slow() -> None:
        leader.left = 0.0

    driver.before_find = slow
    with pytest.raises(Busy):
        await made.attach("op", HOST, frozenset({"gpu-0"}), frozenset({"uid"}))
    assert driver.pairs == set()


async def _nothing() -> None:
    return None


def test_a_picture_in_doubt_is_taken_without_counting_as_a_complete_reading() -> None:
    made, _, _ = session()
    made.take(Picture(made.reading, "InventoryIncomplete"), 1.0)
    assert made.picture is not None
    assert not made.settled_absent("gpu-0", HOST)

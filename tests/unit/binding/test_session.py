from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from support.rack import FixedLeader, MemoryDriver
from weft.binding.evidence import Certainty
from weft.binding.inventory import Picture, accept
from weft.binding.session import FabricSession
from weft.fabric.driver import Operation, OperationPhase, Unread
from weft.fabric.errors import Busy, CapacityExhausted, OutcomeUnknown

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
        opened=0.0,
        epoch=1,
        managed=True,
    )
    return made, driver, leader


async def read(made: FabricSession, at: float = 1.0) -> None:
    began = made.evidence.next()
    reading = await made.driver.inventory()
    made.take(accept(None, 0, reading), reading, began, at)


def certainty(made: FabricSession) -> Certainty:
    return made.evidence.certainty("uid", "gpu-0", HOST, made.settle_seconds)


async def attach(made: FabricSession) -> None:
    await made.attach("op", HOST, frozenset({"gpu-0"}), frozenset({"uid"}))


async def test_a_device_settles_though_its_host_is_read_during_every_inventory() -> None:
    made, driver, _ = session()

    async def look() -> None:
        await made.attached(HOST)

    driver.before_inventory = look
    await attach(made)
    driver.pairs.clear()
    for _ in range(3):
        await read(made)
    assert certainty(made) is Certainty.SETTLED


async def test_a_device_does_not_settle_in_a_reading_that_began_before_the_call() -> None:
    made, driver, _ = session()
    await read(made)
    await attach(made)
    driver.pairs.clear()
    assert certainty(made) is not Certainty.SETTLED


async def test_a_device_seen_attached_settles_only_after_it_is_gone() -> None:
    made, driver, _ = session()
    driver.pairs = {("gpu-0", HOST)}
    await read(made)
    await read(made)
    assert certainty(made) is not Certainty.SETTLED
    driver.pairs = set()
    await read(made)
    assert certainty(made) is Certainty.SETTLED


async def test_a_device_that_somebody_attached_elsewhere_is_absent_from_our_host() -> None:
    made, driver, _ = session()
    driver.pairs = {("gpu-0", "sled-1")}
    await read(made)
    await read(made)
    assert certainty(made) is Certainty.SETTLED


@pytest.mark.shows("Fabric.spec.limits.settleSeconds")
async def test_two_readings_have_to_be_as_far_apart_as_the_fabric_asks() -> None:
    made, _, _ = session(settle_seconds=60)
    await read(made)
    await read(made)
    assert certainty(made) is not Certainty.SETTLED


async def test_an_incomplete_reading_settles_nothing() -> None:
    made, driver, _ = session()
    driver.complete = False
    await read(made)
    await read(made)
    assert certainty(made) is not Certainty.SETTLED


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


def raises(error: Exception) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


async def test_a_device_seen_after_an_answered_attach_is_free_as_soon_as_it_is_detached() -> None:
    made, _, _ = session(settle_seconds=60)
    await attach(made)
    assert await made.attached(HOST) == {"gpu-0"}
    await made.detach("op-release", HOST, frozenset({"gpu-0"}))
    assert await made.attached(HOST) == frozenset()
    assert certainty(made) is Certainty.CLEAR


async def test_a_device_whose_detach_the_manager_calls_failed_is_not_free_before_it_has_settled() -> None:
    made, driver, _ = session(settle_seconds=30.0)
    await attach(made)
    await made.attached(HOST)

    async def fail(*_: object) -> Operation:
        driver.pairs.clear()
        return Operation("/tasks/1", OperationPhase.FAILED, "no power")

    driver.detach = fail  # type: ignore[method-assign]
    await made.detach("op-release", HOST, frozenset({"gpu-0"}))
    await made.attached(HOST)
    assert certainty(made) is Certainty.OPEN


async def test_a_device_whose_first_attach_had_no_answer_settles_although_the_repeat_bound_it() -> None:
    made, driver, _ = session(settle_seconds=60)
    driver.before_attach = raises(OutcomeUnknown("no answer"))
    with pytest.raises(OutcomeUnknown):
        await attach(made)
    driver.before_attach = _nothing
    await attach(made)
    await made.attached(HOST)
    await made.detach("op-release", HOST, frozenset({"gpu-0"}))
    await made.attached(HOST)
    assert certainty(made) is Certainty.OPEN
    await read(made, 10)
    await read(made, 69)
    assert certainty(made) is Certainty.OPEN
    await read(made, 70)
    assert certainty(made) is Certainty.SETTLED


async def test_an_unanswered_attach_is_over_once_settle_seconds_have_passed_with_the_device_attached() -> (
    None
):
    made, driver, _ = session(settle_seconds=60)
    driver.before_attach = raises(OutcomeUnknown("no answer"))
    with pytest.raises(OutcomeUnknown):
        await attach(made)
    driver.pairs = {("gpu-0", HOST)}
    await read(made, 10)
    assert made.evidence.may_come_late("gpu-0", HOST, 60)
    await read(made, 70)
    await made.detach("op-release", HOST, frozenset({"gpu-0"}))
    await made.attached(HOST)
    assert certainty(made) is Certainty.CLEAR


async def test_an_attach_that_the_manager_refused_locks_nothing() -> None:
    made, driver, _ = session(settle_seconds=60)
    made.evidence.claimed({"uid"})
    driver.before_attach = raises(CapacityExhausted("full"))
    with pytest.raises(CapacityExhausted):
        await attach(made)
    await made.attached(HOST)
    assert certainty(made) is Certainty.CLEAR


async def test_a_claim_of_an_earlier_leader_settles_though_our_repeat_of_its_attach_was_refused() -> None:
    made, driver, _ = session(settle_seconds=60)
    driver.before_attach = raises(CapacityExhausted("full"))
    with pytest.raises(CapacityExhausted):
        await attach(made)
    await made.attached(HOST)
    assert certainty(made) is Certainty.OPEN


async def test_nothing_is_read_or_asked_of_a_host_while_a_task_changes_it() -> None:
    made, driver, _ = session()
    tasks = {"task-1": OperationPhase.RUNNING}

    async def start(*_: object) -> Operation:
        return Operation("task-1", OperationPhase.RUNNING)

    async def look(id: str) -> Operation:
        return Operation(id, tasks[id])

    driver.attach = start  # type: ignore[method-assign]
    driver.operation = look  # type: ignore[method-assign]
    with pytest.raises(Busy):
        await attach(made)
    with pytest.raises(Busy):
        await made.attached(HOST)
    with pytest.raises(Busy):
        await made.detach("op-release", HOST, frozenset({"gpu-0"}))
    assert driver.calls == []
    tasks["task-1"] = OperationPhase.SUCCEEDED
    driver.pairs = {("gpu-0", HOST)}
    assert await made.attached(HOST) == {"gpu-0"}


async def test_an_incomplete_picture_is_taken_without_counting_as_a_complete_reading() -> None:
    made, _, _ = session()
    reading = await made.driver.inventory()
    made.take(Picture(reading, "InventoryIncomplete"), reading, made.evidence.next(), 1.0)
    assert made.picture is not None
    assert certainty(made) is not Certainty.SETTLED


async def read_partly(made: FabricSession, driver: MemoryDriver, at: float, unread: Unread) -> None:
    began = made.evidence.next()
    reading = replace(await driver.inventory(), complete=False, unread=unread)
    made.take(accept(None, 0, reading), reading, began, at)


async def test_a_block_that_cannot_be_read_keeps_no_other_device_from_settling() -> None:
    made, driver, _ = session(settle_seconds=60)
    await attach(made)
    driver.pairs.clear()
    for at in (10, 70):
        await read_partly(made, driver, at, Unread(devices=frozenset({"gpu-3"})))
    assert certainty(made) is Certainty.SETTLED


@pytest.mark.parametrize("unread", [Unread(devices=frozenset({"gpu-0"})), Unread(hosts=frozenset({HOST}))])
async def test_a_device_does_not_settle_while_itself_or_its_host_cannot_be_read(unread: Unread) -> None:
    made, driver, _ = session(settle_seconds=60)
    await attach(made)
    driver.pairs.clear()
    for at in (10, 70):
        await read_partly(made, driver, at, unread)
    assert certainty(made) is Certainty.OPEN


async def test_what_a_reading_repeats_from_an_earlier_one_is_no_sight_of_the_device() -> None:
    made, driver, _ = session(settle_seconds=60)
    await attach(made)
    await read_partly(made, driver, 10, Unread(devices=frozenset({"gpu-0"})))
    assert certainty(made) is Certainty.OPEN


async def test_devices_that_a_shrunken_inventory_still_shows_settle_and_those_it_lost_do_not() -> None:
    made, driver, _ = session(settle_seconds=60)
    await attach(made)
    await made.attach("op2", HOST, frozenset({"gpu-3"}), frozenset({"uid-3"}))
    driver.pairs.clear()
    for lost in ("gpu-1", "gpu-2", "gpu-3"):
        del driver.devices[lost]
    for at in (10, 70):
        reading = await driver.inventory()
        made.take(accept(None, 4, reading), reading, made.evidence.next(), at)
    assert certainty(made) is Certainty.SETTLED
    assert made.evidence.certainty("uid-3", "gpu-3", HOST, 60) is Certainty.OPEN

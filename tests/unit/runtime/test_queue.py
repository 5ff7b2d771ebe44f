from __future__ import annotations

import asyncio
import itertools

import pytest

from weft.binding.keys import FabricKey, LogicalNodeKey
from weft.runtime.queue import WorkQueue

pytestmark = pytest.mark.virtual_time

KEY = LogicalNodeKey("a", "n")


async def test_a_key_added_many_times_is_taken_once() -> None:
    queue = WorkQueue(4)
    for _ in range(5):
        queue.add(KEY)
    assert await queue.take() == KEY
    queue.done(KEY)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(queue.take(), 0.05)


async def test_a_key_is_not_given_to_a_second_worker_and_comes_again_afterwards() -> None:
    queue = WorkQueue(4)
    queue.add(KEY)
    await queue.take()
    queue.add(KEY)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(queue.take(), 0.05)
    queue.done(KEY)
    assert await asyncio.wait_for(queue.take(), 1) == KEY


async def test_failures_in_a_row_wait_twice_as_long_each_and_a_success_forgets_them() -> None:
    queue = WorkQueue(4)
    delays = [queue.retry(KEY) for _ in range(4)]
    assert [later / earlier for earlier, later in itertools.pairwise(delays)] == [2, 2, 2]
    queue.succeeded(KEY)
    assert queue.retry(KEY) == delays[0]


async def test_the_earlier_of_two_appointments_stands() -> None:
    queue = WorkQueue(4)
    queue.add(KEY, 60)
    queue.add(KEY, 0.01)
    queue.add(KEY, 30)
    assert await asyncio.wait_for(queue.take(), 1) == KEY


async def test_an_event_makes_a_waiting_appointment_unnecessary() -> None:
    queue = WorkQueue(4)
    queue.add(KEY, 0.05)
    queue.add(KEY)
    await queue.take()
    queue.done(KEY)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(queue.take(), 0.15)


async def test_a_worker_that_waits_is_woken_by_a_new_key() -> None:
    queue = WorkQueue(4)
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add(KEY)
    assert await asyncio.wait_for(waiting, 1) == KEY


async def test_one_key_wakes_one_of_the_workers_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = WorkQueue(32)
    queue.add(LogicalNodeKey("a", "later"), 60)
    looks = 0
    look = queue._next_lane

    def counted() -> str | None:
        nonlocal looks
        looks += 1
        return look()

    workers = [asyncio.create_task(queue.take()) for _ in range(32)]
    await asyncio.sleep(0)
    monkeypatch.setattr(queue, "_next_lane", counted)
    queue.add(KEY)
    done, waiting = await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(waiting)) == (1, 31)
    assert looks <= 4
    for worker in waiting:
        worker.cancel()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_key_is_not_lost_with_the_worker_that_it_would_have_gone_to(when: str) -> None:
    queue = WorkQueue(4)
    first, second = (asyncio.create_task(queue.take()) for _ in range(2))
    await asyncio.sleep(0)
    if when == "before":
        first.cancel()
    queue.add(KEY)
    first.cancel()
    assert await asyncio.wait_for(second, 1) == KEY


async def test_keys_that_come_at_once_are_taken_by_as_many_workers() -> None:
    queue = WorkQueue(8)
    workers = [asyncio.create_task(queue.take()) for _ in range(8)]
    await asyncio.sleep(0)
    keys = {LogicalNodeKey(f"team-{number}", "n") for number in range(8)}
    for key in keys:
        queue.add(key, 0.01)
    assert set(await asyncio.wait_for(asyncio.gather(*workers), 1)) == keys


async def test_a_worker_that_is_told_to_end_ends_though_a_key_arrives_at_the_same_moment() -> None:
    queue = WorkQueue(4)

    async def work() -> None:
        while True:
            key = await queue.take()
            queue.done(key)

    queue.add(LogicalNodeKey("a", "later"), 60)
    workers = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0.01)
    queue.add(KEY)
    await asyncio.sleep(0)
    for worker in workers:
        worker.cancel()
    done, pending = await asyncio.wait(workers, timeout=1)
    assert (len(done), len(pending)) == (3, 0)


async def test_appointments_that_events_made_unnecessary_are_forgotten() -> None:
    queue = WorkQueue(4)
    for _ in range(5000):
        queue.add(KEY, 1e6)
        queue.add(KEY)
        queue.done(await queue.take())
    assert len(queue._timers) < 200


async def test_a_tenant_with_ten_thousand_keys_delays_another_tenants_key_by_one_turn() -> None:
    queue = WorkQueue(1)
    for number in range(10_000):
        queue.add(LogicalNodeKey("many", str(number)))
    queue.add(LogicalNodeKey("few", "n"))
    queue.add(FabricKey("rack"))
    order = []
    for _ in range(6):
        order.append(await queue.take())
        queue.done(order[-1])
    assert order.index(LogicalNodeKey("few", "n")) <= 2
    assert order.index(FabricKey("rack")) <= 2
    assert [key for key in order if getattr(key, "namespace", "") == "many"] == [
        LogicalNodeKey("many", str(number)) for number in range(4)
    ]


async def test_a_tenant_whose_keys_take_long_leaves_workers_to_the_others() -> None:
    queue = WorkQueue(8)
    for number in range(100):
        queue.add(LogicalNodeKey("slow", str(number)))
    held = [await asyncio.wait_for(queue.take(), 1) for _ in range(6)]
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    queue.add(LogicalNodeKey("other", "n"))
    assert await asyncio.wait_for(waiting, 1) == LogicalNodeKey("other", "n")
    queue.done(held[0])
    assert await asyncio.wait_for(queue.take(), 1) == LogicalNodeKey("slow", str(len(held)))


async def test_one_worker_is_enough_for_any_number_of_tenants() -> None:
    queue = WorkQueue(1)
    keys = {LogicalNodeKey(f"team-{number % 3}", str(number)) for number in range(9)}
    for key in keys:
        queue.add(key)
    done = set()
    for _ in keys:
        done.add(key := await asyncio.wait_for(queue.take(), 1))
        queue.done(key)
    assert done == keys


async def test_nobody_but_a_change_of_its_object_hurries_a_key_that_fails() -> None:
    queue = WorkQueue(4)
    queue.add(KEY)
    await queue.take()
    queue.add(KEY)
    for _ in range(12):
        queue.retry(KEY)
    queue.done(KEY)
    queue.add(KEY)
    queue.add(KEY, 0.01)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(queue.take(), 0.05)
    queue.add(KEY, changed=True)
    assert await asyncio.wait_for(queue.take(), 1) == KEY
    assert queue.retry(KEY) == 60, "the failures before the change still count"


async def test_a_key_that_changes_hurry_through_a_moment_of_trouble_does_not_wait_a_minute_afterwards() -> (
    None
):
    queue = WorkQueue(4)
    queue.add(KEY)
    delays = []
    for _ in range(12):
        await queue.take()
        delays.append(queue.retry(KEY))
        queue.done(KEY)
        queue.add(KEY, changed=True)
    assert max(delays) < 10
    await queue.take()
    queue.succeeded(KEY)
    assert queue.retry(KEY) == delays[0]


async def test_a_change_while_a_key_is_about_to_fail_is_not_lost() -> None:
    queue = WorkQueue(4)
    queue.add(KEY)
    await queue.take()
    queue.add(KEY, changed=True)
    for _ in range(12):
        queue.retry(KEY)
    queue.done(KEY)
    assert await asyncio.wait_for(queue.take(), 1) == KEY


async def test_a_key_that_fails_for_weeks_is_tried_every_minute() -> None:
    queue = WorkQueue(4)
    assert [queue.retry(KEY) for _ in range(5000)][-1] == 60


async def test_the_api_servers_wish_to_be_left_alone_is_respected() -> None:
    queue = WorkQueue(4)
    assert queue.retry(KEY, 7.0) == 7.0

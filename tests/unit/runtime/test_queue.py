from __future__ import annotations

import asyncio
import itertools

import pytest

from weft.runtime.queue import Key, WorkQueue

KEY = Key("node", "a", "n")


async def test_a_key_added_many_times_is_taken_once() -> None:
    queue = WorkQueue()
    for _ in range(5):
        queue.add(KEY)
    assert await queue.take() == KEY
    queue.done(KEY)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(queue.take(), 0.05)


async def test_a_key_is_not_given_to_a_second_worker_and_comes_again_afterwards() -> None:
    queue = WorkQueue()
    queue.add(KEY)
    await queue.take()
    queue.add(KEY)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(queue.take(), 0.05)
    queue.done(KEY)
    assert await asyncio.wait_for(queue.take(), 1) == KEY


async def test_failures_in_a_row_wait_twice_as_long_each_and_a_success_forgets_them() -> None:
    queue = WorkQueue()
    delays = [queue.retry(KEY) for _ in range(4)]
    assert [later / earlier for earlier, later in itertools.pairwise(delays)] == [2, 2, 2]
    queue.succeeded(KEY)
    assert queue.retry(KEY) == delays[0]


async def test_the_earlier_of_two_appointments_stands() -> None:
    queue = WorkQueue()
    queue.add_after(KEY, 60)
    queue.add_after(KEY, 0.01)
    queue.add_after(KEY, 30)
    assert await asyncio.wait_for(queue.take(), 1) == KEY


async def test_an_event_makes_a_waiting_appointment_unnecessary() -> None:
    queue = WorkQueue()
    queue.add_after(KEY, 0.05)
    queue.add(KEY)
    await queue.take()
    queue.done(KEY)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(queue.take(), 0.15)


async def test_a_worker_that_waits_is_woken_by_a_new_key() -> None:
    queue = WorkQueue()
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add(KEY)
    assert await asyncio.wait_for(waiting, 1) == KEY


async def test_a_worker_that_is_told_to_end_ends_though_a_key_arrives_at_the_same_moment() -> None:
    queue = WorkQueue()

    async def work() -> None:
        while True:
            key = await queue.take()
            queue.done(key)

    queue.add_after(Key("node", "a", "later"), 60)
    workers = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0.01)
    queue.add(KEY)
    await asyncio.sleep(0)
    for worker in workers:
        worker.cancel()
    done, pending = await asyncio.wait(workers, timeout=1)
    assert (len(done), len(pending)) == (3, 0)


async def test_appointments_that_events_made_unnecessary_are_forgotten() -> None:
    queue = WorkQueue()
    for _ in range(5000):
        queue.add_after(KEY, 1e6)
        queue.add(KEY)
        queue.done(await queue.take())
    assert len(queue._timers) < 200

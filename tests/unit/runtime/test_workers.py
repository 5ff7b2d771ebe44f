from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from weft.binding.keys import LogicalNodeKey, PlacementKey
from weft.cluster import ClusterError, ConflictError
from weft.controllers import Now
from weft.runtime.health import HealthServer
from weft.runtime.metrics import OperatorMetrics
from weft.runtime.queue import WorkQueue
from weft.runtime.workers import Workers

KEY = LogicalNodeKey("a", "n")
NOW = Now(datetime(2026, 1, 1, tzinfo=UTC), 7.0)


class Scripted:
    """A controller that ends its tries as it was told, and then succeeds."""

    watches = ()

    def __init__(self, *ends: Exception) -> None:
        self.ends = list(ends)
        self.worked: list[tuple[Hashable, Now]] = []

    async def reconcile(self, key: Hashable, now: Now) -> float | None:
        self.worked.append((key, now))
        if self.ends:
            raise self.ends.pop(0)
        return None


class Queue(WorkQueue):
    """Says when the work on a key has ended."""

    def __init__(self) -> None:
        super().__init__(2)
        self.ended = asyncio.Event()

    def done(self, key: Hashable) -> None:
        super().done(key)
        self.ended.set()


class Bench:
    def __init__(self, *ends: Exception) -> None:
        self.controller, self.metrics, self.queue = Scripted(*ends), OperatorMetrics(), Queue()
        self.workers = Workers({LogicalNodeKey: self.controller}, self.queue, self.metrics, lambda: NOW)

    async def try_once(self) -> None:
        """One reconciliation of the key, now."""
        self.queue.add(KEY, changed=True)
        worker = asyncio.create_task(self.workers.work())
        async with asyncio.timeout(5):
            await self.queue.ended.wait()
        self.queue.ended.clear()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"controller": "logicalnode", **labels})


def refusal(message: str, status: int = 403) -> ClusterError:
    return ClusterError(status, "Forbidden", message)


async def test_a_controller_is_told_the_moment_and_reads_no_clock() -> None:
    bench = Bench()
    await bench.try_once()
    assert bench.controller.worked == [(KEY, NOW)]


async def test_a_refusal_is_logged_once_until_its_words_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "weft.runtime.workers")
    bench = Bench(refusal("quota: 3 used"), refusal("quota: 4 used"), refusal("denied"), refusal("denied"))
    for _ in range(5):
        await bench.try_once()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3, said
    assert "quota: 3 used" in said[0]
    assert "denied" in said[1]
    assert "succeeds again" in said[2]


async def test_what_fails_is_in_the_metrics_until_it_succeeds() -> None:
    bench = Bench(refusal("quota"), refusal("broken webhook", 500))
    await bench.try_once()
    assert bench.value("weft_failing_keys") == 1
    await bench.try_once()
    assert bench.value("weft_failing_keys") == 1
    assert bench.value("weft_reconcile_errors_total", error="ClusterError 403") == 1
    assert bench.value("weft_reconcile_errors_total", error="ClusterError 500") == 1
    assert bench.workers.failures() == {"logicalnode": 1}
    await bench.try_once()
    assert bench.value("weft_failing_keys") == 0


async def test_a_conflict_is_said_only_when_it_does_not_pass(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(*[ConflictError(409, "Conflict", "the object has been modified")] * 8)
    for _ in range(4):
        await bench.try_once()
    assert caplog.messages == []
    for _ in range(4):
        await bench.try_once()
    (said,) = caplog.messages
    assert "the object has been modified" in said


async def test_a_defect_is_logged_with_its_trace_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(ValueError("no such thing"))
    await bench.try_once()
    await bench.try_once()
    assert [bool(record.exc_info) for record in caplog.records if record.levelname == "ERROR"] == [True]
    assert len(bench.controller.worked) == 2


async def test_a_failing_key_is_said_at_readyz_and_keeps_the_operator_ready() -> None:
    bench = Bench(refusal("quota"))
    await bench.try_once()
    health = HealthServer(bench.metrics.registry, lambda: True, lambda: True, bench.workers.failures)
    port = await health.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            answer: Any = await session.get(f"http://127.0.0.1:{port}/readyz")
            assert (answer.status, await answer.text()) == (200, "ok\nfailing logicalnode: 1\n")
    finally:
        await health.stop()


@pytest.mark.parametrize(("took", "least", "most"), [(0.08, 0.049, 5.0), (0.02, 0.0, 0.049)])
async def test_what_looks_at_the_whole_cluster_for_long_rests_afterwards_and_nothing_else_waits_for_it(
    took: float, least: float, most: float
) -> None:
    seconds, starts = 0.0, list[tuple[Hashable, float]]()
    loop = asyncio.get_running_loop()

    class Slow(Scripted):
        async def reconcile(self, key: Hashable, now: Now) -> float | None:
            nonlocal seconds
            seconds += took
            starts.append((key, loop.time()))
            return None

    queue, slow = WorkQueue(2), Slow()
    workers = Workers(
        {PlacementKey: slow, LogicalNodeKey: slow},
        queue,
        OperatorMetrics(),
        lambda: Now(NOW.wall, seconds),
        {PlacementKey},
    )
    tasks = [asyncio.create_task(workers.work()) for _ in range(2)]
    queue.add(PlacementKey())
    while not starts:  # noqa: ASYNC110
        await asyncio.sleep(0)
    queue.add(PlacementKey())
    queue.add(KEY)
    async with asyncio.timeout(5):
        while len(starts) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    assert {key for key, _ in starts} == {PlacementKey(), KEY}
    first, again = (at for key, at in starts if key == PlacementKey())
    assert least <= again - first < most
    if least:
        assert starts[1][0] == KEY

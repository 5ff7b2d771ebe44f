"""What may still happen to a device: calls without an answer, tasks that run on, devices that come and go."""

from __future__ import annotations

import asyncio

import pytest

from support.rack import Rack, condition
from weft.api.resources import (
    LOGICAL_NODES,
)
from weft.fabric.driver import Operation, OperationPhase
from weft.fabric.errors import NotFound, OutcomeUnknown


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


async def test_a_device_whose_first_attach_had_no_answer_is_not_free_before_it_has_settled(
    rack: Rack,
) -> None:
    await rack.build()
    answers = [OutcomeUnknown("no answer")]

    async def hang() -> None:
        if answers:
            raise answers.pop()

    rack.driver.before_attach = hang
    await rack.ask("n")
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.driver.pairs == set()
    assert len(rack.claims()) == 2
    # Whoever asks next does not get them, and the next leader knows, too.
    rack.restart()
    await rack.poll()
    await rack.ask("m", gpus=3)
    await rack.work("n")
    assert condition(rack.node("m"), "Bound")[0] == "False"
    for _ in range(2):
        rack.clock.forward(60)
        await rack.poll()
    assert rack.cluster.get(LOGICAL_NODES, "n", "a") is None
    await rack.work("m")
    assert condition(rack.node("m"), "Bound")[0] == "True"


async def test_a_claim_that_an_earlier_leader_was_attaching_settles_although_the_host_shows_its_device(
    rack: Rack,
) -> None:
    await rack.build()

    async def die() -> None:
        rack.driver.pairs |= {("gpu-0", "sled-0"), ("gpu-1", "sled-0")}
        raise asyncio.CancelledError

    rack.driver.before_attach = die
    with pytest.raises(asyncio.CancelledError):
        await rack.ask("n")
    rack.restart()
    await rack.poll()
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.driver.pairs == set()
    assert len(rack.claims()) == 2
    for _ in range(2):
        rack.clock.forward(60)
        await rack.poll()
    assert rack.claims() == []


async def test_a_running_task_keeps_its_host_although_the_node_is_deleted(rack: Rack) -> None:
    await rack.build()
    phase = OperationPhase.RUNNING

    async def start(operation: str, host: str, devices: frozenset[str]) -> Operation:
        return Operation("task-1", OperationPhase.RUNNING)

    async def look(id: str) -> Operation:
        return Operation(id, phase)

    rack.driver.attach = start  # type: ignore[method-assign]
    rack.driver.operation = look  # type: ignore[method-assign]
    rack.fabrics.session("rack").settle_seconds = 1  # type: ignore[union-attr]
    await rack.ask("n")
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    for _ in range(3):
        await rack.work("n")
        await rack.poll()
    assert len(rack.claims()) == 2
    assert "works on it" in str(rack.node("n")["status"]["conditions"])
    phase = OperationPhase.SUCCEEDED
    rack.driver.pairs |= {(claim["spec"]["device"], claim["spec"]["host"]) for claim in rack.claims()}
    await rack.work("n")
    assert (rack.claims(), rack.driver.pairs) == ([], set())


async def test_a_task_that_an_earlier_leader_began_keeps_its_host_although_nothing_is_shown_yet(
    rack: Rack,
) -> None:
    await rack.build()
    keys: list[str] = []

    async def die(operation: str, host: str, devices: frozenset[str]) -> Operation:
        keys.append(operation)
        raise asyncio.CancelledError

    async def find(key: str) -> Operation | None:
        return Operation("task-1", OperationPhase.RUNNING) if key in keys else None

    async def look(id: str) -> Operation:
        return Operation(id, OperationPhase.RUNNING)

    rack.driver.attach = die  # type: ignore[method-assign]
    rack.driver.find_operation = find  # type: ignore[method-assign]
    rack.driver.operation = look  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await rack.ask("n")
    rack.restart()
    await rack.poll()
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    for _ in range(3):
        await rack.work("n")
        rack.clock.forward(60)
        await rack.poll()
    assert len(rack.claims()) == 2


async def test_a_host_that_the_manager_removed_does_not_keep_the_node_for_ever(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    host = rack.node("n")["status"]["host"]
    rack.hosts.remove(host)
    rack.driver.pairs.clear()

    async def gone() -> None:
        raise NotFound(f"no system {host}")

    rack.driver.before_attached = gone
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert len(rack.claims()) == 2
    assert condition(rack.node("n"), "Bound") == ("False", "Releasing")
    for _ in range(3):
        rack.clock.forward(30)
        await rack.poll()
    assert (rack.claims(), rack.cluster.get(LOGICAL_NODES, "n", "a")) == ([], None)


async def test_a_device_that_appears_late_is_waited_for_and_not_quarantined(rack: Rack) -> None:
    await rack.build()
    await rack.ask("other", gpus=1)
    late = {"gpu-1"}
    attached = rack.driver.attached

    async def without_the_late_one(host: str) -> frozenset[str]:
        return await attached(host) - late

    rack.driver.attached = without_the_late_one  # type: ignore[method-assign]
    await rack.ask("n")
    for _ in range(5):
        rack.clock.forward(0.5)
        await rack.work("n")
    assert condition(rack.node("n"), "Bound") == ("False", "Attaching")
    late.clear()
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert {condition(claim, "Quarantined")[0] for claim in rack.claims()} == {""}


async def test_a_device_that_vanishes_while_its_node_is_released_is_detached_when_it_comes_back(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n")
    pairs = set(rack.driver.pairs)
    rack.driver.pairs.clear()
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert len(rack.claims()) == 2
    rack.driver.pairs |= pairs
    await rack.work("n")
    assert (rack.claims(), rack.driver.pairs) == ([], set())

"""A manager that refuses is asked at growing intervals, whoever asks for another try, until something changes."""

from __future__ import annotations

import logging

import pytest

from support.rack import Rack, condition
from weft.api.resources import DEVICE_ATTACHMENTS, LOGICAL_NODES
from weft.binding.keys import LogicalNodeKey
from weft.fabric.errors import AuthFailed, FabricError, InvalidRequest, Transient

MINUTE = 60


async def refusing(rack: Rack, error: FabricError) -> None:
    """A logical node whose devices the manager does not attach."""
    await rack.build()

    async def refuse() -> None:
        raise error

    rack.driver.before_attach = refuse
    rack.driver.calls.clear()
    await rack.ask("n")


def attaches(rack: Rack) -> int:
    return rack.driver.calls.count("attach")


@pytest.mark.parametrize(
    "error", [Transient("no"), AuthFailed("no"), InvalidRequest("no")], ids=lambda error: type(error).__name__
)
async def test_a_refusing_manager_is_asked_a_few_times_a_minute_and_logged_once_although_others_ask_each_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: FabricError
) -> None:
    rack = Rack(monkeypatch)
    with caplog.at_level(logging.INFO):
        await refusing(rack, error)
        writes = len(rack.cluster.writes)
        for _ in range(MINUTE):
            await rack.poll()
            await rack.work("n")
            await rack.work("n")
    assert 2 <= attaches(rack) <= 8
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 2
    assert len(caplog.records) <= 12
    # The Fabric says of it once, and the pool that devices are reserved.
    news = [write for write in rack.cluster.writes[writes:] if write[1] == "logicalnodes"]
    assert news == []


async def test_a_change_of_what_concerns_it_brings_the_next_try_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch)
    await refusing(rack, Transient("no"))
    for _ in range(MINUTE):
        await rack.poll()
        await rack.work("n")
    before = attaches(rack)
    await rack.work("n")
    assert attaches(rack) == before
    await rack.set_ready("node-sled-0", ready=False)
    await rack.work("n")
    assert attaches(rack) == before + 1


async def test_a_deleted_node_is_released_at_once_however_long_the_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch, settle=1)
    await refusing(rack, Transient("no"))
    for _ in range(MINUTE):
        await rack.poll()
        await rack.work("n")
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    for _ in range(3):
        await rack.work("n")
        await rack.poll()
    assert rack.cluster.get(LOGICAL_NODES, "n", "a") is None
    assert rack.cluster.list(DEVICE_ATTACHMENTS) == []


async def test_after_a_success_the_next_failure_is_a_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rack = Rack(monkeypatch)
    await refusing(rack, Transient("no"))
    for _ in range(MINUTE):
        await rack.poll()
        await rack.work("n")

    async def take() -> None:
        pass

    rack.driver.before_attach = take
    rack.clock.forward(2 * MINUTE)
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_those_that_failed_together_do_not_try_again_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rack = Rack(monkeypatch)
    await refusing(rack, Transient("no"))
    await rack.ask("m")
    pauses = set()
    for name in ("n", "m"):
        rack.clock.forward(100)
        pauses.add(await rack.reconcile(LogicalNodeKey("a", name)))
    assert len(pauses) == 2

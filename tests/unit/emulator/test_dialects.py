"""What holds in every dialect, whatever the requests are by which a client attaches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from support.dialects import ALL, CLIENTS, Client
from weft.emulator.journal import check
from weft.emulator.quirks import Quirks

Emulate = Callable[..., Awaitable[Any]]
pytestmark = pytest.mark.parametrize("dialect", ALL)


async def start(emulate: Emulate, dialect: str, quirks: str = "", **settings: Any) -> tuple[Any, Client]:
    rack = await emulate(dialect=dialect, quirks=Quirks.parse(quirks), **settings)
    return rack, CLIENTS[dialect](rack.http)


async def test_an_attached_device_is_shown_journalled_and_detached_again(
    emulate: Emulate, dialect: str
) -> None:
    rack, client = await start(emulate, dialect)
    devices = ["gpu-0", "cxl-0", "nvme-0"]
    assert await client.attach("sled-0", *devices) < 300
    assert await client.attached("sled-0") == devices
    assert await client.detach("sled-0", *devices) < 300
    assert await client.attached("sled-0") == []
    assert [entry[:3] for entry in rack.journal("attach", "detach")] == [
        (act, "sled-0", device) for act in ("attach", "detach") for device in devices
    ]


async def test_a_device_of_another_host_is_refused_with_409(emulate: Emulate, dialect: str) -> None:
    rack, client = await start(emulate, dialect)
    assert await client.attach("sled-0", "gpu-0") < 300
    assert await client.attach("sled-1", "gpu-0") == 409
    assert await client.attached("sled-1") == []
    assert rack.journal("refused") == [("refused", "sled-1", "gpu-0", "in-use")]


async def test_permissive_mode_attaches_it_all_the_same_and_the_journal_says_so(
    emulate: Emulate, dialect: str
) -> None:
    rack, client = await start(emulate, dialect, permissive=True)
    for host in ("sled-0", "sled-1"):
        assert await client.attach(host, "gpu-0") < 300
        assert await client.attached(host) == ["gpu-0"]
    doubles = check(rack.journal_path.read_text().splitlines()).double_attached
    assert [(d.block, d.hosts) for d in doubles] == [("gpu-0", ("sled-0", "sled-1"))]


async def test_a_device_out_of_the_host_s_reach_is_refused(emulate: Emulate, dialect: str) -> None:
    rack, client = await start(emulate, dialect)
    assert await client.attach("far", "gpu-0") == 400
    assert rack.journal("refused") == [("refused", "far", "gpu-0", "out-of-reach")]


async def test_attachments_survive_a_restart_and_can_be_ended_after_it(
    emulate: Emulate, dialect: str, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    _, client = await start(emulate, dialect, state=state)
    await client.attach("sled-0", "gpu-0")
    _, again = await start(emulate, dialect, state=state)
    assert await again.attached("sled-0") == ["gpu-0"]
    assert await again.detach("sled-0", "gpu-0") < 300


async def test_a_kill_before_the_state_was_written_loses_nothing_that_the_journal_has(
    emulate: Emulate, dialect: str, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    _, client = await start(emulate, dialect, state=state)
    before = state.read_text()
    await client.attach("sled-0", "gpu-0")
    state.write_text(before)
    _, again = await start(emulate, dialect, state=state)
    assert await again.attached("sled-0") == ["gpu-0"]
    assert await again.detach("sled-0", "gpu-0") < 300
    assert await again.attached("sled-0") == []


async def test_tasks_carry_out_the_change_and_end_with_its_answer(emulate: Emulate, dialect: str) -> None:
    _, client = await start(emulate, dialect, "tasks")
    assert await client.attach("sled-0", "gpu-0") == 202
    [task] = await client.members("TaskService/Tasks")
    assert task["TaskState"] == "Completed"
    assert await client.attached("sled-0") == ["gpu-0"]
    assert (await client.send("GET", task["TaskMonitor"]))[0] in (200, 201, 204)


async def test_done_although_500(emulate: Emulate, dialect: str) -> None:
    _, client = await start(emulate, dialect, "500-although-done")
    assert await client.attach("sled-0", "gpu-0") == 500
    assert await client.attached("sled-0") == ["gpu-0"]


async def test_a_late_effect_is_not_there_when_its_answer_is(emulate: Emulate, dialect: str) -> None:
    rack, client = await start(emulate, dialect, "late=0.2")
    assert await client.attach("sled-0", "gpu-0") < 300
    assert rack.journal("attach") == []
    assert await client.attached("sled-0") == []
    assert await client.attach("sled-1", "gpu-0") == 409  # it is promised already


async def test_a_refusal_in_a_200(emulate: Emulate, dialect: str) -> None:
    _, client = await start(emulate, dialect, "error-in-200")
    await client.attach("sled-0", "gpu-0")
    assert await client.attach("sled-1", "gpu-0") == 200
    assert await client.attached("sled-1") == []


async def test_no_location_and_no_body(emulate: Emulate, dialect: str) -> None:
    _, client = await start(emulate, dialect, "no-location")
    assert await client.attach("sled-0", "gpu-0") == 204
    assert await client.attached("sled-0") == ["gpu-0"]


async def test_a_lie_is_answered_as_done_and_not_done(emulate: Emulate, dialect: str) -> None:
    rack, client = await start(emulate, dialect)
    await rack.fault(kind="lie", match={"verb": "attach", "block": "gpu-0"})
    assert await client.attach("sled-0", "gpu-0") < 300
    assert await client.attached("sled-0") == []
    assert rack.journal("refused") == [("refused", "sled-0", "gpu-0", "fault:lie")]

"""Changes that are answered with a task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

Emulate = Callable[..., Awaitable[Any]]


async def ended(rack: Any, task: dict[str, Any]) -> dict[str, Any]:
    """The task once nothing more will happen; a test's own limit ends a wait that is too long."""
    async with asyncio.timeout(10):
        while True:
            task = await rack.get(task["@odata.id"])
            if task["TaskState"] not in ("New", "Running"):
                return task
            await asyncio.sleep(0.005)


async def test_a_change_is_accepted_first_and_made_later(emulate: Emulate) -> None:
    rack = await emulate(async_tasks=True, latency_milliseconds=50)
    body = {
        "Links": {"ResourceBlocks": [{"@odata.id": "/redfish/v1/CompositionService/ResourceBlocks/gpu-0"}]}
    }
    async with rack.http.patch("/redfish/v1/Systems/sled-0", json=body) as response:
        assert response.status == 202
        task, monitor = await response.json(), response.headers["Location"]
    assert task["TaskState"] == "New"
    assert json.loads(task["Payload"]["JsonBody"]) == body
    assert task["Payload"]["TargetUri"] == "/redfish/v1/Systems/sled-0"
    assert await rack.attached("sled-0") == []
    assert rack.journal("attach") == []
    async with rack.http.get(monitor) as response:
        assert response.status == 202
    assert (await rack.block("gpu-0"))["CompositionStatus"]["CompositionState"] == "Composing"
    task = await ended(rack, task)
    assert (task["TaskState"], task["TaskStatus"]) == ("Completed", "OK")
    assert rack.ids((await rack.get(monitor))["Links"]["ResourceBlocks"]) == ["gpu-0"]


async def test_credentials_are_not_shown_in_a_task(emulate: Emulate) -> None:
    rack = await emulate(async_tasks=True, user="weft", password="secret")
    login = await rack.http.post(
        "/redfish/v1/SessionService/Sessions", json={"UserName": "weft", "Password": "secret"}
    )
    token = login.headers["X-Auth-Token"]
    _, task = await rack.send("sled-0", "gpu-0", headers={"X-Auth-Token": token})
    assert token not in json.dumps(task)


async def test_nothing_to_do_needs_no_task(emulate: Emulate) -> None:
    rack = await emulate(async_tasks=True)
    assert (await rack.send("sled-0"))[0] == 200


async def test_a_block_in_a_running_task_is_refused_to_others_at_once(emulate: Emulate) -> None:
    rack = await emulate(async_tasks=True, latency_milliseconds=200)
    await rack.send("sled-0", "gpu-0")
    await asyncio.sleep(0)
    status, body = await rack.send("sled-1", "gpu-0")
    assert (status, rack.message_ids(body)) == (409, ["ResourceInUse"])


async def test_changes_of_one_system_run_one_after_the_other(emulate: Emulate) -> None:
    rack = await emulate(async_tasks=True, latency_milliseconds=20)
    tasks = [(await rack.send("sled-0", f"gpu-{number}"))[1] for number in range(3)]
    states = [(await ended(rack, task))["TaskState"] for task in tasks]
    assert states == ["Completed", "Completed", "Completed"]
    assert await rack.attached("sled-0") == ["gpu-2"]


async def test_a_change_that_was_overtaken_ends_as_an_exception(emulate: Emulate) -> None:
    rack = await emulate(async_tasks=True, latency_milliseconds=20)
    etag = {"If-Match": (await rack.get("Systems/sled-0"))["@odata.etag"]}
    _, first = await rack.send("sled-0", "gpu-0", headers=etag)
    _, second = await rack.send("sled-0", "gpu-1", headers=etag)
    assert (await ended(rack, first))["TaskState"] == "Completed"
    second = await ended(rack, second)
    assert (second["TaskState"], second["TaskStatus"]) == ("Exception", "Critical")
    assert second["Messages"][0]["MessageId"].endswith("PreconditionFailed")
    async with rack.http.get(second["TaskMonitor"]) as response:
        assert response.status == 412


async def test_a_task_that_waits_can_be_cancelled_and_an_ended_one_forgotten(emulate: Emulate) -> None:
    rack = await emulate(async_tasks=True, latency_milliseconds=50)
    _, first = await rack.send("sled-0", "gpu-0")
    _, second = await rack.send("sled-0", "gpu-1")
    async with rack.http.delete(second["@odata.id"]) as response:
        assert response.status == 204
    await ended(rack, first)
    assert (await ended(rack, second))["TaskState"] == "Cancelled"
    assert await rack.attached("sled-0") == ["gpu-0"]
    assert len((await rack.get("TaskService/Tasks"))["Members"]) == 2
    await rack.http.delete(first["@odata.id"])
    assert rack.ids((await rack.get("TaskService/Tasks"))["Members"]) == ["2"]


async def test_a_fault_after_the_commit_shows_as_an_exception_of_a_change_that_was_made(
    emulate: Emulate,
) -> None:
    rack = await emulate(async_tasks=True)
    await rack.fault(kind="fail-after-commit")
    _, task = await rack.send("sled-0", "gpu-0")
    assert (await ended(rack, task))["TaskState"] == "Exception"
    assert await rack.attached("sled-0") == ["gpu-0"]

"""The emulator as a third party reads it: `sushy`, OpenStack's typed Redfish client.

The emulator runs as a process of its own. Two fields of sushy 5 lag behind DMTF's schema and are therefore read
from the resource's JSON: `ResourceBlock.ResourceBlockType` is a list in the schema and a single value in sushy; and
sushy's `Protocol` and `EntityType` do not know CXL and Memory yet.
"""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import sushy
from sushy import auth
from sushy.resources import constants as common
from sushy.resources.system.constants import ProcessorType
from sushy.resources.system.processor import Processor
from sushy.resources.taskservice.constants import TaskState
from sushy.resources.taskservice.task import Task

from support import emulator_process
from support.emulator_process import PASSWORD, START_LIMIT_SECONDS, USER, Emulator
from support.sushy_view import (
    BLOCKS,
    agree_on_blocks,
    agree_on_fabrics,
    agree_on_zones,
    ids,
)
from weft.emulator.inventory import load
from weft.emulator.journal import check

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "emulator" / "rack-a.yaml"


@contextmanager
def connect(emulator: Emulator) -> Iterator[Any]:
    """A sushy with a session, which ends with the block."""
    login = auth.SessionAuth(USER, PASSWORD)
    with login:
        yield sushy.Sushy(emulator.url, verify=emulator.ca or False, auth=login)


def give(emulator: Emulator, host: str, *blocks: str) -> requests.Response:
    """Give a host exactly these blocks, as a plain HTTP client."""
    body = {"Links": {"ResourceBlocks": [{"@odata.id": f"{BLOCKS}/{block}"} for block in blocks]}}
    return requests.patch(
        f"{emulator.url}/redfish/v1/Systems/{host}",
        json=body,
        auth=(USER, PASSWORD),
        verify=emulator.ca or False,
        timeout=10,
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Emulator]]:
    """Start emulators as processes of their own; they end with the test."""
    with ExitStack() as running:
        yield lambda *arguments, **more: running.enter_context(
            emulator_process.emulator(tmp_path, EXAMPLE, *arguments, **more)
        )


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_sushy_reads_what_the_inventory_says_before_and_after_an_attach(
    start: Callable[..., Emulator], tls: bool
) -> None:
    emulator, world = start(tls=tls), load(EXAMPLE)
    with connect(emulator) as service:
        assert service.uuid == world.uuid
        agree_on_blocks(service, world, {})
        agree_on_zones(service, world)
        agree_on_fabrics(service, world)

        chosen = ("gpu-0", "gpu-1", "gpu-48", "cxl-3", "nvme-7")
        assert give(emulator, "sled-4", *chosen).status_code == 200
        agree_on_blocks(service, world, dict.fromkeys(chosen, "sled-4"))
        agree_on_zones(service, world)
        agree_on_fabrics(service, world)
        systems = {system.identity: system for system in service.get_system_collection().get_members()}
        assert set(systems) == set(world.hosts)
        assert ids(systems["sled-4"].json["Links"]["ResourceBlocks"]) == set(chosen)

        assert give(emulator, "sled-4").status_code == 200
        agree_on_blocks(service, world, {})
    report = check(emulator.journal())
    assert (report.attaches, report.detaches, report.left_attached) == (5, 5, ())


def test_sushy_reads_a_graphics_processor(start: Callable[..., Emulator]) -> None:
    emulator, world = start(), load(EXAMPLE)
    with connect(emulator) as service:
        processor = Processor(service._conn, f"{BLOCKS}/gpu-48/Processors/gpu-48", root=service)
    assert processor.processor_type is ProcessorType.GPU
    assert (processor.manufacturer, processor.model) == (world.devices["gpu-48"].vendor, "H200")
    assert processor.status.health is common.Health.OK


def test_sushy_cannot_log_in_with_a_wrong_password_or_without_the_ca(start: Callable[..., Emulator]) -> None:
    emulator = start(tls=True)
    with pytest.raises(sushy.exceptions.AccessError):
        sushy.Sushy(emulator.url, verify=emulator.ca, auth=auth.SessionAuth(USER, "guess"))
    with pytest.raises(sushy.exceptions.ConnectionError):
        sushy.Sushy(emulator.url, verify=True, auth=auth.SessionAuth(USER, PASSWORD))
    assert ssl.get_server_certificate(("127.0.0.1", int(emulator.url.rsplit(":", 1)[1])))


def test_sushy_follows_a_task(start: Callable[..., Emulator]) -> None:
    emulator = start("--async-tasks", "--latency-ms", "30", "--seed", "3")
    answer = give(emulator, "sled-0", "gpu-0")
    assert answer.status_code == 202
    with connect(emulator) as service:
        monitor = service.get_task_monitor(answer.headers["Location"])
        # The monitor's own `wait` hands the header Retry-After to sleep() as text.
        limit = time.monotonic() + START_LIMIT_SECONDS
        while monitor.check_is_processing:
            assert time.monotonic() < limit, "the task does not end"
            time.sleep(0.02)
        task = Task(service._conn, answer.json()["@odata.id"], root=service)
        assert (task.task_state, task.task_status) == (TaskState.COMPLETED, common.Health.OK)
        agree_on_blocks(service, load(EXAMPLE), {"gpu-0": "sled-0"})


def test_what_was_answered_survives_a_kill(start: Callable[..., Emulator], tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state.json"))
    emulator = start(*state)
    assert give(emulator, "sled-0", "gpu-0", "gpu-1").status_code == 200
    assert give(emulator, "sled-0", "gpu-1").status_code == 200
    emulator.process.kill()
    emulator.process.wait()
    again = start(*state)
    with connect(again) as service:
        agree_on_blocks(service, load(EXAMPLE), {"gpu-1": "sled-0"})
    assert give(again, "sled-1", "gpu-1").status_code == 409
    assert check(again.journal()).left_attached == (("gpu-1", "sled-0"),)
    assert check(again.journal()).double_attached == ()


def test_acts_that_only_the_journal_has_are_taken_over(
    start: Callable[..., Emulator], tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    emulator = start("--state", str(state))
    before = state.read_text()
    assert give(emulator, "sled-0", "gpu-0").status_code == 200
    emulator.process.kill()
    emulator.process.wait()
    state.write_text(before)  # as if the kill had come between the journal and the state file
    with connect(start("--state", str(state))) as service:
        agree_on_blocks(service, load(EXAMPLE), {"gpu-0": "sled-0"})


def test_a_sigterm_ends_it_cleanly_in_the_middle_of_a_slow_change(start: Callable[..., Emulator]) -> None:
    emulator = start("--async-tasks", "--latency-ms", "60000")
    assert give(emulator, "sled-0", "gpu-0").status_code == 202
    emulator.process.send_signal(signal.SIGTERM)
    assert emulator.process.wait(timeout=10) == 0
    assert check(emulator.journal()).attaches == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--inventory", "/nonexistent.yaml"], "/nonexistent.yaml"),
        (["--inventory", str(EXAMPLE), "--user", "weft"], "--user and --password-file go together"),
        (["--inventory", str(EXAMPLE), "--page-size", "0"], "--page-size must be at least 1"),
    ],
)
def test_it_says_why_it_cannot_start(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "weft.emulator.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_LIMIT_SECONDS, check=False)
    assert done.returncode == 2
    assert said in done.stderr

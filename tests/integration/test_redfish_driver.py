"""The Redfish driver against `weft emulator`, a process of its own that follows DMTF's schema."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from weft.emulator.journal import check
from weft.fabric.driver import Connection, Device, DeviceKind, Operation, OperationPhase
from weft.fabric.errors import AuthFailed, Conflict, InvalidRequest, NotFound, OutcomeUnknown, Transient
from weft.fabric.redfish import RedfishDriver

GIB = 1 << 30
ZONE_A, ZONE_B = "zone-a", "zone-b"
INVENTORY: dict[str, Any] = {
    "name": "rack",
    "hosts": [
        {"name": "sled", "count": 2, "zones": [ZONE_A], "model": "Sled", "domains": {"rdmaDomain": "ib-0"}},
        {"name": "sled", "count": 1, "first": 2, "zones": [ZONE_A, ZONE_B], "model": "Sled"},
    ],
    "devices": [
        {
            "name": "gpu",
            "type": "GPU",
            "count": 12,
            "vendor": "NVIDIA",
            "model": "H200",
            "memory": "141Gi",
            "zones": [ZONE_A],
            "domains": {"nvlinkDomain": {"prefix": "nvl", "size": 8}, "rdmaDomain": "ib-0"},
        },
        {
            "name": "cxl",
            "type": "CXL",
            "count": 4,
            "vendor": "Generic",
            "model": "CXL-512",
            "memory": "512Gi",
            "zones": [ZONE_A, ZONE_B],
            "domains": {"cxlDomain": {"prefix": "cxl", "size": 2}},
        },
        {
            "name": "nvme",
            "type": "NVMe",
            "count": 2,
            "vendor": "Generic",
            "model": "N4",
            "size": "4T",
            "zones": [ZONE_B],
        },
    ],
}


def expected_devices() -> dict[str, Device]:
    """The devices of INVENTORY, spelled out."""
    all_hosts, b_hosts = frozenset({"sled-0", "sled-1", "sled-2"}), frozenset({"sled-2"})
    gpus = [
        Device(
            f"gpu-{n}",
            DeviceKind.ACCELERATOR,
            {
                "type": "GPU",
                "vendor": "NVIDIA",
                "model": "H200",
                "nvlinkDomain": f"nvl-{n // 8}",
                "rdmaDomain": "ib-0",
            },
            141 * GIB,
            True,
            all_hosts,
        )
        for n in range(12)
    ]
    memories = [
        Device(
            f"cxl-{n}",
            DeviceKind.MEMORY,
            {
                "type": "CXL",
                "medium": "DRAM",
                "vendor": "Generic",
                "model": "CXL-512",
                "cxlDomain": f"cxl-{n // 2}",
            },
            512 * GIB,
            True,
            all_hosts,
        )
        for n in range(4)
    ]
    drives = [
        Device(
            f"nvme-{n}",
            DeviceKind.STORAGE,
            {"type": "NVMe", "medium": "NVMe", "vendor": "Generic", "model": "N4"},
            4_000_000_000_000,
            True,
            b_hosts,
        )
        for n in range(2)
    ]
    return {d.id: d for d in (*gpus, *memories, *drives)}


def devices(*ids: str) -> frozenset[str]:
    return frozenset(ids)


class Emulator:
    """A running emulator."""

    def __init__(self, url: str, journal: Path) -> None:
        self.url = url
        self._journal = journal

    def connection(self, **more: Any) -> Connection:
        defaults = {"endpoint": self.url, "requests_per_second": 5000.0, "request_timeout_seconds": 10.0}
        return Connection(**(defaults | more))

    @contextlib.asynccontextmanager
    async def driver(self, **more: Any) -> AsyncIterator[RedfishDriver]:
        driver = RedfishDriver(self.connection(**more))
        try:
            yield driver
        finally:
            await driver.close()

    def acts(self, *names: str) -> list[tuple[str, str, str]]:
        """(act, host, block) of what was done, in order."""
        lines = [json.loads(line) for line in self._journal.read_text().splitlines()]
        return [
            (e["act"], e["host"], e["block"]) for e in lines if e["act"] in names and e["outcome"] == "done"
        ]

    def exclusive(self) -> bool:
        """Whether no block was ever at two hosts, as the journal has it."""
        return not check(self._journal.read_text().splitlines()).double_attached

    async def requests(self) -> int:
        """How many requests were answered."""
        stats = await asyncio.to_thread(self._control, "GET", "stats", None)
        return sum(stats["requests"]["byMethod"].values())

    async def fault(self, **fault: Any) -> None:
        await asyncio.to_thread(self._control, "POST", "faults", fault)

    def _control(self, method: str, name: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/emulator/{name}", data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=5) as response:
            text = response.read()
        return json.loads(text) if text else None


@contextlib.asynccontextmanager
async def emulator(tmp_path: Path, *options: str) -> AsyncIterator[Emulator]:
    inventory, journal, ready = tmp_path / "inventory.yaml", tmp_path / "journal.jsonl", tmp_path / "url"
    inventory.write_text(yaml.safe_dump(INVENTORY))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "weft.cli.main",
        "emulator",
        f"--inventory={inventory}",
        f"--journal={journal}",
        f"--ready-file={ready}",
        *options,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(20):
            while not ready.exists():
                assert process.returncode is None, "the emulator did not start"
                await asyncio.sleep(0.02)
        yield Emulator(ready.read_text().strip(), journal)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def ended(driver: RedfishDriver, operation: Operation) -> Operation:
    """The operation once its task has ended."""
    async with asyncio.timeout(10):
        while operation.id and not operation.phase.is_terminal:
            await asyncio.sleep(0.01)
            operation = await driver.operation(operation.id)
    return operation


@pytest.mark.parametrize("options", [(), ("--page-size=7",)], ids=["whole", "paged"])
async def test_the_inventory_is_the_yaml_files(tmp_path: Path, options: tuple[str, ...]) -> None:
    async with emulator(tmp_path, *options) as fabric, fabric.driver() as driver:
        read = await driver.inventory()
        assert read.problems == ()
        assert read.complete
        assert {d.id: d for d in read.devices} == expected_devices()
        assert {h.id: h.attributes.get("rdmaDomain") for h in read.hosts} == {
            "sled-0": "ib-0",
            "sled-1": "ib-0",
            "sled-2": None,
        }
        assert read.attachments == ()


async def test_a_poll_costs_one_request_for_each_collection(tmp_path: Path) -> None:
    async with emulator(tmp_path) as fabric, fabric.driver() as driver:
        await driver.inventory()
        before = await fabric.requests()
        await driver.inventory()
        after = await fabric.requests()
        # Blocks and systems; one more is the reading of the statistics itself.
        assert after - before <= 3


async def test_devices_are_attached_verified_and_detached_and_the_journal_agrees(tmp_path: Path) -> None:
    async with emulator(tmp_path) as fabric, fabric.driver() as driver:
        node = devices("gpu-0", "gpu-1", "cxl-0", "cxl-3")
        assert (await driver.attach("bind-1", "sled-0", node)).phase is OperationPhase.SUCCEEDED
        assert await driver.attached("sled-0") == node
        read = await driver.inventory()
        assert read.complete
        assert read.attachments == tuple(sorted((d, "sled-0") for d in node))
        await driver.attach("bind-1", "sled-0", node)
        await driver.detach("release-1", "sled-0", devices("gpu-0", "nvme-0"))
        assert await driver.attached("sled-0") == node - {"gpu-0"}
        await driver.detach("release-1", "sled-0", node)
        assert await driver.attached("sled-0") == frozenset()
        assert (await driver.inventory()).attachments == ()
        acts = fabric.acts("attach", "detach")
        assert sorted(acts[:4]) == sorted(("attach", "sled-0", d) for d in node)
        assert acts[4] == ("detach", "sled-0", "gpu-0")
        assert sorted(acts[5:]) == sorted(("detach", "sled-0", d) for d in node - {"gpu-0"})


async def test_a_device_at_another_host_is_a_conflict_even_where_the_manager_would_share_it(
    tmp_path: Path,
) -> None:
    async with emulator(tmp_path, "--permissive") as fabric, fabric.driver() as driver:
        await driver.attach("bind-1", "sled-0", devices("gpu-0"))
        with pytest.raises(Conflict, match="gpu-0 is attached to sled-0"):
            await driver.attach("bind-2", "sled-1", devices("gpu-0", "gpu-1"))
        assert fabric.acts("attach") == [("attach", "sled-0", "gpu-0")]
        assert fabric.exclusive()


async def test_of_two_drivers_that_change_one_host_at_once_the_loser_is_told(tmp_path: Path) -> None:
    async with (
        emulator(tmp_path, "--latency-ms=30") as fabric,
        fabric.driver() as one,
        fabric.driver() as two,
    ):
        await asyncio.gather(one.inventory(), two.inventory())
        answers = await asyncio.gather(
            one.attach("a", "sled-0", devices("gpu-0")),
            two.attach("b", "sled-0", devices("gpu-1")),
            return_exceptions=True,
        )
        assert sorted(type(a).__name__ for a in answers) == ["Conflict", "Operation"]
        assert len(await one.attached("sled-0")) == 1


async def test_names_and_places_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    async with emulator(tmp_path) as fabric, fabric.driver() as driver:
        with pytest.raises(NotFound):
            await driver.attach("a", "sled-9", devices("gpu-0"))
        with pytest.raises(NotFound):
            await driver.attach("a", "sled-0", devices("gpu-99"))
        with pytest.raises(InvalidRequest):
            await driver.attach("a", "sled-0", devices("nvme-0"))  # in another zone
        with pytest.raises(InvalidRequest):
            await driver.attach("a", "sled-0", devices("host-sled-1"))
        assert fabric.acts("attach") == []


async def test_tasks_are_followed_found_and_believed_only_when_ended(tmp_path: Path) -> None:
    async with (
        emulator(tmp_path, "--async-tasks", "--latency-ms=50") as fabric,
        fabric.driver(username="weft", password="x") as driver,
    ):
        assert (await driver.capabilities()).asynchronous_tasks
        started = await driver.attach("bind-1", "sled-0", devices("gpu-0", "gpu-1"))
        assert started.phase in (OperationPhase.PENDING, OperationPhase.RUNNING)
        found = await driver.find_operation("bind-1")
        assert found is not None
        assert found.id == started.id
        assert await driver.find_operation("bind-2") is None
        assert (await ended(driver, started)).phase is OperationPhase.SUCCEEDED
        assert await driver.attached("sled-0") == devices("gpu-0", "gpu-1")
        released = await ended(driver, await driver.detach("release-1", "sled-0", devices("gpu-0", "gpu-1")))
        assert released.phase is OperationPhase.SUCCEEDED
        assert await driver.attached("sled-0") == frozenset()


async def test_a_task_that_fails_names_the_reason(tmp_path: Path) -> None:
    async with emulator(tmp_path, "--async-tasks", "--latency-ms=20") as fabric, fabric.driver() as driver:
        await fabric.fault(kind="partial", match={"verb": "attach", "block": "gpu-1"})
        outcome = await ended(driver, await driver.attach("bind-1", "sled-0", devices("gpu-0", "gpu-1")))
        assert outcome.phase is OperationPhase.FAILED
        assert outcome.message
        assert await driver.attached("sled-0") == devices("gpu-0")


@pytest.mark.parametrize(
    ("kind", "attached"),
    [
        ("fail", False),
        ("fail-after-commit", True),
        ("drop", False),
        ("drop-after-commit", True),
        ("error-in-200", False),
        ("garbage", False),
    ],
)
async def test_a_write_with_an_unclear_answer_is_settled_by_reading(
    tmp_path: Path, kind: str, attached: bool
) -> None:
    async with emulator(tmp_path) as fabric, fabric.driver() as driver:
        await fabric.fault(kind=kind, match={"verb": "attach"})
        with pytest.raises(OutcomeUnknown):
            await driver.attach("bind-1", "sled-0", devices("gpu-0"))
        assert await driver.attached("sled-0") == (devices("gpu-0") if attached else frozenset())


async def test_a_lie_is_seen_by_reading(tmp_path: Path) -> None:
    async with emulator(tmp_path) as fabric, fabric.driver() as driver:
        await fabric.fault(kind="lie", match={"verb": "attach"})
        await driver.attach("bind-1", "sled-0", devices("gpu-0"))
        assert await driver.attached("sled-0") == frozenset()


async def test_a_sick_device_is_reported_and_one_that_vanishes_is_missing(tmp_path: Path) -> None:
    async with emulator(tmp_path) as fabric, fabric.driver() as driver:
        await fabric.fault(kind="unhealthy", match={"block": "gpu-3"})
        await fabric.fault(kind="vanish", match={"block": "gpu-4"})
        read = await driver.inventory()
        assert [d.id for d in read.devices if not d.healthy] == ["gpu-3"]
        assert "gpu-4" not in {d.id for d in read.devices}
        assert read.complete


async def test_a_new_leader_ends_the_sessions_of_the_old_one(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    async with emulator(tmp_path, "--user=weft", f"--password-file={password}") as fabric:
        login = {"username": "weft", "password": "secret"}
        async with fabric.driver(**login) as old, fabric.driver(**login) as new:
            await old.inventory()
            assert await new.revoke_other_sessions() == 1
            assert await new.revoke_other_sessions() == 0
            with pytest.raises(Transient, match="session"):
                await old.attach("late", "sled-0", devices("gpu-0"))
            await new.attach("bind-1", "sled-0", devices("gpu-0"))
        assert fabric.acts("attach") == [("attach", "sled-0", "gpu-0")]
        async with fabric.driver(username="weft", password="wrong") as stranger:
            with pytest.raises(AuthFailed, match="credentials Secret"):
                await stranger.inventory()


def certificate(directory: Path) -> tuple[Path, Path, str]:
    """A certificate for 127.0.0.1: its file, its key's file, the PEM text of who signed it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(directory / "tls.crt")
    issued.private_key_pem.write_to_path(directory / "tls.key")
    return directory / "tls.crt", directory / "tls.key", authority.cert_pem.bytes().decode()


async def test_tls_needs_the_managers_ca_and_its_name(tmp_path: Path) -> None:
    cert, key, pem = certificate(tmp_path)
    async with emulator(tmp_path, f"--tls-cert={cert}", f"--tls-key={key}") as fabric:
        assert fabric.url.startswith("https://")
        async with fabric.driver(ca_pem=pem, username="weft", password="x") as driver:
            assert (await driver.inventory()).complete
        other = tmp_path / "other"
        other.mkdir()
        for wrong in (
            fabric.connection(),
            fabric.connection(ca_pem=certificate(other)[2]),
            fabric.connection(ca_pem=pem, endpoint=fabric.url.replace("127.0.0.1", "localhost")),
        ):
            driver = RedfishDriver(wrong)
            for call in (driver.inventory(), driver.attach("a", "sled-0", devices("gpu-0"))):
                with pytest.raises(AuthFailed, match="CA bundle"):
                    await call
            await driver.close()
        assert fabric.acts("attach") == []

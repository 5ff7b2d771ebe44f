"""A small emulated rack, served in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from weft.emulator.inventory import World, parse
from weft.emulator.journal import entries
from weft.emulator.main import Settings, build

BLOCKS = "/redfish/v1/CompositionService/ResourceBlocks"
SYSTEMS = "/redfish/v1/Systems"


class Rack:
    """An emulator in this process, as a client sees it."""

    def __init__(self, client: Any, journal: Path) -> None:
        self.http = client
        self.journal_path = journal

    async def send(
        self, host: str, *blocks: str, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Give a host exactly these blocks; the answer's status and body."""
        body = {"Links": {"ResourceBlocks": [{"@odata.id": f"{BLOCKS}/{block}"} for block in blocks]}}
        async with self.http.patch(f"{SYSTEMS}/{host}", json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def get(self, path: str) -> dict[str, Any]:
        """A resource that must be there; `path` from the service root on."""
        async with self.http.get(path if path.startswith("/") else f"/redfish/v1/{path}") as response:
            assert response.status == 200, await response.text()
            body: dict[str, Any] = await response.json()
            return body

    async def status(self, path: str, **request: Any) -> int:
        """Only the status of a GET."""
        async with self.http.get(f"/redfish/v1/{path}", **request) as response:
            return int(response.status)

    async def block(self, name: str) -> dict[str, Any]:
        """A resource block."""
        return await self.get(f"{BLOCKS}/{name}")

    async def attached(self, host: str) -> list[str]:
        """Ids of the blocks that a host has."""
        return self.ids((await self.get(f"{SYSTEMS}/{host}"))["Links"]["ResourceBlocks"])

    async def fault(self, **fault: Any) -> None:
        """Order a fault."""
        async with self.http.post("/emulator/faults", json=fault) as response:
            assert response.status == 201, await response.text()

    def journal(self, *acts: str) -> list[tuple[str, str, str, str]]:
        """(act, host, block, outcome) of these acts, as the file has them now."""
        found = entries(self.journal_path.read_text().splitlines())
        return [(e["act"], e["host"], e["block"], e["outcome"]) for e in found if e["act"] in acts]

    @staticmethod
    def ids(links: list[dict[str, str]]) -> list[str]:
        """Last segments of references."""
        return [item["@odata.id"].rsplit("/", 1)[1] for item in links]

    @staticmethod
    def message_ids(body: dict[str, Any]) -> list[str]:
        """The registry keys of an error body."""
        return [item["MessageId"].rsplit(".", 1)[1] for item in body["error"]["@Message.ExtendedInfo"]]


@pytest.fixture
def small() -> World:
    """Two hosts that reach six devices, and a host that reaches none."""
    domains = {"nvlinkDomain": {"prefix": "nvl", "size": 2}}
    gpus = {"name": "gpu", "type": "GPU", "count": 4, "model": "H200", "memory": "141Gi", "domains": domains}
    return parse(
        {
            "hosts": [{"name": "sled", "count": 2}, {"name": "far", "zones": ["elsewhere"]}],
            "devices": [
                gpus,
                {"name": "cxl-0", "type": "CXL", "model": "CXL-512", "memory": "512Gi"},
                {"name": "nvme-0", "type": "NVMe", "model": "NVMe-4T", "size": "4T"},
            ],
        }
    )


@pytest.fixture
async def emulate(small: World, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Rack]]]:
    """Start emulators in this process; they end with the test."""
    clients: list[Any] = []

    async def start(**settings: Any) -> Rack:
        journal = settings.setdefault("journal", tmp_path / "journal.jsonl")
        client: Any = TestClient(TestServer(build(small, Settings(**settings))))
        await client.start_server()
        clients.append(client)
        return Rack(client, journal)

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
async def rack(emulate: Callable[..., Awaitable[Rack]]) -> Rack:
    """An emulator with the usual settings."""
    return await emulate()

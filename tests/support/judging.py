"""An emulator in which there is one of everything, for DMTF's validators."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.dialects import CLIENTS, ROOT, ByConnection, link
from support.emulator_process import PASSWORD, USER, Emulator, emulator
from weft_dev.redfish_schemas import NoSchemasError, schema_files

INVENTORY = Path(__file__).with_name("judged.yaml")


def schemas() -> Path:
    """DMTF's schema files; where they cannot be had, the test is skipped and says why."""
    try:
        return schema_files()
    except NoSchemasError as error:
        pytest.skip(str(error))


@contextmanager
def busy_emulator(folder: Path, dialect: str, *, tls: bool = False) -> Iterator[Emulator]:
    """An emulator in which devices of each kind, and parts of them, are attached."""
    with emulator(folder, INVENTORY, "--dialect", dialect, tls=tls) as running:
        asyncio.run(_fill(running.url, dialect))
        yield running


async def _fill(url: str, dialect: str) -> None:
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    insecure = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(
        url, connector=insecure, headers={"Authorization": f"Basic {login}"}
    ) as http:
        client = CLIENTS[dialect](http)
        assert await client.attach("sled-0", "gpu-0", "cxl-0", "nvme-0") < 300
        if isinstance(client, ByConnection):
            await _carve(client)


async def _carve(client: ByConnection) -> None:
    """Parts of a memory and of a drive, at the other host."""
    size: dict[str, Any] = {"AddressRangeType": "Volatile", "MemoryChunkSizeMiB": 1024}
    chunks = f"{ROOT}/Chassis/cxl/MemoryDomains/cxl-1/MemoryChunks"
    for device, path, body, kind, name in (
        ("cxl-1", chunks, size, "Memory", "MemoryChunk"),
        ("nvme-1", f"{ROOT}/Storage/nvme-1/Volumes", {"CapacityBytes": 1024**3}, "Storage", "Volume"),
    ):
        status, part, _ = await client.send("POST", path, body)
        assert status < 300, part
        info = [{"AccessCapabilities": ["Read", "Write"], name: link(part["@odata.id"])}]
        fabric = await client.fabric(device)
        more: dict[str, Any] = {"ConnectionType": kind, f"{name}Info": info, **client.typed}
        wanted = client.wanted(fabric, "sled-1", device, **more)
        status, made, _ = await client.send("POST", f"{fabric}/Connections", wanted)
        assert status < 300, made

"""A driver for a rack whose attachments stand in a JSON file: what a driver has to do, with the least around it.

    {"hosts": ["sled-0", "sled-1"],
     "devices": {"gpu-0": {"kind": "Accelerator", "bytes": 85899345920, "attributes": {"type": "GPU"}}},
     "attached": {"gpu-0": "sled-0"}}

The endpoint is the file's URL, for example file:///var/lib/rack.json. Others may change the file, too: whoever does
holds a lock on rack.json.lock.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from weft.fabric.driver import (
    Capabilities,
    Connection,
    Device,
    DeviceKind,
    Host,
    Inventory,
    Operation,
    OperationPhase,
    Write,
)
from weft.fabric.errors import Conflict, InvalidRequest, NotFound, Transient, Unsupported

T = TypeVar("T")
Rack = dict[str, Any]
DONE = Operation("", OperationPhase.SUCCEEDED)


class JsonFileDriver:
    """One rack. Every call reads the file anew: nothing that matters is in memory."""

    def __init__(self, connection: Connection) -> None:
        # Made, it does nothing yet: what is wrong with the endpoint is said by the first call, as a condition.
        self._endpoint = connection.endpoint
        self._seconds = connection.request_timeout_seconds

    async def capabilities(self) -> Capabilities:
        """Changes are done when the call returns; there are no sessions."""
        return Capabilities(False, False, (Write("JsonFile", "the rack is a file that Weft rewrites"),))

    async def inventory(self, first: frozenset[str] = frozenset()) -> Inventory:
        """The whole rack: a file is never read in part, so `first` needs no care."""
        return await self._with_rack(_inventory)

    async def attached(self, host: str) -> frozenset[str]:
        """What the file says now."""

        def look(rack: Rack) -> frozenset[str]:
            _known(host, rack["hosts"], "host")
            return frozenset(device for device, at in rack["attached"].items() if at == host)

        return await self._with_rack(look)

    async def attach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        """All or none: what cannot be is found out before anything is changed."""

        def change(rack: Rack) -> Operation:
            _known(host, rack["hosts"], "host")
            for device in sorted(devices):
                _known(device, rack["devices"], "device")
                if (at := rack["attached"].get(device, host)) != host:
                    raise Conflict(f"{device} is attached to {at}, not to {host}")
            rack["attached"] |= dict.fromkeys(devices, host)
            return DONE

        return await self._with_rack(change, write=True)

    async def detach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        """What is not there, or is somewhere else, stays as it is."""

        def change(rack: Rack) -> Operation:
            _known(host, rack["hosts"], "host")
            rack["attached"] = {
                device: at for device, at in rack["attached"].items() if device not in devices or at != host
            }
            return DONE

        return await self._with_rack(change, write=True)

    async def operation(self, id: str) -> Operation:
        """Nothing goes on after a call has returned."""
        raise NotFound("a file keeps no record of operations")

    async def find_operation(self, key: str) -> Operation | None:
        """Weft reads the attachments instead."""
        raise Unsupported("a file keeps no record of operations")

    async def revoke_other_sessions(self) -> int:
        """An old leader's calls cannot be stopped: they end within one request timeout."""
        raise Unsupported("a file has no sessions")

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _with_rack(self, work: Callable[[Rack], T], *, write: bool = False) -> T:
        """Do something with the rack, in a thread: file systems block, and the operator has one event loop."""
        url = urlsplit(self._endpoint)
        if url.scheme != "file" or url.netloc:
            raise InvalidRequest(f"{self._endpoint} is no file: write file:///path/rack.json")
        deadline = time.monotonic() + self._seconds
        return await asyncio.to_thread(_locked, Path(unquote(url.path)), work, write, deadline)


def _locked(path: Path, work: Callable[[Rack], T], write: bool, deadline: float) -> T:
    """Read, work, and replace the file as a whole. It never waits, nor writes, after the deadline.

    So the outcome of a change is always known: until the file is replaced nothing has happened, and whatever goes wrong
    before is Transient. A driver that sends its change over a network raises OutcomeUnknown when the answer is lost.
    """
    try:
        with open(f"{path}.lock", "w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Transient(f"{path} is locked by another") from None
                    time.sleep(0.01)
            rack = json.loads(path.read_text())
            result = work(rack)
            if write:
                draft = Path(f"{path}.part")
                draft.write_text(json.dumps(rack, indent=1))
                if time.monotonic() > deadline:
                    raise Transient("there was no time left to write")
                os.replace(draft, path)
            return result
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Transient(f"{path} cannot be used: {type(error).__name__}: {error}") from error


def _known(name: str, names: Any, what: str) -> None:
    if name not in names:
        raise NotFound(f"there is no {what} {name!r:.80}")


def _inventory(rack: Rack) -> Inventory:
    devices = tuple(
        Device(
            name,
            DeviceKind(about["kind"]),
            about["attributes"],
            int(about["bytes"]),
            about.get("healthy", True),
        )
        for name, about in rack["devices"].items()
    )
    hosts = tuple(Host(name, {}, True) for name in rack["hosts"])
    return Inventory(devices, hosts, tuple(rack["attached"].items()), complete=True, problems=())

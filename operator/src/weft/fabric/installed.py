"""Drivers that are installed, Weft's own and those of others, and what is made sure of whoever wrote them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from weft.fabric.driver import Capabilities, Connection, Driver, Inventory, Operation
from weft.fabric.errors import FabricError, OutcomeUnknown, Transient

T = TypeVar("T")

GROUP = "weft.fabric.drivers"
EARLIER_GROUP = "weft.drivers"
"""Where drivers for Weft 0.3 announced themselves."""
READ_SECONDS = 120.0
"""One reading of a large fabric takes a minute, or ten request timeouts; one that takes longer is taken to hang."""
GRACE_SECONDS = 0.25
"""What a driver that keeps to the request timeout may take beyond it: its own error says more."""


Called = Callable[[str, str, float], None]
"""Told of each call of a driver: its name, `done` or the error that it ended with, and the seconds that it took."""


def find_driver(name: str) -> EntryPoint:
    """Where the driver called so comes from. Raises LookupError: there is none; the text names those that are
    installed."""
    found: dict[str, EntryPoint] = {}
    for group in (EARLIER_GROUP, GROUP):
        found |= {point.name: point for point in entry_points(group=group)}
    if name not in found:
        names = ", ".join(sorted(found)) or "none"
        raise LookupError(f"no driver {name!r} is installed; installed: {names}")
    return found[name]


def open_driver(name: str, connection: Connection, called: Called | None = None) -> Driver:
    """Make the driver installed under `name`. Raises LookupError: there is none, or it cannot be loaded."""
    found = find_driver(name)
    try:
        made: Driver = found.load()(connection)
    except Exception as error:
        what = f"the driver {name!r} ({found.value}) cannot be loaded"
        raise LookupError(f"{what}: {type(error).__name__}: {error}") from error
    return Guarded(name, made, connection.request_timeout_seconds, called)


class Guarded:
    """A driver whose calls end in time, and raise FabricErrors only.

    The leader's lease is reckoned to outlast a call that changes something, so that is ended after one request timeout.
    """

    def __init__(
        self, name: str, driver: Driver, request_timeout_seconds: float, called: Called | None = None
    ) -> None:
        self.driver = driver
        self._called = called
        self._name = name
        self._seconds = request_timeout_seconds + GRACE_SECONDS
        self._read_seconds = max(READ_SECONDS, 11 * request_timeout_seconds)

    async def capabilities(self) -> Capabilities:
        return await self._read("capabilities", self.driver.capabilities())

    async def inventory(self, first: frozenset[str] = frozenset()) -> Inventory:
        return await self._read("inventory", self.driver.inventory(first))

    async def attached(self, host: str) -> frozenset[str]:
        return await self._read("attached", self.driver.attached(host))

    async def attach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        call = self.driver.attach(operation, host, devices)
        return await self._ended("attach", call, self._seconds, OutcomeUnknown)

    async def detach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        call = self.driver.detach(operation, host, devices)
        return await self._ended("detach", call, self._seconds, OutcomeUnknown)

    async def operation(self, id: str) -> Operation:
        return await self._read("operation", self.driver.operation(id))

    async def find_operation(self, key: str) -> Operation | None:
        return await self._read("find_operation", self.driver.find_operation(key))

    async def revoke_other_sessions(self) -> int:
        return await self._read("revoke_other_sessions", self.driver.revoke_other_sessions())

    async def close(self) -> None:
        await self._read("close", self.driver.close())

    async def _read(self, name: str, call: Awaitable[T]) -> T:
        return await self._ended(name, call, self._read_seconds, Transient)

    async def _ended(self, name: str, call: Awaitable[T], seconds: float, otherwise: type[FabricError]) -> T:
        clock = asyncio.get_running_loop().time
        began, outcome = clock(), "cancelled"
        try:
            answer = await self._bounded(call, seconds, otherwise)
            outcome = "done"
            return answer
        except FabricError as error:
            outcome = type(error).__name__
            raise
        finally:
            if self._called is not None:
                self._called(name, outcome, clock() - began)

    async def _bounded(self, call: Awaitable[T], seconds: float, otherwise: type[FabricError]) -> T:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await call
        except FabricError:
            raise
        except Exception as error:
            if limit.expired():
                raise otherwise(f"the driver {self._name!r} did not end within {seconds:g} s") from error
            what = f"the driver {self._name!r} failed: {type(error).__name__}: {error}"
            raise otherwise(what) from error

"""What every test of the suite has: a driver, two hosts and devices that are free, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from weft.fabric.driver import Connection, Driver, Inventory, Operation
from weft.fabric.errors import Busy, FabricError, NotFound, OutcomeUnknown, RateLimited, Unsupported

DEVICES = 3
"""How many free devices the suite wants."""


@dataclass(frozen=True)
class Bench:
    """What is tested, and where."""

    driver: Callable[[Connection], Driver]
    """Makes a driver, as the entry point would."""
    connection: Connection
    """Of a manager with two healthy hosts and three healthy devices for both, attached to nothing."""
    restart: Callable[[], None] | None = None
    """Restarts the manager, which keeps its attachments; returns when it answers again. None: it is not tested."""
    whole_hosts: bool = False
    """Whether this manager attaches the devices of a host, and releases them, only all together."""
    patience_seconds: float = 10.0
    """How long the manager may take until a change that it has begun can be seen."""

    @contextlib.asynccontextmanager
    async def connected(self, **changes: Any) -> AsyncIterator[Driver]:
        """A new driver, with these changes to its connection; closed at the end."""
        driver = self.driver(replace(self.connection, **changes))
        try:
            yield driver
        finally:
            await driver.close()

    @property
    def address(self) -> tuple[str, int] | None:
        """Where the manager listens, if its endpoint is plain HTTP: then the suite can come between."""
        url = urlsplit(self.connection.endpoint)
        if url.scheme != "http" or not url.hostname:
            return None
        return url.hostname, url.port or 80

    def elsewhere(self, port: int) -> str:
        """The endpoint, at another port of this machine."""
        return urlsplit(self.connection.endpoint)._replace(netloc=f"127.0.0.1:{port}").geturl()


@dataclass
class Rig:
    """One test's driver and what it may change."""

    bench: Bench
    driver: Driver
    host: str
    other: str
    devices: tuple[str, ...]
    before: Inventory
    """As it was read at the test's start."""
    _keys: Iterator[int] = field(default_factory=itertools.count)
    _run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def needs_parts(self) -> None:
        """Skip what a manager cannot do that knows no change of a part of a host's devices."""
        if self.bench.whole_hosts:
            pytest.skip("this manager changes the devices of a host all together")

    def key(self) -> str:
        """A key for an operation, as Weft makes them: never used before."""
        return f"{self._run}-{next(self._keys)}"

    async def attach(
        self, *devices: str, host: str = "", driver: Driver | None = None, key: str = ""
    ) -> None:
        """Attach, wait for the end of it, and see the devices there."""
        host, driver, key = host or self.host, driver or self.driver, key or self.key()
        await self.change(driver, lambda: driver.attach(key, host, frozenset(devices)))
        await self.sees(driver, host, lambda shown: frozenset(devices) <= shown, f"{devices} at {host}")

    async def detach(
        self, *devices: str, host: str = "", driver: Driver | None = None, key: str = ""
    ) -> None:
        """Detach, wait for the end of it, and see the devices gone."""
        host, driver, key = host or self.host, driver or self.driver, key or self.key()
        await self.change(driver, lambda: driver.detach(key, host, frozenset(devices)))
        await self.sees(
            driver, host, lambda shown: not frozenset(devices) & shown, f"{devices} gone from {host}"
        )

    async def change(self, driver: Driver, call: Callable[[], Awaitable[Operation]]) -> None:
        """Ask for a change until the manager takes it, and wait for its end."""
        async with asyncio.timeout(self.bench.patience_seconds):
            while True:
                try:
                    operation = await call()
                    break
                except RateLimited as error:
                    await asyncio.sleep(error.retry_after_seconds)
                except (Busy, OutcomeUnknown):
                    # What is not known may be asked for again: whatever was done is success then.
                    await asyncio.sleep(0.02)
            while operation.id and not operation.phase.is_terminal:
                await asyncio.sleep(0.02)
                try:
                    operation = await driver.operation(operation.id)
                except NotFound:
                    return  # forgotten since it ended: reading tells how
        assert not operation.failed, f"the manager reports failed devices: {operation.failed}"
        # How it ended is the manager's claim, good or bad: what counts is what is read.

    async def sees(
        self, driver: Driver, host: str, look: Callable[[frozenset[str]], bool], what: str
    ) -> None:
        """The driver's `attached` comes to show something, at once or a little later."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.bench.patience_seconds
        while not look(shown := await driver.attached(host)):
            assert loop.time() < end, f"`attached` does not show {what}; it shows {sorted(shown)}"
            await asyncio.sleep(0.02)

    async def where(self, *devices: str) -> set[tuple[str, str]]:
        """Which of these devices a new driver's inventory shows at which hosts."""
        async with self.bench.connected() as driver:
            inventory = await whole(driver)
        return {(device, host) for device, host in inventory.attachments if device in devices}


async def whole(driver: Driver) -> Inventory:
    """A whole inventory; a large fabric may take several readings."""
    reading = await driver.inventory()
    for _ in range(20):
        if reading.complete:
            return reading
        reading = await driver.inventory()
    pytest.fail(f"no reading of this manager is whole: {'; '.join(reading.problems)}")


@contextlib.contextmanager
def refusal(*kinds: type[FabricError]) -> Iterator[None]:
    """What is done inside raises one of these errors, and no other one."""
    names = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield
    except kinds:
        return
    except Exception as error:  # noqa: BLE001  whatever else it is, is what the test reports
        pytest.fail(f"{names} is called for, and it raised {type(error).__name__}: {error}")
    pytest.fail(f"{names} is called for, and it raised nothing")


def unused_port() -> int:
    """A port of this machine at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def conformance(test: Callable[[Any, Rig], Awaitable[None]]) -> Callable[[Any, Bench], None]:
    """A test that pytest gives a `bench`, and that gets a rig: it runs in an event loop of its own."""

    def run(self: Any, bench: Bench) -> None:
        asyncio.run(_with_rig(test, self, bench))

    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    return run


async def _with_rig(test: Callable[[Any, Rig], Awaitable[None]], suite: Any, bench: Bench) -> None:
    async with bench.connected() as driver:
        rig = await _rig(bench, driver)
        try:
            await test(suite, rig)
        finally:
            await _clear(rig)


def _places(inventory: Inventory) -> tuple[str, str, list[str]]:
    """Two hosts, and the free devices that reach both: where there are most of them."""
    taken = {device for device, _ in inventory.attachments}
    used = {host for _, host in inventory.attachments}
    hosts = [h.id for h in inventory.hosts if h.healthy and not h.closed]
    free = [d for d in inventory.devices if d.healthy and not d.reserved and d.id not in taken]
    best: tuple[list[str], list[str]] = ([], [])
    for reach in {d.reachable_hosts for d in free}:
        # Those to which nothing is attached come first.
        here = sorted((h for h in hosts if reach is None or h in reach), key=lambda h: h in used)[:2]
        devices = [d.id for d in free if d.reachable_hosts is None or d.reachable_hosts >= set(here)]
        if len(here) == 2 and len(devices) > len(best[1]):
            best = here, devices
    if len(best[1]) < DEVICES:
        pytest.fail(
            f"the suite needs two healthy hosts that can be changed and {DEVICES} free devices for both"
        )
    return best[0][0], best[0][1], best[1]


async def _rig(bench: Bench, driver: Driver) -> Rig:
    before = await whole(driver)
    host, other, free = _places(before)
    return Rig(bench, driver, host, other, tuple(free[:DEVICES]), before)


async def _clear(rig: Rig) -> None:
    """Free what a test has used, by a driver that has not been through it."""
    async with rig.bench.connected() as driver:
        for host in (rig.host, rig.other):
            with contextlib.suppress(FabricError, AssertionError, TimeoutError):
                if left := await driver.attached(host) & frozenset(rig.devices):
                    await rig.detach(*left, host=host, driver=driver)


async def find(driver: Driver, key: str) -> Operation | None:
    """The operation with this key, or None also where the manager keeps no record."""
    try:
        return await driver.find_operation(key)
    except Unsupported:
        return None

"""The leader's session with one fabric manager: the driver, what was last read, and whether calls may be made."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from weft.binding.inventory import Picture, with_attached
from weft.fabric.driver import Driver, Inventory, Operation, OperationPhase
from weft.fabric.errors import Busy, NotFound, OutcomeUnknown, Unsupported

READINGS_KEPT = 10_000
FAILURES_TO_BLAME = 3
"""Failed attaches in a row after which a device is set aside."""


class Leader(Protocol):
    """What binding has to know of leadership (runtime's Lease, or a stand-in in tests)."""

    took_over: bool
    lease_seconds: float

    def remaining_seconds(self) -> float: ...


def boottime() -> float:
    """Seconds since the machine started: does not jump with the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class FabricSession:
    """State in memory only: losing it costs readings and waiting time, never a device."""

    name: str
    generation: int
    driver: Driver
    leader: Leader
    request_timeout_seconds: float
    settle_seconds: float
    epoch: int = 0
    """Number of the leadership that may call this manager; 0 until the earlier leader is fenced."""
    opened: float = field(default_factory=boottime)
    picture: Picture | None = None
    reading: Inventory = field(default_factory=lambda: Inventory((), (), (), complete=False))
    managed: bool = False
    """Whether the Fabric's mode allows writes."""
    _touched: dict[str, float] = field(default_factory=dict)
    """When a device was last seen attached or had a call made for it."""
    _complete_readings: deque[float] = field(default_factory=lambda: deque(maxlen=READINGS_KEPT))
    """When each complete inventory began."""
    _mutations: int = 0
    _untouched: set[str] = field(default_factory=set)
    _tasks: dict[str, str] = field(default_factory=dict)
    _failures: dict[str, tuple[int, float]] = field(default_factory=dict)
    _last_success: float = 0.0

    def may_call(self) -> None:
        """Raise Busy unless the lease outlasts one request: a call must not land under the next leader."""
        if self.leader.remaining_seconds() < self.request_timeout_seconds:
            raise Busy("the leader's lease ends too soon to start a call")
        if not self.managed:
            raise Busy("the fabric is in Observe mode")
        if self.epoch == 0:
            raise Busy("the earlier leader is not fenced yet")

    def adopt(self, earlier: FabricSession) -> None:
        """Go on from a session with the same manager."""
        self.epoch, self.picture = earlier.epoch, earlier.picture
        self._touched, self._complete_readings = earlier._touched, earlier._complete_readings
        self._mutations, self._untouched = earlier._mutations, earlier._untouched
        self._tasks, self._failures, self._last_success = (
            earlier._tasks,
            earlier._failures,
            earlier._last_success,
        )

    async def read_inventory(self) -> tuple[float, int]:
        """Read the inventory into `reading`; returns when the reading began, and the count of our changes then."""
        began, mutations = boottime(), self._mutations
        self.reading = await self.driver.inventory()
        return began, mutations

    def take(self, picture: Picture, began: float, mutations: int) -> bool:
        """Adopt a picture. False when we changed something meanwhile: it may be older than what we know."""
        if mutations != self._mutations and self.picture is not None:
            return False
        self.picture = picture
        if not picture.doubt:
            self._complete_readings.append(began)
            self._touched.update({device: began for device, _ in picture.inventory.attachments})
        return True

    def settled_absent(self, device: str) -> bool:
        """Whether complete inventories more than `settle_seconds` apart all lacked an attachment of the device.

        A call that timed out may still take effect; after this long it is taken to be lost.
        """
        since = self._touched.get(device, 0.0)
        first = next((began for began in self._complete_readings if began > since), None)
        return first is not None and self._complete_readings[-1] - first >= self.settle_seconds

    def claimed(self, uids: frozenset[str]) -> None:
        """These attachments were created just now, and no call was made for them."""
        self._untouched |= uids

    def is_untouched(self, uid: str) -> bool:
        return uid in self._untouched

    async def attached(self, host: str) -> frozenset[str]:
        """Read a host's devices and bring the picture up to date."""
        devices = await self.driver.attached(host)
        self._mutations += 1
        if self.picture is not None:
            inventory = with_attached(self.picture.inventory, host, devices)
            self.picture = Picture(inventory, self.picture.doubt, self.picture.message)
        return devices

    async def attach(self, key: str, host: str, devices: frozenset[str], uids: frozenset[str]) -> Operation:
        """Attach, having noted first that these devices may now become attached at any time.

        Raises Busy while the manager works on it.
        """
        self.may_call()
        fresh = uids <= self._untouched
        self._touch(devices, uids)
        return await self._run(key, not fresh, lambda: self.driver.attach(key, host, devices))

    async def detach(self, key: str, host: str, devices: frozenset[str]) -> Operation:
        """Detach; raises Busy while the manager works on it."""
        self.may_call()
        self._touch(devices, frozenset())
        return await self._run(key, True, lambda: self.driver.detach(key, host, devices))

    async def _run(
        self, key: str, may_be_running: bool, call: Callable[[], Awaitable[Operation]]
    ) -> Operation:
        """Start an operation, unless one with this key is under way: then see how that one does."""
        id = self._tasks.get(key)
        if id is None and may_be_running:
            try:
                found = await self.driver.find_operation(key)
            except Unsupported:
                found = None
            id = found.id if found is not None and not found.phase.is_terminal else None
        operation: Operation | None = None
        if id:
            try:
                operation = await self.driver.operation(id)
            except NotFound:
                # The manager keeps no record of what has ended: reading tells how.
                operation = None
            self._tasks.pop(key, None)
        if operation is None:
            operation = await call()
        if operation.phase is OperationPhase.UNKNOWN:
            raise OutcomeUnknown(operation.message or "the manager does not say how the operation ended")
        if operation.id and not operation.phase.is_terminal:
            self._tasks[key] = operation.id
            raise Busy(f"the manager works on it ({operation.id})")
        return operation

    def _touch(self, devices: frozenset[str], uids: frozenset[str]) -> None:
        self._untouched -= uids
        self._mutations += 1
        now = boottime()
        self._touched.update(dict.fromkeys(devices, now))

    def failed(self, devices: frozenset[str]) -> None:
        """An attach of these devices had an error."""
        for device in devices:
            count, first = self._failures.get(device, (0, boottime()))
            self._failures[device] = (count + 1, first)

    def succeeded(self, devices: frozenset[str]) -> None:
        """These devices were seen attached."""
        if devices:
            self._last_success = boottime()
        for device in devices:
            self._failures.pop(device, None)

    def try_alone(self, devices: frozenset[str]) -> bool:
        """Whether one of them has failed: taken one by one, the others show which one is at fault."""
        return any(device in self._failures for device in devices)

    def is_at_fault(self, device: str) -> bool:
        """Whether the device failed repeatedly while the manager attached others: then it is not the manager."""
        count, first = self._failures.get(device, (0, 0.0))
        return count >= FAILURES_TO_BLAME and self._last_success > first

"""The leader's session with one fabric manager: the driver, what was last read, and whether calls may be made."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from weft.binding.inventory import Picture, with_attached
from weft.fabric.driver import Driver, Inventory, Operation, OperationPhase
from weft.fabric.errors import Busy, NotFound, OutcomeUnknown, Unsupported

Pair = tuple[str, str]
"""Device and host."""

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
    uid: str
    """The Fabric object's: a later namesake is another fabric."""
    generation: int
    endpoint: str
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
    trouble: str = ""
    """Why the manager could not be read the last time: until it can, no call is made that would only hang."""
    _touched: dict[Pair, float] = field(default_factory=dict)
    """When a device was last seen at a host or had a call made for it there; forgotten once it has settled."""
    _absent_since: dict[Pair, float] = field(default_factory=dict)
    """When the first complete inventory after that began which does not show it there."""
    _first_reading: float | None = None
    _last_reading: float = 0.0
    """When the first and the last complete inventory began."""
    _host_news: dict[str, float] = field(default_factory=dict)
    """When a host was last read or had a call made for it: an inventory begun earlier says nothing about it."""
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
        self.epoch, self.picture, self.trouble = earlier.epoch, earlier.picture, earlier.trouble
        self._touched, self._absent_since = earlier._touched, earlier._absent_since
        self._first_reading, self._last_reading = earlier._first_reading, earlier._last_reading
        self._host_news, self._untouched = earlier._host_news, earlier._untouched
        self._tasks, self._failures, self._last_success = (
            earlier._tasks,
            earlier._failures,
            earlier._last_success,
        )

    async def read_inventory(self, claimed: frozenset[str] = frozenset()) -> float:
        """Read the inventory into `reading`, the claimed devices first; returns when the reading began."""
        began = boottime()
        self.reading = await self.driver.inventory(claimed)
        return began

    def take(self, picture: Picture, began: float) -> None:
        """Adopt a picture, except for hosts about which something newer is known."""
        inventory = picture.inventory
        for host, at in self._host_news.items():
            if self.picture is not None and at >= began:
                known = frozenset(
                    device for device, where in self.picture.inventory.attachments if where == host
                )
                inventory = with_attached(inventory, host, known)
        self.picture = replace(picture, inventory=inventory)
        if picture.doubt:
            return
        if self._first_reading is None:
            self._first_reading = began
        self._last_reading = began
        shown = set(inventory.attachments)
        for pair in shown:
            self._touched[pair] = max(began, self._touched.get(pair, 0.0))
            self._absent_since.pop(pair, None)
        for pair, touched in list(self._touched.items()):
            if pair in shown or began <= touched:
                continue
            if began - self._absent_since.setdefault(pair, began) >= self.settle_seconds:
                del self._touched[pair], self._absent_since[pair]

    def settled_absent(self, device: str, host: str) -> bool:
        """Whether complete inventories `settle_seconds` apart all lacked the attachment.

        A call that timed out may still take effect; after this long it is taken to be lost.
        """
        pair = device, host
        first = self._absent_since.get(pair) if pair in self._touched else self._first_reading
        return first is not None and self._last_reading - first >= self.settle_seconds

    def claimed(self, uids: frozenset[str]) -> None:
        """These attachments were created just now, and no call was made for them."""
        self._untouched |= uids

    def forget(self, operation: str, uids: frozenset[str]) -> None:
        """These attachments are gone: their operation concerns nobody any more."""
        self._untouched -= uids
        for key in [key for key in self._tasks if key.startswith(operation)]:
            del self._tasks[key]

    def is_untouched(self, uid: str) -> bool:
        return uid in self._untouched

    async def attached(self, host: str) -> frozenset[str]:
        """Read a host's devices and bring the picture up to date."""
        devices = await self.driver.attached(host)
        self._host_news[host] = boottime()
        if self.picture is not None:
            inventory = with_attached(self.picture.inventory, host, devices)
            self.picture = replace(self.picture, inventory=inventory)
        return devices

    async def attach(self, key: str, host: str, devices: frozenset[str], uids: frozenset[str]) -> Operation:
        """Attach, having noted first that these devices may now become attached at any time.

        Raises Busy while the manager works on it.
        """
        self.may_call()
        fresh = uids <= self._untouched
        self._touch(host, devices, uids)
        return await self._run(key, not fresh, lambda: self.driver.attach(key, host, devices))

    async def detach(self, key: str, host: str, devices: frozenset[str]) -> Operation:
        """Detach; raises Busy while the manager works on it."""
        self.may_call()
        self._touch(host, devices, frozenset())
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
            # Looking for the operation may have taken longer than the lease has left.
            self.may_call()
            operation = await call()
        if operation.phase is OperationPhase.UNKNOWN:
            raise OutcomeUnknown(operation.message or "the manager does not say how the operation ended")
        if operation.id and not operation.phase.is_terminal:
            self._tasks[key] = operation.id
            raise Busy(f"the manager works on it ({operation.id})")
        return operation

    def _touch(self, host: str, devices: frozenset[str], uids: frozenset[str]) -> None:
        self._untouched -= uids
        self._host_news[host] = now = boottime()
        for device in devices:
            self._touched[device, host] = now
            self._absent_since.pop((device, host), None)

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

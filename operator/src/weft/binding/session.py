"""The leader's session with one fabric manager: the driver, what was last read, and whether calls may be made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from weft.binding.audit import Act, Audit, Cause
from weft.binding.blame import Blame
from weft.binding.call_trouble import CallTrouble
from weft.binding.evidence import Evidence
from weft.binding.inventory import LivePicture, Picture
from weft.binding.orphans import Sightings
from weft.fabric.driver import Capabilities, Driver, Inventory, Operation, OperationPhase
from weft.fabric.errors import (
    Busy,
    DeviceFault,
    FabricError,
    NotFound,
    OutcomeUnknown,
    PartialFailure,
    Unsupported,
)

NOBODY = Cause()


class Leader(Protocol):
    """What binding has to know of leadership (runtime's Lease, or a stand-in in tests)."""

    took_over: bool
    lease_seconds: float

    def remaining_seconds(self) -> float: ...


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
    opened: float
    """When, in seconds since the machine started."""
    epoch: int = 0
    """Number of the leadership that may call this manager; 0 until the earlier leader is fenced."""
    service: str | None = None
    """The UUID of the manager that answers, empty where it has none; None until it was read and found to be ours."""
    capabilities: Capabilities | None = None
    """What the manager can do; None: it was not read yet."""
    managed: bool = False
    """Whether the Fabric's mode allows writes."""
    trouble: str = ""
    """Why the manager could not be read the last time: until it can, no call is made that would only hang."""
    evidence: Evidence = field(default_factory=Evidence)
    blame: Blame = field(default_factory=Blame)
    orphans: Sightings = field(default_factory=Sightings)
    calls: CallTrouble = field(default_factory=CallTrouble)
    """What the manager said when calls failed."""
    audit: Audit = field(default_factory=Audit)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What must not be said, whoever repeats it."""
    _live: LivePicture | None = None
    _ended: dict[str, Operation] = field(default_factory=dict)
    """How tasks ended that nobody has asked about since, by the key of their operation."""

    @property
    def was_read(self) -> bool:
        """Whether there is a picture."""
        return self._live is not None

    @property
    def picture(self) -> Picture | None:
        """The whole picture, of the last inventory and what was read of single hosts since."""
        return self._live.whole() if self._live is not None else None

    def is_made(self, host: str) -> bool:
        """Whether the last inventory shows the host as one that is made of its devices."""
        return self._live is not None and host in self._live.made

    def picture_of(self, host: str, devices: frozenset[str]) -> Picture | None:
        """What the picture shows of one host and of these devices."""
        return self._live.of(host, devices) if self._live is not None else None

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
        self.epoch, self._live, self.trouble = earlier.epoch, earlier._live, earlier.trouble
        self.service, self.capabilities = earlier.service, earlier.capabilities
        self.evidence, self.blame, self._ended = earlier.evidence, earlier.blame, earlier._ended
        self.orphans, self.calls = earlier.orphans, earlier.calls

    def take(self, picture: Picture, reading: Inventory, began: int, at: float | None) -> None:
        """Adopt the picture made of a reading, except for hosts of which something newer is known.

        `began` is the reading's order, `at` its time; None: not known well enough to measure by.
        """
        live, before = LivePicture(picture), self._live
        if before is not None:
            for host in self.evidence.newer_hosts(began):
                live.read(host, before.at(host))
        self._live = live
        unread = reading.unread
        devices = frozenset(device.id for device in reading.devices)
        known = self.evidence.listed if unread.device_list else None
        self.evidence.listed = devices | (known or frozenset())
        if at is None:
            return
        # What was not read stands in the reading as it was earlier: that is no sight of it.
        shown = frozenset(
            (device, host)
            for device, host in reading.attachments
            if device not in unread.devices and host not in unread.hosts
        )
        believed = not picture.problem
        hosts = frozenset(host.id for host in reading.hosts)

        def shows_absence(device: str, host: str) -> bool:
            # Of a reading that lost many devices at once, only what it does show is believed.
            is_there = believed or (device in devices and host in hosts)
            return is_there and reading.shows_absence(device, host)

        self.evidence.inventory_read(began, at, shown, shows_absence, self.settle_seconds, believed=believed)

    async def attached(self, host: str, operations: Iterable[str] = ()) -> frozenset[str]:
        """Read a host's devices and bring the picture up to date. Raises Busy while a task changes the host.

        `operations` are keys of calls that had no answer: the manager may have made tasks of them.
        """
        with self._noted(host, "read"):
            await self._task_at(host)
            for key in operations:
                await self._find_task(key, host)
            devices = await self.driver.attached(host)
        self.audit.read(self.name, host, devices)
        self.evidence.host_read(host, devices)
        if self._live is not None:
            self._live.read(host, devices)
        return devices

    async def attach(
        self, key: str, host: str, devices: frozenset[str], uids: frozenset[str], cause: Cause = NOBODY
    ) -> Operation:
        """Attach, having noted first that these devices may now become attached at any time.

        Raises Busy while the manager works on it.
        """
        may_be_running = not all(self.evidence.is_uncalled(uid) for uid in uids)
        call = lambda: self.driver.attach(key, host, devices)  # noqa: E731
        with self._noted(host, "attach"):
            operation = await self._run(key, host, devices, uids, may_be_running, call, cause)
        if operation.failed:
            failure = PartialFailure(operation.message, operation.failed)
            self.calls.failed(self.name, (host, "attach"), failure, self.secrets)
        return operation

    async def detach(self, key: str, host: str, devices: frozenset[str], cause: Cause = NOBODY) -> Operation:
        """Detach; raises Busy while the manager works on it, or on anything else at the host."""
        call = lambda: self.driver.detach(key, host, devices)  # noqa: E731
        with self._noted(host, "detach"):
            return await self._run(key, host, devices, frozenset(), True, call, cause)

    @contextmanager
    def _noted(self, host: str, what: str) -> Iterator[None]:
        """Keep what the manager says when what is asked of it at a host fails."""
        try:
            yield
        except Busy:
            # It works on it, or the call was not made.
            raise
        except FabricError as error:
            self.calls.failed(self.name, (host, what), error, self.secrets)
            raise
        self.calls.succeeded((host, what))

    async def _run(
        self,
        key: str,
        host: str,
        devices: frozenset[str],
        uids: frozenset[str],
        may_be_running: bool,
        call: Callable[[], Awaitable[Operation]],
        cause: Cause,
    ) -> Operation:
        """Start an operation, unless one with this key has been under way: then say how that one ended."""
        self.may_call()
        await self._task_at(host)
        if (ended := self._ended.pop(key, None)) is not None:
            if ended.phase is OperationPhase.UNKNOWN:
                raise OutcomeUnknown(ended.message or "the manager does not say how the operation ended")
            return ended
        if may_be_running:
            await self._find_task(key, host)
        # Looking for the operation may have taken longer than the lease has left.
        self.may_call()
        before = self.evidence.calling(host, devices, uids)
        seen = self._live.at(host) if self._live is not None else None
        act = Act(self.name, "attach" if uids else "detach", host, devices, cause, seen)
        self.audit.began(act)
        try:
            operation = await self._audited(act, call)
        except (DeviceFault, PartialFailure):
            # Of a batch some may have taken effect; reading tells.
            raise
        except OutcomeUnknown:
            self.evidence.unanswered(before)
            raise
        except FabricError:
            self.evidence.refused(before)
            raise
        except BaseException:
            self.evidence.unanswered(before)
            raise
        if operation.phase is OperationPhase.UNKNOWN:
            self.evidence.unanswered(before)
            raise OutcomeUnknown(operation.message or "the manager does not say how the operation ended")
        if operation.id and not operation.phase.is_terminal:
            self.evidence.task_began(host, key, operation.id)
            raise Busy(f"the manager works on it ({operation.id})")
        if not uids and operation.phase is OperationPhase.SUCCEEDED and not operation.failed:
            self.evidence.detached(before)
        return operation

    async def _audited(self, act: Act, call: Callable[[], Awaitable[Operation]]) -> Operation:
        """Make a call, and keep for the record how it was answered."""
        try:
            operation = await call()
        except BaseException as error:
            self.audit.ended(act, error)
            raise
        self.audit.ended(act, operation)
        return operation

    async def _task_at(self, host: str) -> None:
        """Raise Busy while a task is known to run at the host: what is read of it meanwhile says nothing."""
        known = self.evidence.task(host)
        if known is None:
            return
        key, id = known
        try:
            operation = await self.driver.operation(id)
        except NotFound:
            # The manager keeps no record of what has ended: reading tells how.
            self.evidence.task_ended(host)
            return
        if not operation.phase.is_terminal and operation.phase is not OperationPhase.UNKNOWN:
            raise Busy(f"the manager works on it ({id})")
        self.evidence.task_ended(host)
        self._ended[key] = operation

    def forget(self, operation: str) -> None:
        """The claims of this operation are gone: how its tasks ended concerns nobody any more."""
        for key in [key for key in self._ended if key.startswith(operation)]:
            del self._ended[key]

    async def _find_task(self, key: str, host: str) -> None:
        """Look for a task that an earlier leader, or a call without an answer, began. Raises Busy while it runs."""
        try:
            found = await self.driver.find_operation(key)
        except Unsupported:
            return
        if found is not None and not found.phase.is_terminal and found.id:
            self.evidence.task_began(host, key, found.id)
            raise Busy(f"the manager works on it ({found.id})")

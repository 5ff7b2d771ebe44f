"""A fabric manager in memory, as permissive as the emulator, and the drivers by which replicas reach it.

It does what it is asked, also twice, late, and for those it does not know. A `Treatment` (support.wire) says what
becomes of a call; what it was made to do is in `journal`, as the emulator writes it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from support.simulated.loop import VirtualLoop
from support.simulated.process import Process
from support.wire import PASS, Message, Treatment, Way
from weft.fabric.driver import (
    Capabilities,
    Device,
    DeviceKind,
    Host,
    Inventory,
    Operation,
    OperationPhase,
    Unread,
)
from weft.fabric.errors import (
    AuthFailed,
    Conflict,
    DeviceFault,
    FabricError,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Transient,
    Unsupported,
)

Pairs = frozenset[tuple[str, str]]
DONE = Operation("", OperationPhase.SUCCEEDED)
HIDDEN_NEITHER_SECONDS = 2.0
LISTS_COME_BACK_SECONDS = 0.7
"""For how long a manager that restarted serves empty, valid collections."""


@dataclass(frozen=True)
class Kind:
    """What sort of manager it is: drawn once per schedule."""

    latency: float = 0.0
    tasks: bool = False
    """Answers at once with a task, which takes `latency`."""
    forgets_tasks: bool = False
    whole_lists: bool = False
    """A change replaces the list of the host's devices as it was when the change was sent, as PATCH does."""
    sessions: bool = False
    """Whether earlier sessions can be revoked; their calls are refused when they arrive."""


class Manager:
    """The devices, the hosts, and who has what."""

    def __init__(
        self, loop: VirtualLoop, rng: random.Random, kind: Kind, devices: list[Device], hosts: int
    ) -> None:
        self.loop, self.rng, self.kind = loop, rng, kind
        self.devices = devices
        self.hosts = [f"sled-{n}" for n in range(hosts)]
        self.journal: list[dict[str, Any]] = []
        self.treat: Callable[[Message], Treatment] = lambda _message: PASS
        self.struck: dict[str, int] = {}
        self.tell: Callable[..., None] = lambda *_what: None
        self.vanished: dict[str, float] = {}
        """Until when a device is not shown."""
        self.lied_about: dict[str, float] = {}
        """When a change of a device was last answered without being made: hidden as well, nobody could tell."""
        self.failing: dict[str, int] = {}
        """How many more attaches of a device fail."""
        self.shown: dict[str, float] = {}
        """As of when a resource was last shown."""
        self.down_until = 0.0
        self.valid: set[int] = set()
        """Sessions that are not revoked."""
        self.tasks: dict[str, tuple[str, Operation]] = {}
        """Key and state of a task, by its id."""
        self._history: list[tuple[float, Pairs]] = [(0.0, frozenset())]
        self._numbers = itertools.count(1)

    @property
    def pairs(self) -> Pairs:
        return self._history[-1][1]

    def seen_at(self, moment: float) -> Pairs:
        """What was attached then."""
        return next((pairs for at, pairs in reversed(self._history) if at <= moment), frozenset())

    def is_shown(self, device: str) -> bool:
        lied = self.lied_about.get(device, -HIDDEN_NEITHER_SECONDS)
        return (
            self.vanished.get(device, 0.0) <= self.loop.now or self.loop.now - lied < HIDDEN_NEITHER_SECONDS
        )

    def change(self, host: str, attached: frozenset[str], detached: frozenset[str]) -> None:
        """Carry out a change and note it."""
        pairs = set(self.pairs)
        moment = datetime.fromtimestamp(self.loop.now, UTC).isoformat()
        for act, devices in (("attach", attached), ("detach", detached)):
            for device in sorted(devices):
                if ((device, host) in pairs) is (act == "attach"):
                    continue
                (pairs.add if act == "attach" else pairs.discard)((device, host))
                line = {"seq": next(self._numbers), "time": moment, "act": act, "block": device, "host": host}
                self.journal.append({**line, "outcome": "done"})
                self.tell("manager", act, device, host)
        self._history.append((self.loop.now, frozenset(pairs)))

    def open(self) -> int:
        session = next(self._numbers)
        self.valid.add(session)
        return session

    def new_task(self, key: str) -> str:
        id = f"task-{next(self._numbers)}"
        self.tasks[id] = key, Operation(id, OperationPhase.RUNNING)
        return id


class SimulatedDriver:
    """One session of one replica; implements `weft.fabric.driver.Driver`."""

    def __init__(self, manager: Manager, process: Process, timeout: float) -> None:
        self._manager, self._process, self._timeout = manager, process, timeout
        self._session = manager.open()

    async def capabilities(self) -> Capabilities:
        return Capabilities(self._manager.kind.tasks, self._manager.kind.sessions)

    async def inventory(self, first: frozenset[str] = frozenset()) -> Inventory:
        treatment = await self._read("inventory")
        manager = self._manager
        early = manager.seen_at(self._as_of("inventory", treatment))
        # Hosts are read one after the other: what moves meanwhile is seen twice, or not at all.
        await asyncio.sleep(manager.kind.latency)
        late = manager.seen_at(self._as_of("inventory", treatment))
        middle = len(manager.hosts) // 2
        pairs = {p for p in early if p[1] in manager.hosts[:middle]} | {
            p for p in late if p[1] in manager.hosts[middle:]
        }
        await self._process.back()
        if manager.loop.now < manager.down_until + LISTS_COME_BACK_SECONDS and manager.down_until:
            return Inventory((), (), (), True)
        shown = tuple(device for device in manager.devices if manager.is_shown(device.id))
        hosts = tuple(Host(name, {}, True) for name in manager.hosts)
        visible = {device.id for device in shown}
        whole = Inventory(shown, hosts, tuple(sorted(p for p in pairs if p[0] in visible)), True)
        if treatment.way is not Way.HALF:
            return whole
        half = shown[: len(shown) // 2]
        there = {device.id for device in half}
        return replace(
            whole,
            devices=half,
            attachments=tuple(p for p in whole.attachments if p[0] in there),
            complete=False,
            unread=Unread(device_list=True),
        )

    async def attached(self, host: str) -> frozenset[str]:
        treatment = await self._read(f"hosts/{host}")
        manager = self._manager
        if treatment.way is Way.HALF:
            raise Transient("half of a list")
        pairs = manager.seen_at(self._as_of(host, treatment))
        await self._process.back()
        return frozenset(device for device, at in pairs if at == host and manager.is_shown(device))

    async def attach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        manager = self._manager
        if elsewhere := sorted(d for d, at in manager.pairs if d in devices and at != host):
            await self._read(f"hosts/{host}")
            await self._process.back()
            raise Conflict(f"{', '.join(elsewhere)}: at another host")
        for device in sorted(devices):
            if manager.failing.get(device, 0) > 0:
                manager.failing[device] -= 1
                await self._process.back()
                raise DeviceFault(f"{device} is broken", device)
        return await self._write(operation, host, devices, frozenset())

    async def detach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        return await self._write(operation, host, frozenset(), devices)

    async def operation(self, id: str) -> Operation:
        await self._read(f"tasks/{id}")
        await self._process.back()
        if id not in self._manager.tasks:
            raise NotFound(id)
        return self._manager.tasks[id][1]

    async def find_operation(self, key: str) -> Operation | None:
        if not self._manager.kind.tasks:
            raise Unsupported("no tasks")
        await self._read("tasks")
        await self._process.back()
        found = [operation for of, operation in self._manager.tasks.values() if of == key]
        return found[-1] if found else None

    async def revoke_other_sessions(self) -> int:
        manager = self._manager
        if not manager.kind.sessions:
            raise Unsupported("no sessions")
        await self._read("sessions")
        others, manager.valid = len(manager.valid) - 1, {self._session}
        await self._process.back()
        return others

    async def close(self) -> None:
        self._manager.valid.discard(self._session)

    def _as_of(self, path: str, treatment: Treatment) -> float:
        """The moment whose state an answer shows: that of a cache, which does not go back in time."""
        manager = self._manager
        age = manager.rng.uniform(0, treatment.seconds) if treatment.way is Way.STALE else 0.0
        manager.shown[path] = max(manager.shown.get(path, 0.0), manager.loop.now - age)
        return manager.shown[path]

    def _is_refused(self) -> bool:
        return self._manager.kind.sessions and self._session not in self._manager.valid

    def _struck(self, method: str, path: str) -> Treatment:
        treatment = self._manager.treat(Message("fabric", method, path, "", b""))
        self._manager.tell("fabric", method, path, self._session, treatment)
        if treatment != PASS:
            what = f"fabric {treatment.way.value if treatment.way is not Way.PASS else 'delay'}"
            self._manager.struck[what] = self._manager.struck.get(what, 0) + 1
        return treatment

    async def _read(self, path: str) -> Treatment:
        """The way to the manager; what is read there, the caller reads now. Raises what a read can raise."""
        manager, process = self._manager, self._process
        process.sends()
        treatment = self._struck("GET", path)
        delay = manager.kind.latency / 2 + treatment.delay
        await asyncio.sleep(min(delay, self._timeout))
        await process.back()
        if delay >= self._timeout or treatment.way in (Way.DROP, Way.GARBAGE, Way.LOSE):
            raise Transient(f"{path}: no answer that makes sense")
        if manager.loop.now < manager.down_until:
            raise Transient(f"{path}: connection refused")
        if self._is_refused():
            raise AuthFailed("the session was revoked")
        if treatment.way in (Way.REFUSE, Way.DENY):
            raise RateLimited("429", 1.0) if treatment.status == 429 else Transient(str(treatment.status))
        return treatment

    async def _write(
        self, key: str, host: str, attached: frozenset[str], detached: frozenset[str]
    ) -> Operation:
        manager, process = self._manager, self._process
        killed_after = process.sends()
        if process.is_stopped:
            # It would have looked at its lease again before it sent this.
            await process.back()
            raise Transient("stopped before it was sent")
        treatment = self._struck("POST", f"hosts/{host}")
        way = treatment.way
        if manager.loop.now < manager.down_until:
            await process.back()
            raise Transient("connection refused")
        if self._is_refused():
            await process.back()
            raise AuthFailed("the session was revoked")
        before = frozenset(device for device, at in manager.pairs if at == host)

        def effect() -> None:
            if manager.kind.whole_lists:
                wanted = (before | attached) - detached
                now = frozenset(device for device, at in manager.pairs if at == host)
                manager.change(host, wanted - now, now - wanted)
            else:
                manager.change(host, attached, detached)

        def arrives() -> None:
            if manager.loop.now >= manager.down_until and not self._is_refused():
                effect()

        # The rest of its way a call goes without its sender: in the network, or in a manager that is slow.
        lands = arrives if manager.rng.random() < 0.5 else effect
        delay = manager.kind.latency / 2 + treatment.delay
        if way is Way.LIE:
            manager.lied_about |= dict.fromkeys(attached | detached, manager.loop.now)
        has_effect = way not in (Way.DROP, Way.REFUSE, Way.LIE)
        if manager.kind.tasks and way is Way.PASS and not treatment.delay:
            return await self._task(key, effect)
        if has_effect and delay == 0:
            effect()
        elif has_effect:
            manager.loop.call_later(delay, lands)
            if way is Way.TWICE:
                manager.loop.call_later(delay, lands)
        if killed_after:
            process.die()
        await asyncio.sleep(min(delay + manager.kind.latency / 2, self._timeout))
        await process.back()
        error = self._answer(treatment, delay)
        if error is not None:
            raise error
        return DONE

    def _answer(self, treatment: Treatment, delay: float) -> FabricError | None:
        if delay >= self._timeout or treatment.way in (Way.DROP, Way.LOSE, Way.GARBAGE, Way.DENY):
            return OutcomeUnknown("no answer that makes sense")
        if treatment.way is not Way.REFUSE:
            return None
        match treatment.status:
            case 429 | 503:
                return RateLimited(str(treatment.status), 1.0)
            case 409:
                return Conflict("the manager says so")
        return OutcomeUnknown(str(treatment.status))

    async def _task(self, key: str, effect: Callable[[], None]) -> Operation:
        manager = self._manager
        id = manager.new_task(key)

        def end() -> None:
            effect()
            if manager.kind.forgets_tasks:
                del manager.tasks[id]
            else:
                manager.tasks[id] = key, Operation(id, OperationPhase.SUCCEEDED)

        manager.loop.call_later(manager.kind.latency, end)
        await asyncio.sleep(0.01)
        await self._process.back()
        return Operation(id, OperationPhase.RUNNING)


def gpu(name: str, domain: str) -> Device:
    attributes = {"model": "A100-80GB", "type": "GPU", "nvlinkDomain": domain}
    return Device(name, DeviceKind.ACCELERATOR, attributes, 80 << 30, True)


def memory(name: str) -> Device:
    return Device(name, DeviceKind.MEMORY, {"model": "CXL-512", "type": "CXL"}, 512 << 30, True)

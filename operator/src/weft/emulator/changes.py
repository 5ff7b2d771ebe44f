"""Requests that change something: when it happens, and what goes wrong with it. What they mean, a dialect says."""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from weft.emulator.faults import ON_CHANGE, SELECTIVE, Fault, FaultKind, Faults, Target
from weft.emulator.journal import Journal
from weft.emulator.messages import Reply, message, refusal
from weft.emulator.quirks import Quirk, Quirks
from weft.emulator.state import Record, State
from weft.emulator.tasks import Task, Tasks
from weft.emulator.tree import Tree
from weft.emulator.writes import Plan, RefusedWriteError, Write

T = TypeVar("T")

_SIGMA = 0.5
RETRY_AFTER_SECONDS = 1


def utc_now() -> str:
    """The time as Redfish writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Latency:
    """Log-normal times with a given mean."""

    def __init__(self, mean_milliseconds: float, seed: int) -> None:
        self._mean_seconds = mean_milliseconds / 1000
        self._random = random.Random(seed)

    def seconds(self, acts: int) -> float:
        """How long this many acts take, one after the other."""
        if self._mean_seconds <= 0:
            return 0.0
        mu = math.log(self._mean_seconds) - _SIGMA**2 / 2
        return sum(self._random.lognormvariate(mu, _SIGMA) for _ in range(acts))


Planner = Callable[[], Plan]
"""What the write means now. Raises RefusedWriteError."""


class Changes:
    """Carries out writes: one after the other on a host, at once or as tasks."""

    def __init__(
        self,
        state: State,
        tree: Tree,
        faults: Faults,
        journal: Journal,
        tasks: Tasks,
        latency: Latency,
        save: Callable[[], None],
        asynchronous: bool,
        quirks: Quirks,
    ) -> None:
        self._state = state
        self._tree = tree
        self._faults = faults
        self._journal = journal
        self._tasks = tasks
        self._latency = latency
        self._save = save
        self._asynchronous = asynchronous
        self._quirks = quirks
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._running: set[asyncio.Task[Any]] = set()

    async def carry_out(self, write: Write, planner: Planner) -> Reply:
        """Answer a write. It goes on when its client has given up."""
        return await asyncio.shield(self._start(self._answer(write, planner)))

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        runner = asyncio.create_task(work)
        self._running.add(runner)
        runner.add_done_callback(self._running.discard)
        return runner

    async def _answer(self, write: Write, planner: Planner) -> Reply:
        planned = self._plan(write, planner)
        if isinstance(planned, Reply):
            return planned
        struck = self._faults.strike(_target(write, planned))
        for hang in struck:
            if hang.kind is FaultKind.HANG:
                await asyncio.sleep(hang.seconds)
        fault = next((fault for fault in struck if fault.kind is not FaultKind.HANG), None)
        if fault is not None and fault.kind not in ON_CHANGE:
            change = planned.change
            self._refuse(write, change.host, (*change.attach, *change.detach), f"fault:{fault.kind}")
            return fault_reply(fault)
        if not self._asynchronous or planned.is_idle:
            return await self._execute(write, planned.turn, planner, fault)
        body = write.body.decode(errors="replace")
        task = self._tasks.create(write.method, write.path, body, write.headers, utc_now())
        self._start(self._run(task, write, planned.turn, planner, fault))
        headers = {"Location": task.monitor, "Retry-After": str(RETRY_AFTER_SECONDS)}
        return Reply(202, task.document(), headers, drop=_drops(fault))

    async def close(self) -> None:
        """End what still runs; what was not committed does not happen."""
        for runner in self._running:
            runner.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, task: Task, write: Write, turn: str, planner: Planner, fault: Fault | None) -> None:
        reply = await self._execute(write, turn, planner, fault, task)
        if not task.has_ended:  # else it was cancelled while it waited
            task.finish(reply, utc_now())

    def _plan(self, write: Write, planner: Planner) -> Plan | Reply:
        try:
            planned = planner()
        except RefusedWriteError as refused:
            if refused.outcome:
                self._refuse(write, refused.host, refused.blocks, refused.outcome)
            if refused.duplicate and Quirk.DROP_ON_DUPLICATE in self._quirks:
                return Reply(409, drop=True)
            return self._in_its_way(refused.reply)
        guarded = write.if_match not in (None, "*") and not self._state.permissive
        if guarded and not self._is_current(write):
            self._refuse(write, planned.change.host, (), "stale-etag")
            return self._in_its_way(refusal(412, message("PreconditionFailed")))
        return planned

    def _is_current(self, write: Write) -> bool:
        # A weak ETag never matches in If-Match, by RFC 9110.
        return not str(write.if_match).startswith("W/") and write.if_match == self._tree.etag(write.path)

    def _in_its_way(self, reply: Reply) -> Reply:
        return replace(reply, status=200) if Quirk.ERROR_IN_200 in self._quirks else reply

    async def _execute(
        self, write: Write, turn: str, planner: Planner, fault: Fault | None, task: Task | None = None
    ) -> Reply:
        lock = self._locks[turn]
        await lock.acquire()
        later = False
        try:
            if task is not None and task.has_ended:
                return Reply(410)
            # The world may have changed while this request waited for its turn.
            planned = self._plan(write, planner)
            if isinstance(planned, Reply):
                return planned
            if task is not None:
                task.state = "Running"
            planned = self._without_struck(write, planned, fault)
            if Quirk.LATE in self._quirks and not planned.is_idle:
                later = True
                self._start(self._commit_late(write, planned, lock))
                return self._done(planned, fault)
            await self._pass(planned, self._latency.seconds(planned.change.acts))
            self._commit(write, planned)
            return self._done(planned, fault)
        finally:
            if not later:
                lock.release()

    def _without_struck(self, write: Write, planned: Plan, fault: Fault | None) -> Plan:
        """The plan without the blocks that a lie or a partial failure leaves out."""
        if fault is None or fault.kind not in SELECTIVE:
            return planned
        skipped = _target(write, planned).matching(fault.match)
        if not skipped:
            return planned
        self._refuse(write, planned.change.host, tuple(sorted(skipped)), f"fault:{fault.kind}")
        creates = {path: _less(record, skipped) for path, record in planned.creates.items()}
        creates = {path: r for path, r in creates.items() if r.blocks or not planned.creates[path].blocks}
        deletes = planned.deletes
        if not skipped.isdisjoint((*planned.change.detach, planned.device)):
            kept = {path: self._state.records[path] for path in deletes}
            creates |= {
                path: replace(r, blocks=tuple(b for b in r.blocks if b in skipped))
                for path, r in kept.items()
                if not r.device
            }
            deletes = ()
        return replace(planned, change=planned.change.without(skipped), creates=creates, deletes=deletes)

    async def _commit_late(self, write: Write, planned: Plan, lock: asyncio.Lock) -> None:
        try:
            await self._pass(planned, self._quirks.late_seconds)
            self._commit(write, planned)
        finally:
            lock.release()

    async def _pass(self, planned: Plan, seconds: float) -> None:
        """Time goes by in which nobody else can have what the plan is about."""
        change, device = planned.change, (planned.device,) if planned.device else ()
        busy = (*change.attach, *change.detach, *planned.creates, *planned.deletes, *device)
        self._state.begin(planned.change.host, busy)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._state.end(planned.change.host, busy)

    def _done(self, planned: Plan, fault: Fault | None) -> Reply:
        """The answer to a write that was, or (where effects are late) will be, carried out."""
        if fault is not None and fault.kind in (FaultKind.FAIL_AFTER_COMMIT, FaultKind.PARTIAL):
            return fault_reply(fault)
        if Quirk.DONE_500 in self._quirks and not planned.is_idle:
            return refusal(500, message("InternalError"))
        dropped = _drops(fault)
        if planned.text and Quirk.NO_LOCATION not in self._quirks:
            return Reply(planned.status, planned.text.encode(), {"Content-Type": "text/html"}, drop=dropped)
        found = self._tree.read(planned.path)
        if planned.status == 204 or found is None or Quirk.NO_LOCATION in self._quirks:
            located = planned.status == 201 and Quirk.NO_LOCATION not in self._quirks
            return Reply(204, None, {"Location": planned.path} if located else {}, drop=dropped)
        headers = {"ETag": found[1]} | ({"Location": planned.path} if planned.status == 201 else {})
        return Reply(planned.status, found[0], headers, drop=dropped)

    def _commit(self, write: Write, planned: Plan) -> None:
        if planned.is_idle:
            return
        if Quirk.STALE in self._quirks:
            self._tree.keep(planned.copies, self._quirks.stale_seconds)
        change = planned.change
        for path, record in planned.creates.items():
            self._note(write, "create", record.host, path=path, record=asdict(record))
        for act, blocks in (("detach", change.detach), ("attach", change.attach)):
            for block in blocks:
                self._note(write, act, change.host, block)
        for path in planned.deletes:
            self._note(write, "delete", change.host, path=path)
        for path, record in planned.creates.items():
            self._state.create(path, record)
        self._state.commit(change)
        for path in planned.deletes:
            self._state.delete(path)
        self._save()

    def _refuse(self, write: Write, host: str, blocks: tuple[str, ...], outcome: str) -> None:
        for block in blocks or ("",):
            self._note(write, "refused", host, block, outcome=outcome)

    def _note(self, write: Write, act: str, host: str, block: str = "", **more: Any) -> None:
        self._journal.write(
            act, session=write.session, user=write.user, host=host, block=block, request=write.request, **more
        )


def _less(record: Record, skipped: frozenset[str]) -> Record:
    """The record without the blocks that are left out; a part is left out with its device."""
    gone = record.device in skipped
    return replace(record, blocks=tuple(b for b in record.blocks if not gone and b not in skipped))


def _target(write: Write, planned: Plan) -> Target:
    """What a write is about; a part counts as its device, which exists before it."""
    attach, detach = set(planned.change.attach), set(planned.change.detach)
    if planned.device:
        (attach if planned.creates else detach).add(planned.device)
    return Target(write.path, planned.change.host, frozenset(attach), frozenset(detach))


def _drops(fault: Fault | None) -> bool:
    return fault is not None and fault.kind is FaultKind.DROP_AFTER_COMMIT


def fault_reply(fault: Fault) -> Reply:
    """The answer that a fault of a request gives."""
    pause = {} if fault.retryAfterSeconds is None else {"Retry-After": str(fault.retryAfterSeconds)}
    if fault.kind is FaultKind.DROP:
        return Reply(500, drop=True)
    if fault.kind is FaultKind.GARBAGE:
        return Reply(200, b'{"@odata.id": "/redfish/v1/Sys')
    if fault.kind is FaultKind.ERROR_IN_200:
        return refusal(200, message("GeneralError"))
    if fault.status in (429, 503):
        key = message("ServiceTemporarilyUnavailable", str(fault.retryAfterSeconds or 1))
        return refusal(fault.status, key, headers=pause)
    key = message("OperationFailed" if fault.kind is FaultKind.PARTIAL else "InternalError")
    return refusal(fault.status, key, headers=pause)

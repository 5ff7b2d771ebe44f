"""PATCH of a system: what it means, when it happens, what goes wrong with it."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from weft.emulator import redfish
from weft.emulator.faults import ON_CHANGE, SELECTIVE, Fault, FaultKind, Faults, Target
from weft.emulator.journal import Journal
from weft.emulator.messages import Reply, message, refusal
from weft.emulator.state import Change, Reason, RefusedError, State
from weft.emulator.tasks import Task, Tasks
from weft.emulator.tree import Tree

T = TypeVar("T")

_SIGMA = 0.5
RETRY_AFTER_SECONDS = 1
_READ_ONLY = frozenset({"Id", "Name", "SystemType", "HostName", "Manufacturer", "Model", "SerialNumber"}) | {
    "UUID",
    "PowerState",
    "Status",
}


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


@dataclass(frozen=True)
class Patch:
    """One PATCH request."""

    path: str
    host: str
    body: bytes
    headers: Mapping[str, str]
    request: str
    session: str
    user: str

    @property
    def if_match(self) -> str | None:
        """The ETag that the client expects."""
        return self.headers.get("If-Match")


def wanted_blocks(body: bytes) -> tuple[str, ...] | Reply:
    """The URIs in a body, or the error answer."""
    try:
        data = json.loads(body)
    except ValueError:
        return refusal(400, message("MalformedJSON"))
    if not isinstance(data, dict):
        return refusal(400, message("MalformedJSON"))
    for name in data:
        if name != "Links" and not name.startswith("@"):
            known = name in _READ_ONLY
            return refusal(400, message("PropertyNotWritable" if known else "PropertyUnknown", name))
    part = data.get("Links")
    if part is None:
        return refusal(400, message("PropertyMissing", "Links"))
    if not isinstance(part, dict):
        return refusal(400, message("PropertyValueTypeError", str(part), "Links"))
    for name in part:
        if name not in ("ResourceBlocks", "ResourceBlocks@odata.count"):
            return refusal(400, message("PropertyUnknown", f"Links/{name}"))
    if "ResourceBlocks" not in part:
        return refusal(400, message("PropertyMissing", "Links/ResourceBlocks"))
    found = part["ResourceBlocks"]
    if not isinstance(found, list):
        return refusal(400, message("PropertyValueTypeError", str(found), "Links/ResourceBlocks"))
    for item in found:
        if not isinstance(item, dict) or not isinstance(item.get("@odata.id"), str):
            return refusal(400, message("PropertyValueTypeError", str(item), "Links/ResourceBlocks"))
    return tuple(item["@odata.id"].rstrip("/") for item in found)


class Changes:
    """Carries out PATCHes: one after the other on a system, at once or as tasks."""

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
    ) -> None:
        self._state = state
        self._tree = tree
        self._faults = faults
        self._journal = journal
        self._tasks = tasks
        self._latency = latency
        self._save = save
        self._asynchronous = asynchronous
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._running: set[asyncio.Task[Any]] = set()

    async def patch(self, patch: Patch) -> Reply:
        """Answer a PATCH of a system that exists. It goes on when its client has given up."""
        return await asyncio.shield(self._start(self._answer(patch)))

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        runner = asyncio.create_task(work)
        self._running.add(runner)
        runner.add_done_callback(self._running.discard)
        return runner

    async def _answer(self, patch: Patch) -> Reply:
        uris = wanted_blocks(patch.body)
        if isinstance(uris, Reply):
            return uris
        planned = self._plan(patch, uris)
        if isinstance(planned, Reply):
            return planned
        attach, detach = frozenset(planned.attach), frozenset(planned.detach)
        struck = self._faults.strike(Target(patch.path, patch.host, attach, detach))
        for hang in struck:
            if hang.kind is FaultKind.HANG:
                await asyncio.sleep(hang.seconds)
        fault = next((fault for fault in struck if fault.kind is not FaultKind.HANG), None)
        if fault is not None and fault.kind not in ON_CHANGE:
            self._refuse(patch, (*planned.attach, *planned.detach), f"fault:{fault.kind}")
            return fault_reply(fault)
        if not self._asynchronous or not planned.acts:
            return await self._execute(patch, uris, fault)
        body = patch.body.decode(errors="replace")
        task = self._tasks.create(patch.path, body, patch.headers, utc_now())
        self._start(self._run(task, patch, uris, fault))
        headers = {"Location": task.monitor, "Retry-After": str(RETRY_AFTER_SECONDS)}
        return Reply(202, task.document(), headers, drop=_drops(fault))

    async def close(self) -> None:
        """End what still runs; what was not committed does not happen."""
        for runner in self._running:
            runner.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, task: Task, patch: Patch, uris: tuple[str, ...], fault: Fault | None) -> None:
        reply = await self._execute(patch, uris, fault, task)
        if not task.has_ended:  # else it was cancelled while it waited
            task.finish(reply, utc_now())

    def _plan(self, patch: Patch, uris: tuple[str, ...]) -> Change | Reply:
        guarded = patch.if_match not in (None, "*") and not self._state.permissive
        if guarded and patch.if_match != self._tree.etag(patch.path):
            self._refuse(patch, (), "stale-etag")
            return refusal(412, message("PreconditionFailed"))
        prefix = f"{redfish.BLOCKS}/"
        # A block that a fault hides can be neither asked for nor given up.
        hidden = [block for block in self._state.blocks_of(patch.host) if self._tree.is_hidden(block)]
        names = [uri.removeprefix(prefix) if uri.startswith(prefix) else "" for uri in uris]
        strange = tuple(
            uri for uri, name in zip(uris, names, strict=True) if not name or self._tree.is_hidden(name)
        )
        try:
            if strange:
                raise RefusedError(Reason.UNKNOWN_BLOCK, strange)
            return self._state.plan(patch.host, [*names, *hidden])
        except RefusedError as refused:
            self._refuse(patch, refused.blocks, refused.reason)
            return self._explain(refused, uris)

    @staticmethod
    def _explain(refused: RefusedError, uris: tuple[str, ...]) -> Reply:
        pointers = {
            uri.rsplit("/", 1)[-1]: f"#/Links/ResourceBlocks/{position}" for position, uri in enumerate(uris)
        }
        found = []
        for block in refused.blocks:
            pointer = (pointers[block.rsplit("/", 1)[-1]],)
            if refused.reason is Reason.IN_USE:
                found.append(message("ResourceInUse", properties=pointer))
            else:
                found.append(
                    message("PropertyValueNotInList", block, "Links/ResourceBlocks", properties=pointer)
                )
        return refusal(409 if refused.reason is Reason.IN_USE else 400, *found)

    async def _execute(
        self, patch: Patch, uris: tuple[str, ...], fault: Fault | None, task: Task | None = None
    ) -> Reply:
        async with self._locks[patch.host]:
            if task is not None and task.has_ended:
                return Reply(410)
            # The world may have changed while this request waited for its turn.
            change = self._plan(patch, uris)
            if isinstance(change, Reply):
                return change
            if task is not None:
                task.state = "Running"
            skipped: frozenset[str] = frozenset()
            if fault is not None and fault.kind in SELECTIVE:
                target = Target(patch.path, patch.host, frozenset(change.attach), frozenset(change.detach))
                skipped = target.matching(fault.match)
                if skipped:
                    self._refuse(patch, tuple(sorted(skipped)), f"fault:{fault.kind}")
            change = change.without(skipped)
            self._state.begin(change)
            try:
                await asyncio.sleep(self._latency.seconds(change.acts))
            finally:
                self._state.end(change)
            self._commit(patch, change)
        if fault is not None and fault.kind in (FaultKind.FAIL_AFTER_COMMIT, FaultKind.PARTIAL):
            return fault_reply(fault)
        found = self._tree.read(patch.path)
        if found is None:
            raise LookupError(patch.path)
        return Reply(200, found[0], {"ETag": found[1]}, drop=_drops(fault))

    def _commit(self, patch: Patch, change: Change) -> None:
        for act, blocks in (("detach", change.detach), ("attach", change.attach)):
            for block in blocks:
                self._journal.write(
                    act,
                    session=patch.session,
                    user=patch.user,
                    host=patch.host,
                    block=block,
                    request=patch.request,
                )
        self._state.commit(change)
        if change.acts:
            self._save()

    def _refuse(self, patch: Patch, blocks: tuple[str, ...], outcome: str) -> None:
        for block in blocks or ("",):
            self._journal.write(
                "refused",
                session=patch.session,
                user=patch.user,
                host=patch.host,
                block=block,
                request=patch.request,
                outcome=outcome,
            )


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

"""The manager's tasks: where our operations stand, and which may still change a system."""

from __future__ import annotations

import re
from collections import defaultdict

from weft.fabric.driver import Operation, OperationPhase
from weft.fabric.errors import (
    AuthFailed,
    Busy,
    CapacityExhausted,
    Conflict,
    DeviceFault,
    InvalidRequest,
    NotFound,
    Transient,
    Unsupported,
)
from weft.fabric.redfish.discovery import Service
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.mapping import Json, Reply, list_at, mapping_at, operation_of_task
from weft.fabric.redfish.reader import Collections
from weft.fabric.redfish.session import Session
from weft.fabric.redfish.uris import canonical

OPERATION_HEADER = "Weft-Operation"
"""Request header with our operation's key: a manager that keeps a task's request keeps it there."""


class Tasks:
    """Tasks of one manager. An id of an operation is the path of its Task, or of its task monitor."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._unfinished: defaultdict[str, set[str]] = defaultdict(set)
        self._looked_up = False

    async def look(self, id: str, deadline: float, *, login: int | None = None) -> Operation:
        """Where an operation stands. Raises NotFound when the manager has forgotten it."""
        path = canonical(self._session.local(id))
        try:
            operation = await self._look(path, deadline, login)
        except NotFound:
            self._done(path)
            raise
        if operation.phase.is_terminal:
            self._done(path)
        return operation

    async def _look(self, path: str, deadline: float, login: int | None) -> Operation:
        try:
            reply = await self._session.get(path, deadline=deadline, login=login)
        except (Conflict, InvalidRequest, CapacityExhausted, DeviceFault) as error:
            # A task monitor ends with the answer that the request would have had.
            failed = {error.device: str(error)} if isinstance(error, DeviceFault) else {}
            return Operation(path, OperationPhase.FAILED, str(error), failed)
        if "TaskState" in reply.body:
            own = [reply.body.get("@odata.id"), reply.body.get("TaskMonitor")]
            if path not in {canonical(self._session.local(uri)) for uri in own if uri}:
                raise Transient(f"{path}: the manager answered with another task")
            return operation_of_task(reply.body, path)
        running = reply.status == 202
        return Operation(path, OperationPhase.RUNNING if running else OperationPhase.SUCCEEDED)

    def accepted(self, system: str, reply: Reply) -> Operation:
        """The operation that a 202 answer started on a system."""
        is_task = "TaskState" in reply.body
        try:
            path = canonical(self._session.local(reply.body.get("@odata.id") if is_task else reply.location))
        except Transient as error:
            return Operation(
                "", OperationPhase.UNKNOWN, f"the manager works on it, but names no task: {error}"
            )
        operation = (
            operation_of_task(reply.body, path) if is_task else Operation(path, OperationPhase.RUNNING)
        )
        if not operation.phase.is_terminal:
            self._unfinished[system].add(path)
        return operation

    async def await_turn(self, service: Service, system: str, deadline: float, login: int) -> None:
        """Raise Busy while an earlier task may still change the system.

        The list of blocks is written as a whole: a list read before an earlier task has ended would undo it.
        """
        if not self._looked_up:
            await self._look_up(service, deadline, login)
        for path in sorted(self._unfinished[system]):
            try:
                operation = await self.look(path, deadline, login=login)
            except NotFound:
                continue
            if not operation.phase.is_terminal:
                raise Busy(f"{system}: the manager still works on {path}")

    async def _look_up(self, service: Service, deadline: float, login: int) -> None:
        """Find tasks that an earlier process of ours, or someone else, has left running."""
        # Without $expand this would cost a request for every task the manager has ever kept.
        if service.tasks and service.expand:
            try:
                tasks = await self._all(service, deadline, Problems(), login)
            except (AuthFailed, NotFound, Unsupported):
                tasks = []  # tasks are a help, not a need
            for path, task in tasks:
                target = mapping_at(task, "Payload").get("TargetUri")
                if target and not operation_of_task(task, path).phase.is_terminal:
                    self._unfinished[canonical(self._session.local(target))].add(path)
        self._looked_up = True

    async def find(self, service: Service, key: str, deadline: float) -> Operation | None:
        """The task whose request or name carries the key, or None. Raises Unsupported."""
        if not service.tasks:
            raise Unsupported("the manager keeps no tasks")
        problems = Problems()
        tasks = await self._all(service, deadline, problems)
        for path, task in tasks:
            if carries(task, key):
                return operation_of_task(task, path)
        if not problems.complete:
            raise Transient("; ".join(problems.texts))
        if tasks and not any(mapping_at(task, "Payload") for _, task in tasks):
            raise Unsupported("the manager's tasks do not keep the request: ours cannot be told from others")
        return None

    async def _all(
        self, service: Service, deadline: float, problems: Problems, login: int | None = None
    ) -> list[tuple[str, Json]]:
        reader = Collections(self._session, deadline, problems, login=login)
        return await reader.members(service.tasks, service.expand)

    def _done(self, path: str) -> None:
        for paths in self._unfinished.values():
            paths.discard(path)


def carries(task: Json, key: str) -> bool:
    """Whether a Task's name or the request that it keeps contains the key as a word of its own."""
    payload = mapping_at(task, "Payload")
    texts = [task.get("Name"), payload.get("JsonBody"), *(list_at(payload, "HttpHeaders") or ())]
    word = re.compile(rf"(?<![\w.-]){re.escape(key)}(?![\w.-])")
    return any(word.search(text) for text in texts if isinstance(text, str))

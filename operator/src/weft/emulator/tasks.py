"""Tasks: changes that go on after their request was answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.emulator import redfish
from weft.emulator.messages import Reply, message
from weft.emulator.redfish import Document

KEPT = 1_000
"""How many tasks are remembered; the oldest that ended go first."""

_HIDDEN_HEADERS = frozenset({"authorization", "x-auth-token", "cookie"})


@dataclass
class Task:
    """A change and what became of it."""

    id: str
    method: str
    target: str
    body: str
    headers: list[str]
    started: str
    state: str = "New"
    ended: str = ""
    result: Reply | None = None
    """What the request would have been answered, once it is known."""
    log: list[Document] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("Completed", "Exception", "Cancelled")

    @property
    def monitor(self) -> str:
        """URI of the task monitor."""
        return f"{redfish.MONITORS}/{self.id}"

    def finish(self, reply: Reply, now: str) -> None:
        """The change ended with this answer."""
        self.result, self.ended = reply, now
        well = reply.status < 400
        self.state = "Completed" if well else "Exception"
        self.log = [message("Success")] if well else reply.messages

    def cancel(self, now: str) -> None:
        """The change will not happen."""
        self.state, self.ended = "Cancelled", now

    def document(self) -> Document:
        """The task as a resource."""
        healthy = self.state != "Exception"
        more = {"EndTime": self.ended} if self.has_ended else {}
        return redfish.resource(
            f"{redfish.TASKS}/{self.id}",
            "Task.v1_7_3",
            f"Task {self.id}",
            TaskState=self.state,
            TaskStatus="OK" if healthy else "Critical",
            StartTime=self.started,
            PercentComplete=100 if self.has_ended else 0,
            TaskMonitor=self.monitor,
            HidePayload=False,
            Payload={
                "HttpOperation": self.method,
                "TargetUri": self.target,
                "HttpHeaders": self.headers,
                "JsonBody": self.body,
            },
            Messages=self.log,
            **more,
        )


class Tasks:
    """The tasks that are remembered."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._count = 0

    def create(self, method: str, target: str, body: str, headers: Mapping[str, str], now: str) -> Task:
        """A new task for a request of this method to this target."""
        self._count += 1
        shown = [f"{name}: {value}" for name, value in headers.items() if name.lower() not in _HIDDEN_HEADERS]
        task = Task(str(self._count), method, target, body, shown, now)
        self._tasks[task.id] = task
        if len(self._tasks) > KEPT:
            oldest = next((known for known in self._tasks.values() if known.has_ended), None)
            if oldest is not None:
                del self._tasks[oldest.id]
        return task

    def get(self, identity: str) -> Task | None:
        """The task, unless it is forgotten."""
        return self._tasks.get(identity)

    def forget(self, identity: str) -> None:
        """Show it no longer."""
        del self._tasks[identity]

    def documents(self) -> dict[str, Document]:
        """The tasks as resources, by id."""
        return {task.id: task.document() for task in self._tasks.values()}

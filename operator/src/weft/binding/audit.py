"""A record of each call that changes what is attached: one structured log line, a count, an Event of what came of it.

The line is written when the host was read after the call, so that it says what came of it; with no `after` at once of a
call that was refused, and at the next call there, or when the process stops, of one whose host was not read since.
What a process did that was killed in between is in the claims, and in the next reading, and not here.

What was attached as asked makes no Event of its own: the LogicalNode's Bound or Resized tells of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from weft.api.attachment import attachment_name
from weft.api.resources import ResourceType
from weft.cluster import Object
from weft.fabric.driver import Operation, OperationPhase
from weft.fabric.errors import Busy, DeviceFault, FabricError, OutcomeUnknown, PartialFailure

log = logging.getLogger("weft.audit")

Count = Callable[[str, str, str], None]
"""Takes fabric, act and outcome."""


Tell = Callable[..., None]
"""`Cluster.event`."""


def reference(resource: ResourceType, metadata: Object) -> Object:
    """What stands for an object that may be gone when something is told of it: `metadata` has name, namespace, uid."""
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


@dataclass(frozen=True)
class Cause:
    """Who a call is for, and why it is made."""

    about: Object | None = None
    """The object, or a `reference`."""
    why: str = ""
    node: str = ""

    @property
    def who(self) -> str:
        """Kind, namespace and name of the object; empty for nobody."""
        if self.about is None:
            return ""
        metadata = self.about["metadata"]
        return f"{self.about['kind']} {'/'.join(filter(None, (metadata.get('namespace'), metadata['name'])))}"


@dataclass
class Act:
    """One call."""

    fabric: str
    act: str
    """attach or detach."""
    host: str
    devices: frozenset[str]
    cause: Cause
    before: frozenset[str] | None
    """The host's devices as they were last read; None: not known."""
    outcome: str = "unanswered"


@dataclass
class Audit:
    """Of all fabrics of one process."""

    tell: Tell = lambda about, kind, reason, message, devices=(): None
    count: Count = lambda fabric, act, outcome: None
    _open: dict[tuple[str, str], Act] = field(default_factory=dict)
    """Calls whose host was not read since, by fabric and host."""

    def began(self, act: Act) -> None:
        """A call is about to be made."""
        self._close(act.fabric, act.host, None)
        self._open[act.fabric, act.host] = act

    def ended(self, act: Act, answer: Operation | BaseException) -> None:
        """What the manager said to it."""
        if isinstance(answer, Busy):
            # The host is busy with something else: nothing was done.
            self._open.pop((act.fabric, act.host), None)
            return
        act.outcome = _outcome(answer)
        self.count(act.fabric, act.act, act.outcome)
        if act.outcome == "refused":
            self._close(act.fabric, act.host, None)

    def read(self, fabric: str, host: str, devices: frozenset[str]) -> None:
        """The host was read."""
        self._close(fabric, host, devices)

    def close(self) -> None:
        """No host is read any more."""
        for fabric, host in list(self._open):
            self._close(fabric, host, None)

    def _close(self, fabric: str, host: str, after: frozenset[str] | None) -> None:
        act = self._open.pop((fabric, host), None)
        if act is None:
            return
        names = ", ".join(sorted(act.devices))
        log.info(
            "%s %s at host %s of fabric %s for %s (%s): %s",
            *(act.act, names, host, fabric, act.cause.who or "nobody", act.cause.why, act.outcome),
            extra={
                "act": act.act,
                "fabric": fabric,
                "host": host,
                "node": act.cause.node,
                "devices": sorted(act.devices),
                "who": act.cause.who,
                "uid": act.cause.about["metadata"]["uid"] if act.cause.about is not None else "",
                "why": act.cause.why,
                "outcome": act.outcome,
                "before": None if act.before is None else sorted(act.before),
                "after": None if after is None else sorted(after),
            },
        )
        self._tell(act, after)

    def _tell(self, act: Act, after: frozenset[str] | None) -> None:
        if act.cause.about is None or (after is None and act.outcome in ("done", "accepted")):
            # What came of it is not known here.
            return
        attaches, at = act.act == "attach", f"host {act.host} of Fabric {act.fabric}"
        missed = act.devices
        if after is not None:
            missed = act.devices - after if attaches else act.devices & after
        if not attaches and (gone := act.devices - missed):
            text = f"{', '.join(sorted(gone))} from {at} ({act.cause.why})"
            self.tell(act.cause.about, "Normal", "Detached", text, _named(act, gone))
        if missed:
            names = ", ".join(sorted(missed))
            reason, way = ("AttachFailed", "to") if attaches else ("DetachFailed", "from")
            text = f"{names} {way} {at} ({act.cause.why}): the manager's answer was {act.outcome}"
            self.tell(act.cause.about, "Warning", reason, text, _named(act, missed))


def _named(act: Act, devices: Iterable[str]) -> list[str]:
    return [attachment_name(act.fabric, device) for device in devices]


def _outcome(answer: Operation | BaseException) -> str:
    """done, accepted, failed, refused or unanswered."""
    match answer:
        case Operation(phase=OperationPhase.SUCCEEDED, failed=failed) if not failed:
            return "done"
        case Operation(phase=OperationPhase.PENDING | OperationPhase.RUNNING):
            return "accepted"
        case Operation(phase=OperationPhase.UNKNOWN) | OutcomeUnknown():
            return "unanswered"
        case Operation() | DeviceFault() | PartialFailure():
            # Of a batch some may have taken effect.
            return "failed"
        case FabricError():
            return "refused"
    return "unanswered"

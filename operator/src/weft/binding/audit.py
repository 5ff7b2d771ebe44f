"""A record of each call that changes what is attached: one structured log line, and a count.

The line is written when the host was read after the call, so that it says what came of it; with no `after` at once of a
call that was refused, and at the next call there, or when the process stops, of one whose host was not read since.
What a process did that was killed in between is in the claims, and in the next reading, and not here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from weft.fabric.driver import Operation, OperationPhase
from weft.fabric.errors import Busy, DeviceFault, FabricError, OutcomeUnknown, PartialFailure

log = logging.getLogger("weft.audit")

Count = Callable[[str, str, str], None]
"""Takes fabric, act and outcome."""


@dataclass(frozen=True)
class Cause:
    """Who a call is for, and why it is made."""

    who: str = ""
    """Kind, namespace and name of the object."""
    uid: str = ""
    why: str = ""
    node: str = ""


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
                "uid": act.cause.uid,
                "why": act.cause.why,
                "outcome": act.outcome,
                "before": None if act.before is None else sorted(act.before),
                "after": None if after is None else sorted(after),
            },
        )


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

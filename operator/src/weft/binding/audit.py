"""A record of each call that changes what is attached: one structured log line, and a count.

The line is written when the host was read after the call, so that it says what came of it; of a call that was refused,
and of one after which this process never read the host, at once or at the next call there, with no `after`. What a
process did that was killed in between is in the claims, and in the next reading, and not here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from weft.fabric.errors import Busy, FabricError, OutcomeUnknown

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

    def ended(self, act: Act, error: BaseException | None, failed: frozenset[str] = frozenset()) -> None:
        """How the manager answered it. Its `outcome`: done, accepted, failed, refused or unanswered."""
        match error:
            case None:
                act.outcome = "failed" if failed else "done"
            case Busy():
                act.outcome = "accepted"
            case OutcomeUnknown():
                act.outcome = "unanswered"
            case FabricError():
                act.outcome = "refused"
        self.count(act.fabric, act.act, act.outcome)
        if act.outcome == "refused":
            self._close(act.fabric, act.host, None)

    def read(self, fabric: str, host: str, devices: frozenset[str]) -> None:
        """The host was read."""
        self._close(fabric, host, devices)

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

"""What a manager last said when a call to it failed, by host: for the Fabric's condition and the log."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from weft.binding.status import Fact
from weft.binding.words import for_administrators
from weft.fabric.errors import FabricError, PartialFailure

log = logging.getLogger(__name__)

CONDITION = "CallsSucceed"
MOST = 3
KEPT_SECONDS = 600.0
"""How long after the last failure it is told: what was asked for may have been given up, or been done elsewhere."""

Call = tuple[str, str]
"""Host, and what was asked of it: read, attach or detach."""


@dataclass
class _Failure:
    kind: str
    words: str
    noted: float | None = None
    """When the Fabric's controller first saw it, in seconds since the machine started."""


class CallTrouble:
    """The failed calls that no successful one of their kind has followed. In memory only."""

    def __init__(self) -> None:
        self._failures: dict[Call, _Failure] = {}
        self._ever = False

    def failed(self, fabric: str, call: Call, error: FabricError, secrets: tuple[str, ...]) -> None:
        """Keep the manager's words; logged where they are others than the last time."""
        failure = _Failure(type(error).__name__, for_administrators(_all(error), secrets))
        before = self._failures.get(call)
        self._ever = True
        # What differs in numbers alone (an id of the request, a time) is no news.
        if before is not None and _without_numbers(before) == _without_numbers(failure):
            before.noted = None
            return
        self._failures[call] = failure
        host, what = call
        log.warning("fabric %s, %s at host %s: %s: %s", fabric, what, host, failure.kind, failure.words)

    def succeeded(self, call: Call) -> None:
        self._failures.pop(call, None)

    def fact(self, at: float) -> Fact | None:
        """The Fabric's condition at a moment (seconds since the machine started); None while no call has failed."""
        for call, failure in list(self._failures.items()):
            if failure.noted is None:
                failure.noted = at
            elif at - failure.noted > KEPT_SECONDS:
                del self._failures[call]
        if not self._ever:
            return None
        if not self._failures:
            return CONDITION, True, "Succeeded", "no call failed that was not repeated with success"
        texts = [
            f"{what} at {host}: {failure.kind}: {failure.words}"
            for (host, what), failure in sorted(self._failures.items(), key=lambda item: item[0])
        ]
        more = "; and others" if len(texts) > MOST else ""
        return CONDITION, False, "CallFailed", "; ".join(texts[:MOST]) + more


def _all(error: FabricError) -> str:
    if isinstance(error, PartialFailure):
        return "; ".join([str(error), *(f"{device}: {why}" for device, why in sorted(error.failed.items()))])
    return str(error)


def _without_numbers(failure: _Failure) -> tuple[str, str]:
    return failure.kind, re.sub(r"\d+", "#", failure.words)

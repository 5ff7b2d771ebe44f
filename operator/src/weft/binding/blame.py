"""Which devices are at fault when attaching fails.

Blame takes time and evidence: a device is at fault when it could not be attached for `settle_seconds`, and the manager
attached others meanwhile. A device that appears a little late, or a manager that fails for all, blames none.
"""

from __future__ import annotations

from collections.abc import Iterable


class Blame:
    """Failures by device, of this leader. Times are seconds since the machine started."""

    def __init__(self) -> None:
        self._failing_since: dict[str, float] = {}
        self._last_success = float("-inf")

    def failed(self, devices: Iterable[str], at: float) -> None:
        """An attach of these devices had an error, or no effect that was seen."""
        for device in devices:
            self._failing_since.setdefault(device, at)

    def succeeded(self, devices: Iterable[str], at: float) -> None:
        """These devices were seen attached."""
        for device in devices:
            self._last_success = at
            self._failing_since.pop(device, None)

    def released(self, device: str) -> None:
        """Nobody tries to attach it any more."""
        self._failing_since.pop(device, None)

    def try_alone(self, devices: Iterable[str]) -> bool:
        """Whether one of them has failed: taken one by one, the others show which one is at fault."""
        return any(device in self._failing_since for device in devices)

    def is_at_fault(self, device: str, at: float, settle_seconds: float) -> bool:
        """Whether the device failed for long enough while the manager attached others."""
        since = self._failing_since.get(device)
        if since is None:
            return False
        return at - since >= settle_seconds and self._last_success >= since

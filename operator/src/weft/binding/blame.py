"""Which devices are at fault when attaching fails: a device is blamed only while the manager attaches others."""

from __future__ import annotations

from collections.abc import Iterable

FAILURES_TO_BLAME = 3
"""Failed attaches in a row after which a device is set aside."""


class Blame:
    """Failures by device, of this leader. Times are seconds since the machine started."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, float]] = {}
        self._last_success: float | None = None

    def failed(self, devices: Iterable[str], at: float) -> None:
        """An attach of these devices had an error, or no effect."""
        for device in devices:
            count, first = self._failures.get(device, (0, at))
            self._failures[device] = (count + 1, first)

    def succeeded(self, devices: Iterable[str], at: float) -> None:
        """These devices were seen attached."""
        for device in devices:
            self._last_success = at
            self._failures.pop(device, None)

    def try_alone(self, devices: Iterable[str]) -> bool:
        """Whether one of them has failed: taken one by one, the others show which one is at fault."""
        return any(device in self._failures for device in devices)

    def is_at_fault(self, device: str) -> bool:
        """Whether the device failed repeatedly while the manager attached others: then it is not the manager."""
        count, first = self._failures.get(device, (0, 0.0))
        return count >= FAILURES_TO_BLAME and self._last_success is not None and self._last_success > first

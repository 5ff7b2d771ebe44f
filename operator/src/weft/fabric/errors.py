"""What can go wrong at a fabric manager, one class per reaction.

A driver maps what its manager says to these; nobody above a driver sees an HTTP status.
"""

from __future__ import annotations

from collections.abc import Mapping


class FabricError(Exception):
    """Base of all errors that a driver raises."""


class Transient(FabricError):
    """The request had no effect and may succeed later: back off and repeat."""


class RateLimited(Transient):
    """The manager asks for a pause before the next request."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Busy(FabricError):
    """Another operation holds the resource: look again later."""


class Conflict(FabricError):
    """The world is not as the request assumed (a device is attached elsewhere): read again and replan."""


class CapacityExhausted(FabricError):
    """The manager has no slot, lane or capacity left for this: place it elsewhere."""


class NotFound(FabricError):
    """The host or device is not known to the manager."""


class InvalidRequest(FabricError):
    """The manager will refuse this until what was asked changes: no retry."""


class AuthFailed(FabricError):
    """The credentials or the TLS trust are not accepted: the administrator has to act."""


class DeviceFault(FabricError):
    """A device itself failed: quarantine it."""

    def __init__(self, message: str, device: str) -> None:
        super().__init__(message)
        self.device = device


class PartialFailure(FabricError):
    """Some devices of a batch failed; `failed` says why, by device id. The others took effect."""

    def __init__(self, message: str, failed: Mapping[str, str]) -> None:
        super().__init__(message)
        self.failed = dict(failed)


class OutcomeUnknown(FabricError):
    """The request may have taken effect (timeout, reset, 5xx, unreadable answer): read until it is known."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        """`retry_after_seconds`: how long the manager asks to be left alone, or 0."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unsupported(FabricError):
    """This manager has no such function."""

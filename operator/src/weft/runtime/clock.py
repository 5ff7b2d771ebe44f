"""The clocks that the operator goes by; below a controller nobody reads one."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from weft.controllers import Now


def boottime() -> float:
    """Seconds since the machine started, sleep included; does not jump with the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> Now:
    """The present moment."""
    return Now(wall=datetime.now(UTC), boot=boottime())

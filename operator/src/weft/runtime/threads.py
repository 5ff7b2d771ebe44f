"""How long a thread that computes keeps the event loop waiting for the interpreter."""

from __future__ import annotations

import sys

SWITCH_SECONDS = 0.001
"""Python's own 5 ms are paid at each of the dozen times that a bind waits for the network while a pass of placement
computes. Below 1 ms the switches themselves cost CPU (docs/performance.md)."""


def let_the_event_loop_in() -> None:
    """Set the time after which a computing thread of this process gives way to one that waits."""
    sys.setswitchinterval(SWITCH_SECONDS)

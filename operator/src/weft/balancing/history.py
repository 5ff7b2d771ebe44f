"""The load of the last minutes, as it was read: in its reader's memory, and safely forgotten by a restart."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from weft.balancing.presets import Windows
from weft.balancing.state import Rates, Traffic

WINDOWS = 10
"""So many windows are looked back, one after the other."""
LEAST_SECONDS = 40.0
"""A shorter window says too little of a load that is compared with others."""
PARTS = 6
"""Readings that are kept of each window."""


class History:
    """Of one group. What was read in the last minutes; times are seconds of one clock."""

    def __init__(self) -> None:
        self._read: deque[tuple[float, Rates]] = deque()

    def with_history(self, traffic: Traffic, at: float, scrape_seconds: float) -> Traffic:
        """The traffic of now with that of the windows before. The same reading twice changes nothing."""
        windows = Windows(scrape_seconds)
        brief = windows.short_seconds >= LEAST_SECONDS
        seconds = windows.short_seconds if brief else windows.long_seconds
        rates = traffic.short if brief else traffic.long
        kept = self._read
        while kept and kept[-1][0] > at:
            kept.pop()  # a clock that was set back
        if not kept or at - kept[-1][0] >= seconds / PARTS:
            kept.append((at, rates))
        while kept[0][0] < at - WINDOWS * seconds:
            kept.popleft()
        past, end = [rates], at
        for moment, one in reversed(kept):
            if moment <= end - seconds:
                past.append(one)
                # After a pause the next window ends where the last one known of begins.
                end = min(end - seconds, moment)
        return replace(traffic, history=tuple(past), history_seconds=seconds)

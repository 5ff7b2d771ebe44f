"""Python's garbage collector, set for a process whose memory is mostly a cache of objects without cycles.

A full collection looks at every object there is, holds the interpreter while it does, and finds next to nothing
here: with 1,500 logical nodes and 2,000 devices it took 230 to 420 ms (`tests/bench/placement.py`), in which no other
tenant is served, and passes of placement, which make many objects, caused one after the other. What a pass leaves
behind is freed by its reference counts; young cycles (exceptions, tasks) by the collections of the first two
generations, whose size does not grow with the cluster.
"""

from __future__ import annotations

import gc

NEW_OBJECTS = 10_000
"""Containers made and not freed before the youngest are looked at: a few milliseconds of work."""
YOUNG_COLLECTIONS = 10
"""Of the youngest, before the middle generation is looked at: at most 100,000 objects."""
MIDDLE_COLLECTIONS = 1_000
"""Before everything is looked at: a hundred million objects made and kept for a while."""


def collect_everything_rarely() -> None:
    """Set the collector's thresholds for this process."""
    gc.set_threshold(NEW_OBJECTS, YOUNG_COLLECTIONS, MIDDLE_COLLECTIONS)

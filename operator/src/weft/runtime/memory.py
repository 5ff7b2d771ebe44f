"""Python's garbage collector and glibc's allocator, set for a process that is mostly a cache of objects without cycles.

A full collection looks at every object there is, holds the interpreter while it does, and finds next to nothing
here: with 1,500 logical nodes and 2,000 devices it took 230 to 420 ms (`tests/bench/placement.py`), in which no other
tenant is served, and passes of placement, which make many objects, caused one after the other. What a pass leaves
behind is freed by its reference counts; young cycles (exceptions, tasks) by the collections of the first two
generations, whose size does not grow with the cluster.
"""

from __future__ import annotations

import ctypes
import gc

NEW_OBJECTS = 10_000
"""Containers made and not freed before the youngest are looked at: a few milliseconds of work."""
YOUNG_COLLECTIONS = 10
"""Of the youngest, before the middle generation is looked at: at most 100,000 objects."""
MIDDLE_COLLECTIONS = 1_000
"""Before everything is looked at: a hundred million objects made and kept for a while."""

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""glibc's names of what mallopt sets."""
LARGE = 128 * 1024
"""Bytes from which a block is given back as soon as it is freed."""


def collect_everything_rarely() -> None:
    """Set the collector's thresholds for this process."""
    gc.set_threshold(NEW_OBJECTS, YOUNG_COLLECTIONS, MIDDLE_COLLECTIONS)


def give_freed_memory_back() -> None:
    """Set glibc's allocator for this process; others have nothing to set.

    A page of a list is a megabyte of text. By default glibc raises the size from which a block is mapped by itself to
    that of the largest that was freed, up to 32 MiB, and has arenas for each thread: what the first lists took stays.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for parameter, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, LARGE)):
            mallopt(parameter, value)

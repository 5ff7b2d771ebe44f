"""Lets a process read JSON as deep as an API server stores it.

A pod template may hold fields that nobody has looked at yet, 10,000 levels deep. Python's parser gives up at a tenth of
that, and with it the whole page of a list, or kopf's watch: one tenant's object would stop the operator for all.
"""

from __future__ import annotations

import sys
import threading

DEEPEST_JSON = 11_000
"""Levels: the API server's 10,000, and those of the list or the watch's event around an object."""
STACK_BYTES = 16 * 1024 * 1024
"""Of each thread that starts from now on: what that many levels take, twice over. Only what is used is taken."""


def read_deep_json() -> None:
    """Set the limit of nested calls, and the stack that they need, for this process.

    Python 3.12 and 3.13 have a limit of 10,000 of their own for the parser, which cannot be changed.
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), DEEPEST_JSON))
    threading.stack_size(STACK_BYTES)

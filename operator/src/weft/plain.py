"""Errors of libraries, and names, in words for people."""

from __future__ import annotations

import re
from collections.abc import Sequence

NAMES_SHOWN = 4


def plain(error: Exception) -> str:
    """What a file or a connection is in the way of, without errno and what the HTTP client keeps beside it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    # aiohttp says which TLS settings it would have taken, also of plain HTTP.
    return re.sub(r" ssl:(<.*?>|\S+)", "", str(error))


def listed(names: Sequence[str]) -> str:
    """The first of these names."""
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")

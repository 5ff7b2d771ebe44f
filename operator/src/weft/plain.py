"""Errors of libraries in words for people."""

from __future__ import annotations

import re


def plain(error: Exception) -> str:
    """What a file or a connection is in the way of, without errno and what the HTTP client keeps beside it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    # aiohttp says which TLS settings it would have taken, also of plain HTTP.
    return re.sub(r" ssl:(<.*?>|\S+)", "", str(error))

"""Whether the API server's data only moves forward, which everything that is cached relies on.

An etcd that was restored from a backup counts its revisions from there again: the cache would take each object that
has changed since for older than what it knows, for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable

log = logging.getLogger(__name__)


class History:
    """Compares the versions that consecutive reads of the same thing show."""

    def __init__(self) -> None:
        self._latest: dict[Hashable, int] = {}
        self.went_back = asyncio.Event()
        """Set when a read showed an earlier state than a read before it. What is known then is worth nothing."""

    def note(self, what: Hashable, version: int) -> None:
        """Take note of a version of a list, or of an object that is never deleted, read from the API server."""
        latest = self._latest.get(what, 0)
        if version >= latest:
            self._latest[what] = version
        elif not self.went_back.is_set():
            log.error(
                "the API server shows version %d of %s after version %d: etcd was restored to an earlier state; "
                "ending, to read everything anew before anything is decided",
                version,
                what,
                latest,
            )
            self.went_back.set()

"""Growing pauses between tries that fail the same way, whoever asks for another: what another controller says may have
changed is held against what did change. For one event loop.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from weft.binding.keys import LogicalNodeKey
from weft.binding.observe import LogicalNodePicture

LONGEST_SECONDS = 60.0
JITTER = 0.25
"""A pause is up to this part longer, by the key: those that failed together do not try again together."""

MOST_RETAINTS, RETAINT_SECONDS = 5, 60.0
"""So often in so many seconds is a taint put back."""


@dataclass(frozen=True)
class _Failed:
    before: LogicalNodePicture
    """What there was when the pass began that failed."""
    until: float
    times: int


class Backoff:
    """Which logical nodes wait before the next try, and for how long. Times are seconds since the machine started."""

    def __init__(self) -> None:
        self._failed: dict[LogicalNodeKey, _Failed] = {}

    def left(self, picture: LogicalNodePicture, at: float) -> float:
        """Seconds to wait before another try; 0 where something changed that concerns it."""
        known = self._failed.get(picture.key)
        if known is None or at >= known.until or known.before != _essence(picture):
            return 0.0
        return known.until - at

    def failed(self, picture: LogicalNodePicture, at: float, first_seconds: float) -> float:
        """A pass that began with this picture failed; how long to wait: `first_seconds`, doubled each time."""
        before, known = _essence(picture), self._failed.get(picture.key)
        times = known.times + 1 if known is not None and known.before == before else 1
        longest = max(LONGEST_SECONDS, first_seconds)
        pause = min(longest, first_seconds * 2.0 ** min(times - 1, 16))
        pause *= 1.0 + JITTER * _part(picture.key)
        self._failed[picture.key] = _Failed(before, at + pause, times)
        return pause

    def succeeded(self, key: LogicalNodeKey) -> None:
        """The next failure is a first one."""
        self._failed.pop(key, None)


class Retaints:
    """How often the taint of each logical node's Node was put back lately: who takes it off each time is not fought.
    Times are seconds since the machine started."""

    def __init__(self) -> None:
        self._written: dict[LogicalNodeKey, tuple[float, ...]] = {}

    def wrote(self, key: LogicalNodeKey, at: float) -> None:
        self._written[key] = (*self._lately(key, at), at)

    def left(self, key: LogicalNodeKey, at: float) -> float:
        """Seconds until it may be put back again; 0: it may."""
        lately = self._lately(key, at)
        if not lately:
            self._written.pop(key, None)
        return lately[0] + RETAINT_SECONDS - at if len(lately) >= MOST_RETAINTS else 0.0

    def _lately(self, key: LogicalNodeKey, at: float) -> tuple[float, ...]:
        return tuple(each for each in self._written.get(key, ()) if at - each < RETAINT_SECONDS)


def _essence(picture: LogicalNodePicture) -> LogicalNodePicture:
    """The picture without what moves by itself, and without what Weft says in the status."""
    node = picture.node
    if node is not None:
        metadata = node.metadata.with_changes(resource_version="")
        node = node.with_changes(metadata=metadata, status=type(node.status)())
    return replace(picture, node=node, bound_seconds=None)


def _part(key: LogicalNodeKey) -> float:
    """Between 0 and 1, the same each time."""
    return zlib.crc32(f"{key.namespace}/{key.name}".encode()) / 2**32

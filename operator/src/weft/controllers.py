"""What a controller is: it declares what it watches, and brings what a key names nearer to what is wanted.

Controllers stand beside what they control (`binding`, `balancing`); `runtime` feeds them: it turns changes of
objects into keys, works on no key twice at a time, and passes the present moment in, so that nothing below a
controller reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from weft.api.resources import ResourceType
from weft.cluster import Cluster, Object

K = TypeVar("K", bound=Hashable)
KeyT = TypeVar("KeyT", bound=Hashable, contravariant=True)


@dataclass(frozen=True)
class Now:
    """The present moment, on both clocks that matter."""

    wall: datetime
    """Aware, UTC: for what is written into objects and compared with what is written there. May jump."""
    boot: float
    """Seconds since the machine started (CLOCK_BOOTTIME): for durations. Never jumps, goes on in suspend."""


@dataclass(frozen=True)
class Watch(Generic[K]):
    """A resource whose changes concern a controller, and the keys that a change concerns."""

    resource: ResourceType
    keys: Callable[[Cluster, Object], Iterable[K]]
    """From the cluster's cache and the changed object (its last state, where it was deleted) to keys."""
    after_seconds: float = 0.0
    """How long changes are gathered before a key is worked on."""


class Controller(Protocol[KeyT]):
    """One per type of key; the type of a key says which controller works on it."""

    @property
    def watches(self) -> tuple[Watch[Any], ...]:
        """What it hears of."""

    async def reconcile(self, key: KeyT, now: Now) -> float | None:
        """Bring the key one step nearer; returns in how many seconds to look again, or None.

        Raises ConflictError where an object changed meanwhile, ClusterError where the API server refuses or does not
        answer: the key is tried again later, at growing intervals.
        """


Enqueue = Callable[[Hashable, float], None]
"""Asks for a key of any controller to be worked on, in so many seconds."""

"""How a Redfish manager takes changes: one module for each idiom, behind the same calls.

Which one is used is decided by what was read of the manager, never by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from weft.fabric.driver import Operation, WriteIdiom
from weft.fabric.redfish.mapping import Reply
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.resources import System
from weft.fabric.redfish.writes.call import Call

Allowed = Callable[[str], frozenset[str] | None]
"""The methods that the manager said it takes at a path; None: it did not say."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for an idiom at one host."""

    text: str
    """A sentence about all hosts like it."""
    said: bool = True
    """Whether the manager says so itself; False: it only does not say otherwise."""


@dataclass
class Present:
    """What a host has now."""

    read: dict[str, Reply]
    """The resources that were read for it, by path."""
    devices: list[str] = field(default_factory=list)
    """URIs of all blocks or endpoints that it has, devices or not, in the manager's order."""
    left: list[str] = field(default_factory=list)
    """URIs of devices that no host has, and for which something of ours is still there: a detach takes it away."""


class Idiom(Protocol):
    """One way to attach and detach. Its calls read anew what they decide on, and raise FabricErrors."""

    name: WriteIdiom
    of_endpoints: bool
    """Whether devices are endpoints of fabrics, and not resource blocks."""

    def evidence(self, host: System, poller: Poller, allowed: Allowed) -> Evidence | str:
        """What speaks for this idiom at the host, or what is missing, as half a sentence."""

    async def present(self, call: Call, path: str) -> Present:
        """What the host at this path has now."""

    async def elsewhere(self, call: Call, path: str, devices: Sequence[str]) -> dict[str, set[str]]:
        """Paths of the hosts that have each of these devices now, `path` among them where only the device says so.

        Raises InvalidRequest where one of them is no device.
        """

    async def attach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        """Add devices that no host has."""

    async def detach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        """Take away devices that the host has."""


def methods_of(allowed: Allowed, path: str) -> str:
    """The methods that a manager says it takes at a path, for people."""
    return ", ".join(sorted(allowed(path) or ())) or "nothing"

"""Which idiom changes which host, and what the manager offers as a whole: by what was read and what was refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from weft.fabric.driver import Write, WriteIdiom
from weft.fabric.redfish.resources import System
from weft.fabric.redfish.writes import Allowed, Evidence, Idiom
from weft.fabric.redfish.writes.compose_patch import ComposeByPatch
from weft.fabric.redfish.writes.resource_block_actions import AddResourceBlock

IDIOMS: tuple[Idiom, ...] = (AddResourceBlock(), ComposeByPatch())
"""The preferred first: an action is made for this, an Allow header may mean other properties of the system."""
REFUSED_READINGS = 240
"""How many readings a refusal of the manager is believed before it is asked again."""


@dataclass
class Choice:
    """What speaks for and against each idiom at each host."""

    said: Allowed
    _sample: str = ""
    """A host of which it is known what the manager allows: others are taken to be like it until they are read."""
    _refused: dict[tuple[WriteIdiom, str], tuple[str, int]] = field(default_factory=dict)
    """The manager's reason and the reading, by idiom and path of the host."""
    _reading: int = 0

    def allowed(self, path: str) -> frozenset[str] | None:
        """The methods that the manager takes at a system; None: it does not say."""
        own = self.said(path)
        return self.said(self._sample) if own is None else own

    def next_reading(self, hosts: Iterable[System]) -> None:
        """Take note of the hosts that were read, and forget refusals that are too old."""
        self._sample = next((host.uri for host in hosts if self.said(host.uri) is not None), "")
        self._reading += 1
        self._refused = {
            key: (reason, since)
            for key, (reason, since) in self._refused.items()
            if self._reading - since < REFUSED_READINGS
        }

    def refused(self, idiom: WriteIdiom, host: str, reason: str) -> None:
        """The manager has refused a change in this way."""
        self._refused[idiom, host] = reason, self._reading

    def ways(self, host: System, *, also_refused: bool = False) -> list[tuple[Idiom, Evidence]]:
        """The idioms that may change the host, the one to use first."""
        found = [(idiom, evidence) for idiom in IDIOMS if (evidence := idiom.evidence(host, self.allowed))]
        found.sort(key=lambda way: not way[1].said)
        usable = [way for way in found if (way[0].name, host.uri) not in self._refused]
        return usable or (found if also_refused else [])

    def closed(self, host: System, no_devices: str = "") -> str:
        """Why nothing can be attached to the host, in a sentence; empty: something can."""
        if self.ways(host):
            return ""
        if no_devices:
            return no_devices
        for (idiom, path), (reason, _) in self._refused.items():
            if path == host.uri:
                return f"the manager refuses {idiom.value}: {reason}"
        methods = self.allowed(host.uri)
        taken = (
            f"its systems take {', '.join(sorted(methods))} only"
            if methods
            else "it takes no PATCH of systems"
        )
        return (
            f"the manager offers no way to attach devices that Weft knows: {taken} (Allow header), and advertise no"
            " actions AddResourceBlock and RemoveResourceBlock"
        )

    def writes(self, hosts: Iterable[System], no_devices: str = "") -> tuple[Write, ...]:
        """How the manager takes changes, the preferred way first."""
        hosts = list(hosts)
        found: dict[str, str] = {}
        for host in hosts:
            for idiom, evidence in self.ways(host)[:1]:
                found.setdefault(idiom.name, evidence.text)
        if no_devices:
            return (Write(WriteIdiom.NONE, no_devices),)
        if not found and hosts:
            return (Write(WriteIdiom.NONE, self.closed(hosts[0])),)
        return tuple(Write(idiom, text) for idiom, text in found.items())

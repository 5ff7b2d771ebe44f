"""Which idiom changes which host, and what the manager offers as a whole: by what was read and what was refused."""

from __future__ import annotations

from collections.abc import Iterable

from weft.fabric.driver import Write, WriteIdiom
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.resources import System
from weft.fabric.redfish.writes import Allowed, Evidence, Idiom
from weft.fabric.redfish.writes.compose_patch import ComposeByPatch
from weft.fabric.redfish.writes.compose_post import ComposeByPost
from weft.fabric.redfish.writes.connections import Connections
from weft.fabric.redfish.writes.resource_block_actions import AddResourceBlock
from weft.fabric.redfish.writes.zone_endpoints import ZoneEndpoints

IDIOMS: tuple[Idiom, ...] = (
    AddResourceBlock(),
    ComposeByPatch(),
    ComposeByPost(),
    Connections(),
    ZoneEndpoints(),
)
"""The preferred first: an action is made for this, an Allow header may mean other properties of the system."""
REFUSED_READINGS = 240
"""How many readings a refusal of the manager is believed before it is asked again."""


class Choice:
    """What speaks for and against each idiom at each host."""

    def __init__(self, poller: Poller, said: Allowed) -> None:
        self._poller = poller
        self._said = said
        self._samples: dict[str, str] = {}
        """By collection a member of which it is known what it takes: others are taken to be like it."""
        self._refused: dict[tuple[WriteIdiom, str], tuple[str, int]] = {}
        """The manager's reason and the reading, by idiom and path of the host."""
        self._reading = 0

    def allowed(self, path: str) -> frozenset[str] | None:
        """The methods that the manager takes at a member of a collection; None: it does not say."""
        own = self._said(path)
        return self._said(self._samples.get(_collection(path), "")) if own is None else own

    def next_reading(self) -> None:
        """Take note of what was read, and forget refusals that are too old."""
        attaching = self._poller.attaching
        members = [*self._poller.systems, *attaching.related.zones, *attaching.connected.values()]
        # Where they differ, one that may be changed: the others are looked at before anything is sent to them.
        known = [path for path in members if self._said(path) is not None]
        known.sort(key=lambda path: "PATCH" in (self._said(path) or ()))
        self._samples = {_collection(path): path for path in known}
        self._reading += 1
        self._refused = {
            key: (reason, since)
            for key, (reason, since) in self._refused.items()
            if self._reading - since < REFUSED_READINGS
        }

    def refused(self, idiom: WriteIdiom, host: str, reason: str) -> None:
        """The manager has refused a change in this way."""
        self._refused[idiom, host] = reason, self._reading

    def side(self, path: str) -> Idiom:
        """An idiom whose readings tell what the host at this path has, whether or not it can be changed."""
        attaching = self._poller.attaching
        if attaching.fabric_of:
            return Connections() if attaching.connected else ZoneEndpoints()
        host = self._poller.systems.get(path)
        return ComposeByPost() if host is not None and host.compute else ComposeByPatch()

    def ways(self, host: System, *, also_refused: bool = False) -> list[tuple[Idiom, Evidence]]:
        """The idioms that may change the host, the one to use first."""
        judged = [(idiom, idiom.evidence(host, self._poller, self.allowed)) for idiom in self._idioms()]
        found = [(idiom, evidence) for idiom, evidence in judged if isinstance(evidence, Evidence)]
        found.sort(key=lambda way: not way[1].said)
        usable = [way for way in found if (way[0].name, host.uri) not in self._refused]
        return usable or (found if also_refused else [])

    def _idioms(self) -> list[Idiom]:
        by_endpoints = bool(self._poller.attaching.fabric_of)
        return [idiom for idiom in IDIOMS if idiom.of_endpoints is by_endpoints]

    def closed(self, host: System, no_devices: str = "") -> str:
        """Why nothing can be attached to the host, in a sentence; empty: something can."""
        if self.ways(host):
            return ""
        if no_devices:
            return no_devices
        for (idiom, path), (reason, _) in self._refused.items():
            if path == host.uri:
                return f"the manager refuses {idiom.value}: {reason}"
        judged = [idiom.evidence(host, self._poller, self.allowed) for idiom in self._idioms()]
        missing = "; ".join(each for each in judged if isinstance(each, str))
        return f"the manager offers no way to attach devices that Weft knows: {missing}"

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


def _collection(path: str) -> str:
    return path.rpartition("/")[0]

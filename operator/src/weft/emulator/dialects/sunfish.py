"""Connections behind an aggregator, as the OpenFabrics Alliance's Sunfish has them.

An agent for each fabric stands behind the aggregator, which keeps copies of their resources. It renames a fabric whose
name it may meet twice, marks resources with their agent, shows a CompositionService in which there is nothing, and
answers a creation with 200 and without `Location`, a deletion with 200 and text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from weft.emulator import redfish
from weft.emulator.dialects.base import Collection, body_of, refused
from weft.emulator.dialects.connections import Connections
from weft.emulator.inventory import ATTACH_FABRIC, World, stable_uuid
from weft.emulator.messages import message, refusal
from weft.emulator.quirks import Quirks
from weft.emulator.redfish import Document
from weft.emulator.state import State
from weft.emulator.writes import Plan, RefusedWriteError, Write

if TYPE_CHECKING:
    from weft.emulator.tree import Tree

_AGGREGATION = f"{redfish.ROOT}/AggregationService"
_SOURCES = f"{_AGGREGATION}/AggregationSources"
_METHODS = f"{_AGGREGATION}/ConnectionMethods"
_EMPTY = ("CompositionService/ResourceBlocks", "CompositionService/ResourceZones")


class Sunfish(Connections):
    """The dialect of Connections, seen through an aggregator."""

    renames = True
    created = 200
    deleted = 200

    def __init__(self, world: World, state: State, quirks: Quirks) -> None:
        super().__init__(world, state, quirks)
        self._agents = {fabric: stable_uuid(f"agent/{fabric}") for fabric in world.fabrics}
        self._renamed = {f: f"Sunfish_{agent[:4]}_{f}" for f, agent in self._agents.items()}
        names = "|".join(map(re.escape, self._renamed.values()))
        self._inward = re.compile(rf"(?<={redfish.FABRICS}/)({names})(?=[/\"?]|$)")
        own = "|".join(map(re.escape, self._renamed))
        self._outward = re.compile(rf"(?<={redfish.FABRICS}/)({own})(?=[/\"?]|$)")
        self._original = {name: fabric for fabric, name in self._renamed.items()}

    def inward(self, text: str) -> str:
        """A path or body with the agents' names for fabrics."""
        return self._inward.sub(lambda found: self._original[found[1]], text)

    def outward(self, text: str) -> str:
        """The same with the aggregator's."""
        return self._outward.sub(lambda found: self._renamed[found[1]], text)

    def hides(self, parts: list[str]) -> bool:
        return parts[0] == "CompositionService" and len(parts) > 1 and "/".join(parts) not in _EMPTY

    def collection(self, path: str, parts: list[str], tree: Tree) -> Collection | None:
        match parts:
            case ["AggregationService", "AggregationSources"]:
                return Collection.of(path, "AggregationSource", "Agents", self._agents.values())
            case ["AggregationService", "ConnectionMethods"]:
                return Collection.of(path, "ConnectionMethod", "Connection methods", ["Redfish"])
            case ["CompositionService", name]:
                return Collection("ResourceBlock" if name == "ResourceBlocks" else "Zone", name, ())
        return super().collection(path, parts, tree)

    def find(self, parts: list[str], tree: Tree) -> Document | None:
        match parts:
            case ["AggregationService"]:
                return redfish.resource(
                    _AGGREGATION,
                    "AggregationService.v1_0_2",
                    "Aggregation",
                    ServiceEnabled=True,
                    AggregationSources=redfish.link(_SOURCES),
                    ConnectionMethods=redfish.link(_METHODS),
                    Status=redfish.status(),
                )
            case ["AggregationService", "ConnectionMethods", "Redfish"]:
                return redfish.resource(
                    f"{_METHODS}/Redfish",
                    "ConnectionMethod.v1_1_0",
                    "Redfish",
                    ConnectionMethodType="Redfish",
                )
            case ["AggregationService", "AggregationSources", name]:
                return self._source(name)
        return super().find(parts, tree)

    def adjust(self, parts: list[str], document: Document) -> Document:
        document = super().adjust(parts, document)
        match parts:
            case [""]:
                more = {"AggregationService": redfish.link(_AGGREGATION)}
                return document | more | {"CompositionService": redfish.link(redfish.COMPOSITION)}
            case ["Fabrics", fabric]:
                document = document | {"Id": self._renamed[fabric]}
        agent = self._agent_of(parts)
        if not agent:
            return document
        mark = {
            "@odata.type": "#SunfishExtensions.v1_0_0.ResourceExtensions",
            "ManagingAgent": redfish.link(f"{_SOURCES}/{agent}"),
        }
        return document | {"Oem": document.get("Oem", {}) | {"Sunfish_RM": mark}}

    def writable(self) -> tuple[str, ...]:
        return ("Id",)

    def read_only(self) -> tuple[str, ...]:
        return ("Status", "Actions")

    def path_of_new(self, write: Write, data: Document) -> str:
        path = data.get("@odata.id")
        if path is None:
            return super().path_of_new(write, data)
        if not isinstance(path, str) or path.rpartition("/")[0] != write.path or not path.rpartition("/")[2]:
            raise refused(400, "PropertyValueIncorrect", "@odata.id", str(path))
        return path

    def _connect(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        data = body_of(write)
        # The reference server fails on these: it looks for the type first, and for the path where there is an Id.
        if "@odata.type" not in data or ("Id" in data and "@odata.id" not in data):
            raise RefusedWriteError(refusal(500, message("InternalError")))
        return super()._connect(write, named, tree)

    def _disconnect(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        return replace(super()._disconnect(write, named, tree), text=f"Object {write.path} deleted")

    def _source(self, name: str) -> Document | None:
        fabric = next((fabric for fabric, agent in self._agents.items() if agent == name), None)
        if fabric is None:
            return None
        return redfish.resource(
            f"{_SOURCES}/{name}",
            "AggregationSource.v1_3_0",
            f"Agent of {fabric}",
            HostName="127.0.0.1",
            Links={
                "ConnectionMethod": redfish.link(f"{_METHODS}/Redfish"),
                "ResourcesAccessed": [redfish.link(f"{redfish.FABRICS}/{fabric}")],
            },
        )

    def _agent_of(self, parts: list[str]) -> str:
        """The agent that a resource comes from; empty: it is the aggregator's own."""
        match parts:
            case ["Fabrics", fabric, *_]:
                return self._agents[fabric]
            case ["Chassis", group, *_] if group in self.layout.groups:
                return self._agents[ATTACH_FABRIC[self.layout.groups[group][0].type]]
            case ["Storage", device, *_]:
                return self._agents[ATTACH_FABRIC[self.world.devices[device].type]]
        return ""

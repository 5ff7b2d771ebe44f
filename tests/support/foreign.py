"""Fabric managers that somebody else might have written, and that take changes.

A tree as in `support.replay`, with what the published schemas let a service do: Allow headers, ETags, the actions of a
ComputerSystem (v1.6 and later), specific composition (DSP2050), zones of endpoints. How faithfully the links are kept,
and how truthfully answers are given, is the test's choice.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from support.replay import ROOT, SYSTEMS, Replay, Tree, collection, link

Answer = Callable[[], web.Response]
ADD, REMOVE = "ComputerSystem.AddResourceBlock", "ComputerSystem.RemoveResourceBlock"


def with_actions(tree: Tree, path: str, *names: str, **more: Any) -> None:
    """Let a system advertise these actions; `more` goes into each of them."""
    tree[path].setdefault("Actions", {}).update(
        {f"#{name}": {"target": f"{path}/Actions/{name}", **more} for name in names or (ADD, REMOVE)}
    )


def message(name: str, text: str = "-") -> Tree:
    """An error response with one message of the Base registry."""
    info = {"MessageId": f"Base.1.16.{name}", "Message": text, "Severity": "Warning"}
    return {"error": {"code": info["MessageId"], "message": text, "@Message.ExtendedInfo": [info]}}


FABRICS = "/redfish/v1/Fabrics"
PCIE = f"{FABRICS}/PCIe"


def endpoint(name: str, role: str | None, entity: str, type_: str, fabric: str = PCIE, **body: Any) -> Tree:
    """An endpoint of a fabric, as `{path: body}`."""
    path = f"{fabric}/Endpoints/{name}"
    entities = [{"EntityType": type_, "EntityRole": role, **({"EntityLink": link(entity)} if entity else {})}]
    usual = {**link(path), "Id": name, "ConnectedEntities": entities, "Links": {"Zones": []}}
    return {path: usual | body}


def zone(name: str, *endpoints: str, fabric: str = PCIE, **body: Any) -> Tree:
    """A zone of a fabric with these endpoints, as `{path: body}`."""
    path = f"{fabric}/Zones/{name}"
    members = [link(f"{fabric}/Endpoints/{each}") for each in endpoints]
    usual = {**link(path), "Id": name, "ZoneType": "ZoneOfEndpoints", "Links": {"Endpoints": members}}
    return {path: usual | body}


def switch(*parts: Tree, kind: str = "PCIe", fabric: str = PCIE, systems: tuple[str, ...] = ()) -> Tree:
    """A manager of one fabric with these endpoints and zones, and with these systems."""
    paths = [next(iter(part)) for part in parts]
    tree: Tree = {
        ROOT: {**link(ROOT), "Id": "Root", "Fabrics": link(FABRICS), "Systems": link(SYSTEMS)},
        SYSTEMS: collection(SYSTEMS, list(systems)),
        FABRICS: collection(FABRICS, [fabric]),
        fabric: {
            **link(fabric),
            "Id": fabric.rpartition("/")[2],
            "FabricType": kind,
            "Zones": link(f"{fabric}/Zones"),
            "Endpoints": link(f"{fabric}/Endpoints"),
        },
    }
    for name in ("Zones", "Endpoints"):
        path = f"{fabric}/{name}"
        tree[path] = collection(path, [each for each in paths if each.startswith(f"{path}/")])
    for part in parts:
        tree |= part
    for path in systems:
        tree |= {path: {**link(path), "Id": path.rpartition("/")[2], "SystemType": "Physical", "Links": {}}}
    return tree


class Foreign(Replay):
    """A manager that is changed by PATCH of systems and zones, by actions, and by making systems."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree)
        self.kept = "both"
        """Which sides of a link it keeps: both, system or block."""
        self.etags = ""
        """"" for none, else strong, weak (never equal in If-Match, as RFC 9110 has it), new (with each GET), needed."""
        self.allow: dict[str, str] = {}
        """Allow headers, by the beginning of the path."""
        self.answers: dict[tuple[str, str], Answer] = {}
        """What is answered instead, nothing being done; by method and path."""
        self.afterwards: dict[tuple[str, str], Answer] = {}
        """What is answered although it was done."""
        self.composes = ""
        """SystemType of the systems that a POST makes; empty: none are made."""
        self.made: list[str] = []
        """The systems that were made by POST and are there."""
        self.changes: list[tuple[str, str, Tree]] = []
        """Method, path and body of what arrived."""
        self.conditions: list[str] = []
        """If-Match of what arrived, empty where there was none."""
        self._asked = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = self.key(request.raw_path.partition("?")[0])
        if request.method == "GET":
            answer = await super().handle(request)
            allow = [methods for start, methods in self.allow.items() if path.startswith(start)]
            if allow:
                answer.headers["Allow"] = allow[-1]
            if self.etags and path in self.tree:
                answer.headers["ETag"] = self.etag(path)
            return answer
        self.requests.append((request.method, request.raw_path))
        if refusal := self.refusal(request, path):
            return refusal
        text = await request.text()
        body = json.loads(text) if text else {}
        self.changes.append((request.method, path, body))
        condition = request.headers.get("If-Match", "")
        self.conditions.append(condition)
        if answer_ := self.answers.get((request.method, path)):
            return answer_()
        if self.etags == "needed" and not condition:
            return web.json_response(message("PreconditionRequired"), status=428)
        if condition and not self.matches(path, condition):
            return web.json_response(message("PreconditionFailed"), status=412)
        done = self.change(request.method, path, body)
        return self.afterwards.get((request.method, path), lambda: done)()

    def etag(self, path: str) -> str:
        self._asked += 1
        tag = f'"{hash(json.dumps(self.tree[path], sort_keys=True)) & 0xFFFFFF:x}"'
        return {"weak": f"W/{tag}", "new": f'"{self._asked}"'}.get(self.etags, tag)

    def matches(self, path: str, condition: str) -> bool:
        if self.etags == "weak":
            return False
        return condition == "*" or (path in self.tree and condition == self.etag(path))

    def change(self, method: str, path: str, body: Tree) -> web.Response:
        """Do what is asked for."""
        if method == "PATCH" and path.startswith(f"{SYSTEMS}/") and path in self.tree:
            self.set_blocks(path, [entry["@odata.id"] for entry in body["Links"]["ResourceBlocks"]])
            return web.Response(status=204)
        if method == "PATCH" and "/Zones/" in path and path in self.tree:
            self.set_endpoints(path, [entry["@odata.id"] for entry in body["Links"]["Endpoints"]])
            return web.Response(status=204)
        if method == "POST" and path == SYSTEMS and self.composes:
            return self.make_system(body)
        if method == "DELETE" and path in self.made:
            self.set_blocks(path, [])
            self.made.remove(path)
            self.tree[SYSTEMS]["Members"].remove(link(path))
            self.tree[SYSTEMS]["Members@odata.count"] -= 1
            del self.tree[path]
            return web.Response(status=204)
        system, _, action = path.partition("/Actions/")
        if method == "POST" and self.advertises(system, action):
            return self.act(system, action, body)
        return web.json_response({}, status=405)

    def advertises(self, system: str, action: str) -> bool:
        return f"#{action}" in self.tree.get(system, {}).get("Actions", {})

    def act(self, system: str, action: str, body: Tree) -> web.Response:
        uri = body["ResourceBlock"]["@odata.id"]
        for path, name in ((system, "ComputerSystemETag"), (uri, "ResourceBlockETag")):
            if name in body and not self.matches(path, body[name]):
                return web.json_response(message("PreconditionFailed"), status=428)
        rest = [each for each in self.blocks_of(system) if each != uri]
        self.set_blocks(system, [*rest, uri] if action == ADD else rest)
        return web.Response(status=204)

    def blocks_of(self, system: str) -> list[str]:
        """What the system has, whichever side says so."""
        if self.kept != "block":
            return [entry["@odata.id"] for entry in self.tree[system]["Links"]["ResourceBlocks"]]
        return [
            path
            for path, resource in self.tree.items()
            if link(system) in resource.get("Links", {}).get("ComputerSystems", [])
        ]

    def set_blocks(self, system: str, blocks: list[str]) -> None:
        if self.kept != "block":
            self.tree[system]["Links"]["ResourceBlocks"] = [link(uri) for uri in blocks]
        if self.kept == "system":
            return
        for path, resource in self.tree.items():
            systems = resource.get("Links", {}).get("ComputerSystems")
            if systems is not None:
                others = [entry for entry in systems if entry != link(system)]
                resource["Links"]["ComputerSystems"] = others + ([link(system)] if path in blocks else [])

    def make_system(self, body: Tree) -> web.Response:
        """A composed system of the blocks that the body names; the service chooses its Id, unless one is given."""
        path = f"{SYSTEMS}/{body.get('Id', f'sys-{len(self.changes)}')}"
        self.made.append(path)
        self.tree[path] = {
            **link(path),
            "Id": path.rpartition("/")[2],
            "Name": body["Name"],
            "SystemType": self.composes,
            "UUID": f"uuid-{len(self.changes)}",
            "Links": {"ResourceBlocks": []},
        }
        self.tree[SYSTEMS]["Members"].append(link(path))
        self.tree[SYSTEMS]["Members@odata.count"] += 1
        self.set_blocks(path, [entry["@odata.id"] for entry in body["Links"]["ResourceBlocks"]])
        return web.json_response(self.tree[path], status=201, headers={"Location": path})

    def set_endpoints(self, zone: str, endpoints: list[str]) -> None:
        """What a zone has, at the sides that are kept; `system` is the zone's, `block` the endpoint's."""
        if self.kept != "block":
            self.tree[zone]["Links"]["Endpoints"] = [link(uri) for uri in endpoints]
        if self.kept == "system":
            return
        for path, resource in self.tree.items():
            if "ConnectedEntities" in resource:
                others = [entry for entry in resource["Links"]["Zones"] if entry != link(zone)]
                resource["Links"]["Zones"] = others + ([link(zone)] if path in endpoints else [])

    def writes(self, *methods: str) -> list[tuple[str, str]]:
        """Method and path of the changes that arrived."""
        return [(method, path) for method, path, _ in self.changes if not methods or method in methods]

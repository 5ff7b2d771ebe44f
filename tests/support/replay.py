"""Other people's fabric managers: serves `{path: body}` over HTTP, with what real managers do beside it.

A body of `{"STATUS": 500}` is that status (0: no answer, for ever), with "Location" a redirect. Keys may have a query:
`/redfish/v1/Systems?$skip=5`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from weft.fabric.driver import Connection
from weft.fabric.redfish import RedfishDriver

Tree = dict[str, Any]
DATA = Path(__file__).resolve().parents[1] / "data" / "redfish"
ROOT = "/redfish/v1/"
BLOCKS = "/redfish/v1/CompositionService/ResourceBlocks"
SYSTEMS = "/redfish/v1/Systems"
SESSIONS = "/redfish/v1/SessionService/Sessions"


def case(name: str) -> Tree:
    """A recorded tree of tests/data/redfish, its answers without a body as `{"STATUS": n}`."""
    recorded = json.loads((DATA / f"{name}.json").read_text())
    tree: Tree = dict(recorded["resources"])
    return tree | {path: {"STATUS": status} for path, status in recorded.get("status", {}).items()}


def recorded(file: Path) -> Tree:
    """The tree that `weft fabric probe --record` wrote."""
    tree: Tree = json.loads(file.read_text())
    return tree


def link(path: str) -> Tree:
    return {"@odata.id": path}


def collection(path: str, members: list[str]) -> Tree:
    return {**link(path), "Members": [link(m) for m in members], "Members@odata.count": len(members)}


def block(path: str, **body: Any) -> Tree:
    """A block with one GPU at this path, as `{path: body}`; `body` replaces properties of the block."""
    processor = f"{path}/Processors/1"
    usual = {
        **link(path),
        "Id": unquote(path.rpartition("/")[2]),
        "ResourceBlockType": ["Processor"],
        "CompositionStatus": {"CompositionState": "Unused"},
        "Processors": [link(processor)],
        "Links": {"ComputerSystems": []},
    }
    gpu = {
        **link(processor),
        "Id": "1",
        "ProcessorType": "GPU",
        "Manufacturer": "NVIDIA",
        "Model": "H200",
        "MemorySummary": {"TotalMemorySizeMiB": 144384},
    }
    return {path: usual | body, processor: gpu}


def system(path: str, *blocks: str, **body: Any) -> Tree:
    usual = {
        **link(path),
        "Id": unquote(path.rpartition("/")[2]),
        "SystemType": "Physical",
        "Links": {"ResourceBlocks": [link(b) for b in blocks]},
    }
    return {path: usual | body}


def rack(*parts: Tree) -> Tree:
    """A manager with these blocks and systems (the first resource of each part), and `sled-0` if there is none."""
    members = [next(iter(part)) for part in parts]
    systems = [m for m in members if "SystemType" in {k for p in parts for k in p.get(m, {})}]
    if not systems:
        parts = (*parts, system(f"{SYSTEMS}/sled-0"))
        systems = [f"{SYSTEMS}/sled-0"]
    blocks = [m for m in members if m not in systems]
    tree: Tree = {
        ROOT: {
            **link(ROOT),
            "Id": "Root",
            "Systems": link(SYSTEMS),
            "CompositionService": link("/redfish/v1/CompositionService"),
            "Links": {"Sessions": link(SESSIONS)},
        },
        "/redfish/v1/CompositionService": {
            **link("/redfish/v1/CompositionService"),
            "Id": "CompositionService",
            "ResourceBlocks": link(BLOCKS),
        },
        BLOCKS: collection(BLOCKS, blocks),
        SYSTEMS: collection(SYSTEMS, systems),
    }
    for part in parts:
        tree |= part
    return tree


class Replay:
    """A manager that serves a tree; what it does beyond that is switched on by a test."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        """Method, path and query as they arrived."""
        self.page_size = 0
        """Pages of collections, with a nextLink that `next_link` makes of path and position; 0: no pages."""
        self.next_link: Callable[[str, int], object] = lambda path, skip: f"{path}?$skip={skip}"
        self.expand = False
        """Whether `$expand` inlines members; else it is ignored."""
        self.silent: set[str] = set()
        """Paths (with a query where it matters) that are never answered."""
        self.moved: dict[str, str] = {}
        """Redirects by path, with `moved_status`."""
        self.moved_status = 308
        self.users: dict[str, str] = {}
        """Who may log in; empty: no login is needed."""
        self.basic = False
        """HTTP Basic is taken, and sessions do not exist."""
        self.root_is_public = True
        self.failing_logins = 0
        """Status of every login; 0: they are answered as they should be."""
        self.session_location: str | None = None
        """Location that a login answers with, instead of the session's path."""
        self.sessions: dict[str, str] = {}
        """Token by session's path."""
        self.patch: Callable[[str, Tree], int] = self.compose
        """What a PATCH does: returns the status."""

    def compose(self, path: str, body: Tree) -> int:
        """PATCH of a system's blocks, kept at both sides."""
        system = self.tree[path]
        system["Links"]["ResourceBlocks"] = body["Links"]["ResourceBlocks"]
        listed = {unquote(entry["@odata.id"]) for entry in body["Links"]["ResourceBlocks"]}
        for uri, resource in self.tree.items():
            if "ComputerSystems" in resource.get("Links", {}):
                others = [e for e in resource["Links"]["ComputerSystems"] if e["@odata.id"] != path]
                resource["Links"]["ComputerSystems"] = others + (
                    [link(path)] if unquote(uri) in listed else []
                )
        return 204

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = request.raw_path
        path = raw.partition("?")[0]
        self.requests.append((request.method, raw))
        if {raw, path} & self.silent:
            await asyncio.Event().wait()
        if path in self.moved:
            return web.Response(status=self.moved_status, headers={"Location": self.moved[path]})
        if refusal := self.refusal(request, path):
            return refusal
        if request.method == "POST":
            return await self.log_in(request, path)
        if request.method == "DELETE":
            return web.Response(status=204 if self.sessions.pop(path, None) else 404)
        found = self.find(raw, path)
        if found is None:
            return web.json_response({}, status=404)
        if "STATUS" in found:
            if found["STATUS"] == 0:
                await asyncio.Event().wait()
            moved = {"Location": found["Location"]} if "Location" in found else {}
            return web.json_response({}, status=found["STATUS"], headers=moved)
        if request.method == "PATCH":
            return web.Response(status=self.patch(self.key(path), await request.json()))
        return web.Response(text=json.dumps(self.page(found, request)), content_type="application/json")

    def refusal(self, request: web.Request, path: str) -> web.Response | None:
        sessions = not self.basic or self.failing_logins
        login = request.method == "POST" and path.rstrip("/") == SESSIONS and sessions
        public = path.rstrip("/") == ROOT.rstrip("/") and self.root_is_public
        if not self.users or login or public:
            return None
        if self.basic:
            given = request.headers.get("Authorization", "").removeprefix("Basic ")
            known = [base64.b64encode(f"{u}:{p}".encode()).decode() for u, p in self.users.items()]
            challenge = {"WWW-Authenticate": 'Basic realm="fm"'}
            return None if given in known else web.json_response({}, status=401, headers=challenge)
        known_token = request.headers.get("X-Auth-Token", "") in self.sessions.values()
        return None if known_token else web.json_response({}, status=401)

    async def log_in(self, request: web.Request, path: str) -> web.Response:
        if self.failing_logins or self.basic or path.rstrip("/") != SESSIONS:
            return web.json_response({}, status=self.failing_logins or 404)
        body = await request.json()
        if self.users.get(body["UserName"]) != body["Password"]:
            return web.json_response({}, status=401)
        uri, token = f"{SESSIONS}/7", f"token-{len(self.requests)}"
        self.sessions[uri] = token
        location = uri if self.session_location is None else self.session_location
        return web.json_response(
            link(uri),
            status=201,
            headers={"X-Auth-Token": token, **({"Location": location} if location else {})},
        )

    def key(self, path: str) -> str:
        """The tree's spelling of a path: with or without the last slash, encoded or not."""
        for spelling in (path, unquote(path)):
            for candidate in (spelling, f"{spelling}/", spelling.rstrip("/")):
                if candidate in self.tree:
                    return candidate
        return path

    def find(self, raw: str, path: str) -> Tree | None:
        return self.tree.get(unquote(raw)) or self.tree.get(self.key(path))

    def page(self, resource: Tree, request: web.Request) -> Tree:
        members = resource.get("Members")
        if not isinstance(members, list):
            return resource
        shown, body = members, dict(resource)
        if self.page_size:
            skip = int(request.query.get("$skip", "0"))
            shown = members[skip : skip + self.page_size]
            if skip + self.page_size < len(members):
                body["Members@odata.nextLink"] = self.next_link(
                    request.raw_path.partition("?")[0], skip + self.page_size
                )
        if self.expand and "$expand" in request.query:
            shown = [self.tree[entry["@odata.id"]] for entry in shown]
        return body | {"Members": shown}

    def asked(self, fragment: str) -> list[str]:
        """The requests whose path contains the text, in order."""
        return [path for _, path in self.requests if fragment in path]

    def connection(self, **more: Any) -> Connection:
        usual = {"endpoint": self.url, "requests_per_second": 5000.0, "request_timeout_seconds": 5.0}
        return Connection(**(usual | more))


@contextlib.asynccontextmanager
async def serve(manager: Replay) -> AsyncIterator[Replay]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", manager.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        manager.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield manager
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def reading(tree: Tree | Replay, **connection: Any) -> AsyncIterator[tuple[Replay, RedfishDriver]]:
    """A manager that serves the tree, and a driver for it."""
    async with serve(tree if isinstance(tree, Replay) else Replay(tree)) as manager:
        driver = RedfishDriver(manager.connection(**connection))
        try:
            yield manager, driver
        finally:
            await driver.close()

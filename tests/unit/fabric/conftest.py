"""A small Redfish manager for the driver's tests: plain resources by path, and any answer replaced by another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from weft.fabric.driver import Connection
from weft.fabric.redfish import RedfishDriver

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
BLOCKS = "/redfish/v1/CompositionService/ResourceBlocks"
SYSTEMS = "/redfish/v1/Systems"
SESSIONS = "/redfish/v1/SessionService/Sessions"
TASKS = "/redfish/v1/TaskService/Tasks"


class Manager:
    """Serves `resources`; has none of the optional features until a test switches them on."""

    def __init__(self) -> None:
        self.url = ""
        self.resources: dict[str, Any] = {}
        self.answers: dict[tuple[str, str], Answer] = {}
        """Replaced answers, by method and path (without the query)."""
        self.requests: list[tuple[str, str]] = []
        self.patches: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.page_size = 1000
        self.members_under_links = False
        self.absolute_uris = False
        self.etags = False
        self.users: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.collection("/redfish/v1/CompositionService/ResourceBlocks")
        self.collection(SYSTEMS)
        self.put(
            "/redfish/v1",
            Systems={"@odata.id": SYSTEMS},
            CompositionService={"@odata.id": "/redfish/v1/CompositionService"},
            Links={"Sessions": {"@odata.id": SESSIONS}},
        )
        self.put("/redfish/v1/CompositionService", ResourceBlocks={"@odata.id": BLOCKS})

    def put(self, path: str, **body: Any) -> None:
        body = {"@odata.id": path, "Id": path.rpartition("/")[2], "Name": "-", **body}
        self.resources[path] = body
        parent = self.resources.get(path.rpartition("/")[0])
        if parent is not None and "Members" in parent and path not in parent["Members"]:
            parent["Members"].append(path)

    def collection(self, path: str) -> None:
        self.resources[path] = {"@odata.id": path, "Name": "-", "Members": []}

    def host(self, name: str, *blocks: str, **body: Any) -> None:
        links = {"ResourceBlocks": [{"@odata.id": f"{BLOCKS}/{b}"} for b in blocks]}
        self.put(f"{SYSTEMS}/{name}", SystemType="Physical", Links=links, **body)
        for block in blocks:
            self.resources[f"{BLOCKS}/{block}"]["Links"]["ComputerSystems"].append(
                {"@odata.id": f"{SYSTEMS}/{name}"}
            )

    def gpu(self, name: str, **body: Any) -> None:
        processor = f"{BLOCKS}/{name}/Processors/{name}"
        self.put(
            f"{BLOCKS}/{name}",
            ResourceBlockType=["Processor"],
            CompositionStatus={"CompositionState": "Unused"},
            Processors=[{"@odata.id": processor}],
            Links={"ComputerSystems": []},
            **body,
        )
        self.put(
            processor,
            ProcessorType="GPU",
            Manufacturer="NVIDIA",
            Model="H200",
            MemorySummary={"TotalMemorySizeMiB": 144384},
        )

    def listed(self, host: str) -> list[str]:
        links = self.resources[f"{SYSTEMS}/{host}"]["Links"]["ResourceBlocks"]
        return sorted(link["@odata.id"].rpartition("/")[2] for link in links)

    def connection(self, **more: Any) -> Connection:
        defaults = {"endpoint": self.url, "requests_per_second": 5000.0, "request_timeout_seconds": 5.0}
        return Connection(**(defaults | more))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/")
        self.requests.append((request.method, request.path_qs))
        if answer := self.answers.get((request.method, path)):
            return await answer(request)
        token = request.headers.get("X-Auth-Token", "")
        public = path == "/redfish/v1" or (path == SESSIONS and request.method == "POST")
        if self.users and not public and token not in self.tokens:
            return web.json_response({}, status=401)
        return await self.act(request)

    async def act(self, request: web.Request) -> web.StreamResponse:
        """The honest answer."""
        path = request.path.rstrip("/")
        if request.method == "POST" and path == SESSIONS:
            return self.log_in(await request.json())
        resource = self.resources.get(path)
        if resource is None:
            return web.json_response({}, status=404)
        if request.method == "PATCH":
            self.patches.append(await request.json())
            self.headers.append(dict(request.headers))
            if self.etags and request.headers.get("If-Match") != etag(resource):
                return web.json_response({}, status=412)
            self.commit(path, self.patches[-1])
            return web.Response(status=204)
        if request.method == "DELETE":
            del self.resources[path]
            self.tokens = {t: uri for t, uri in self.tokens.items() if uri != path}
            return web.Response(status=204)
        text = json.dumps(self.page(resource, int(request.query.get("$skip", "0"))))
        if self.absolute_uris:
            text = text.replace('"/redfish/', f'"{self.url}/redfish/')
        headers = {"ETag": etag(resource)} if self.etags else {}
        return web.Response(text=text, headers=headers)

    def page(self, resource: dict[str, Any], skip: int) -> dict[str, Any]:
        if "Members" not in resource:
            return resource
        paths = resource["Members"]
        body: dict[str, Any] = {
            "Members": [{"@odata.id": p} for p in paths[skip : skip + self.page_size]],
            "Members@odata.count": len(paths),
        }
        if skip + self.page_size < len(paths):
            body["Members@odata.nextLink"] = f"{resource['@odata.id']}?$skip={skip + self.page_size}"
        rest = {k: v for k, v in resource.items() if k != "Members"}
        return {**rest, **({"Links": body} if self.members_under_links else body)}

    def commit(self, path: str, body: dict[str, Any]) -> None:
        system = self.resources[path]
        system["Links"]["ResourceBlocks"] = body["Links"]["ResourceBlocks"]
        listed = {link["@odata.id"] for link in body["Links"]["ResourceBlocks"]}
        for uri in self.resources[BLOCKS]["Members"]:
            systems = [
                link for link in self.resources[uri]["Links"]["ComputerSystems"] if link["@odata.id"] != path
            ]
            self.resources[uri]["Links"]["ComputerSystems"] = systems + (
                [{"@odata.id": path}] if uri in listed else []
            )

    def log_in(self, body: dict[str, Any]) -> web.Response:
        if self.users.get(body["UserName"]) != body["Password"]:
            return web.json_response({}, status=401)
        token = f"token-{len(self.requests)}"
        if SESSIONS not in self.resources:
            self.collection(SESSIONS)
        path = f"{SESSIONS}/{len(self.requests)}"
        self.put(path, UserName=body["UserName"], Context=body.get("Context"))
        self.tokens[token] = path
        return web.json_response(
            self.resources[path], status=201, headers={"X-Auth-Token": token, "Location": path}
        )


def etag(resource: dict[str, Any]) -> str:
    return f'"{hash(json.dumps(resource, sort_keys=True)) & 0xFFFFFFFF:x}"'


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


@pytest.fixture
async def manager() -> AsyncIterator[Manager]:
    """Two hosts; gpu-0 to gpu-3, of which gpu-3 is at sled-1."""
    manager = Manager()
    for n in range(4):
        manager.gpu(f"gpu-{n}")
    manager.host("sled-0")
    manager.host("sled-1", "gpu-3")
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", manager.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    manager.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield manager
    await runner.cleanup()


@pytest.fixture
async def driver(manager: Manager) -> AsyncIterator[RedfishDriver]:
    """An anonymous driver for the manager."""
    driver = RedfishDriver(manager.connection())
    yield driver
    await driver.close()

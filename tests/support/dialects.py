"""A small client of each of the emulator's dialects, written from the published schemas."""

from __future__ import annotations

from typing import Any

from weft.emulator.dialects import DIALECTS

ROOT = "/redfish/v1"
SYSTEMS = f"{ROOT}/Systems"
BLOCKS = f"{ROOT}/CompositionService/ResourceBlocks"
ALL = tuple(DIALECTS)


def link(path: str) -> dict[str, str]:
    return {"@odata.id": path}


def last(item: dict[str, str]) -> str:
    """The last segment of a reference."""
    return item["@odata.id"].rpartition("/")[2]


class Client:
    """Attaches and detaches one block at a time; every call returns the answer's status."""

    def __init__(self, http: Any) -> None:
        self.http = http

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """The status, the body and the headers of an answer."""
        async with self.http.request(method, path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None), response.headers

    async def get(self, path: str) -> Any:
        status, body, _ = await self.send("GET", path if path.startswith("/") else f"{ROOT}/{path}")
        assert status == 200, (path, status, body)
        return body

    async def members(self, path: str) -> list[Any]:
        return [await self.get(item["@odata.id"]) for item in (await self.get(path))["Members"]]

    async def attached(self, host: str) -> list[str]:
        """The devices that the service says this host has."""
        return [last(item) for item in (await self.get(f"{SYSTEMS}/{host}"))["Links"]["ResourceBlocks"]]

    async def attach(self, host: str, block: str, **headers: str) -> int:
        raise NotImplementedError

    async def detach(self, host: str, block: str, **headers: str) -> int:
        raise NotImplementedError


class ByPatch(Client):
    async def attach(self, host: str, block: str, **headers: str) -> int:
        return await self._write(host, [*await self.attached(host), block], headers)

    async def detach(self, host: str, block: str, **headers: str) -> int:
        return await self._write(host, [b for b in await self.attached(host) if b != block], headers)

    async def _write(self, host: str, blocks: list[str], headers: dict[str, str]) -> int:
        body = {"Links": {"ResourceBlocks": [link(f"{BLOCKS}/{block}") for block in blocks]}}
        return (await self.send("PATCH", f"{SYSTEMS}/{host}", body, **headers))[0]


class ByAction(Client):
    async def attach(self, host: str, block: str, **headers: str) -> int:
        return await self._act(host, "AddResourceBlock", block, headers)

    async def detach(self, host: str, block: str, **headers: str) -> int:
        return await self._act(host, "RemoveResourceBlock", block, headers)

    async def _act(self, host: str, action: str, block: str, headers: dict[str, str]) -> int:
        actions = (await self.get(f"{SYSTEMS}/{host}"))["Actions"]
        body = {"ResourceBlock": link(f"{BLOCKS}/{block}")}
        return (await self.send("POST", actions[f"#ComputerSystem.{action}"]["target"], body, **headers))[0]


CLIENTS: dict[str, type[Client]] = {"compose-by-patch": ByPatch, "add-resource-block": ByAction}

"""A small client of each of the emulator's dialects, written from the published schemas."""

from __future__ import annotations

import json
from typing import Any, ClassVar

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
            text = await response.text()
            body = json.loads(text) if response.content_type == "application/json" and text else text
            return response.status, body, response.headers

    async def get(self, path: str) -> Any:
        status, body, _ = await self.send("GET", path if path.startswith("/") else f"{ROOT}/{path}")
        assert status == 200, (path, status, body)
        return body

    async def members(self, path: str) -> list[Any]:
        return [await self.get(item["@odata.id"]) for item in (await self.get(path))["Members"]]

    async def attached(self, host: str) -> list[str]:
        """The devices that the service says this host has."""
        return [last(item) for item in (await self.get(f"{SYSTEMS}/{host}"))["Links"]["ResourceBlocks"]]

    async def attach(self, host: str, *blocks: str, **headers: str) -> int:
        raise NotImplementedError

    async def detach(self, host: str, *blocks: str, **headers: str) -> int:
        raise NotImplementedError


class ByPatch(Client):
    async def attach(self, host: str, *blocks: str, **headers: str) -> int:
        return await self._write(host, [*await self.attached(host), *blocks], headers)

    async def detach(self, host: str, *blocks: str, **headers: str) -> int:
        return await self._write(host, [b for b in await self.attached(host) if b not in blocks], headers)

    async def _write(self, host: str, blocks: list[str], headers: dict[str, str]) -> int:
        body = {"Links": {"ResourceBlocks": [link(f"{BLOCKS}/{block}") for block in blocks]}}
        return (await self.send("PATCH", f"{SYSTEMS}/{host}", body, **headers))[0]


class ByAction(Client):
    async def attach(self, host: str, *blocks: str, **headers: str) -> int:
        return max([await self._act(host, "AddResourceBlock", block, headers) for block in blocks])

    async def detach(self, host: str, *blocks: str, **headers: str) -> int:
        return max([await self._act(host, "RemoveResourceBlock", block, headers) for block in blocks])

    async def _act(self, host: str, action: str, block: str, headers: dict[str, str]) -> int:
        actions = (await self.get(f"{SYSTEMS}/{host}"))["Actions"]
        body = {"ResourceBlock": link(f"{BLOCKS}/{block}")}
        return (await self.send("POST", actions[f"#ComputerSystem.{action}"]["target"], body, **headers))[0]


class ByPost(Client):
    async def system_of(self, host: str) -> Any:
        """The composed system that has this host's own block, if there is one."""
        own = link(f"{BLOCKS}/host-{host}")
        systems = await self.members(SYSTEMS)
        return next((system for system in systems if own in system["Links"]["ResourceBlocks"]), None)

    async def attached(self, host: str) -> list[str]:
        system = await self.system_of(host)
        names = [last(item) for item in system["Links"]["ResourceBlocks"]] if system else []
        return [name for name in names if name != f"host-{host}"]

    async def attach(self, host: str, *blocks: str, **headers: str) -> int:
        chosen = [link(f"{BLOCKS}/{block}") for block in (f"host-{host}", *blocks)]
        body = {"Name": f"for {host}", "Links": {"ResourceBlocks": chosen}}
        return (await self.send("POST", SYSTEMS, body, **headers))[0]

    async def detach(self, host: str, *blocks: str, **headers: str) -> int:
        return (await self.send("DELETE", (await self.system_of(host))["@odata.id"], **headers))[0]


FABRIC_OF = {"gpu": "pcie", "cxl": "cxl", "nvme": "nvmeof"}


class ByZone(Client):
    async def attached(self, host: str) -> list[str]:
        zones = [await self.get(self.zone(host, fabric)) for fabric in FABRIC_OF.values()]
        ends = [last(item) for zone in zones for item in zone["Links"]["Endpoints"]]
        return [name for name in ends if name != f"host-{host}"]

    async def attach(self, host: str, *blocks: str, **headers: str) -> int:
        return max([await self._write(host, block, True, headers) for block in blocks])

    async def detach(self, host: str, *blocks: str, **headers: str) -> int:
        return max([await self._write(host, block, False, headers) for block in blocks])

    @staticmethod
    def zone(host: str, fabric: str) -> str:
        return f"{ROOT}/Fabrics/{fabric}/Zones/zone-{host}"

    async def _write(self, host: str, block: str, wanted: bool, headers: dict[str, str]) -> int:
        path = self.zone(host, fabric := FABRIC_OF[block.partition("-")[0]])
        end = link(f"{ROOT}/Fabrics/{fabric}/Endpoints/{block}")
        now = [item for item in (await self.get(path))["Links"]["Endpoints"] if item != end]
        body = {"Links": {"Endpoints": [*now, end] if wanted else now}}
        return (await self.send("PATCH", path, body, **headers))[0]


class ByConnection(Client):
    """Connects whole devices; follows links to the fabrics, whatever they are named."""

    async def fabric(self, block: str) -> str:
        """The path of the fabric by which hosts reach this device."""
        kinds = {"gpu": "PCIe", "cxl": "CXL", "nvme": "NVMeOverFabrics"}
        fabrics = await self.members(f"{ROOT}/Fabrics")
        return next(f["@odata.id"] for f in fabrics if f["FabricType"] == kinds[block.partition("-")[0]])

    async def attached(self, host: str) -> list[str]:
        found = []
        for fabric in await self.members(f"{ROOT}/Fabrics"):
            for connection in (
                await self.members(fabric["Connections"]["@odata.id"]) if "Connections" in fabric else ()
            ):
                ends = connection["Links"]
                if [last(item) for item in ends["InitiatorEndpoints"]] == [f"host-{host}"]:
                    found += [last(item) for item in ends["TargetEndpoints"]]
        return sorted(found, key=lambda name: ["gpu", "cxl", "nvme"].index(name.partition("-")[0]))

    def wanted(self, fabric: str, host: str, *blocks: str, **more: Any) -> dict[str, Any]:
        """The body of a connection."""
        ends = {
            "InitiatorEndpoints": [link(f"{fabric}/Endpoints/host-{host}")],
            "TargetEndpoints": [link(f"{fabric}/Endpoints/{block}") for block in blocks],
        }
        return {"Links": ends, **more}

    async def attach(self, host: str, *blocks: str, **headers: str) -> int:
        statuses = []
        for block in blocks:
            fabric = await self.fabric(block)
            body = self.wanted(fabric, host, block, **self.typed)
            statuses.append((await self.send("POST", f"{fabric}/Connections", body, **headers))[0])
        return max(statuses)

    async def detach(self, host: str, *blocks: str, **headers: str) -> int:
        statuses = []
        for block in blocks:
            fabric = await self.fabric(block)
            for connection in await self.members(f"{fabric}/Connections"):
                ends = connection["Links"]
                if link(f"{fabric}/Endpoints/{block}") in ends["TargetEndpoints"]:
                    statuses.append((await self.send("DELETE", connection["@odata.id"], **headers))[0])
        return max(statuses)

    typed: ClassVar[dict[str, str]] = {}
    """What a creation has to say beside its properties."""


class BySunfish(ByConnection):
    typed: ClassVar[dict[str, str]] = {"@odata.type": "#Connection.v1_2_0.Connection"}


CLIENTS: dict[str, type[Client]] = {
    "compose-by-patch": ByPatch,
    "add-resource-block": ByAction,
    "compose-by-post": ByPost,
    "zone-endpoints": ByZone,
    "connections": ByConnection,
    "sunfish": BySunfish,
}

"""How fast the Redfish driver reads a big rack: `PYTHONPATH=operator/src:tests python tests/bench/fabric_reading.py`.

The manager is a process of its own that answers from memory. Prints each figure with its target, met or missed; exits
with 1 when one is missed. With `--limited`, also the rack without $expand at 20 requests a second (some 4 minutes).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

from support.replay import BLOCKS, ROOT, SYSTEMS, Tree, block, rack, system
from weft.fabric.driver import Connection
from weft.fabric.redfish import RedfishDriver

DEEP, SHALLOW = "$expand=.($levels=2)", "$expand=."


def tree(blocks: int, hosts: int, *, expand: bool) -> dict[str, bytes]:
    """Answers by path and query."""
    parts = [block(f"{BLOCKS}/gpu-{n:04}", **{"@odata.etag": f'W/"{n}"'}) for n in range(blocks)]
    parts += [system(f"{SYSTEMS}/sled-{n:03}") for n in range(hosts)]
    whole: Tree = rack(*parts)
    if expand:
        features = {"ExpandQuery": {"NoLinks": True, "Levels": True, "MaxLevels": 2}}
        whole[ROOT]["ProtocolFeaturesSupported"] = features
        whole[f"{SYSTEMS}?{SHALLOW}"] = expanded(whole, SYSTEMS, deep=False)
        whole[f"{SYSTEMS}?{DEEP}"] = expanded(whole, SYSTEMS, deep=False)
        whole[f"{BLOCKS}?{DEEP}"] = expanded(whole, BLOCKS, deep=True)
    return {path: answer(body) for path, body in whole.items()}


def expanded(whole: Tree, path: str, *, deep: bool) -> Tree:
    members = [dict(whole[entry["@odata.id"]]) for entry in whole[path]["Members"]]
    for member in members if deep else ():
        member["Processors"] = [whole[entry["@odata.id"]] for entry in member["Processors"]]
    return {**whole[path], "Members": members}


def answer(body: Any) -> bytes:
    data = json.dumps(body).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    )


class Manager(asyncio.Protocol):
    """As much HTTP as a GET needs: the manager must not be what is measured."""

    answers: dict[str, bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while b"\r\n\r\n" in self.data:
            head, _, self.data = self.data.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"
            self.transport.write(self.answers.get(path, missing))


def serve(answers: dict[str, bytes], pipe: Pipe) -> None:
    async def run() -> None:
        Manager.answers = answers
        server = await asyncio.get_running_loop().create_server(Manager, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)

    asyncio.run(run())


async def read(port: int, blocks: int, **limits: Any) -> float:
    """Seconds until all blocks were read."""
    usual = {"max_in_flight": 64, "requests_per_second": 1e6, "request_timeout_seconds": 30.0}
    driver = RedfishDriver(Connection(f"http://127.0.0.1:{port}", **(usual | limits)))
    began = time.monotonic()
    while True:
        inventory = await driver.inventory()
        if limits:
            print(
                f"  {time.monotonic() - began:6.1f} s: {len(inventory.hosts)} hosts, {len(inventory.devices)} devices"
            )
        if len(inventory.devices) == blocks:
            await driver.close()
            return time.monotonic() - began


def measure(blocks: int, hosts: int, *, expand: bool, **limits: Any) -> float:
    """Seconds until all was read; without limits the best of three."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(tree(blocks, hosts, expand=expand), there))
    process.start()
    port = here.recv()
    try:
        return min(asyncio.run(read(port, blocks, **limits)) for _ in range(1 if limits else 3))
    finally:
        here.send("end")
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limited", action="store_true", help="also read at 20 requests a second")
    limited: bool = parser.parse_args().limited
    figures = [
        ("5,000 blocks and 100 hosts, two levels of $expand", measure(5000, 100, expand=True), 1.0),
        ("2,000 blocks and 100 hosts, no $expand", measure(2000, 100, expand=False), 2.0),
    ]
    if limited:
        seconds = measure(2000, 100, expand=False, requests_per_second=20.0, max_in_flight=8)
        figures.append(("the same at 20 requests a second", seconds, 2 * 4104 / 20))
    for name, seconds, target in figures:
        verdict = "met" if seconds <= target else "MISSED"
        print(f"{name}: {seconds:.2f} s (target {target:.0f} s: {verdict})")
    return 0 if all(seconds <= target for _, seconds, target in figures) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What plays all nodes of the demo with an engine that nobody here wrote behind each pod of an inference group.

`python -m weft_playground.demo.vllm_engines --kubeconfig F --nodes worker-0..25 --seed 1 --folder LOGS` is one such
process, `weft_playground.demo.dynamo_engines` the other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from weft.api.names import LABEL_GROUP
from weft.cluster import Object
from weft_dev.kube_async import AsyncKube, connected
from weft_dev.kubelet import Kubelet, node_names
from weft_playground.engine_server import PORT
from weft_playground.processes import until_stopped

POLL_SECONDS = 0.2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """A process that was started, whether it has ended, and what it printed."""

    pid: int
    ended: Callable[[], bool]
    log: Path


Launch = Callable[[Object, str], Awaitable[Engine]]
"""Starts an engine for a pod at its address; it need not be ready yet."""


class RealEngines:
    """The kubelet's callbacks: an engine per pod of an inference group."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._engines: dict[str, Engine] = {}

    async def start(self, pod: Object, ip: str) -> None:
        metadata = pod["metadata"]
        if LABEL_GROUP not in metadata.get("labels", {}):
            return
        begun = time.monotonic()
        name = metadata["name"]
        engine = await self._launch(pod, ip)
        while not await asyncio.to_thread(_healthy, f"http://{ip}:{PORT}/health"):
            if await asyncio.to_thread(engine.ended):
                raise OSError(f"the engine of {name} ended: {engine.log} says why")
            await asyncio.sleep(POLL_SECONDS)
        self._engines[metadata["uid"]] = engine
        log.info("%s: healthy at %s after %.1f s", name, ip, time.monotonic() - begun)

    async def stop(self, pod: Object) -> None:
        engine = self._engines.pop(pod["metadata"]["uid"], None)
        if engine is None:
            return
        begun = time.monotonic()
        try:
            os.kill(engine.pid, signal.SIGTERM)
            while not await asyncio.to_thread(engine.ended):  # noqa: ASYNC110  # nothing tells of its end
                await asyncio.sleep(POLL_SECONDS)
        except ProcessLookupError:
            pass
        finally:
            # The kubelet's patience may have ended first. An engine leads its process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(engine.pid, signal.SIGKILL)
        log.info("%s: ended after %.1f s", pod["metadata"]["name"], time.monotonic() - begun)


def _healthy(url: str) -> bool:
    with contextlib.suppress(OSError):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return bool(opener.open(url, timeout=2).status == 200)
    return False


async def _nothing(_: AsyncKube) -> None:
    return


def main(
    description: str | None,
    launcher: Callable[[Path, int], Launch],
    beside: Callable[[AsyncKube], Coroutine[Any, Any, None]] = _nothing,
) -> None:
    """`launcher` is called with the folder for logs and the seed of the engines' true speeds; `beside` runs too."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=node_names, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for the engines' logs")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s engines: %(message)s")

    async def serve() -> None:
        engines = RealEngines(launcher(arguments.folder, arguments.seed))
        async with connected(arguments.kubeconfig) as api, asyncio.TaskGroup() as tasks:
            more = tasks.create_task(beside(api))
            await until_stopped(Kubelet(api, arguments.nodes, engines.start, engines.stop).run())
            more.cancel()

    uvloop.run(serve())

"""A process that plays all nodes of the demo and the vLLM servers in their pods.

`python -m weft_playground.demo.engines --kubeconfig F --nodes worker-0..25 --seed 1`

Pods of an inference group get an engine on their address; any other pod just runs.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from weft.api.names import LABEL_GROUP
from weft.cluster import Object
from weft_dev.kube_async import connected
from weft_dev.kubelet import Kubelet, node_names
from weft_playground.engine_server import EngineServer
from weft_playground.kv_caches import KVCaches
from weft_playground.lag import LagMeter
from weft_playground.processes import until_stopped
from weft_playground.profile import read_profile, replica_number, speed_error


class Engines:
    """The kubelet's callbacks: an engine per pod of an inference group."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lag = LagMeter()
        self._profile = read_profile()
        self._caches = KVCaches()
        self._engines: dict[str, EngineServer] = {}

    async def start(self, pod: Object, ip: str) -> None:
        metadata = pod["metadata"]
        if LABEL_GROUP not in metadata.get("labels", {}):
            return
        error = speed_error(self._seed, replica_number(metadata["name"]))
        engine = EngineServer(
            metadata["name"], served_model(pod), self._profile, error, self._caches, self._lag
        )
        await engine.start(ip)
        self._engines[metadata["uid"]] = engine

    async def stop(self, pod: Object) -> None:
        engine = self._engines.pop(pod["metadata"]["uid"], None)
        if engine is None:
            return
        # As vLLM on SIGTERM: finish what is under way. A second of the grace period is left to close the server.
        grace_seconds = pod["metadata"].get("deletionGracePeriodSeconds", 30)
        await engine.drain(max(0.0, grace_seconds - 1.0))
        await engine.stop()


def served_model(pod: Object) -> str:
    """The model's name, from the container's `--model=` argument as vLLM takes it."""
    return argument(pod, "--model") or "model"


def argument(pod: Object, name: str) -> str:
    """The value of an argument of the pod's containers; empty where none has it."""
    for container in pod["spec"]["containers"]:
        for text in (*container.get("command", ()), *container.get("args", ())):
            if str(text).startswith(f"{name}="):
                return str(text).partition("=")[2]
    return ""


async def serve(kubeconfig: Path, nodes: Sequence[str], seed: int) -> None:
    engines = Engines(seed)
    async with connected(kubeconfig) as api:
        kubelet = Kubelet(api, nodes, engines.start, engines.stop)
        await until_stopped(kubelet.run())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=node_names, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s engines: %(message)s")
    uvloop.run(serve(arguments.kubeconfig, arguments.nodes, arguments.seed))


if __name__ == "__main__":
    main()

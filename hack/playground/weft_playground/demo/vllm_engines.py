"""A process that plays all nodes of the demo, with a real vLLM engine behind each pod of an inference group.

`python -m weft_playground.demo.vllm_engines --kubeconfig F --nodes worker-0..25 --seed 1 --folder LOGS`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from weft.api.names import LABEL_GROUP
from weft.cluster import Object
from weft_dev.kube_async import connected
from weft_dev.kubelet import Kubelet, node_names
from weft_playground import vllm_install
from weft_playground.demo.engines import served_model
from weft_playground.engine_server import PORT
from weft_playground.processes import until_stopped
from weft_playground.profile import MAX_BATCH, replica_number

KV_BYTES = 35 << 20
"""Room for the 70,000 tokens of the measured hardware, at 512 bytes each."""
DRAIN_SECONDS = 30
"""With vLLM's default, 0, an engine that is asked to end hangs its streams."""
POLL_SECONDS = 0.2
log = logging.getLogger(__name__)


class VLLMEngines:
    """The kubelet's callbacks: a real engine per pod of an inference group."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._groups: dict[str, int] = {}
        self._one_at_a_time = asyncio.Lock()
        self._zygote: asyncio.subprocess.Process | None = None

    async def start(self, pod: Object, ip: str) -> None:
        metadata = pod["metadata"]
        if LABEL_GROUP not in metadata.get("labels", {}):
            return
        begun = time.monotonic()
        name = metadata["name"]
        group = await self._fork(order(name, served_model(pod), ip, self._folder, self._seed))
        while not await asyncio.to_thread(_healthy, f"http://{ip}:{PORT}/health"):
            if not _exists(group):
                raise OSError(f"the engine of {name} ended: {self._folder / name}.log says why")
            await asyncio.sleep(POLL_SECONDS)
        self._groups[metadata["uid"]] = group
        log.info("%s: healthy at %s after %.1f s", name, ip, time.monotonic() - begun)

    async def stop(self, pod: Object) -> None:
        group = self._groups.pop(pod["metadata"]["uid"], None)
        if group is None:
            return
        try:
            os.kill(group, signal.SIGTERM)
            while _exists(group):  # noqa: ASYNC110  # not our child: nothing tells of its end
                await asyncio.sleep(POLL_SECONDS)
        except ProcessLookupError:
            pass
        finally:
            # The kubelet's patience may have ended first.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    async def _fork(self, order: dict[str, Any]) -> int:
        """The engine's process id, which is that of its group."""
        async with self._one_at_a_time:
            if self._zygote is None:
                self._zygote = await self._import()
            return int((await self._ask(self._zygote, order))["pid"])

    async def _import(self) -> asyncio.subprocess.Process:
        python = vllm_install.directory() / "bin" / "python"
        with (self._folder / "zygote.log").open("w") as output:
            zygote = await asyncio.create_subprocess_exec(
                *(str(python), str(vllm_install.SCRIPTS / "zygote.py")),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                # Not in our group: it has to outlive us by a moment, to end its engines.
                start_new_session=True,
            )
        await self._answer(zygote)
        return zygote

    async def _ask(self, zygote: asyncio.subprocess.Process, order: dict[str, Any]) -> dict[str, Any]:
        assert zygote.stdin is not None
        zygote.stdin.write(json.dumps(order).encode() + b"\n")
        return await self._answer(zygote)

    async def _answer(self, zygote: asyncio.subprocess.Process) -> dict[str, Any]:
        assert zygote.stdout is not None
        line = await zygote.stdout.readline()
        if not line:
            raise SystemExit(f"vLLM cannot be imported: {self._folder / 'zygote.log'} says why")
        answer: dict[str, Any] = json.loads(line)
        return answer


def order(name: str, model: str, ip: str, folder: Path, seed: int) -> dict[str, Any]:
    """What the zygote is told to start for a pod."""
    transfer = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}
    flags = {
        "served-model-name": model,
        "host": ip,
        "port": PORT,
        "load-format": "dummy",
        "dtype": "bfloat16",
        "max-model-len": 16384,
        "max-num-seqs": MAX_BATCH,
        "max-num-batched-tokens": 2048,
        "kv-cache-memory-bytes": KV_BYTES,
        "shutdown-timeout": DRAIN_SECONDS,
        "kv-transfer-config": json.dumps(transfer),
        "worker-cls": "paced.PacedWorker",
    }
    return {
        "name": name,
        "ip": ip,
        "log": str(folder / f"{name}.log"),
        "environment": {
            "VLLM_CACHE_ROOT": str(vllm_install.directory() / "cache"),
            "PACE_SEED": str(seed),
            "PACE_REPLICA": str(replica_number(name)),
            "PACE_LAG_FILE": str(folder / f"{name}.lag"),
        },
        "arguments": [
            str(vllm_install.model_directory()),
            "--enforce-eager",
            *(f"--{flag}={value}" for flag, value in flags.items()),
        ],
    }


def _healthy(url: str) -> bool:
    with contextlib.suppress(OSError):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return bool(opener.open(url, timeout=2).status == 200)
    return False


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


async def serve(kubeconfig: Path, nodes: Sequence[str], folder: Path, seed: int) -> None:
    engines = VLLMEngines(folder, seed)
    async with connected(kubeconfig) as api:
        await until_stopped(Kubelet(api, nodes, engines.start, engines.stop).run())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=node_names, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for the engines' logs")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s engines: %(message)s")
    uvloop.run(serve(arguments.kubeconfig, arguments.nodes, arguments.folder, arguments.seed))


if __name__ == "__main__":
    main()

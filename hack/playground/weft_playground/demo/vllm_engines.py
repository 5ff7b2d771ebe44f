"""A real vLLM engine for a pod: forked from a process that has imported vLLM already."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from weft.cluster import Object
from weft_playground.case import STEP_TOKENS
from weft_playground.demo.engines import served_model
from weft_playground.demo.real_engines import Engine, main
from weft_playground.engine_server import PORT
from weft_playground.installation import VLLM
from weft_playground.profile import MAX_BATCH, replica_number

KV_BYTES = 35 << 20
"""Room for the 70,000 tokens of the measured hardware, at 512 bytes each."""
DRAIN_SECONDS = 30
"""With vLLM's default, 0, an engine that is asked to end hangs its streams."""


class VLLMLauncher:
    """Starts engines one after the other. `folder`: for their logs."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._one_at_a_time = asyncio.Lock()
        self._zygote: asyncio.subprocess.Process | None = None

    async def __call__(self, pod: Object, ip: str) -> Engine:
        told = order(pod["metadata"]["name"], served_model(pod), ip, self._folder, self._seed)
        async with self._one_at_a_time:
            if self._zygote is None:
                self._zygote = await self._import()
            pid = int((await self._ask(self._zygote, told))["pid"])

        def ended() -> bool:
            # Not our child.
            return not os.path.exists(f"/proc/{pid}")

        return Engine(pid, ended, Path(told["log"]))

    async def _import(self) -> asyncio.subprocess.Process:
        with (self._folder / "zygote.log").open("w") as output:
            zygote = await asyncio.create_subprocess_exec(
                *(str(VLLM.python), str(VLLM.scripts / "zygote.py")),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                # Not in our group: it has to outlive us by a moment, to end its engines.
                start_new_session=True,
            )
        await self._answer(zygote)
        return zygote

    async def _ask(self, zygote: asyncio.subprocess.Process, told: dict[str, Any]) -> dict[str, Any]:
        assert zygote.stdin is not None
        zygote.stdin.write(json.dumps(told).encode() + b"\n")
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
        "max-num-batched-tokens": STEP_TOKENS["vllm"],
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
            "VLLM_CACHE_ROOT": str(VLLM.directory / "cache"),
            "PACE_SEED": str(seed),
            "PACE_REPLICA": str(replica_number(name)),
            "PACE_LAG_FILE": str(folder / f"{name}.lag"),
        },
        "arguments": [
            str(VLLM.model),
            "--enforce-eager",
            *(f"--{flag}={value}" for flag, value in flags.items()),
        ],
    }


if __name__ == "__main__":
    main(__doc__, VLLMLauncher)

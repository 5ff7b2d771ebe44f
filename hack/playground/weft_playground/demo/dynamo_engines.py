"""A worker of NVIDIA Dynamo for a pod, with Dynamo's engine simulator, for the stage that its arguments name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from weft.cluster import Object
from weft_dev.controlplane import server_environment
from weft_dev.processes import ProcessGroup
from weft_playground.case import MODES
from weft_playground.demo.endpoints import keep_endpoints
from weft_playground.demo.engines import argument, served_model
from weft_playground.demo.real_engines import Engine, main
from weft_playground.dynamo_profile import write_profile
from weft_playground.engine_server import PORT
from weft_playground.installation import DYNAMO
from weft_playground.profile import (
    KV_CAPACITY_TOKENS,
    KV_TRANSFER_SECONDS_PER_TOKEN,
    MAX_BATCH,
    replica_number,
    speed_error,
)

MODE = "--disaggregation-mode"
"""The argument that says which stage a worker serves."""
DRAIN_SECONDS = 30
"""Where it is too short, answers end early with status 200."""
BLOCK_TOKENS = 16
KV_BYTES_PER_TOKEN = 320 * 1024
DISCOVERED = {
    "nvidia.com/dynamo-discovery-backend": "kubernetes",
    "nvidia.com/dynamo-discovery-enabled": "true",
}
"""Labels of EndpointSlices: Dynamo's frontends send requests to the pods that are ready in them."""
SHARED = "dynamo.json"
"""A file with the environment that all of Dynamo's processes share."""


class DynamoLauncher:
    """`folder`: for the workers' logs and profiles; it has SHARED."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._processes = ProcessGroup(folder)

    async def __call__(self, pod: Object, ip: str) -> Engine:
        metadata = pod["metadata"]
        error = speed_error(self._seed, replica_number(metadata["name"]))
        profile = await asyncio.to_thread(write_profile, self._folder, error)
        # A replica's pods have one name.
        name = f"{metadata['namespace']}-{metadata['name']}-{metadata['uid'][:8]}"
        shared = json.loads((self._folder / SHARED).read_text())
        pid = await asyncio.to_thread(
            self._processes.start,
            name,
            worker_command(pod, profile),
            environment=worker_environment(shared, metadata, ip),
        )

        def ended() -> bool:
            return self._processes.exit_code(name) is not None

        return Engine(pid, ended, self._processes.log(name))


def worker_command(pod: Object, profile: Path) -> list[str]:
    """What a worker is started with. `profile`: how long the engine that it simulates takes."""
    stage = argument(pod, MODE)
    return [
        *(str(DYNAMO.python), "-m", "dynamo.mocker", f"{MODE}={stage}"),
        *(f"--model-path={DYNAMO.model}", f"--model-name={served_model(pod)}"),
        f"--planner-profile-data={profile}",
        # With more than one prompt at a time it holds first tokens until its queue is empty.
        f"--max-num-seqs={1 if stage == 'prefill' else MAX_BATCH}",
        f"--block-size={BLOCK_TOKENS}",
        f"--num-gpu-blocks-override={KV_CAPACITY_TOKENS // BLOCK_TOKENS}",
        "--no-enable-prefix-caching",
        f"--kv-bytes-per-token={KV_BYTES_PER_TOKEN}",
        f"--kv-transfer-bandwidth={KV_BYTES_PER_TOKEN / KV_TRANSFER_SECONDS_PER_TOKEN / 1e9:g}",
    ]


def worker_environment(shared: Mapping[str, str], metadata: Object, ip: str) -> dict[str, str]:
    return {
        **shared,
        **pod_environment(metadata),
        "DYN_SYSTEM_HOST": ip,
        "DYN_SYSTEM_PORT": str(PORT),
        "DYN_TCP_RPC_HOST": ip,
        # Else it says that it is not ready for ever.
        "DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS": '["generate"]',
        "DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS": str(DRAIN_SECONDS),
    }


def pod_environment(metadata: Object) -> dict[str, str]:
    """Who a process is for Dynamo's discovery, which is Kubernetes: its pod."""
    return {
        "POD_NAME": metadata["name"],
        "POD_NAMESPACE": metadata["namespace"],
        "POD_UID": metadata["uid"],
    }


def shared_environment(kubeconfig: Path, broker_in: int, broker_out: int) -> dict[str, str]:
    """Of frontends and workers. `kubeconfig` has to lead to a plain HTTP server; the ports are the broker's."""
    return {
        **server_environment(),
        "KUBECONFIG": str(kubeconfig),
        "HF_HUB_OFFLINE": "1",
        "DYN_LOG": "warn",
        "DYN_DISCOVERY_BACKEND": "kubernetes",
        "DYN_REQUEST_PLANE": "tcp",
        # An interface: with an address no worker is ever found.
        "DYN_TCP_RESPONSE_STREAM_HOST": "lo",
        "DYN_EVENT_PLANE": "zmq",
        "DYN_ZMQ_BROKER_URL": f"xsub=tcp://127.0.0.1:{broker_in} , xpub=tcp://127.0.0.1:{broker_out}",
        "OMP_NUM_THREADS": "1",
    }


if __name__ == "__main__":
    main(__doc__, DynamoLauncher, lambda api: keep_endpoints(api, tuple(MODES), DISCOVERED))

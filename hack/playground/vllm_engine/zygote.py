"""Imports vLLM once and forks a real `vllm serve` per line of stdin; runs in vLLM's own environment.

A line is a JSON object: `name`, `ip`, `log`, `environment` (added) and `arguments` of `vllm serve`. The answer is a
line with `pid`, which is the engine's process group too. An engine is healthy 2 to 6 s later and shares the memory of
what was imported; started by itself it would import for 14 to 31 s and take 3 GiB. When stdin ends so do all engines.
"""

import contextlib
import gc
import json
import os
import signal
import sys
import time
import traceback

# Before the imports, which read them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    DO_NOT_TRACK="1",
    OMP_NUM_THREADS="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    # KV caches cross loopback as they would a network.
    UCX_TLS="tcp",
    UCX_NET_DEVICES="lo",
)

import nixl_cu13._bindings as nixl
import vllm.distributed.device_communicators.shm_broadcast as shm
import vllm.distributed.kv_transfer.kv_connector.v1.nixl
import vllm.entrypoints.cli.main
import vllm.entrypoints.cli.serve
import vllm.v1.attention.backends.cpu_attn
import vllm.v1.engine.async_llm
import vllm.v1.engine.core
import vllm.v1.worker.cpu_model_runner
import vllm.v1.worker.cpu_worker
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.registry import ModelRegistry
from vllm.platforms.cpu import CpuPlatform

NIXL_PORT = "5600"
PROGRESS_MICROSECONDS = 1000
QUEUE_SECONDS = 0.0005


class AgentConfig(nixl.nixlAgentConfig):
    """NIXL's Python layer asks for a progress thread that spins: one core per idle engine. 1 ms between its looks
    costs 2 %."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, PROGRESS_MICROSECONDS if name == "pthrDelay" else value)


def adjust() -> None:
    """What many engines on two cores need to be otherwise than vLLM has it for one engine on many."""
    nixl.nixlAgentConfig = AgentConfig
    # Its queue in shared memory spins on sched_yield for a second after each message: 24 of 100 requests stalled for
    # 10 to 50 s. A ping may be lost as well; a look every 20 ms does not wait for it.
    shm.sched_yield = lambda: time.sleep(QUEUE_SECONDS)
    shm.SHM_READER_RECHECK_INTERVAL_MS = 20
    # Known by its name alone, a model is inspected in a process that imports everything again, one per engine.
    ModelRegistry.register_model("LlamaForCausalLM", LlamaForCausalLM)
    check = CpuPlatform.check_and_update_config.__func__

    def with_fork(cls: type, config: object) -> None:
        check(cls, config)
        # The platform forces spawn, with which each process of an engine imports everything again.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    CpuPlatform.check_and_update_config = classmethod(with_fork)


def serve(order: dict) -> None:
    """Become an engine; does not return."""
    code = 1
    try:
        output = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(
            order["environment"],
            VLLM_NIXL_SIDE_CHANNEL_HOST=order["ip"],
            VLLM_NIXL_SIDE_CHANNEL_PORT=NIXL_PORT,
        )
        sys.argv = ["vllm", "serve", *order["arguments"]]
        vllm.entrypoints.cli.main.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:  # noqa: BLE001  # a copy of the zygote must never go on as one
        traceback.print_exc()
    os._exit(code)


def main() -> None:
    adjust()
    gc.collect()
    gc.freeze()
    # Nobody here asks how an engine ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    engines = []
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setpgid(0, 0)
            serve(json.loads(line))
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        engines.append(pid)
        print(json.dumps({"pid": pid}), flush=True)
    for pid in engines:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()

"""The demo on loopback with engines and a router that nobody here wrote: vLLM's own, paced to the measured hardware."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft_dev.controlplane import server_environment
from weft_dev.processes import free_ports
from weft_dev.prometheus import Prometheus
from weft_playground import vllm_install
from weft_playground.case import AUTO, NODE_COUNT
from weft_playground.demo.narrator import Narrator
from weft_playground.demo.world import LoopbackWorld, answers
from weft_playground.lag import Lag, read_lag

BY_SOURCE = 'sum(max_over_time(vllm:prompt_tokens_by_source_total{source="%s"}[15m]))'


@dataclass
class VLLMWorld(LoopbackWorld):
    """One group: two cores have no room for a second one of six real engines."""

    namespaces = (AUTO,)
    replicas_text = "each a real vLLM engine on a logical node of 2 GPUs"

    def __post_init__(self) -> None:
        self.examples = self.examples.with_preset("vllm-router")

    async def start_cluster(self, narrator: Narrator) -> Path:
        if not vllm_install.is_installed():
            await asyncio.to_thread(vllm_install.install, narrator.say)
        return await super().start_cluster(narrator)

    def _start_engines(self) -> None:
        assert self.plane is not None
        self._python(
            "engines",
            "weft_playground.demo.vllm_engines",
            f"--kubeconfig={self.plane.kubeconfig}",
            f"--nodes=worker-0..{NODE_COUNT - 1}",
            f"--seed={self.case.seed}",
            f"--folder={self.directory}",
        )

    def _start_routers(self) -> None:
        """vLLM's router, which finds its workers by Weft's labels."""
        assert self.plane is not None
        proxy, port, metrics = free_ports(3)
        # The local API server's certificate is its own authority, which this router's TLS refuses.
        self.processes.start(
            "proxy",
            [
                *(self.binaries["kubectl"], f"--kubeconfig={self.plane.kubeconfig}"),
                *("proxy", f"--port={proxy}", "--address=127.0.0.1"),
            ],
            environment=server_environment(),
        )
        self._wait("proxy", lambda: answers(f"http://127.0.0.1:{proxy}/readyz"))
        kubeconfig = self.directory / "router-kubeconfig.json"
        kubeconfig.write_text(json.dumps(plain_kubeconfig(f"http://127.0.0.1:{proxy}")))
        self.processes.start(
            "router",
            [
                vllm_install.directory() / "bin" / "vllm-router",
                *("--host=127.0.0.1", f"--port={port}"),
                *("--prometheus-host=127.0.0.1", f"--prometheus-port={metrics}"),
                *("--vllm-pd-disaggregation", "--policy=power_of_two", "--kv-connector=nixl"),
                *(
                    "--service-discovery",
                    f"--service-discovery-namespace={AUTO}",
                    "--service-discovery-port=8000",
                ),
                "--prefill-selector=weft.dev/stage=prefill",
                "--decode-selector=weft.dev/stage=decode",
            ],
            environment={**server_environment(), "KUBECONFIG": str(kubeconfig)},
        )
        self.fronts = {AUTO: f"http://127.0.0.1:{port}"}
        self.front_metrics = {AUTO: f"127.0.0.1:{metrics}"}
        self._wait("router", lambda: answers(f"http://127.0.0.1:{metrics}/metrics"))

    def lags(self) -> list[Lag]:
        """Of the load, and how late the engines' paced steps ended."""
        return [*self.load.lags(), *map(read_lag, self.directory.glob("*-[0-9]*.lag"))]

    def counted(self) -> tuple[list[str], list[str]]:
        """What vLLM's own metrics say of where the prompts' keys and values came from."""
        assert self.prometheus is not None
        return transfers_text(
            _total(self.prometheus, "external_kv_transfer"), _total(self.prometheus, "local_compute")
        )


def transfers_text(pulled: float, computed: float) -> tuple[list[str], list[str]]:
    """(what to tell, what is wrong) of prompt tokens that engines pulled over NIXL and computed."""
    told = [
        f"vLLM counted: the KV cache of {pulled:,.0f} prompt tokens came over NIXL, {computed:,.0f} were computed"
    ]
    if pulled > 0:
        return told, []
    return told, ["no KV cache came over NIXL: vllm:prompt_tokens_by_source_total has none"]


def plain_kubeconfig(server: str) -> dict[str, Any]:
    """For a proxy that brings the credentials itself."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "nobody"}}],
        "current-context": "local",
    }


def _total(prometheus: Prometheus, source: str) -> float:
    return sum(float(each["value"][1]) for each in prometheus.query(BY_SOURCE % source))

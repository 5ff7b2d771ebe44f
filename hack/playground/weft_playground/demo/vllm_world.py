"""The demo on loopback with vLLM's own engines, paced to the measured hardware, and its router."""

from __future__ import annotations

from dataclasses import dataclass

from weft_dev.controlplane import server_environment
from weft_dev.processes import free_ports
from weft_playground.case import AUTO
from weft_playground.demo.real_world import RealWorld
from weft_playground.demo.world import answers
from weft_playground.installation import VLLM
from weft_playground.lag import Lag, read_lag

BY_SOURCE = 'max_over_time(vllm:prompt_tokens_by_source_total{source="%s"}[15m])'


@dataclass
class VLLMWorld(RealWorld):
    """One group: two cores have no room for a second one of six real engines."""

    installation = VLLM
    nodes_module = "weft_playground.demo.vllm_engines"
    namespaces = (AUTO,)
    replicas_text = "each a real vLLM engine on a logical node of 2 GPUs"

    def __post_init__(self) -> None:
        self.examples = self.examples.with_preset("vllm-router")

    def _start_routers(self) -> None:
        """vLLM's router, which finds its workers by Weft's labels."""
        port, metrics = free_ports(2)
        self.processes.start(
            "router",
            [
                VLLM.directory / "bin" / "vllm-router",
                *("--host=127.0.0.1", f"--port={port}"),
                *("--prometheus-host=127.0.0.1", f"--prometheus-port={metrics}"),
                *("--vllm-pd-disaggregation", "--policy=power_of_two", "--kv-connector=nixl"),
                *(
                    "--service-discovery",
                    f"--service-discovery-namespace={self.namespaces[0]}",
                    "--service-discovery-port=8000",
                ),
                "--prefill-selector=weft.dev/stage=prefill",
                "--decode-selector=weft.dev/stage=decode",
            ],
            environment={**server_environment(), "KUBECONFIG": str(self._start_proxy())},
        )
        self.fronts = {self.namespaces[0]: f"http://127.0.0.1:{port}"}
        self.front_metrics = {self.namespaces[0]: f"127.0.0.1:{metrics}"}
        self._wait("router", lambda: answers(f"http://127.0.0.1:{metrics}/metrics"))

    def lags(self) -> list[Lag]:
        """Of the load, and how late the engines' paced steps ended."""
        return [*self.load.lags(), *map(read_lag, self.directory.glob("*-[0-9]*.lag"))]

    def counted(self) -> tuple[list[str], list[str]]:
        """What vLLM's own metrics say of where the prompts' keys and values came from."""
        return transfers_text(
            self._total(BY_SOURCE % "external_kv_transfer"), self._total(BY_SOURCE % "local_compute")
        )


def transfers_text(pulled: float, computed: float) -> tuple[list[str], list[str]]:
    """(what to tell, what is wrong) of prompt tokens that engines pulled over NIXL and computed."""
    told = [
        f"vLLM counted: the KV cache of {pulled:,.0f} prompt tokens came over NIXL, {computed:,.0f} were computed"
    ]
    if pulled > 0:
        return told, []
    return told, ["no KV cache came over NIXL: vllm:prompt_tokens_by_source_total has none"]

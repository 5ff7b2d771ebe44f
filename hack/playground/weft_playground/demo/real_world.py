"""The demo on loopback with engines and front ends that nobody here wrote: what vLLM's and Dynamo's worlds share."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from weft_dev.controlplane import server_environment
from weft_dev.processes import free_ports
from weft_playground.case import NODE_COUNT
from weft_playground.demo.narrator import Narrator
from weft_playground.demo.world import LoopbackWorld, answers
from weft_playground.installation import Installation


@dataclass
class RealWorld(LoopbackWorld):
    installation: ClassVar[Installation]
    """What has to be in the cache."""
    nodes_module: ClassVar[str]
    """What plays the nodes."""

    async def start_cluster(self, narrator: Narrator) -> Path:
        if not self.installation.is_installed():
            await asyncio.to_thread(self.installation.install, narrator.say)
        return await super().start_cluster(narrator)

    def _start_engines(self) -> None:
        assert self.plane is not None
        self._python(
            "engines",
            self.nodes_module,
            f"--kubeconfig={self.plane.kubeconfig}",
            f"--nodes=worker-0..{NODE_COUNT - 1}",
            f"--seed={self.case.seed}",
            f"--folder={self.directory}",
        )

    def _start_proxy(self) -> Path:
        """A kubeconfig without TLS: the local API server's certificate is its own authority, which rustls refuses."""
        assert self.plane is not None
        (port,) = free_ports(1)
        self.processes.start(
            "proxy",
            [
                *(self.binaries["kubectl"], f"--kubeconfig={self.plane.kubeconfig}"),
                *("proxy", f"--port={port}", "--address=127.0.0.1"),
            ],
            environment=server_environment(),
        )
        self._wait("proxy", lambda: answers(f"http://127.0.0.1:{port}/readyz"))
        kubeconfig = self.directory / "plain-kubeconfig.json"
        kubeconfig.write_text(json.dumps(plain_kubeconfig(f"http://127.0.0.1:{port}")))
        return kubeconfig

    def _total(self, expression: str) -> float:
        """The sum of what a query finds."""
        assert self.prometheus is not None
        return sum(float(each["value"][1]) for each in self.prometheus.query(expression))


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

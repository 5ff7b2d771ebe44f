"""The demo on loopback: control plane, fabric manager, engines, routers, Prometheus and operator as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from weft.api.resources import NAMESPACES, NODES
from weft.emulator import journal
from weft_dev import PYTHONPATH, ROOT, controlplane, prometheus
from weft_dev.controlplane import ControlPlane, server_environment
from weft_dev.processes import ProcessError, ProcessGroup, free_ports, log_tail
from weft_dev.prometheus import Prometheus
from weft_playground.case import AUTO, MODES, NODE_COUNT, Case
from weft_playground.demo.load_run import LoadRun
from weft_playground.demo.manifests import EXAMPLES, Examples, namespace_object, with_logical_nodes
from weft_playground.demo.narrator import Narrator
from weft_playground.lag import Lag, lags_behind

SCRAPE_SECONDS = 1.0
START_SECONDS = 30.0
INTERRUPTED_START_SECONDS = 15.0
OPERATOR_NAMESPACE = "weft-system"
MANAGERS = {"rack-a": ("compose-by-patch", ("GPU",)), "rack-a-memory": ("connections", ("CXL", "NVMe"))}
"""The dialect and the types of devices of each fabric manager; that of the accelerators first."""
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class LoopbackWorld:
    """A context manager: at its end no process is left, and no file.

    `fronts`: URL of each group's router by namespace; `front_metrics`: host and port of its metrics.
    """

    case: Case
    binaries: Mapping[str, Path]
    logs: Path | None = None
    processes: ProcessGroup = field(init=False)
    load: LoadRun = field(init=False)
    plane: ControlPlane | None = None
    prometheus: Prometheus | None = None
    fronts: dict[str, str] = field(default_factory=dict)
    front_metrics: dict[str, str] = field(default_factory=dict)
    examples: Examples = field(default_factory=with_logical_nodes)
    operator_port: int = field(default_factory=lambda: free_ports(1)[0])
    routers: tuple[str, ...] = ("router",)
    """The processes in front of the engines."""
    namespaces = tuple(MODES)
    replicas_text = "each on a logical node of 2 GPUs"
    stopped_text = "every process has ended"
    _starting: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self.processes = ProcessGroup(prefix="weft-demo-")
        self.load = LoadRun(self.processes, self.case)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.logs is not None:
            self._keep_logs(self.logs)
        # A start that was interrupted goes on in its thread; what it starts has to be known here to be stopped.
        self._starting.acquire(timeout=INTERRUPTED_START_SECONDS)
        for each in (self.prometheus, self.plane):
            if each is not None:
                each.stop()
        self.processes.close()

    @property
    def prometheus_url(self) -> str:
        """Where it is once it runs."""
        return self.prometheus.url if self.prometheus is not None else ""

    @property
    def directory(self) -> Path:
        return self.processes.directory

    def _journal(self, name: str) -> Path:
        return self.directory / f"{name}.jsonl"

    async def start_cluster(self, narrator: Narrator) -> Path:
        """API server and fabric manager; returns a kubeconfig."""
        with narrator.waiting("starting a Kubernetes control plane and two fabric managers", 8):
            await asyncio.gather(
                asyncio.to_thread(self._start_control_plane), asyncio.to_thread(self._start_fabrics)
            )
        narrator.say(
            "a Kubernetes API server runs, and two fabric managers (Redfish over HTTP) for 26 hosts: one has 60 GPUs"
            " and composes systems, the other has CXL memory and drives and makes connections"
        )
        assert self.plane is not None
        return self.plane.kubeconfig

    async def start_services(self, narrator: Narrator) -> None:
        """Nodes, routers, Prometheus and the operator."""
        assert self.plane is not None
        api = self.plane.client()
        with narrator.waiting("starting nodes, routers, Prometheus and Weft", 8):
            self._start_engines()
            for name in (OPERATOR_NAMESPACE, *self.namespaces):
                await asyncio.to_thread(api.apply, NAMESPACES, namespace_object(name))
            await asyncio.to_thread(self._start_routers)
            await asyncio.to_thread(self._start_prometheus)
            await asyncio.to_thread(self._start_operator)
            await asyncio.to_thread(self._wait, "engines", lambda: len(api.list(NODES)) == NODE_COUNT)
        narrator.say(f"{NODE_COUNT} nodes, routers, Prometheus (a scrape each second) and `weft run` run")

    async def remove(self, narrator: Narrator) -> None:
        """Nothing: all of it ends with this process."""

    def journal_lines(self) -> list[str]:
        """Both fabrics' journals as one."""
        return journal.joined(self._journal(name).read_text().splitlines() for name in MANAGERS)

    def to_look_at(self) -> str:
        """What a user may type while everything stays up."""
        assert self.plane is not None
        assert self.prometheus is not None
        return "\n".join(
            (
                f"  export KUBECONFIG={self.plane.kubeconfig}",
                "  .venv/bin/weft status",
                f"  .venv/bin/weft why infg/{self.examples.group_name} -n {AUTO}",
                f"  kubectl -n {AUTO} get pods --show-labels",
                f"  Prometheus: {self.prometheus.url}",
                f"  fabric manager: {self.examples.fabric['spec']['endpoint']}/redfish/v1",
                *(f"  {name}: {url}/v1/completions" for name, url in self.fronts.items()),
                f"  logs: {self.directory}",
            )
        )

    def _start_control_plane(self) -> ControlPlane:
        with self._starting:
            self.plane = controlplane.start(binaries=self.binaries)
        controlplane.install_crds(self.plane.client(), (ROOT / "crds").glob("*.yaml"))
        return self.plane

    def _start_fabrics(self) -> None:
        """The emulator twice, each with a part of the example's rack and in a dialect of its own."""
        rack = yaml.safe_load((EXAMPLES / "emulator" / "rack-a.yaml").read_text())
        for name, (dialect, types) in MANAGERS.items():
            devices = [each for each in rack["devices"] if each["type"] in types]
            inventory = self.directory / f"{name}.yaml"
            inventory.write_text(yaml.safe_dump({**rack, "name": name, "devices": devices}))
            self._python(
                name,
                "weft.cli.main",
                "emulator",
                f"--inventory={inventory}",
                f"--dialect={dialect}",
                f"--journal={self._journal(name)}",
                f"--ready-file={self.directory / name}.url",
                f"--seed={self.case.seed}",
                "--latency-ms=150",
            )
        ready = {name: self.directory / f"{name}.url" for name in MANAGERS}
        for name, file in ready.items():
            self._wait(name, file.exists)
        accelerators, memory = (file.read_text().strip() for file in ready.values())
        self.examples = self.examples.with_fabric_at(accelerators).with_memory_at(memory)

    def _start_engines(self) -> None:
        """Nodes, and the engines of pods that come to them."""
        assert self.plane is not None
        self._python(
            "engines",
            "weft_playground.demo.engines",
            f"--kubeconfig={self.plane.kubeconfig}",
            f"--nodes=worker-0..{NODE_COUNT - 1}",
            f"--seed={self.case.seed}",
        )

    def _start_routers(self) -> None:
        """One router per group."""
        assert self.plane is not None
        groups = [(namespace, self.examples.group_name) for namespace in self.namespaces]
        ports = free_ports(len(groups))
        listeners = [
            f"{namespace}/{group}={port}" for (namespace, group), port in zip(groups, ports, strict=True)
        ]
        self.fronts = {
            namespace: f"http://127.0.0.1:{port}" for (namespace, _), port in zip(groups, ports, strict=True)
        }
        self.front_metrics = {name: url.removeprefix("http://") for name, url in self.fronts.items()}
        self._python(
            "router",
            "weft_playground.gateway",
            f"--kubeconfig={self.plane.kubeconfig}",
            f"--model={self.examples.model_name}",
            *listeners,
        )
        self._wait("router", lambda: all(answers(f"{each}/metrics") for each in self.fronts.values()))

    def _start_prometheus(self) -> None:
        """Scrapes the engines' pods and the routers every second, and the operator."""
        assert self.plane is not None
        front_ends = {
            "job_name": "routers",
            "static_configs": [
                {"targets": [address], "labels": {"namespace": namespace}}
                for namespace, address in self.front_metrics.items()
            ],
        }
        # For `weft ui`: what the operator says of the groups is by their namespaces, not by its own.
        operator = {
            "job_name": "weft",
            "honor_labels": True,
            "scrape_interval": "2s",
            "scrape_timeout": "2s",
            "static_configs": [
                {
                    "targets": [f"127.0.0.1:{self.operator_port}"],
                    "labels": {"namespace": OPERATOR_NAMESPACE},
                }
            ],
        }
        with self._starting:
            self.prometheus = prometheus.start_for_pods(
                self.plane.kubeconfig,
                interval_seconds=SCRAPE_SECONDS,
                more=[front_ends, operator],
                binary=self.binaries["prometheus"],
            )

    def _start_operator(self) -> None:
        """`weft run`; the kubeconfig is in its environment alone."""
        assert self.plane is not None
        assert self.prometheus is not None
        settings = self.operator_settings()
        port = settings["health_port"]
        config = self.directory / "operator.yaml"
        config.write_text(json.dumps(settings))
        self._python(
            "operator", "weft.cli.main", "run", f"--config={config}", KUBECONFIG=str(self.plane.kubeconfig)
        )
        self._wait("operator", lambda: answers(f"http://127.0.0.1:{port}/readyz"))

    def operator_settings(self) -> dict[str, Any]:
        """What `weft run` is told."""
        assert self.prometheus is not None
        return {
            "namespace": OPERATOR_NAMESPACE,
            "identity": "demo",
            "health_host": "127.0.0.1",
            "health_port": self.operator_port,
            "log_format": "text",
            "sources": {"default": {"url": self.prometheus.url, "scrape_interval_seconds": SCRAPE_SECONDS}},
        }

    def check(self) -> None:
        """Raise ProcessError when a server has ended by itself."""
        self.processes.check(*MANAGERS, "engines", *self.routers, "operator")

    def lags(self) -> list[Lag]:
        """How late everything ran so far. Needs the replicas and the ended load."""
        return [*self.load.lags(), *lags_behind(self.fronts.values())]

    def counted(self) -> tuple[list[str], list[str]]:
        """What else to tell of the load, and what of it is wrong."""
        return [], []

    def operator_log(self) -> str:
        """Its end."""
        return self._log_tail("operator")

    def _log_tail(self, name: str) -> str:
        return log_tail(self.processes.log(name))

    def _python(self, name: str, module: str, *arguments: str, **variables: str) -> None:
        environment = {**server_environment(), "PYTHONPATH": PYTHONPATH, **variables}
        self.processes.start(name, [sys.executable, "-m", module, *arguments], environment=environment)

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self.processes.exit_code(name) != 0:
                self.processes.check(name)
            if time.monotonic() > deadline:
                raise ProcessError(f"{name} is not ready:\n{self._log_tail(name)}")
            time.sleep(0.05)

    def _keep_logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sources = [self.directory]
        sources += [each.directory for each in (self.plane, self.prometheus) if each is not None]
        for source in sources:
            for pattern in ("*.log", "*.jsonl", "*.lag", "*.reading"):
                for file in source.glob(pattern):
                    shutil.copy(file, folder / file.name)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    with contextlib.suppress(OSError), _opener.open(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False

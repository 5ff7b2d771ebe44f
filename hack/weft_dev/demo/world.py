"""Starts and ends the demo's servers: control plane, fabric manager, engines, routers, Prometheus, operator."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from weft_dev import controlplane, prometheus
from weft_dev.controlplane import ControlPlane, server_environment
from weft_dev.demo.case import NODE_COUNT, Case
from weft_dev.demo.lag import Lag, read_lag
from weft_dev.demo.manifests import EXAMPLES
from weft_dev.processes import ProcessError, ProcessGroup, free_ports, log_tail
from weft_dev.prometheus import Prometheus

ROOT = Path(__file__).resolve().parents[3]
SCRAPE_SECONDS = 1.0
START_SECONDS = 30.0
INTERRUPTED_START_SECONDS = 15.0
OPERATOR_NAMESPACE = "weft-system"
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class World:
    """A context manager: at its end no process is left, and no file."""

    case: Case
    binaries: Mapping[str, Path]
    logs: Path | None = None
    processes: ProcessGroup = field(init=False)
    plane: ControlPlane | None = None
    prometheus: Prometheus | None = None
    routers: dict[str, str] = field(default_factory=dict)
    fabric_url: str = ""
    _starting: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self.processes = ProcessGroup(prefix="weft-demo-")
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
    def directory(self) -> Path:
        return self.processes.directory

    @property
    def journal(self) -> Path:
        return self.directory / "journal.jsonl"

    @property
    def results(self) -> Path:
        return self.directory / "results.jsonl"

    def start_control_plane(self) -> ControlPlane:
        with self._starting:
            self.plane = controlplane.start(binaries=self.binaries)
        controlplane.install_crds(self.plane.client(), (ROOT / "crds").glob("*.yaml"))
        return self.plane

    def start_fabric(self) -> str:
        """The fabric manager emulator; returns its URL."""
        ready = self.directory / "emulator.url"
        self._python(
            "emulator",
            "weft.cli.main",
            "emulator",
            f"--inventory={EXAMPLES / 'emulator' / 'rack-a.yaml'}",
            f"--journal={self.journal}",
            f"--ready-file={ready}",
            f"--seed={self.case.seed}",
            "--latency-ms=150",
        )
        self._wait("emulator", ready.exists)
        self.fabric_url = ready.read_text().strip()
        return self.fabric_url

    def start_engines(self) -> None:
        """Nodes, and the engines of pods that come to them."""
        assert self.plane is not None
        self._python(
            "engines",
            "weft_dev.demo.engines",
            f"--kubeconfig={self.plane.kubeconfig}",
            f"--nodes=worker-0..{NODE_COUNT - 1}",
            f"--seed={self.case.seed}",
            f"--lag-file={self.directory / 'engines.lag'}",
        )

    def start_routers(self, groups: Sequence[tuple[str, str]], model_name: str) -> None:
        """One router per (namespace, group)."""
        assert self.plane is not None
        ports = free_ports(len(groups))
        listeners = [
            f"{namespace}/{group}={port}" for (namespace, group), port in zip(groups, ports, strict=True)
        ]
        self.routers = {
            namespace: f"127.0.0.1:{port}" for (namespace, _), port in zip(groups, ports, strict=True)
        }
        self._python(
            "router",
            "weft_dev.demo.gateway",
            f"--kubeconfig={self.plane.kubeconfig}",
            f"--model={model_name}",
            f"--lag-file={self.directory / 'router.lag'}",
            *listeners,
        )
        self._wait("router", lambda: all(answers(f"http://{each}/metrics") for each in self.routers.values()))

    def start_prometheus(self) -> Prometheus:
        """Scrapes the engines' pods and the routers every second."""
        assert self.plane is not None
        front_ends = {
            "job_name": "routers",
            "static_configs": [
                {"targets": [address], "labels": {"namespace": namespace}}
                for namespace, address in self.routers.items()
            ],
        }
        with self._starting:
            self.prometheus = prometheus.start_for_pods(
                self.plane.kubeconfig,
                interval_seconds=SCRAPE_SECONDS,
                more=[front_ends],
                binary=self.binaries["prometheus"],
            )
        return self.prometheus

    def start_operator(self) -> None:
        """`weft run`; the kubeconfig is in its environment alone."""
        assert self.plane is not None
        assert self.prometheus is not None
        (port,) = free_ports(1)
        source = {"url": self.prometheus.url, "scrape_interval_seconds": SCRAPE_SECONDS}
        settings = {
            "namespace": OPERATOR_NAMESPACE,
            "identity": "demo",
            "health_host": "127.0.0.1",
            "health_port": port,
            "log_format": "text",
            "sources": {"default": source},
        }
        config = self.directory / "operator.yaml"
        config.write_text(json.dumps(settings))
        self._python(
            "operator", "weft.cli.main", "run", f"--config={config}", KUBECONFIG=str(self.plane.kubeconfig)
        )
        self._wait("operator", lambda: answers(f"http://127.0.0.1:{port}/readyz"))

    def start_load(self, model_name: str) -> None:
        targets = [f"{namespace}=http://{address}" for namespace, address in self.routers.items()]
        self._python(
            "load",
            "weft_dev.demo.load",
            f"--model={model_name}",
            f"--offset={self.case.offset_minutes}",
            f"--out={self.results}",
            f"--lag-file={self.directory / 'load.lag'}",
            f"--zero-file={self.directory / 'load.zero'}",
            *targets,
        )
        self._wait("load", (self.directory / "load.zero").exists)

    def load_zero(self) -> float:
        """The monotonic time at which the load's schedule begins."""
        return float((self.directory / "load.zero").read_text())

    def load_ended(self) -> bool:
        """Whether every answer is in. Raises ProcessError when the load ended badly."""
        code = self.processes.exit_code("load")
        if code:
            self.processes.check("load")
        return code is not None

    def check(self) -> None:
        """Raise ProcessError when a server has ended by itself."""
        self.processes.check("emulator", "engines", "router", "operator")

    def stop_measured(self) -> list[Lag]:
        """End engines and routers, and read how late they and the load ran."""
        for name in ("router", "engines"):
            self.processes.stop(name)
        names = ("load.lag", "load.reading", "router.lag", "engines.lag")
        return [read_lag(self.directory / name) for name in names if (self.directory / name).exists()]

    def log_tail(self, name: str) -> str:
        return log_tail(self.processes.log(name))

    def _python(self, name: str, module: str, *arguments: str, **variables: str) -> None:
        environment = {**server_environment(), "PYTHONPATH": str(ROOT / "hack"), **variables}
        self.processes.start(name, [sys.executable, "-m", module, *arguments], environment=environment)

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self.processes.exit_code(name) != 0:
                self.processes.check(name)
            if time.monotonic() > deadline:
                raise ProcessError(f"{name} is not ready:\n{self.log_tail(name)}")
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

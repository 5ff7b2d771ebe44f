"""A real Prometheus on a free loopback port: 2.42 or newer, with Kubernetes discovery."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft_dev import tools
from weft_dev.controlplane import server_environment
from weft_dev.processes import ProcessError, ProcessGroup, Stoppable, free_ports, log_tail

ENGINE_PORT = 8000
START_SECONDS = 60.0
ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.05
# To loopback only: a proxy of the environment must not get these.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Prometheus(Stoppable):
    """A running server; a context manager that stops it."""

    url: str
    """`http://127.0.0.1:<port>`"""
    directory: Path
    processes: ProcessGroup = field(repr=False, compare=False)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Samples of an instant query, as the API's `result`."""
        query = urllib.parse.urlencode({"query": expression})
        with _opener.open(f"{self.url}/api/v1/query?{query}", timeout=ANSWER_SECONDS) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def reload(self, config: str) -> None:
        """Replace the configuration. Raises ProcessError with what Prometheus says against it."""
        (self.directory / "prometheus.yml").write_text(config)
        request = urllib.request.Request(f"{self.url}/-/reload", method="POST")
        try:
            with _opener.open(request, timeout=ANSWER_SECONDS):
                pass
        except urllib.error.HTTPError as error:
            raise ProcessError(f"Prometheus: {error.read().decode(errors='replace').strip()}") from error


def start(
    config: str,
    *,
    directory: Path | None = None,
    binary: Path | None = None,
    flags: Sequence[str] = (),
    timeout_seconds: float = START_SECONDS,
) -> Prometheus:
    """Start Prometheus with `config` (YAML or JSON text) and wait until it is ready.

    Data and log are in a temporary directory unless `directory` is given. Raises ProcessError with the end of the log.
    """
    binary = binary or tools.provide(["prometheus"])["prometheus"]
    processes = ProcessGroup(directory, prefix="weft-prometheus-")
    try:
        (port,) = free_ports(1)
        server = Prometheus(f"http://127.0.0.1:{port}", processes.directory, processes)
        configuration = server.directory / "prometheus.yml"
        configuration.write_text(config)
        command = [
            str(binary),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={server.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--web.enable-lifecycle",
            *flags,
        ]
        processes.start("prometheus", command, environment=server_environment())
        deadline = time.monotonic() + timeout_seconds
        while not _ready(server.url):
            processes.check("prometheus")
            if time.monotonic() > deadline:
                raise ProcessError(f"Prometheus is not ready:\n{log_tail(processes.log('prometheus'))}")
            time.sleep(POLL_SECONDS)
    except BaseException:
        processes.close()
        raise
    return server


def start_for_pods(
    kubeconfig: Path,
    *,
    interval_seconds: float = 1.0,
    port: int = ENGINE_PORT,
    more: Iterable[dict[str, Any]] = (),
    binary: Path | None = None,
    directory: Path | None = None,
) -> Prometheus:
    """Start a Prometheus that scrapes `port` of every pod with Weft's group label; `more` are further scrape configs.

    Series get the labels `namespace` and `pod`. One target per pod, whatever ports its containers declare.
    """
    return start(
        scrape_config(kubernetes_discovery(kubeconfig, port), interval_seconds, more),
        binary=binary,
        directory=directory,
    )


def scrape_config(
    discovery: dict[str, Any], interval_seconds: float, more: Iterable[dict[str, Any]] = ()
) -> str:
    """A configuration (JSON, which is YAML) with a job `engines` and further ones."""
    interval = f"{round(interval_seconds * 1000)}ms"
    return json.dumps(
        {
            "global": {"scrape_interval": interval, "scrape_timeout": interval},
            "scrape_configs": [{"job_name": "engines", **discovery}, *more],
        },
        indent=2,
    )


def kubernetes_discovery(kubeconfig: Path, port: int) -> dict[str, Any]:
    """Targets from the API server."""

    def rule(source: str, **rest: str) -> dict[str, Any]:
        return {"source_labels": [f"__meta_kubernetes_{source}"], **rest}

    return {
        "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(kubeconfig)}],
        "relabel_configs": [
            rule("pod_labelpresent_weft_dev_group", regex="true", action="keep"),
            # A pod without an address is not running yet; one that has ended is not scraped any more.
            rule("pod_ip", regex=".+", action="keep"),
            rule("pod_phase", regex="Succeeded|Failed", action="drop"),
            rule("pod_ip", regex="(.+)", target_label="__address__", replacement=f"$1:{port}"),
            rule("namespace", target_label="namespace"),
            rule("pod_name", target_label="pod"),
        ],
    }


def _ready(url: str) -> bool:
    try:
        with _opener.open(f"{url}/-/ready", timeout=ANSWER_SECONDS):
            return True
    except OSError:
        return False

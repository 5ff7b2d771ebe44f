"""`make cluster`: a local cluster in which docs/examples work, until Ctrl-C.

A real control plane with Weft's CRDs; nodes played by weft_dev.kubelet; `weft emulator` as the fabric manager;
a Prometheus that scrapes the pods. The operator is not part of it: `make run` starts that in another terminal.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path

from weft.api.resources import NAMESPACES
from weft_dev import PYTHONPATH, ROOT, controlplane, prometheus, tools
from weft_dev.controlplane import ControlPlane, server_environment
from weft_dev.processes import ProcessError, ProcessGroup
from weft_dev.tools.progress import say

EXAMPLES = ROOT / "docs" / "examples"
EMULATOR_PORT = 18443
"""The one that the Fabric in docs/examples names."""
NODES = "worker-0..25"
NAMESPACE = "weft-system"
START_SECONDS = 30.0
POLL_SECONDS = 0.5


def start_emulator(processes: ProcessGroup, port: int) -> list[str]:
    """Start the fabric manager of the examples, wait until it listens and return its command.

    Raises ProcessError.
    """
    ready = processes.directory / "emulator.url"
    command = [
        *(str(Path(sys.executable).with_name("weft")), "emulator"),
        *("--inventory", str(EXAMPLES / "emulator" / "rack-a.yaml"), "--port", str(port)),
        *("--journal", str(processes.directory / "fabric-journal.jsonl")),
        *("--state", str(processes.directory / "fabric-state.json")),
    ]
    processes.start("emulator", [*command, "--ready-file", ready], environment=server_environment())
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        processes.check("emulator")
        if time.monotonic() > deadline:
            raise ProcessError(f"the emulator does not listen on port {port}")
        time.sleep(0.05)
    return command


def start_nodes(processes: ProcessGroup, kubeconfig: Path) -> None:
    """Start the process that plays nodes and their pods."""
    environment = {**server_environment(), "PYTHONPATH": PYTHONPATH}
    command = [sys.executable, "-m", "weft_dev.kubelet", f"--kubeconfig={kubeconfig}", f"--nodes={NODES}"]
    processes.start("nodes", command, environment=environment)


def manager_gone(code: int, command: list[str]) -> str:
    """What to do when the fabric manager has ended: to end it is one way to see what Weft does without it."""
    return f"""
The fabric manager has ended (status {code}); the cluster stays. It keeps its attachments. To start it again:

  {shlex.join(command)}
"""


def describe(plane: ControlPlane, metrics_url: str, kubectl: Path) -> str:
    """What to type next."""
    return f"""
The cluster is up: {plane.url} (data and logs in {plane.directory}).
In another terminal, in this folder:

  export KUBECONFIG={plane.kubeconfig}
  export WEFT_SOURCES__DEFAULT__URL={metrics_url}
  make run YES=1

and in a third one:

  export KUBECONFIG={plane.kubeconfig}
  alias kubectl={kubectl}
  kubectl apply -f docs/examples
  kubectl get weft-all -A
  .venv/bin/weft status

Fabric manager: process {plane.processes.pids["emulator"]}, journal {plane.directory}/fabric-journal.jsonl
Ctrl-C here ends the cluster and removes its data."""


def serve(options: argparse.Namespace) -> None:
    """Start everything, say how to use it and wait for the end of a part, or for Ctrl-C."""
    binaries = tools.provide()
    with controlplane.start(binaries=binaries) as plane:
        kube = plane.client()
        controlplane.install_crds(kube, (ROOT / "crds").glob("*.yaml"))
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        kube.create(NAMESPACES, body)
        emulator = start_emulator(plane.processes, options.emulator_port)
        start_nodes(plane.processes, plane.kubeconfig)
        with prometheus.start_for_pods(plane.kubeconfig, binary=binaries["prometheus"]) as metrics:
            print(describe(plane, metrics.url, binaries["kubectl"]), flush=True)
            told = False
            while True:
                plane.processes.check(*controlplane.TOOLS, "nodes")
                code = plane.processes.exit_code("emulator")
                if code is not None and not told:
                    told = True
                    say(manager_gone(code, emulator))
                metrics.processes.check("prometheus")
                time.sleep(POLL_SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="weft_dev.cluster", description="A local cluster, until Ctrl-C.")
    parser.add_argument("--emulator-port", type=int, default=EMULATOR_PORT, metavar="PORT")
    options = parser.parse_args()
    # SIGINT too: a shell starts what it puts in the background with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        serve(options)
    except KeyboardInterrupt:
        say("\nThe cluster is gone.")
        return 0
    except (ProcessError, tools.ToolError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

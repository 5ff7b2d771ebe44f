"""The demo on loopback with NVIDIA Dynamo: its frontends, and workers whose engine it simulates."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from weft.api.resources import PODS
from weft.cluster import Object
from weft_dev import controlplane
from weft_dev.processes import free_ports
from weft_playground.case import MODES, NODE_COUNT
from weft_playground.demo.dynamo_engines import MODE, SHARED, pod_environment, shared_environment
from weft_playground.demo.real_world import RealWorld
from weft_playground.demo.world import answers
from weft_playground.installation import DYNAMO
from weft_playground.lag import Lag

REQUESTS = "max_over_time(dynamo_frontend_requests_total{status%s'success'}[15m])"
TOKENS = "max_over_time(dynamo_frontend_output_tokens_total[15m])"
DELAY = "dynamo_frontend_event_loop_delay_seconds"


@dataclass
class DynamoWorld(RealWorld):
    """Workers find each other as in a cluster, by Kubernetes: no etcd of their own, no NATS."""

    installation = DYNAMO
    nodes_module = "weft_playground.demo.dynamo_engines"
    namespaces = tuple(MODES)
    replicas_text = "each a Dynamo worker on a logical node of 2 GPUs"

    shared: dict[str, str] = field(init=False)
    """The environment of all of Dynamo's processes."""

    def __post_init__(self) -> None:
        self.examples = self.examples.with_preset("dynamo").with_restarts(MODE)

    def _start_control_plane(self) -> controlplane.ControlPlane:
        plane = super()._start_control_plane()
        controlplane.install_crds(plane.client(), [DYNAMO.scripts / "workermetadata.yaml"])
        return plane

    def _start_engines(self) -> None:
        broker = free_ports(2)
        self.processes.start("broker", [DYNAMO.python, DYNAMO.scripts / "broker.py", *map(str, broker)])
        self.shared = shared_environment(self._start_proxy(), *broker)
        (self.directory / SHARED).write_text(json.dumps(self.shared))
        super()._start_engines()

    def _start_routers(self) -> None:
        """A frontend per group, each in the name of a pod: that is who it is for Dynamo's discovery."""
        assert self.plane is not None
        api = self.plane.client()
        self.routers = ("broker", *(f"frontend-{namespace}" for namespace in self.namespaces))
        for namespace, port in zip(self.namespaces, free_ports(len(self.namespaces)), strict=True):
            pod = api.apply(PODS, frontend_pod(namespace))
            self.processes.start(
                f"frontend-{namespace}",
                [
                    *(DYNAMO.python, "-m", "dynamo.frontend"),
                    *("--http-host=127.0.0.1", f"--http-port={port}"),
                    # By the work that each worker has; no two prompts of the load begin alike.
                    *("--router-mode=kv", "--load-aware"),
                ],
                environment={**self.shared, **pod_environment(pod["metadata"])},
            )
            self.fronts[namespace] = f"http://127.0.0.1:{port}"
            self.front_metrics[namespace] = f"127.0.0.1:{port}"
        self._wait("broker", lambda: all(answers(f"{url}/metrics") for url in self.fronts.values()))

    def lags(self) -> list[Lag]:
        """Of the load, and of the frontends as they count it themselves. The workers do not say how late they are."""
        seconds = round(time.monotonic() - self.load.zero())
        counted = self._total(f"increase({DELAY}_count[{seconds}s])")
        p50, p99, longest = (
            self._total(
                f"max(histogram_quantile({share}, sum by (le, namespace) (increase({DELAY}_bucket[{seconds}s]))))"
            )
            for share in (0.5, 0.99, 1)
        )
        mean = f"rate({DELAY}_sum[5s]) / rate({DELAY}_count[5s])"
        worst = self._total(f"max(max_over_time(({mean})[{seconds}s:1s]))")
        return [*self.load.lags(), Lag("frontends", round(counted), p50, p99, longest, worst)]

    def counted(self) -> tuple[list[str], list[str]]:
        """What Dynamo's frontends say of the requests."""
        return requests_text(self._total(REQUESTS % "="), self._total(REQUESTS % "!="), self._total(TOKENS))


def requests_text(succeeded: float, failed: float, tokens: float) -> tuple[list[str], list[str]]:
    """(what to tell, what is wrong) of requests that frontends counted, and tokens of their answers."""
    told = (
        f"Dynamo's frontends counted: {succeeded:,.0f} requests succeeded, {failed:,.0f} failed;"
        f" {tokens:,.0f} answer tokens"
    )
    return [told], [told] if failed or not succeeded else []


def frontend_pod(namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "frontend", "namespace": namespace},
        "spec": {
            "nodeName": f"worker-{NODE_COUNT - 1}",
            "automountServiceAccountToken": False,
            "containers": [{"name": "frontend", "image": "dynamo:placeholder"}],
        },
    }

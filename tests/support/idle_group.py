"""An inference group whose engines are idle, and what answers like the Prometheus server that scrapes them."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from weft.api.resources import ENGINE_PROFILES, INFERENCE_GROUPS, INFERENCE_ROLES, PODS, ResourceType
from weft_dev.kube import Kube

Object = dict[str, Any]

GROUP = "llama"


@contextlib.contextmanager
def idle_engines(
    kube: Kube,
    namespace: str,
    front_end: Mapping[str, float] | None = None,
    engine: Callable[[Object], Mapping[str, float]] = lambda pod: {},
) -> Iterator[dict[str, Any]]:
    """Every pod of the namespace is scraped and idle; yields the operator's settings for it.

    `front_end`: its signals, of the model `llama`, those of a histogram as `signal le`; looked at with each query.
    None: there is none. `engine`: more signals of a pod, or other ones than those of an idle engine.
    """

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            idle = {"running": 0.0, "waiting": 0.0, "age": 0.0, "targets": 1.0}
            engines = {pod["metadata"]["name"]: {**idle, **engine(pod)} for pod in kube.list(PODS, namespace)}
            series = [
                {
                    "metric": {"weft_signal": f"engine:{signal}", "namespace": namespace, "pod": name},
                    "value": [0, str(number)],
                }
                for name, signals in engines.items()
                for signal, number in signals.items()
            ]
            series += [
                {
                    "metric": {
                        "weft_signal": f"front:{signal.split()[0]}",
                        "namespace": namespace,
                        "model_name": GROUP,
                        **({"le": signal.split()[1]} if " " in signal else {}),
                    },
                    "value": [0, str(number)],
                }
                for signal, number in (front_end or {}).items()
            ]
            data = {"resultType": "vector", "result": series}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"status": "success", "data": data}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield {
            "sources": {"default": {"url": url, "scrape_interval_seconds": 0.5}},
            "presets": {"quick": {"inherits": "vllm", "kv_hold_seconds": 0}},
        }
        server.shutdown()


def create_group(kube: Kube, namespace: str) -> None:
    """A group of two and two replicas, each on a logical node with one GPU; it moves only what it is told to."""
    profile = {
        "prefill": [{"promptTokens": 128, "microseconds": 10_000}],
        "decode": [{"batch": 1, "microseconds": 10_000}],
        "kvCapacityTokens": 10_000,
        "maxBatch": 8,
    }
    kube.create(ENGINE_PROFILES, own(ENGINE_PROFILES, "profile", profile), namespace)
    for name in ("prefill", "decode"):
        spec = {
            "groupRef": {"name": GROUP},
            "stage": name.capitalize(),
            "replicas": 2,
            "minReplicas": 1,
            "maxReplicas": 3,
            "node": {"accelerators": [{"name": "main", "count": 1}]},
            "profileRef": {"name": "profile"},
            "drain": {"timeoutSeconds": 20},
        }
        kube.create(INFERENCE_ROLES, own(INFERENCE_ROLES, name, spec), namespace)
    spec = {
        "objectives": {"timeToFirstTokenMilliseconds": 500, "interTokenLatencyMicroseconds": 50_000},
        "metrics": {"source": "default", "preset": "quick", "models": ["llama"]},
        "template": {"spec": {"containers": [{"name": "engine", "image": "engine:1"}]}},
        "accelerators": {"maximum": 4},
        "rebalance": {"mode": "Paused", "flip": "Label"},
    }
    kube.create(INFERENCE_GROUPS, own(INFERENCE_GROUPS, GROUP, spec), namespace)


def own(resource: ResourceType, name: str, spec: Object) -> Object:
    """An object as a user writes it."""
    meta = {"name": name}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, "spec": spec}


def split(kube: Kube, namespace: str) -> dict[str, int]:
    """Ready pods by role."""
    counts: dict[str, int] = {}
    for pod in kube.list(PODS, namespace):
        conditions = pod.get("status", {}).get("conditions", [])
        if any(item["type"] == "Ready" and item["status"] == "True" for item in conditions):
            role = pod["metadata"]["labels"]["weft.dev/role"]
            counts[role] = counts.get(role, 0) + 1
    return counts

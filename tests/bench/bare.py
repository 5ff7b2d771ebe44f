"""The yardstick of `binding.py`: a loop without any thought that makes a bind's writes with Weft's own client, on its
event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config

from weft.api.names import FINALIZER, TAINT_LOGICAL_NODE
from weft.api.resources import DEVICE_ATTACHMENTS, EVENTS, LOGICAL_NODES, NODES
from weft.cluster import Object
from weft.runtime.client import KubeClient

WORKERS = 32
CREATORS = 8


def logical_node(name: str, namespace: str) -> Object:
    """1 GPU and one CXL block."""
    spec = {"accelerators": [{"name": "main", "count": 1}], "memory": [{"name": "kv", "size": "512Gi"}]}
    return {
        "apiVersion": LOGICAL_NODES.api_version,
        "kind": LOGICAL_NODES.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


async def create_all(client: KubeClient, names: Sequence[str], namespace: str) -> None:
    """Create the logical nodes, a few at a time."""
    left = list(reversed(names))

    async def creator() -> None:
        while left:
            await client.create(LOGICAL_NODES, logical_node(left.pop(), namespace))

    await asyncio.gather(*(creator() for _ in range(CREATORS)))


async def writes_of_a_bind(client: KubeClient, name: str, namespace: str, node: str, devices: int) -> float:
    """Finalizer, attachments, taint, status and event, as Weft writes them; returns the seconds of the status write."""
    raw = await client.patch(LOGICAL_NODES, name, namespace, {"metadata": {"finalizers": [FINALIZER]}})
    uid = raw["metadata"]["uid"]
    fabric = f"bare-{namespace}"

    def claim(number: int) -> Object:
        device = f"{name}-{number}"
        spec = {
            "fabric": fabric,
            "device": device,
            "poolRef": {"kind": "GPUPool", "name": "none"},
            "host": node,
            "nodeName": node,
            "operation": uid,
            "request": "main",
            "claimSize": devices,
            "claimRef": {"namespace": namespace, "name": name, "uid": uid},
        }
        return {
            "apiVersion": DEVICE_ATTACHMENTS.api_version,
            "kind": DEVICE_ATTACHMENTS.kind,
            "metadata": {"name": f"{fabric}.{device}", "finalizers": [FINALIZER]},
            "spec": spec,
        }

    await asyncio.gather(*(client.create(DEVICE_ATTACHMENTS, claim(number)) for number in range(devices)))
    taint = {"key": TAINT_LOGICAL_NODE, "value": f"{namespace}.{name}", "effect": "NoSchedule"}
    await client.patch(NODES, node, "", {"spec": {"taints": [taint]}})
    now = datetime.now(UTC)
    said = {
        "status": "True",
        "reason": "Bare",
        "message": "every device was seen at the host",
        "lastTransitionTime": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    view = [
        {
            "request": "main",
            "poolRef": {"kind": "GPUPool", "name": "none"},
            "device": f"{name}-{number}",
            "attachment": f"{fabric}.{name}-{number}",
        }
        for number in range(devices)
    ]
    status = {
        "host": node,
        "nodeName": node,
        "devices": view,
        "deviceCount": devices,
        "conditions": [{"type": kind, **said} for kind in ("Reserved", "Bound", "Ready")],
    }
    began = time.perf_counter()
    await client.replace_status(LOGICAL_NODES, {**raw, "status": status})
    took = time.perf_counter() - began
    event = {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"name": f"{name}.bare", "namespace": namespace},
        "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": "weft.dev/bench",
        "reportingInstance": "bench",
        "action": "Bound",
        "reason": "Bound",
        "type": "Normal",
        "note": f"attached to {node} (Node {node}): {name}-0, {name}-1",
        "regarding": {
            "apiVersion": LOGICAL_NODES.api_version,
            "kind": LOGICAL_NODES.kind,
            "name": name,
            "namespace": namespace,
            "uid": uid,
        },
    }
    await client.create(EVENTS, event)
    return took


async def connect(kubeconfig: Path) -> KubeClient:
    """Weft's own client, for the user of a kubeconfig."""
    configuration = k8s.Configuration()
    await k8s_config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    configuration.retries = None
    return KubeClient(configuration)


async def _burst(
    kubeconfig: Path, names: Sequence[str], namespace: str, nodes: Sequence[str], devices: int
) -> float:
    client = await connect(kubeconfig)
    created: asyncio.Queue[int] = asyncio.Queue()

    async def creator(numbers: Sequence[int]) -> None:
        for number in numbers:
            await client.create(LOGICAL_NODES, logical_node(names[number], namespace))
            created.put_nowait(number)

    async def worker() -> None:
        while left[0] > 0:
            left[0] -= 1
            number = await created.get()
            await writes_of_a_bind(client, names[number], namespace, nodes[number % len(nodes)], devices)

    left = [len(names)]
    began = time.monotonic()
    await asyncio.gather(
        *(creator(range(first, len(names), CREATORS)) for first in range(CREATORS)),
        *(worker() for _ in range(WORKERS)),
    )
    seconds = time.monotonic() - began
    await client.close()
    return seconds


def burst(
    kubeconfig: Path, names: Sequence[str], namespace: str, nodes: Sequence[str], devices: int = 2
) -> float:
    """Seconds in which a process creates these logical nodes and makes the writes of their binds."""
    return uvloop.run(_burst(kubeconfig, names, namespace, nodes, devices))


async def _status_writes(kubeconfig: Path, namespace: str, node: str, count: int) -> list[float]:
    client = await connect(kubeconfig)
    seconds = []
    for number in range(count):
        name = f"idle-{number}"
        await client.create(LOGICAL_NODES, logical_node(name, namespace))
        seconds.append(await writes_of_a_bind(client, name, namespace, node, 2))
    await client.close()
    return seconds


def status_writes(kubeconfig: Path, namespace: str, node: str, count: int) -> list[float]:
    """Seconds of single status writes, on a control plane that does nothing else."""
    return uvloop.run(_status_writes(kubeconfig, namespace, node, count))

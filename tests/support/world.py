"""What a binding test needs around it: a fabric manager, Nodes that stay alive, and the operator as a process."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml

from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LEASES,
    LOGICAL_NODES,
    MEMORY_POOLS,
    NODES,
    ResourceType,
)
from weft.cluster import ClusterError
from weft_dev import PYTHONPATH
from weft_dev.controlplane import ControlPlane
from weft_dev.kube import Kube
from weft_dev.processes import ProcessGroup, free_ports, log_tail

Object = dict[str, Any]
T = TypeVar("T")

HEARTBEAT_SECONDS = 15.0


def eventually(look: Callable[[], T], seconds: float = 30.0, every: float = 0.05, what: str = "") -> T:
    """What `look` returns once that is true; fails the test when it is not in time. Asked less often by and by."""
    began = time.monotonic()
    while True:
        result = look()
        if result:
            return result
        passed = time.monotonic() - began
        if passed > seconds:
            raise AssertionError(f"not within {seconds} s: {what or look}")
        time.sleep(max(every, min(0.05 * passed, 0.5)))


def condition(obj: Object | None, kind: str) -> str:
    """`True`, `False`, `Unknown`, or empty when there is no such condition."""
    conditions = (obj or {}).get("status", {}).get("conditions", [])
    return next((item["status"] for item in conditions if item["type"] == kind), "")


def reason(obj: Object | None, kind: str) -> str:
    conditions = (obj or {}).get("status", {}).get("conditions", [])
    return next((item["reason"] for item in conditions if item["type"] == kind), "")


class World:
    """One rack: hosts, devices, a Fabric with its pools. Everything is removed at the end."""

    def __init__(self, plane: ControlPlane, namespace: str, *, hosts: int, gpus: int, memories: int) -> None:
        self.plane = plane
        self.kube: Kube = plane.client()
        self.namespace = namespace
        self.name = f"rack-{uuid.uuid4().hex[:8]}"
        self.processes = ProcessGroup(prefix="weft-world-")
        self.directory = self.processes.directory
        self.journal = self.directory / "journal.jsonl"
        self.hosts = [f"sled-{n}" for n in range(hosts)]
        self.inventory: Object = {
            "name": self.name,
            "hosts": [{"name": "sled", "count": hosts, "zones": ["z"]}],
            "devices": [
                {
                    "name": "gpu",
                    "type": "GPU",
                    "count": gpus,
                    "vendor": "NVIDIA",
                    "model": "A100-80GB",
                    "memory": "80Gi",
                    "zones": ["z"],
                    "domains": {"nvlinkDomain": {"prefix": "nvl", "size": 8}},
                },
                {
                    "name": "cxl",
                    "type": "CXL",
                    "count": memories,
                    "vendor": "Generic",
                    "model": "CXL-512",
                    "memory": "512Gi",
                    "zones": ["z"],
                },
            ],
        }
        self._beat = threading.Event()
        self._heart: threading.Thread | None = None
        self.emulator_url = ""
        self._operators = 0
        self.pids: dict[str, int] = {}
        self.ports: dict[str, int] = {}

    def start_emulator(self, *flags: str, port: int = 0) -> str:
        """Start the fabric manager; its attachments and journal outlive a restart."""
        inventory, ready = self.directory / "inventory.yaml", self.directory / "emulator.url"
        inventory.write_text(yaml.safe_dump(self.inventory))
        ready.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "weft.cli.main", "emulator",
            "--inventory", inventory, "--journal", self.journal, "--state", self.directory / "state.json",
            "--port", str(port), "--ready-file", ready, *flags,
        ]  # fmt: skip
        self.processes.start("emulator", command)
        eventually(lambda: self.processes.check("emulator") or ready.exists(), what="emulator listens")
        self.emulator_url = ready.read_text().strip()
        return self.emulator_url

    def stop_emulator(self, grace_seconds: float = 0.0) -> None:
        self.processes.stop("emulator", grace_seconds=grace_seconds)

    def faults(self, *faults: Object) -> None:
        """Make the manager misbehave."""
        self._control("POST", "/emulator/faults", list(faults))

    def clear_faults(self) -> None:
        self._control("DELETE", "/emulator/faults", None)

    def stats(self) -> Object:
        """Requests that the manager served, by method."""
        answer: Object = self._control("GET", "/emulator/stats", None)
        return answer

    def _control(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.emulator_url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def acts(self) -> list[Object]:
        """The journal's attaches and detaches that took effect."""
        if not self.journal.exists():
            return []
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [line for line in lines if line["act"] in ("attach", "detach") and line["outcome"] == "done"]

    def attached(self) -> set[tuple[str, str]]:
        """(device, host) pairs by the journal alone; fails when a device was ever at two hosts."""
        places: dict[str, set[str]] = {}
        for act in self.acts():
            hosts = places.setdefault(act["block"], set())
            hosts.add(act["host"]) if act["act"] == "attach" else hosts.discard(act["host"])
            assert len(hosts) <= 1, f"{act['block']} attached to {sorted(hosts)} at seq {act['seq']}"
        return {(block, host) for block, hosts in places.items() for host in hosts}

    def create(
        self,
        *,
        endpoint: str = "",
        settle_seconds: int = 1,
        mode: str = "Manage",
        timeout: int = 1,
        tenants: Sequence[str] = (),
        heartbeats: bool = True,
        **changes: Any,
    ) -> None:
        """Nodes, the Fabric (`changes` to its spec) and two pools for these namespaces, or all.

        The Nodes need `heartbeats` where the control plane's controllers run.
        """
        for host in self.hosts:
            self._create_node(f"{self.name}-{host}")
        if heartbeats:
            self._heart = threading.Thread(target=self._heartbeats, daemon=True)
            self._heart.start()
        fabric = self.fabric(endpoint or self.emulator_url, settle_seconds, mode, timeout)
        fabric["spec"].update(changes)
        self.kube.create(FABRICS, fabric)
        for resource, model in ((GPU_POOLS, "A100-80GB"), (MEMORY_POOLS, "CXL-512")):
            spec = {"fabricRef": {"name": self.name}, "selector": {"matchAttributes": {"model": model}}}
            named = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(tenants)}
            spec["allowedNamespaces"] = {"matchExpressions": [named]} if tenants else {}
            self.kube.create(resource, _object(resource, self.name, spec))

    def fabric(self, endpoint: str, settle_seconds: int, mode: str, timeout: int) -> Object:
        limits = {
            "settleSeconds": settle_seconds,
            "requestTimeoutSeconds": timeout,
            "requestsPerSecond": 1000,
        }
        limits["maxInFlight"] = 16
        hosts = [{"host": host, "nodeName": f"{self.name}-{host}"} for host in self.hosts]
        spec = {"mode": mode, "endpoint": endpoint, "limits": limits, "hosts": hosts}
        return _object(FABRICS, self.name, spec)

    def _create_node(self, name: str) -> None:
        self.kube.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        capacity = {"cpu": "32", "memory": "256Gi", "pods": "100"}
        ready = {"type": "Ready", "status": "True", "reason": "Test", "message": ""}
        status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}
        self.kube.patch(NODES, name, {"status": status}, subresource="status")

    def _heartbeats(self) -> None:
        kube = self.plane.client()
        while True:
            for host in self.hosts:
                with contextlib.suppress(ClusterError):
                    _renew(kube, f"{self.name}-{host}")
            if self._beat.wait(HEARTBEAT_SECONDS):
                return

    def logical_node(self, name: str, *, gpus: int = 2, memory: str = "512Gi", **spec: Any) -> Object:
        """A LogicalNode of this test's namespace, created."""
        body = {"accelerators": [{"name": "main", "count": gpus}], **spec}
        if memory:
            body["memory"] = [{"name": "kv", "size": memory}]
        obj = _object(LOGICAL_NODES, name, body)
        return self.kube.create(LOGICAL_NODES, obj, self.namespace)

    def get(self, name: str) -> Object | None:
        return self.kube.get(LOGICAL_NODES, name, self.namespace)

    def is_bound(self, name: str) -> bool:
        return condition(self.get(name), "Bound") == "True"

    def delete(self, name: str) -> None:
        self.kube.delete(LOGICAL_NODES, name, self.namespace)

    def claims(self) -> list[Object]:
        items = self.kube.list(DEVICE_ATTACHMENTS)
        return [item for item in items if item["spec"]["fabric"] == self.name]

    def operator_settings(self, **changes: Any) -> Object:
        """The lease is as long as usual: an operator ends that a busy machine holds up for longer."""
        return {
            "namespace": self.namespace,
            "inventory_seconds": 0.5,
            "health_host": "127.0.0.1",
            "health_port": 0,
            "log_format": "text",
            **changes,
        }

    def start_operator(
        self,
        *,
        kubeconfig: Path | None = None,
        program: Sequence[str | Path] = ("-m", "weft.cli.main"),
        **settings: Any,
    ) -> str:
        """Start one replica of the operator and return its process's name; it leads some time later."""
        self._operators += 1
        name = f"operator-{self._operators}"
        (port,) = free_ports(1)
        self.ports[name] = port
        values = self.operator_settings(identity=name, health_port=port, **settings)
        config = self.directory / f"{name}.yaml"
        config.write_text(yaml.safe_dump(values))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WEFT_")}
        environment["KUBECONFIG"] = str(kubeconfig or self.plane.kubeconfig)
        command = [sys.executable, *program, "run", "--config", config]
        self.pids[name] = self.processes.start(name, command, environment=environment)
        return name

    def kill_operator(self, name: str) -> None:
        """kill -9."""
        self.processes.stop(name, grace_seconds=0)

    def close(self) -> None:
        """Take everything down; Weft's own objects first, whatever state they are in."""
        self._beat.set()
        for number in range(1, self._operators + 1):
            # Shown by pytest when the test failed.
            name = f"operator-{number}"
            sys.stderr.write(f"--- {name}\n{log_tail(self.processes.log(name), 40)}\n")
        self.processes.close()
        groups, fabrics = (INFERENCE_GROUPS, INFERENCE_ROLES), (GPU_POOLS, MEMORY_POOLS, FABRICS)
        for resource in (*groups, LOGICAL_NODES, DEVICE_ATTACHMENTS, *fabrics):
            for obj in self._own(resource):
                self._force_delete(resource, obj)
        for host in self.hosts:
            self.kube.delete(NODES, f"{self.name}-{host}")

    def _own(self, resource: ResourceType) -> Iterator[Object]:
        for obj in self.kube.list(resource):
            if (
                obj["metadata"].get("namespace", "") == self.namespace
                if resource.namespaced
                else (obj["metadata"]["name"] == self.name or obj["spec"].get("fabric") == self.name)
            ):
                yield obj

    def _force_delete(self, resource: ResourceType, obj: Object) -> None:
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "")
        self.kube.delete(resource, metadata["name"], namespace)
        with contextlib.suppress(ClusterError):
            self.kube.patch(resource, metadata["name"], {"metadata": {"finalizers": None}}, namespace)


def _object(resource: ResourceType, name: str, spec: Mapping[str, Any]) -> Object:
    metadata = {"name": name}
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
        "spec": dict(spec),
    }


def _renew(kube: Kube, node: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    spec = {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": now}
    lease = _object(LEASES, node, spec)
    kube.apply(LEASES, lease, "kube-node-lease")


def start_kubelet(world: World) -> None:
    """One that plays all of the world's Nodes."""
    nodes = f"{world.name}-sled-0..{len(world.hosts) - 1}"
    kubelet = (sys.executable, "-m", "weft_dev.kubelet", f"--kubeconfig={world.plane.kubeconfig}")
    environment = {"PYTHONPATH": PYTHONPATH, "PATH": "/usr/bin:/bin"}
    world.processes.start("kubelet", (*kubelet, f"--nodes={nodes}"), environment=environment)

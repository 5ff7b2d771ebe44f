"""An inference group in a small world: its objects in a MemoryCluster, pods that start and drain, a load.

Time stands still unless a test lets it pass.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from support.inference import ANSWER_HEAVY, LLAMA_70B_SPEC, PROMPT_HEAVY, T0
from support.memory_cluster import MemoryCluster
from weft.api.names import GATE_SERVING, LABEL_ROLE, LABEL_STAGE
from weft.api.resources import (
    ENGINE_PROFILES,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    PODS,
    ResourceType,
)
from weft.balancing.controller import GroupController
from weft.balancing.keys import GroupKey
from weft.balancing.presets import PRESETS, Preset
from weft.balancing.prometheus import PrometheusSource, SourceError
from weft.balancing.series import Buckets, EngineSeries, FrontEndSeries, Snapshot
from weft.balancing.settings import SourceSettings
from weft.balancing.state import Traffic
from weft.balancing.targets import ScaleTargetKind
from weft.cluster import Object
from weft.controllers import Now

NAMESPACE, GROUP, MODEL = "team-a", "llama", "llama-2-70b"
TEMPLATE: Object = {
    "metadata": {"labels": {"app": "engine"}},
    "spec": {"containers": [{"name": "engine", "image": "vllm:1"}]},
}

REFUSED_BY_KUBELET: Object = {
    "phase": "Failed",
    "reason": "UnexpectedAdmissionError",
    "message": "Pod was rejected: Allocate failed due to no healthy devices present",
}
"""The status that a kubelet gives (kubernetes/kubernetes#125579)."""


class StubSource(PrometheusSource):
    """A Prometheus server whose answer is computed from the fleet."""

    def __init__(self, answer: Callable[[], Snapshot]) -> None:
        super().__init__(SourceSettings(url="http://127.0.0.1:1", scrape_interval_seconds=1))
        self._answer = answer

    async def read(self, preset: Preset) -> Snapshot:
        return self._answer()


class Fleet:
    """One group with a prefill and a decode role."""

    def __init__(self, prefill: int = 3, decode: int = 6, *, nodes: bool = False, **rebalance: Any) -> None:
        self.now = T0
        self.set_ahead = timedelta(0)
        self.cluster = MemoryCluster(lambda: self.now)
        self.source = StubSource(self.snapshot)
        self.scale_kinds: tuple[ScaleTargetKind, ...] = ()
        """What the administrator listed; `restart` takes it over."""
        self.drains: list[tuple[str, float]] = []
        """What the operator told of drains that ended: what each was for, and its seconds."""
        self.restart()
        self.traffic: Traffic | None = None
        self.requests: dict[str, float] = {}
        """Requests running per pod; pods out of the router keep theirs."""
        self.broken = ""
        """Why the metrics server does not answer."""
        self.changed_values: dict[tuple[str, str], float | None] = {}
        """(signal, pod or model) -> value instead; None: no series."""
        self.stays_pending: Callable[[Object], bool] = lambda pod: False
        """Which pods the kubelet never starts: no room, no image."""
        self.refused_by_kubelet: Callable[[Object], bool] = lambda pod: False
        """Which pods end as they come to their Node: its device plugin has no such device."""
        self.stays_terminating: Callable[[Object], bool] = lambda pod: False
        """Which deleted pods never end: their host is gone, or an engine hangs."""
        self.pending: set[str] = set()
        """Pods that no host has room for: they stay Pending."""
        self.devices_free = True
        """Whether logical nodes that are made get devices."""
        self.unready: set[str] = set()
        """Pods whose engine fails its readiness probe."""
        self.nodes = nodes
        self._put(ENGINE_PROFILES, "speed", spec=LLAMA_70B_SPEC)
        self._put(
            INFERENCE_GROUPS,
            GROUP,
            spec={
                "objectives": {
                    "timeToFirstTokenMilliseconds": 2500,
                    "interTokenLatencyMicroseconds": 95_000,
                    "attainmentPermille": 950,
                },
                "metrics": {"source": "default", "preset": "vllm", "models": [MODEL]},
                "template": TEMPLATE,
                "accelerators": {"maximum": 18},
                "rebalance": {
                    "mode": "Auto",
                    "flip": "Label",
                    "cooldownSeconds": 30,
                    "drainFirst": True,
                    **rebalance,
                },
            },
        )
        self.put_role("prefill", "Prefill", prefill)
        self.put_role("decode", "Decode", decode)

    def put_role(self, name: str, stage: str, replicas: int, **spec: Any) -> None:
        shape = {"accelerators": [{"name": "main", "count": 2}]}
        hardware = {"node": shape} if self.nodes else {"acceleratorsPerReplica": 2}
        self._put(
            INFERENCE_ROLES,
            name,
            spec={
                "groupRef": {"name": GROUP},
                "stage": stage,
                "replicas": replicas,
                "minReplicas": 1,
                "maxReplicas": 32,
                **({} if stage == "Encode" else {"profileRef": {"name": "speed"}}),
                "drain": {"timeoutSeconds": 60},
                "labels": {"llm-d.ai/role": name},
                **hardware,
                **spec,
            },
        )

    def _put(self, resource: ResourceType, name: str, **parts: Any) -> None:
        """Write an object as a user would, the status kept."""
        key = (resource, NAMESPACE, name)
        before = self.cluster.objects.get(
            key, {"metadata": {"generation": 0, "uid": f"uid-{name}-{uuid.uuid4()}"}}
        )
        metadata = {
            **before["metadata"],
            "name": name,
            "namespace": NAMESPACE,
            "generation": before["metadata"]["generation"] + 1,
        }
        identity = {"apiVersion": resource.api_version, "kind": resource.kind}
        self.cluster._store(key, copy.deepcopy({**before, **identity, "metadata": metadata, **parts}))

    def edit(self, resource: ResourceType, name: str, change: Callable[[Object], None]) -> None:
        """Change an object's spec as a user would."""
        spec = copy.deepcopy(self.cluster.objects[(resource, NAMESPACE, name)]["spec"])
        change(spec)
        self._put(resource, name, spec=spec)

    # What others do

    def play(self) -> None:
        """Kubelet, fabric and engines: start pods, keep Ready up to date, end what is deleted."""
        for pod in self.pods():
            name, status = pod["metadata"]["name"], pod.get("status") or {}
            if name in self.pending:
                continue
            if (
                self.stays_terminating(pod)
                if pod["metadata"].get("deletionTimestamp")
                else self.stays_pending(pod)
            ):
                continue
            if pod["metadata"].get("deletionTimestamp"):
                del self.cluster.objects[(PODS, NAMESPACE, name)]
                self.requests.pop(name, None)
                continue
            if self.refused_by_kubelet(pod):
                status = {**status, **REFUSED_BY_KUBELET}
                self.cluster._store((PODS, NAMESPACE, name), {**pod, "status": status})
                continue
            conditions = {one["type"]: one for one in status.get("conditions") or ()}
            gated = GATE_SERVING in {one["conditionType"] for one in pod["spec"].get("readinessGates") or ()}
            gate = not gated or conditions.get(GATE_SERVING, {}).get("status") == "True"
            gate = gate and name not in self.unready
            stamp = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
            ready = conditions.get("Ready", {})
            if ready.get("status") != str(gate):
                ready = {"type": "Ready", "status": str(gate), "lastTransitionTime": stamp}
            others = [one for key, one in conditions.items() if key not in ("Ready", "ContainersReady")]
            new = [*others, {"type": "ContainersReady", "status": "True"}, ready]
            phase = "Running" if status["phase"] == "Pending" else status["phase"]
            spec = {"nodeName": f"worker-{name}", **pod["spec"]}
            status = {**status, "phase": phase, "conditions": new}
            self.cluster._store((PODS, NAMESPACE, name), {**pod, "spec": spec, "status": status})
        for node in self.cluster.list(LOGICAL_NODES, NAMESPACE):
            name = node["metadata"]["name"]
            if not (node.get("status") or {}).get("nodeName"):
                at = {"lastTransitionTime": self.now.strftime("%Y-%m-%dT%H:%M:%SZ")}
                if self.devices_free:
                    bound = {"type": "Bound", "status": "True", "reason": "Bound", **at}
                    status = {"nodeName": f"worker-{name}", "conditions": [bound]}
                else:
                    waits = {"type": "Reserved", "status": "False", "reason": "NotEnoughDevices", **at}
                    status = {"conditions": [waits]}
                self.cluster._store((LOGICAL_NODES, NAMESPACE, name), {**node, "status": status})

    async def look(self) -> float | None:
        """One pass of the operator."""
        return await self.controller.reconcile(GroupKey(NAMESPACE, GROUP), self.moment())

    def restart(self) -> None:
        """Another operator takes over: it knows what is in the cluster and nothing else."""
        self.controller = GroupController(
            self.cluster,
            {"default": self.source},
            PRESETS,
            self.scale_kinds,
            drained=lambda *ended: self.drains.append(ended),
        )

    def moment(self) -> Now:
        """The present moment on both clocks; the machine was started at T0."""
        return Now(self.now, (self.now - T0 - self.set_ahead).total_seconds())

    def set_clock(self, hours: float) -> None:
        """Set every machine's wall clock ahead, or back; what was written stays."""
        self.now += timedelta(hours=hours)
        self.set_ahead += timedelta(hours=hours)

    async def run(self, seconds: int) -> None:
        """Let time pass; in each second the operator looks, and again after changes, as their events make it."""
        for _ in range(seconds):
            for _ in range(3):
                before = self.state()
                await self.look()
                self.play()
                if self.state() == before:
                    break
            self.now += timedelta(seconds=1)

    # What can be seen

    def state(self) -> tuple[int, int]:
        """Another one after each change of an object."""
        return self.cluster.version, len(self.cluster.objects)

    def pods(self) -> list[Object]:
        return self.cluster.whole(PODS, NAMESPACE)

    def split(self) -> dict[str, int]:
        """Pods per role, by their labels."""
        counts: dict[str, int] = {}
        for pod in self.pods():
            role = pod["metadata"]["labels"][LABEL_ROLE]
            counts[role] = counts.get(role, 0) + 1
        return counts

    def serving(self) -> dict[str, int]:
        """Pods per stage that are Ready and stay so: the kubelet follows the gate at its next look."""
        counts: dict[str, int] = {"prefill": 0, "decode": 0}
        for pod in self.pods():
            stays = condition(pod, "Ready") == condition(pod, GATE_SERVING) == "True"
            if stays and "deletionTimestamp" not in pod["metadata"]:
                stage = pod["metadata"]["labels"][LABEL_STAGE]
                counts[stage] = counts.get(stage, 0) + 1
        return counts

    def group(self) -> Object:
        return self.cluster.objects[(INFERENCE_GROUPS, NAMESPACE, GROUP)]

    def status(self) -> Object:
        status: Object = self.group().get("status") or {}
        return status

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition of the group."""
        found = next((one for one in self.status().get("conditions", ()) if one["type"] == kind), {})
        return found.get("status", ""), found.get("reason", "")

    def message(self, kind: str) -> str:
        """The message of a condition of the group."""
        (found,) = (one for one in self.status()["conditions"] if one["type"] == kind)
        return str(found["message"])

    def snapshot(self) -> Snapshot:
        """What Prometheus would answer now: every pod was scraped just now."""
        if self.broken:
            raise SourceError(self.broken)
        engines = {
            pod["metadata"]["name"]: {
                "running": self.requests.get(pod["metadata"]["name"], 0.0),
                "waiting": 0.0,
                "age": 0.0,
                "targets": 1.0,
            }
            for pod in self.pods()
        }
        front: dict[str, float] = {"age": 0.0, "jobs": 1.0}
        traffic = self.traffic or replace(PROMPT_HEAVY, short=_none(), long=_none())
        for window, rates in (("short", traffic.short), ("long", traffic.long)):
            front |= {
                f"requests_{window}": rates.requests,
                f"prompts_{window}": rates.prompts,
                f"prompt_tokens_{window}": rates.prompt_tokens,
                f"answers_{window}": rates.answers,
                f"answer_tokens_{window}": rates.answer_tokens,
            }
        front["prompt_tokens_peak"] = traffic.peak_prompt_tokens_per_second
        front["answer_tokens_peak"] = traffic.peak_answer_tokens_per_second
        buckets: dict[str, Buckets] = {"ttft_buckets": traffic.ttft_buckets}
        between: dict[str, Buckets] = {"itl_buckets": traffic.itl_buckets}
        if traffic.past is not None:
            front["past_windows"] = 100.0
            front["requests_past"] = traffic.past.requests_per_second
            front["prompt_tokens_past"] = traffic.past.prompt_tokens_per_second
            front["answer_tokens_past"] = traffic.past.answer_tokens_per_second
        for (signal, subject), value in self.changed_values.items():
            kind, _, name = signal.partition(":")
            signals = front if kind == "front" else engines.setdefault(subject, {})
            signals.pop(name, None)
            if value is not None:
                signals[name] = value
        return Snapshot(
            self.now,
            {(NAMESPACE, pod): EngineSeries(**signals, **between) for pod, signals in engines.items()},
            {(NAMESPACE, MODEL): FrontEndSeries(**front, **buckets)},
        )


async def started(**options: Any) -> Fleet:
    """A fleet that serves the load its split was made for."""
    fleet = Fleet(**options)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    return fleet


def condition(obj: Object, kind: str) -> str:
    """The status of an object's condition; empty when it has none."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((one["status"] for one in conditions if one["type"] == kind), "")


def _none() -> Any:
    return replace(PROMPT_HEAVY.long, requests=0, prompts=0, prompt_tokens=0, answers=0, answer_tokens=0)


def moment(seconds: float) -> datetime:
    """T0 plus seconds."""
    return T0 + timedelta(seconds=seconds)

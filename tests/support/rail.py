"""A rack of which the GPUs are in RDMA domains, and inference groups over it: their controller and placement's."""

from __future__ import annotations

from typing import Any

import pytest

from support.fleet import TEMPLATE
from support.inference import LLAMA_70B_SPEC
from support.rack import Rack
from weft.api.names import GATE_SERVING
from weft.api.resources import ENGINE_PROFILES, INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS
from weft.balancing.controller import GroupController
from weft.balancing.keys import GroupKey
from weft.balancing.presets import PRESETS
from weft.binding.keys import PlacementKey
from weft.binding.placement import PlacementController
from weft.cluster import Object
from weft.fabric.driver import Device, DeviceKind

IB = "rdmaDomain"


class Rail:
    """A rack of which the GPUs are in RDMA domains, and groups over it."""

    def __init__(self, patch: pytest.MonkeyPatch, hosts: int = 16, **gpus: int) -> None:
        """`gpus`: how many each domain has."""
        self.rack = Rack(patch, gpus=0, hosts=hosts)
        self.rack.driver.others = tuple(
            Device(f"{domain}-{n}", DeviceKind.ACCELERATOR, {"model": "M", IB: domain}, 1, True)
            for domain, count in gpus.items()
            for n in range(count)
        )
        self.take_over()

    def take_over(self) -> None:
        """Another leader."""
        self.rack.restart()
        placement = self.rack.controllers[PlacementKey]
        assert isinstance(placement, PlacementController)
        choose = placement.choose_domain
        self.groups = GroupController(self.rack.cluster, {}, PRESETS, choose_domain=choose)

    async def build(self) -> None:
        await self.rack.build()
        meta = {"name": "speed", "namespace": "a"}
        await self.rack.cluster.create(ENGINE_PROFILES, {"metadata": meta, "spec": LLAMA_70B_SPEC})

    async def ask(self, group: str, prefill: int = 1, decode: int = 1, gpus: int = 2, **spec: Any) -> None:
        """A group of so many replicas, of two GPUs each; `spec`: of the group."""
        cluster = self.rack.cluster
        body = {
            "objectives": {"timeToFirstTokenMilliseconds": 2500},
            "metrics": {"models": [group]},
            "template": TEMPLATE,
            "accelerators": {"maximum": 64},
            "placement": {"sameDomain": IB},
            **spec,
        }
        body = {key: value for key, value in body.items() if value is not None}
        meta = {"name": group, "namespace": "a", "generation": 1}
        await cluster.create(INFERENCE_GROUPS, {"metadata": meta, "spec": body})
        for stage, replicas in (("Prefill", prefill), ("Decode", decode)):
            meta = {"name": f"{group}-{stage.lower()}", "namespace": "a", "generation": 1}
            role = {
                "groupRef": {"name": group},
                "stage": stage,
                "replicas": replicas,
                "maxReplicas": 9,
                "drain": {"timeoutSeconds": 5},
                "profileRef": {"name": "speed"},
                "node": {"accelerators": [{"name": "main", "count": gpus}]},
            }
            await cluster.create(INFERENCE_ROLES, {"metadata": meta, "spec": role})

    async def look(self, *groups: str) -> None:
        """A pass over each of these groups, all of them before the fabric does anything."""
        for group in groups:
            await self.groups.reconcile(GroupKey("a", group), self.rack.clock.now())

    async def run(self, *groups: str, serve: bool = True) -> None:
        """Let everything come to rest, with engines that start at once, if they are to serve."""
        for _ in range(12):
            before = self.rack.cluster.version
            await self.look(*groups)
            for name in self.nodes():
                await self.rack.work(name)
            await self.rack.place_again()
            await self.rack.settle()
            if serve:
                await self.serve()
            self.rack.clock.forward(2)
            if self.rack.cluster.version == before:
                return

    async def serve(self) -> None:
        """What a kubelet does: pods run, and end when they are deleted."""
        cluster = self.rack.cluster
        for pod in cluster.whole(PODS, "a"):
            if "deletionTimestamp" in pod["metadata"]:
                del cluster.objects[(PODS, "a", pod["metadata"]["name"])]
                continue
            others = [
                one
                for one in pod.get("status", {}).get("conditions", ())
                if one["type"] not in ("Ready", "ContainersReady")
            ]
            gate = any(one["type"] == GATE_SERVING and one["status"] == "True" for one in others)
            at = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
            ready = [
                {"type": "ContainersReady", "status": "True", **at},
                {"type": "Ready", "status": str(gate), **at},
            ]
            status = {"phase": "Running", "conditions": [*others, *ready]}
            node = cluster.get(LOGICAL_NODES, pod["metadata"]["name"], "a") or {}
            spec = {"nodeName": node.get("status", {}).get("nodeName"), **pod["spec"]}
            cluster._store((PODS, "a", pod["metadata"]["name"]), {**pod, "spec": spec, "status": status})

    def nodes(self) -> list[str]:
        return [each["metadata"]["name"] for each in self.rack.cluster.list(LOGICAL_NODES, "a")]

    def domains(self, group: str) -> list[str]:
        """The domain of each device that the group's logical nodes have."""
        where = {device.id: device.attributes.get(IB, "") for device in self.rack.driver.others}
        return sorted(
            where[claim["spec"]["device"]]
            for claim in self.rack.claims()
            if claim["spec"]["claimRef"]["name"].startswith(f"{group}-")
        )

    def group(self, name: str) -> Object:
        found = self.rack.cluster.get(INFERENCE_GROUPS, name, "a")
        assert found is not None
        return found

    def domain(self, group: str) -> str:
        return str(self.group(group)["status"].get("domain", {}).get("value", ""))

    def message(self, group: str) -> str:
        conditions = self.group(group)["status"]["conditions"]
        return next(str(one["message"]) for one in conditions if one["type"] == "Balanced")

    async def set_replicas(self, role: str, replicas: int) -> None:
        await self.rack.cluster.patch(INFERENCE_ROLES, role, "a", {"spec": {"replicas": replicas}})


async def rail(patch: pytest.MonkeyPatch, **gpus: int) -> Rail:
    made = Rail(patch, **gpus)
    await made.build()
    return made


def serves(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return {"Ready", GATE_SERVING} <= {one["type"] for one in conditions if one["status"] == "True"}

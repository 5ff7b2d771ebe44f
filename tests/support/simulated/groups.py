"""Two inference groups in a simulated run: each is composed anew for the other stage, in one domain, in all trouble.

The group controllers are the real ones; the scheduler and the kubelets are played. Both groups want the same domains,
and there is no metrics source: replicas go as roles ask for them.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from support.memory_cluster import MemoryCluster
from support.schedule import FAULT_SECONDS, TENANTS, Act
from support.witness import condition
from weft.api.names import GATE_SERVING, LABEL_GROUP, TAINT_DRAINING
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    NODES,
    PODS,
)
from weft.cluster import Object

GPUS, MEMORIES, HOSTS = 8, 4, 7
DOMAIN_GPUS = 4
REPLICAS = 3
"""Of each group, one GPU each: one domain has room for one group."""

Started = Callable[[Object, Object], None]
Ended = Callable[[tuple[str, str]], Awaitable[None]]


def domain_of(device: str) -> str:
    return f"nvl-{int(device.removeprefix('gpu-')) // DOMAIN_GPUS}"


class Groups:
    """One group for each tenant. `started` is told of a pod that runs and its logical node; `ended` takes it away."""

    def __init__(self, seed: int, cluster: MemoryCluster, started: Started, ended: Ended) -> None:
        dice = random.Random(f"weft groups {seed}")
        self.acts = [
            Act(dice.uniform(0.5, FAULT_SECONDS - 0.3), "recompose", tenant, pick=dice.randrange(1000))
            for tenant in TENANTS
            for _ in range(dice.randint(1, 3))
        ]
        self._cluster, self._started, self._ended = cluster, started, ended

    async def build(self) -> None:
        for tenant in TENANTS:
            spec: Object = {
                "template": {"spec": {"containers": [{"name": "engine", "image": "none"}]}},
                "objectives": {"timeToFirstTokenMilliseconds": 1000},
                "metrics": {"models": ["m"]},
                "accelerators": {"maximum": REPLICAS},
                "rebalance": {"mode": "Paused", "flip": "Recompose"},
                "placement": {"sameDomain": "nvlinkDomain"},
            }
            await self._create(INFERENCE_GROUPS, tenant, "group", spec)
            decode = {"memory": [{"name": "kv", "size": "512Gi"}]}
            for role, replicas, more in (("prefill", 1, {}), ("decode", REPLICAS - 1, decode)):
                node = {"accelerators": [{"name": "main", "count": 1}], **more}
                spec = {
                    "groupRef": {"name": "group"},
                    "stage": role.title(),
                    "replicas": replicas,
                    "node": node,
                }
                spec |= {"minReplicas": 1, "maxReplicas": REPLICAS, "drain": {"timeoutSeconds": 1}}
                await self._create(INFERENCE_ROLES, tenant, role, spec | {"profileRef": {"name": "none"}})

    async def _create(self, resource: Any, tenant: str, name: str, spec: Object) -> None:
        await self._cluster.create(resource, {"metadata": {"name": name, "namespace": tenant}, "spec": spec})

    async def recompose(self, act: Act) -> None:
        """Ask for another split: what is not wanted any more goes first, as one who counts would write it."""
        prefill = 1 + act.pick % (REPLICAS - 1)
        split = {"prefill": prefill, "decode": REPLICAS - prefill}
        roles = {role: self._cluster.get(INFERENCE_ROLES, role, act.tenant) or {} for role in split}
        for role in sorted(split, key=lambda role: split[role] - roles[role]["spec"]["replicas"]):
            await self._cluster.patch(INFERENCE_ROLES, role, act.tenant, {"spec": {"replicas": split[role]}})

    async def play(self) -> None:
        """The scheduler, and the kubelets."""
        for pod in self._cluster.list(PODS):
            pod = self._cluster.objects[PODS, pod["metadata"]["namespace"], pod["metadata"]["name"]]
            metadata = pod["metadata"]
            if LABEL_GROUP not in metadata.get("labels", {}):
                continue
            key = metadata["namespace"], metadata["name"]
            if "deletionTimestamp" in metadata:
                await self._ended(key)
            elif not pod["spec"].get("nodeName"):
                await self._schedule(pod, key)
            else:
                await self._run(pod)

    async def _schedule(self, pod: Object, key: tuple[str, str]) -> None:
        affinity = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (name,) = affinity["nodeSelectorTerms"][0]["matchFields"][0]["values"]
        node, logical_node = self._cluster.get(NODES, name), self._cluster.get(LOGICAL_NODES, key[1], key[0])
        taints = (node or {"spec": {}})["spec"].get("taints", [])
        if logical_node is None or any(taint["key"] == TAINT_DRAINING for taint in taints):
            return
        if "host" not in logical_node.get("status", {}) or logical_node["status"]["nodeName"] != name:
            # It waits there without devices, and uses none.
            return
        await self._cluster.patch(PODS, key[1], key[0], {"spec": {"nodeName": name}})
        self._started(pod, logical_node)

    async def _run(self, pod: Object) -> None:
        known = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", [])}
        wanted = {**known, "ContainersReady": "True", "Ready": known.get(GATE_SERVING, "False")}
        if wanted != known:
            conditions = [{"type": kind, "status": value} for kind, value in wanted.items()]
            await self._cluster.write_status(PODS, pod, {"phase": "Running", "conditions": conditions})

    async def delete(self) -> None:
        for tenant in TENANTS:
            await self._cluster.delete(INFERENCE_GROUPS, "group", tenant)

    def is_there(self) -> bool:
        return bool(self._cluster.list(INFERENCE_GROUPS))

    # What has to be so

    def too_much(self, claim: Object) -> str:
        """What a new claim breaks, or nothing: a group has no more accelerators than it may have, and one domain."""
        ref, device = claim["spec"]["claimRef"], claim["spec"]["device"]
        if ref["name"] not in self._names(ref["namespace"]) or not device.startswith("gpu"):
            return ""
        has = {each["spec"]["device"] for each in self._claims(ref["namespace"])} | {device}
        if len(has) > REPLICAS:
            return f"more than it may have: the group of {ref['namespace']} claims {sorted(has)}"
        return ""

    def unsettled(self) -> str:
        """What is not yet as the groups say, or nothing."""
        for tenant in TENANTS:
            group = self._cluster.get(INFERENCE_GROUPS, "group", tenant) or {}
            said = group.get("status", {})
            domains = {domain_of(each["spec"]["device"]) for each in self._claims(tenant)}
            if not domains <= {said.get("domain", {}).get("value")}:
                return (
                    f"the group of {tenant} has devices of {sorted(domains)}, and says {said.get('domain')}"
                )
            nodes = self._nodes(tenant)
            shapes = {"prefill": 0, "decode": 0}
            for node in nodes:
                shapes["decode" if node["spec"].get("memory") else "prefill"] += 1
            roles = ((role, self._cluster.get(INFERENCE_ROLES, role, tenant) or {}) for role in shapes)
            wanted = {name: role["spec"]["replicas"] for name, role in roles}
            is_bound = all(condition(node, "Bound") == "True" for node in nodes)
            if is_bound and domains and shapes != wanted:
                return f"the group of {tenant} has {shapes}, and wants {wanted}: {said.get('conditions')}"
        return ""

    def unserved(self) -> str:
        """Whose replicas do not serve yet, or nothing."""
        pods = [pod for pod in self._cluster.list(PODS) if condition(pod, "Ready") == "True"]
        return "" if len(pods) == REPLICAS * len(TENANTS) else f"{len(pods)} pods are Ready"

    def waiting(self) -> set[str]:
        """Those that may wait for devices of their domain, though there are others."""
        nodes = (node for tenant in TENANTS for node in self._nodes(tenant))
        return {f"{node['metadata']['namespace']}/{node['metadata']['name']}" for node in nodes}

    def _nodes(self, tenant: str) -> list[Object]:
        return [node for node in self._cluster.list(LOGICAL_NODES, tenant) if is_of_group(node)]

    def _names(self, tenant: str) -> set[str]:
        return {node["metadata"]["name"] for node in self._nodes(tenant)}

    def _claims(self, tenant: str) -> list[Object]:
        """Its accelerators, without those that stay behind when another took their place."""
        names = self._names(tenant)
        return [
            claim
            for claim in self._cluster.list(DEVICE_ATTACHMENTS)
            if claim["spec"]["claimRef"]["namespace"] == tenant
            and claim["spec"]["claimRef"]["name"] in names
            and claim["spec"]["device"].startswith("gpu")
            and all(condition(claim, kind) != "True" for kind in ("Quarantined", "Leaving"))
        ]


def is_of_group(node: Object) -> bool:
    return LABEL_GROUP in node["metadata"].get("labels", {})

"""Follows the cluster while the demo runs and turns what changes into facts and lines to read."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from weft.api.resources import (
    GPU_POOLS,
    INFERENCE_GROUPS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    PODS,
    STORAGE_POOLS,
    ResourceType,
)
from weft.cluster import Object
from weft_dev.kube_async import AsyncKube
from weft_playground.case import AUTO
from weft_playground.demo.facts import GroupFacts, stage_of
from weft_playground.demo.narrator import Narrator


@dataclass
class Watching:
    """What has been seen so far. `transfers`: monotonic times at which the Auto group's transfers were complete."""

    api: AsyncKube
    narrator: Narrator
    facts: dict[str, GroupFacts]
    pools: dict[str, Object] = field(default_factory=dict)
    logical_nodes: dict[tuple[str, str], Object] = field(default_factory=dict)
    groups: dict[str, Object] = field(default_factory=dict)
    transfers: list[float] = field(default_factory=list)
    decisions: list[tuple[float, str]] = field(default_factory=list)
    """When the Auto group's split was decided anew, in monotonic time, and what was said about it."""
    _under_way: dict[str, Object] = field(default_factory=dict)
    _begun: dict[str, float] = field(default_factory=dict)
    _reason: str = ""

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            for namespace in self.facts:
                tasks.create_task(self._follow_pods(namespace))
            tasks.create_task(self._follow_nodes())
            tasks.create_task(self._follow_groups())
            for pool in (GPU_POOLS, MEMORY_POOLS, STORAGE_POOLS):
                tasks.create_task(self._follow_pools(pool))

    async def _follow_pods(self, namespace: str) -> None:
        async for pods in self.api.follow(PODS, namespace):
            self.facts[namespace].see_pods(time.monotonic(), pods.values())

    async def _follow_nodes(self) -> None:
        async for nodes in self.api.follow(LOGICAL_NODES):
            now = time.monotonic()
            self.logical_nodes = {key(each): each for each in nodes.values()}
            for namespace, facts in self.facts.items():
                facts.see_nodes(
                    now, (each for (at, _), each in self.logical_nodes.items() if at == namespace)
                )

    async def _follow_groups(self) -> None:
        async for groups in self.api.follow(INFERENCE_GROUPS):
            self.groups = {each["metadata"]["namespace"]: each for each in groups.values()}
            if AUTO in self.groups:
                self._tell(self.groups[AUTO])

    async def _follow_pools(self, resource: ResourceType) -> None:
        async for pools in self.api.follow(resource):
            self.pools |= {each["metadata"]["name"]: each for each in pools.values()}

    def _tell(self, group: Object) -> None:
        """Say what changed: the decision, and each transfer's steps."""
        status = group.get("status", {})
        reason = (status.get("decision") or {}).get("reason", "")
        if reason and reason != self._reason:
            self._reason = reason
            wanted = ", ".join(f"{each['role']} {each['replicas']}" for each in status.get("allocation", ()))
            text = f"Weft decides: {wanted}\n" + reason.replace("; ", "\n")
            self.decisions.append((time.monotonic(), text))
            self.narrator.say(f"{AUTO}: {text}")
        now = time.monotonic()
        current = {each["name"]: each for each in status.get("transfers", ())}
        for name, transfer in current.items():
            before = self._under_way.get(name)
            if before is None:
                self._begun[name] = now
            if before is None or before["step"] != transfer["step"]:
                self.narrator.say(f"{AUTO}: {transfer['replica']}: {_step_text(transfer)}")
        for name in self._under_way.keys() - current.keys():
            self._ended(self._under_way[name], now, now - self._begun.pop(name, now))
        self._under_way = current

    def _ended(self, transfer: Object, now: float, seconds: float) -> None:
        pod = self.facts[AUTO].pods.get(transfer["replica"])
        role = pod["metadata"].get("labels", {}).get("weft.dev/role") if pod is not None else None
        if pod is not None and role == transfer["to"]:
            self.transfers.append(now)
            self.narrator.say(
                f"{AUTO}: {transfer['replica']} serves {stage_of(pod)} now, {seconds:.0f} s after it began"
            )
        else:
            self.narrator.say(f"{AUTO}: the move of {transfer['replica']} to {transfer['to']} was given up")


def key(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _step_text(transfer: Object) -> str:
    steps = {
        "Draining": "out of the router, finishes what it has",
        "Switching": "drained, changes its stage",
        "Verifying": f"is {transfer['to']} now, has to be seen serving it",
        "RollingBack": f"goes back to {transfer['from']}",
    }
    return f"{transfer['from']} -> {transfer['to']}: {steps.get(transfer['step'], transfer['step'])}"

"""What the demo sees of the cluster while it runs: folds watch events into facts. No network, clock as argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from weft.api.names import LABEL_GROUP, LABEL_STAGE
from weft.cluster import Object
from weft_playground.case import ACCELERATORS_PER_REPLICA, Split

PREFILL, DECODE = "prefill", "decode"


@dataclass(frozen=True)
class Census:
    """Replicas of a group at one moment: serving per stage, and those that exist but do not serve."""

    prefill: int
    decode: int
    not_serving: int

    def __str__(self) -> str:
        moving = f" +{self.not_serving}" if self.not_serving else ""
        return f"{self.prefill}:{self.decode}{moving}"


@dataclass
class GroupFacts:
    """One namespace's group. Times are monotonic seconds as the caller gives them."""

    budget_accelerators: int
    pods: dict[str, Object] = field(default_factory=dict)
    nodes: dict[str, Object] = field(default_factory=dict)
    history: list[tuple[float, Census]] = field(default_factory=list)
    accelerators: list[tuple[float, int]] = field(default_factory=list)
    most_accelerators: int = 0
    stage_changes: list[tuple[float, str, str, str]] = field(default_factory=list)
    """(time, replica, from, to): a pod was seen with another stage label than before."""

    def see_pods(self, now: float, pods: Iterable[Object]) -> None:
        """All pods that exist."""
        fresh = {
            each["metadata"]["name"]: each
            for each in pods
            if LABEL_GROUP in each["metadata"].get("labels", {})
        }
        for name, pod in fresh.items():
            self._see_stage(now, name, pod)
        self.pods = fresh
        self._count(now)

    def see_nodes(self, now: float, nodes: Iterable[Object]) -> None:
        """All logical nodes that exist."""
        self.nodes = {each["metadata"]["name"]: each for each in nodes}
        self._count(now)

    @property
    def census(self) -> Census:
        serving = [stage_of(pod) for pod in self.pods.values() if is_serving(pod)]
        prefill, decode = serving.count(PREFILL), serving.count(DECODE)
        return Census(prefill, decode, self._replicas - prefill - decode)

    def accelerator_seconds(self, start: float, end: float) -> float:
        """Accelerators held by existing replicas, integrated over time."""
        return _integrate([(at, float(count)) for at, count in self.accelerators], start, end)

    def idle_accelerator_seconds(self, start: float, end: float) -> float:
        """The part of it held by replicas that were not serving."""
        idle = [(at, float(census.not_serving * ACCELERATORS_PER_REPLICA)) for at, census in self.history]
        return _integrate(idle, start, end)

    def settled_at(self, wanted: Split, after: float) -> float | None:
        """When the group reached this split for good, if it is there now; `after` at the earliest."""
        since: float | None = None
        for at, census in self.history:
            here = (census.prefill, census.decode) == (wanted.prefill, wanted.decode)
            since = (since if since is not None else at) if here else None
        return None if since is None else max(since, after)

    @property
    def _replicas(self) -> int:
        """Also one whose pod is between two lives."""
        return len(self.pods.keys() | self.nodes.keys())

    def _see_stage(self, now: float, name: str, pod: Object) -> None:
        known = self.pods.get(name)
        if known is None or known["metadata"]["uid"] != pod["metadata"]["uid"]:
            return
        before, after = stage_of(known), stage_of(pod)
        if before != after:
            self.stage_changes.append((now, name, before, after))

    def _count(self, now: float) -> None:
        count = self._replicas * ACCELERATORS_PER_REPLICA
        self.most_accelerators = max(self.most_accelerators, count)
        if not self.accelerators or self.accelerators[-1][1] != count:
            self.accelerators.append((now, count))
        census = self.census
        if not self.history or self.history[-1][1] != census:
            self.history.append((now, census))


def is_serving(pod: Object) -> bool:
    """Ready and not on its way out: what a router sends requests to."""
    conditions: Iterable[Mapping[str, str]] = pod.get("status", {}).get("conditions", ())
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def stage_of(pod: Object) -> str:
    return str(pod["metadata"].get("labels", {}).get(LABEL_STAGE, ""))


def condition(item: Object, kind: str) -> tuple[str, str]:
    """Status and message of a condition; ("Unknown", "") where there is none."""
    for each in item.get("status", {}).get("conditions", ()):
        if each["type"] == kind:
            return each["status"], each.get("message", "") or each.get("reason", "")
    return "Unknown", ""


def _integrate(steps: list[tuple[float, float]], start: float, end: float) -> float:
    total = 0.0
    for index, (at, value) in enumerate(steps):
        until = steps[index + 1][0] if index + 1 < len(steps) else end
        total += value * max(0.0, min(until, end) - max(at, start))
    return total

"""Roles whose replicas are those of existing workloads: balanced through /scale, and given up where another scales."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet, condition
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY, T0, steady
from support.refusals import Write, forbidden
from weft.api import RebalanceMode, ScaleTargetStatus
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, PODS, ResourceType
from weft.balancing.engine_calls import EngineCalls
from weft.balancing.moments import Moments
from weft.balancing.observe import observe
from weft.balancing.presets import PRESETS
from weft.balancing.scaling import plan_targets
from weft.balancing.state import Split
from weft.balancing.steps import ScaleTarget
from weft.balancing.targets import DELETION_COST, ScaleTargetKind, selector_of
from weft.cluster import ClusterError, Object

DEPLOYMENTS = ResourceType("apps", "v1", "deployments", "Deployment", True)
STATEFUL_SETS = ResourceType("apps", "v1", "statefulsets", "StatefulSet", True)
LISTED = tuple(
    ScaleTargetKind(group=one.group, version=one.version, kind=one.kind, resource=one.plural)
    for one in (DEPLOYMENTS, STATEFUL_SETS)
)


class Adopted(Fleet):
    """The fleet's roles are two workloads, kept up by a stand-in of their controller."""

    def __init__(
        self,
        prefill: int = 3,
        decode: int = 6,
        *,
        workload: ResourceType = DEPLOYMENTS,
        role: dict[str, Any] | None = None,
        **rebalance: Any,
    ) -> None:
        super().__init__(**{"drainFirst": None, **rebalance})
        self.scale_kinds = LISTED
        self.restart()
        self.workload = workload
        self.most_held = 0
        self.quota = 1000
        """Pods that the namespace may have."""
        for name, count in (("prefill", prefill), ("decode", decode)):
            ref = {"apiVersion": "apps/v1", "kind": workload.kind, "name": f"vllm-{name}"}
            self.put_role(name, name.capitalize(), 1, labels={}, scaleTargetRef=ref, **(role or {}))
            self._put(workload, f"vllm-{name}", spec={"replicas": count})

    async def control(self) -> None:
        """What the workloads' controllers do: one pod more, or those that rank first gone."""
        for workload in self.cluster.list(self.workload, NAMESPACE):
            name, wanted = workload["metadata"]["name"], workload["spec"]["replicas"]
            own = self.pods_of(name)
            alive = [pod for pod in own if "deletionTimestamp" not in pod["metadata"]]
            taken = {pod["metadata"]["name"] for pod in own}
            free = (f"{name}-{number}" for number in range(100) if f"{name}-{number}" not in taken)
            for _ in range(min(wanted - len(alive), self.quota - len(self.pods()))):
                metadata = {"name": next(free), "namespace": NAMESPACE, "labels": {"app": name}}
                container = {"name": "engine", "image": "vllm:1"}
                body = {"metadata": metadata, "spec": {"containers": [container]}}
                alive.append(await self.cluster.create(PODS, body))
            for pod in sorted(alive, key=self._rank)[: max(0, len(alive) - wanted)]:
                await self.cluster.delete(PODS, pod["metadata"]["name"], NAMESPACE)
            status = {"replicas": wanted, "selector": f"app={name}"}
            workload = self.cluster.objects[(self.workload, NAMESPACE, name)]
            self.cluster._store((self.workload, NAMESPACE, name), {**workload, "status": status})

    def _rank(self, pod: Object) -> tuple[Any, ...]:
        """A ReplicaSet's order, or a StatefulSet's, in which the highest number goes."""
        number = -int(pod["metadata"]["name"].rpartition("-")[2])
        if self.workload == STATEFUL_SETS:
            return (number,)
        cost = int((pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0"))
        return (condition(pod, "Ready") == "True", cost, number)

    def pods_of(self, name: str) -> list[Object]:
        return [pod for pod in self.pods() if pod["metadata"]["name"].startswith(f"{name}-")]

    async def until(self, done: Callable[[], bool], seconds: int = 120) -> None:
        """Let time pass until it is so, and three seconds more."""
        for _ in range(seconds):
            if done():
                break
            await self.run(1)
        await self.run(3)

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            for _ in range(2):
                await self.look()
                await self.control()
                self.play()
                self.most_held = max(self.most_held, len(self.pods()))
            self.now += timedelta(seconds=1)

    def counts(self) -> dict[str, int]:
        return {name: self.wanted(name) for name in ("prefill", "decode")}

    def wanted(self, role: str) -> int:
        found: int = self.cluster.objects[(self.workload, NAMESPACE, f"vllm-{role}")]["spec"]["replicas"]
        return found

    def scale(self, role: str, replicas: int) -> None:
        """Somebody else does it."""
        self._put(self.workload, f"vllm-{role}", spec={"replicas": replicas})

    def able(self, role: str) -> tuple[str, str]:
        obj = self.cluster.objects[(INFERENCE_ROLES, NAMESPACE, role)]
        found = next(one for one in obj["status"]["conditions"] if one["type"] == "AbleToScale")
        return found["status"], found["reason"]

    def set_mode(self, mode: str) -> None:
        self.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(mode=mode))


async def existing(**options: Any) -> Adopted:
    """Two workloads that serve, and of which Weft has not heard yet."""
    fleet = Adopted(**options)
    for _ in range(3):
        await fleet.control()
        fleet.play()
    fleet.cluster.writes.clear()
    fleet.traffic = ANSWER_HEAVY
    return fleet


async def adopted(**options: Any) -> Adopted:
    fleet = await existing(**options)
    await fleet.run(10)
    return fleet


@pytest.mark.shows("InferenceRole.spec.scaleTargetRef.name")
async def test_two_deployments_start_as_they_are_and_follow_the_load() -> None:
    fleet = await adopted()
    assert fleet.counts() == {"prefill": 3, "decode": 6}
    assert fleet.able("decode") == ("True", "Followed")
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    assert "deployments" not in {plural for _, plural, _ in fleet.cluster.writes}
    fleet.traffic = PROMPT_HEAVY
    await fleet.until(lambda: fleet.counts() == {"prefill": 5, "decode": 4})
    assert fleet.counts() == {"prefill": 5, "decode": 4}
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    assert fleet.status()["split"] == "decode 4, prefill 5"
    assert "TargetScaled" in {reason for _, reason, _ in fleet.cluster.events}


async def test_what_takes_gets_a_replica_only_when_the_givers_pods_are_really_gone() -> None:
    fleet = await adopted()
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=40))
    fleet.stays_terminating = lambda pod: pod["metadata"]["name"].startswith("vllm-decode")
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.wanted("decode") < 6
    assert fleet.wanted("prefill") == 3
    fleet.stays_terminating = lambda pod: False
    await fleet.until(lambda: fleet.counts() == {"prefill": 5, "decode": 4})
    assert fleet.counts() == {"prefill": 5, "decode": 4}
    assert fleet.most_held == 9


async def test_the_least_loaded_pod_of_a_deployment_goes() -> None:
    fleet = await adopted()
    busy = [f"vllm-decode-{number}" for number in (0, 2, 3, 4, 5)]
    fleet.requests = dict.fromkeys(busy, 5.0)
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(maxReplicas=5))
    await fleet.run(30)
    assert fleet.wanted("decode") == 5
    assert {pod["metadata"]["name"] for pod in fleet.pods_of("vllm-decode")} == set(busy)
    marks = [pod for pod in fleet.pods() if DELETION_COST in (pod["metadata"].get("annotations") or {})]
    assert marks == []


async def test_a_mark_is_taken_off_where_the_pod_stays_after_all() -> None:
    fleet = await adopted()
    fleet.cluster.rules.append(lambda write: forbidden(write, "no") if write.verb == "patch scale" else None)
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(maxReplicas=5))
    await fleet.run(5)

    def marks() -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in fleet.pods()
            if DELETION_COST in (pod["metadata"].get("annotations") or {})
        ]

    assert len(marks()) == 1
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(maxReplicas=6, minReplicas=6))
    fleet.cluster.rules.clear()
    await fleet.run(10)
    assert fleet.wanted("decode") == 6
    assert marks() == []


async def test_recommend_reads_and_writes_nothing() -> None:
    fleet = await adopted(mode="Recommend")
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.counts() == {"prefill": 3, "decode": 6}
    recommended = {one["role"]: one["replicas"] for one in fleet.status()["recommendation"]["allocation"]}
    assert recommended["prefill"] > 3
    touched = {plural for _, plural, _ in fleet.cluster.writes}
    assert touched == {"inferencegroups", "inferenceroles"}
    assert fleet.able("prefill") == ("True", "ReadOnly")
    # Whatever another scaler does meanwhile is followed.
    fleet.scale("decode", 4)
    await fleet.run(10)
    assert fleet.status()["split"] == "decode 4, prefill 3"


async def test_a_second_scaler_is_said_and_not_fought_until_the_mode_was_another() -> None:
    fleet = await adopted()
    fleet.scale("decode", 8)
    await fleet.run(5)
    assert fleet.able("decode") == ("False", "OtherScaler")
    assert fleet.condition("Balanced") == ("False", "OtherScaler")
    assert "set rebalance.mode" in fleet.message("Balanced")
    fleet.traffic = PROMPT_HEAVY
    fleet.restart()
    await fleet.run(40)
    assert fleet.counts() == {"prefill": 3, "decode": 8}
    # Even where the other comes back to what Weft had written: it is still there.
    fleet.scale("decode", 6)
    await fleet.run(40)
    assert fleet.counts() == {"prefill": 3, "decode": 6}
    assert fleet.able("decode") == ("False", "OtherScaler")
    fleet.set_mode("Recommend")
    await fleet.run(3)
    fleet.set_mode("Auto")
    await fleet.until(lambda: fleet.counts() == {"prefill": 5, "decode": 4})
    assert fleet.able("decode") == ("True", "Followed")
    assert fleet.counts() == {"prefill": 5, "decode": 4}


async def test_an_autoscaler_that_takes_every_write_back_is_written_against_once() -> None:
    fleet = await adopted()
    written: list[int] = []

    def undo() -> None:
        if fleet.cluster.writes[-1:] == [("patch scale", "deployments", "vllm-decode")]:
            written.append(fleet.wanted("decode"))
            fleet.cluster.writes.append(("", "", ""))
            fleet.scale("decode", 6)

    fleet.cluster.after_write = undo
    fleet.traffic = PROMPT_HEAVY
    await fleet.until(lambda: fleet.able("decode")[1] == "OtherScaler")
    await fleet.run(20)
    assert len(written) == 1
    assert fleet.able("decode") == ("False", "OtherScaler")
    assert fleet.counts() == {"prefill": 3, "decode": 6}


@pytest.mark.parametrize("killed", ["before the write", "after the write"])
async def test_an_operator_killed_around_its_write_takes_its_own_number_for_nobody_elses(
    killed: str,
) -> None:
    fleet = await adopted()

    class KilledError(Exception):
        pass

    armed = [True]

    def kill(write: Write) -> ClusterError | None:
        if armed[0] and write.verb == "patch scale" and killed == "before the write":
            armed[0] = False
            raise KilledError
        return None

    def after() -> None:
        if armed[0] and killed == "after the write" and fleet.cluster.writes[-1][0] == "patch scale":
            armed[0] = False
            raise KilledError

    fleet.cluster.rules.append(kill)
    fleet.cluster.after_write = after
    fleet.traffic = PROMPT_HEAVY
    for _ in range(60):
        try:
            await fleet.run(1)
        except KilledError:
            fleet.restart()
    assert not armed[0]
    assert fleet.able("decode") == ("True", "Followed")
    assert fleet.counts() == {"prefill": 5, "decode": 4}
    assert fleet.most_held == 9


async def test_a_role_keeps_its_minimum_of_serving_replicas() -> None:
    fleet = await adopted(workload=STATEFUL_SETS, role={"minReplicas": 3})
    fleet.stays_pending = lambda pod: pod["metadata"]["name"] == "vllm-decode-9"
    for number in (0, 1, 2):
        name = f"vllm-decode-{number}"
        pod = fleet.cluster.objects[(PODS, NAMESPACE, name)]
        lost = {"conditions": [{"type": "Ready", "status": "False"}], "phase": "Running"}
        fleet.pending.add(name)
        fleet.cluster._store((PODS, NAMESPACE, name), {**pod, "status": lost})
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(maxReplicas=4))
    await fleet.run(30)
    # Which pod a StatefulSet takes is not Weft's to say: it could be one of the three that serve.
    assert fleet.wanted("decode") == 6
    assert fleet.condition("Balanced") == ("False", "NoSpareReplica")


async def test_a_pod_that_never_starts_does_not_keep_its_role_from_giving_it_back() -> None:
    fleet = await adopted()
    fleet.stays_pending = lambda pod: pod["metadata"]["name"].startswith("vllm-prefill")
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.wanted("prefill") > 3
    serving = sum(condition(pod, "Ready") == "True" for pod in fleet.pods())
    assert serving >= 7, "a quarter at a time"
    fleet.traffic = steady(8.0, 300, 281)
    await fleet.until(lambda: fleet.wanted("decode") >= 6)
    assert fleet.wanted("prefill") <= 3
    assert fleet.wanted("decode") == len(fleet.pods_of("vllm-decode")) >= 6


async def test_a_workload_whose_new_pod_does_not_come_up_gets_no_further_one_and_it_is_said() -> None:
    fleet = await adopted()
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=40))
    fleet.stays_pending = lambda pod: pod["metadata"]["name"].startswith("vllm-prefill")
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(minReplicas=4))
    await fleet.until(lambda: fleet.wanted("prefill") == 4)
    await fleet.run(125)
    assert fleet.condition("Balanced") == ("False", "ReplicaStuck")
    assert "vllm-prefill-3" in fleet.message("Balanced")
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(minReplicas=5))
    await fleet.run(20)
    assert fleet.wanted("prefill") == 4
    fleet.stays_pending = lambda pod: False
    await fleet.until(lambda: fleet.wanted("prefill") == 5)
    assert fleet.condition("Balanced")[1] != "ReplicaStuck"


async def test_a_workload_that_a_quota_keeps_from_making_pods_is_said_and_gets_no_more_replicas() -> None:
    fleet = await adopted()
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=40))
    fleet.quota = len(fleet.pods())
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(minReplicas=4))
    await fleet.until(lambda: fleet.wanted("prefill") == 4)
    await fleet.run(125)
    assert fleet.condition("Balanced") == ("False", "ReplicaStuck")
    assert "Deployment vllm-prefill of role prefill has fewer pods" in fleet.message("Balanced")
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(minReplicas=5))
    await fleet.run(20)
    assert fleet.wanted("prefill") == 4


async def test_the_budget_keeps_a_workload_from_growing() -> None:
    fleet = await adopted()
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=18))
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(minReplicas=5))
    await fleet.run(40)
    assert fleet.most_held == 9
    assert fleet.counts() == {"prefill": 5, "decode": 4}


async def test_a_number_that_was_recorded_is_not_written_where_the_budget_has_become_smaller() -> None:
    fleet = await adopted()
    refused = [True]

    def refuse(write: Write) -> ClusterError | None:
        grows = write.verb == "patch scale" and write.name == "vllm-prefill"
        return forbidden(write, "no") if refused[0] and grows else None

    fleet.cluster.rules.append(refuse)
    fleet.traffic = PROMPT_HEAVY
    await fleet.until(lambda: fleet.wanted("decode") == 4)
    assert len(fleet.pods()) == 7
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=14))
    refused[0] = False
    fleet.most_held = 0
    await fleet.run(20)
    assert fleet.most_held == 7


def number(record: ScaleTargetStatus | None) -> str:
    """The state in docs/design.md."""
    if record is None:
        return "[*]"
    if record.other_replicas is not None:
        return "LeftAlone"
    return "Known" if record.previous is None else "Ordered"


async def test_a_workloads_number_lives_as_the_diagram_says() -> None:
    fleet = await adopted()
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=30))
    raw = fleet.group()
    seen = await observe(
        fleet.cluster,
        {"default": fleet.source},
        PRESETS,
        raw,
        {},
        Moments(),
        fleet.moment(),
        {("apps", "Deployment"): DEPLOYMENTS},
        EngineCalls(),
    )
    edges: set[tuple[str, str, str]] = set()
    known: set[tuple[ScaleTargetStatus | None, int]] = set()
    todo: list[tuple[ScaleTargetStatus | None, int]] = [(None, 6)]
    while todo:
        life = todo.pop()
        if life in known:
            continue
        known.add(life)
        record, replicas = life
        for auto, wanted in itertools.product((True, False), (5, 6, 7)):
            role = seen.roles["decode"]
            roles = {
                **seen.roles,
                "decode": role.with_changes(status=role.status.with_changes(scale_target=record)),
            }
            target = replace(seen.targets["decode"], replicas=replicas)
            mode = RebalanceMode.AUTO if auto else RebalanceMode.RECOMMEND
            rebalance = seen.group.spec.rebalance.with_changes(mode=mode)
            group = seen.group.with_changes(spec=seen.group.spec.with_changes(rebalance=rebalance))
            picture = replace(seen, group=group, roles=roles, targets={**seen.targets, "decode": target})
            decision = plan_targets(picture, Split.of({"decode": wanted, "prefill": 3}), False, T0)
            after = decision.records["decode"]
            scaled = [step for step in decision.steps if isinstance(step, ScaleTarget)]
            lost = [(after, replicas)]
            done = [(decision.written({"decode"})["decode"], step.replicas) for step in scaled]
            for nxt, count in (*lost, *done):
                if number(record) != number(nxt):
                    why = "(read)" if record is None else "(mode is not Auto)" if not auto else ""
                    if not why:
                        named = [one.reason for one in decision.notes]
                        named += ["OtherScaler"] if nxt.other_replicas is not None else []
                        named += ["ScaleTarget"] if (nxt, count) in done else []
                        why = named[0] if named else "(written, or not wanted any more)"
                    edges.add((number(record), number(nxt), why))
                todo += [(nxt, count), (nxt, 8)]
    text = (Path(__file__).parents[3] / "docs" / "design.md").read_text()
    diagram = (
        text.split("### The life of a workload's number\n", 1)[1]
        .split("```mermaid\n", 1)[1]
        .split("```", 1)[0]
    )
    drawn = re.findall(r"^ *(\S+) --> (\S+): (.+)$", diagram, re.MULTILINE)
    assert edges == set(drawn), edges ^ set(drawn)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "ReplicationController", "apiVersion": "v1"}, "KindNotListed"),
        ({"name": "missing"}, "TargetNotFound"),
        ({"name": "vllm-prefill"}, "TargetShared"),
    ],
)
@pytest.mark.shows("InferenceRole.spec.scaleTargetRef.kind", "InferenceRole.spec.scaleTargetRef.apiVersion")
async def test_a_workload_that_cannot_be_scaled_is_said_and_nothing_moves(
    change: dict[str, str], reason: str
) -> None:
    fleet = await existing()
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec["scaleTargetRef"].update(change))
    for name, since in (("prefill", "2026-01-01T00:00:00Z"), ("decode", "2026-01-01T00:00:01Z")):
        role = fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, name)]
        role["metadata"]["creationTimestamp"] = since
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(20)
    assert fleet.able("decode") == ("False", reason)
    assert fleet.condition("Balanced") == ("False", reason)
    assert fleet.counts() == {"prefill": 3, "decode": 6}


async def test_a_workload_without_a_selector_is_not_balanced() -> None:
    fleet = await existing()
    fleet.cluster.objects[(DEPLOYMENTS, NAMESPACE, "vllm-decode")]["status"]["selector"] = ""
    await fleet.look()
    await fleet.look()
    assert fleet.able("decode") == ("False", "SelectorMissing")


async def test_roles_and_group_go_and_the_workloads_stay() -> None:
    fleet = await adopted()
    await fleet.cluster.delete(INFERENCE_GROUPS, GROUP, NAMESPACE)
    await fleet.run(5)
    assert fleet.cluster.get(INFERENCE_GROUPS, GROUP, NAMESPACE) is None
    for role in ("prefill", "decode"):
        await fleet.cluster.delete(INFERENCE_ROLES, role, NAMESPACE)
    assert fleet.counts() == {"prefill": 3, "decode": 6}
    assert len(fleet.pods()) == 9


@pytest.mark.parametrize(
    ("text", "labels", "selected"),
    [
        ("app=a,tier in (b,c)", {"app": "a", "tier": "c"}, True),
        ("app=a,tier in (b,c)", {"app": "a", "tier": "d"}, False),
        ("app==a,!canary", {"app": "a"}, True),
        ("app==a,!canary", {"app": "a", "canary": ""}, False),
        ("x.io/name=a,x.io/worker-index=0", {"x.io/name": "a", "x.io/worker-index": "0"}, True),
        ("app!=a,stage notin (x),role", {"role": "r"}, True),
    ],
)
def test_a_selector_is_read_as_kubernetes_writes_it(
    text: str, labels: dict[str, str], selected: bool
) -> None:
    selector = selector_of(text)
    assert selector is not None
    assert selector.matches(labels) is selected


@pytest.mark.parametrize("text", ["", "a>1", "a in b", "!a=b", "a=b,,c=d"])
def test_a_selector_that_cannot_be_read_selects_nothing(text: str) -> None:
    assert selector_of(text) is None

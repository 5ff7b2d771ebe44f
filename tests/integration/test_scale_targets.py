"""Existing workloads under Weft on a real API server: Deployments and a StatefulSet with Kubernetes' own controllers,
LeaderWorkerSet and the scaling adapters of Dynamo and RBG as their published definitions shape /scale.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import idle_group
from support.idle_group import GROUP, own
from support.inference import LLAMA_70B_SPEC, steady
from support.world import World, eventually, reason
from weft.api.resources import (
    ENGINE_PROFILES,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    NAMESPACES,
    NODES,
    PODS,
    ResourceType,
)
from weft.balancing.state import Traffic
from weft.cluster import ClusterError
from weft_dev import PYTHONPATH
from weft_dev.controlplane import DEFINITIONS, ControlPlane
from weft_dev.kube import Kube

Object = dict[str, Any]
Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).parents[2]

DEPLOYMENTS = ResourceType("apps", "v1", "deployments", "Deployment", True)
STATEFUL_SETS = ResourceType("apps", "v1", "statefulsets", "StatefulSet", True)
LEADER_WORKER_SETS = ResourceType(
    "leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet", True
)
DYNAMO = ResourceType(
    "nvidia.com",
    "v1alpha1",
    "dynamographdeploymentscalingadapters",
    "DynamoGraphDeploymentScalingAdapter",
    True,
)
RBG = ResourceType(
    "workloads.x-k8s.io",
    "v1alpha2",
    "rolebasedgroupscalingadapters",
    "RoleBasedGroupScalingAdapter",
    True,
)
SELECTOR_PATHS = {
    LEADER_WORKER_SETS: ".status.hpaPodSelector",
    DYNAMO: ".status.selector",
    RBG: ".status.selector",
}
KINDS = (DEPLOYMENTS, STATEFUL_SETS, *SELECTOR_PATHS)
LISTED = [
    {"group": one.group, "version": one.version, "kind": one.kind, "resource": one.plural} for one in KINDS
]
ANSWERS, PROMPTS = steady(3.0, 600, 180), steady(4.6, 1420, 100)
"""Two loads that want two and three, and three and two, of five replicas."""


def signals(traffic: Traffic) -> dict[str, float]:
    found = {"age": 0.0, "jobs": 1.0}
    for window, rates in (("short", traffic.short), ("long", traffic.long)):
        found |= {
            f"requests_{window}": rates.requests,
            f"prompts_{window}": rates.prompts,
            f"prompt_tokens_{window}": rates.prompt_tokens,
            f"answers_{window}": rates.answers,
            f"answer_tokens_{window}": rates.answer_tokens,
        }
    return found


class Site:
    """A namespace with two workloads and the group that takes them over."""

    def __init__(self, world: World, namespace: str, front_end: dict[str, float]) -> None:
        self.kube, self.namespace = world.kube, namespace
        self.front_end = front_end
        self.workloads: dict[str, ResourceType] = {}

    def workload(self, role: str, resource: ResourceType, replicas: int) -> None:
        self.workloads[role] = resource
        spec: Object = {"replicas": replicas}
        if resource.group == "apps":
            labels = {"app": f"vllm-{role}"}
            container = {"name": "engine", "image": "vllm:1"}
            pod = {"containers": [container], "terminationGracePeriodSeconds": 1}
            spec |= {"selector": {"matchLabels": labels}}
            spec |= {"template": {"metadata": {"labels": labels}, "spec": pod}}
        if resource == STATEFUL_SETS:
            spec |= {"serviceName": role, "podManagementPolicy": "Parallel"}
        self.kube.create(resource, own(resource, f"vllm-{role}", spec), self.namespace)

    def adopt(self, mode: str, **role_spec: Any) -> None:
        self.kube.create(ENGINE_PROFILES, own(ENGINE_PROFILES, "profile", LLAMA_70B_SPEC), self.namespace)
        for role, resource in self.workloads.items():
            ref = {"apiVersion": resource.api_version, "kind": resource.kind, "name": f"vllm-{role}"}
            spec = {
                "groupRef": {"name": GROUP},
                "stage": role.capitalize(),
                "maxReplicas": 8,
                "profileRef": {"name": "profile"},
                "scaleTargetRef": ref,
                **role_spec,
            }
            self.kube.create(INFERENCE_ROLES, own(INFERENCE_ROLES, role, spec), self.namespace)
        objectives = {"timeToFirstTokenMilliseconds": 2500, "interTokenLatencyMicroseconds": 95_000}
        spec = {
            "objectives": {**objectives, "attainmentPermille": 950},
            "metrics": {"source": "default", "preset": "quick", "models": [GROUP]},
            "accelerators": {"maximum": 5},
            "rebalance": {"mode": mode, "cooldownSeconds": 1},
        }
        self.kube.create(INFERENCE_GROUPS, own(INFERENCE_GROUPS, GROUP, spec), self.namespace)

    def group(self) -> Object:
        (found,) = self.kube.list(INFERENCE_GROUPS, self.namespace)
        return found

    def role(self, name: str) -> Object | None:
        return self.kube.get(INFERENCE_ROLES, name, self.namespace)

    def counts(self) -> dict[str, int]:
        return {
            role: self.kube.get(resource, f"vllm-{role}", self.namespace)["spec"]["replicas"]  # type: ignore[index]
            for role, resource in self.workloads.items()
        }

    def pods(self, role: str) -> list[Object]:
        return [
            pod
            for pod in self.kube.list(PODS, self.namespace)
            if pod["metadata"].get("labels", {}).get("app") == f"vllm-{role}"
        ]

    def ready(self, role: str) -> int:
        return sum(
            any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"]["conditions"])
            for pod in self.pods(role)
            if pod.get("status", {}).get("conditions")
        )

    def wait_ready(self, **counts: int) -> None:
        for role, count in counts.items():
            eventually(lambda r=role, n=count: self.ready(r) == n, 30, what=f"{count} of {role}")  # type: ignore[misc]


@pytest.fixture
def site(control_plane: ControlPlane, namespace: str, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The operator and a node; by the test of the documentation in the namespace that is written there."""
    world = World(control_plane, namespace, hosts=0, gpus=0, memories=0)
    front_end = signals(ANSWERS)
    node = f"{namespace}-node"
    if "kubectl" in request.fixturenames:
        namespace = "serving"
    with idle_group.idle_engines(world.kube, namespace, front_end) as settings:
        kubelet = (sys.executable, "-m", "weft_dev.kubelet", f"--kubeconfig={control_plane.kubeconfig}")
        environment = {"PYTHONPATH": PYTHONPATH, "PATH": "/usr/bin:/bin"}
        world.processes.start("kubelet", (*kubelet, f"--nodes={node}"), environment=environment)
        settings["sources"]["default"]["scrape_interval_seconds"] = 0.5
        world.start_operator(**settings, scale_targets=LISTED)
        found = Site(world, namespace, front_end)
        try:
            yield found
        finally:
            for resource in (INFERENCE_GROUPS, INFERENCE_ROLES, *set(found.workloads.values())):
                for obj in world.kube.list(resource, namespace):
                    name = obj["metadata"]["name"]
                    world.kube.patch(resource, name, {"metadata": {"finalizers": None}}, namespace)
                    world.kube.delete(resource, name, namespace)
            world.close()
            world.kube.delete(NODES, node)
            world.kube.delete(NAMESPACES, "serving")


@contextlib.contextmanager
def repeated(act: Callable[[], None], every: float = 0.1) -> Iterator[None]:
    """`act` is done all the time, in a thread."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every):
            with contextlib.suppress(ClusterError):
                act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join(10)


def commands(heading: str) -> list[str]:
    """The commands of docs/adopt.md under a heading."""
    section = (ROOT / "docs" / "adopt.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_a_pair_of_deployments_is_adopted_balanced_and_given_back_by_the_commands_of_the_docs(
    site: Site, kubectl: Kubectl
) -> None:
    def run(heading: str) -> None:
        for command in commands(heading):
            program, *arguments = shlex.split(command)
            assert program == "kubectl"
            kubectl(*(str(ROOT / one) if one.startswith("docs/") else one for one in arguments))
            if arguments[0] == "apply":  # the documentation has the time
                quick = {"spec": {"rebalance": {"cooldownSeconds": 1}}}
                site.kube.patch(INFERENCE_GROUPS, "llama-70b", quick, "serving")

    kubectl("apply", "-f", str(ROOT / "docs/examples/adopt/10-deployments.yaml"))
    site.workloads = dict.fromkeys(("prefill", "decode"), DEPLOYMENTS)
    site.wait_ready(prefill=2, decode=3)
    before = {one["metadata"]["name"]: one["spec"] for one in site.kube.list(DEPLOYMENTS, "serving")}
    site.front_end |= signals(PROMPTS)
    run("Watch first")
    assert site.counts() == {"prefill": 2, "decode": 3}
    assert {reason(site.role(name), "AbleToScale") for name in site.workloads} == {"ReadOnly"}

    most = [0]

    def count() -> None:
        most[0] = max(most[0], len(site.pods("prefill")) + len(site.pods("decode")))

    with repeated(count):
        run("Let it move")
        eventually(lambda: site.counts() == {"prefill": 3, "decode": 2}, 40, what="the split follows")
        site.wait_ready(prefill=3, decode=2)
    assert most[0] == 5
    eventually(lambda: reason(site.group(), "Balanced") == "AsDecided", what="it is as decided")

    # A person, or an autoscaler.
    scale = {"spec": {"replicas": 1}}
    site.kube.patch(DEPLOYMENTS, "vllm-prefill", scale, "serving", subresource="scale")
    eventually(lambda: reason(site.role("prefill"), "AbleToScale") == "OtherScaler", what="it is noticed")
    assert site.counts() == {"prefill": 1, "decode": 2}
    run("When something else scales, too")
    eventually(lambda: reason(site.role("prefill"), "AbleToScale") == "Followed", what="it scales again")

    run("Out again")
    assert site.kube.list(INFERENCE_GROUPS, "serving") == []
    left = {one["metadata"]["name"]: one["spec"] for one in site.kube.list(DEPLOYMENTS, "serving")}
    for spec in (*before.values(), *left.values()):
        del spec["replicas"]
    assert left == before


def test_the_docs_list_the_kind_as_the_operators_setting_takes_it() -> None:
    text = (ROOT / "docs" / "adopt.md").read_text()
    (found,) = re.findall(r"settings.scale_targets=(.*)'", text)
    assert json.loads(found) == LISTED[:1]


def define(kube: Kube, resource: ResourceType) -> None:
    """A definition with the scale subresource that the published one has."""
    kind = {"kind": resource.kind, "plural": resource.plural, "singular": resource.kind.lower()}
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    replicas = {"properties": {"replicas": {"type": "integer", "format": "int32"}}}
    version = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "properties": {"spec": {**anything, **replicas}, "status": anything},
            }
        },
        "subresources": {"status": {}, "scale": {**scale, "labelSelectorPath": SELECTOR_PATHS[resource]}},
    }
    name = f"{resource.plural}.{resource.group}"
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {"group": resource.group, "names": kind, "scope": "Namespaced", "versions": [version]},
    }
    kube.apply(DEFINITIONS, body)
    eventually(
        lambda: any(
            one["type"] == "Established" and one["status"] == "True"
            for one in (kube.get(DEFINITIONS, name) or {}).get("status", {}).get("conditions") or ()
        ),
        what=f"{name} is served",
    )


def control(site: Site, role: str, resource: ResourceType) -> None:
    """What the kind's own controller does: pods as asked for, the highest number gone first, and its status."""
    name = f"vllm-{role}"
    workload = site.kube.get(resource, name, site.namespace)
    if workload is None:
        return
    wanted, here = workload["spec"]["replicas"], {pod["metadata"]["name"] for pod in site.pods(role)}
    for number in range(8):
        pod = f"{name}-{number}"
        if number < wanted and pod not in here:
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "labels": {"app": name}}}
            spec = {
                "containers": [{"name": "engine", "image": "vllm:1"}],
                "terminationGracePeriodSeconds": 1,
            }
            site.kube.create(PODS, {**body, "spec": spec}, site.namespace)
        elif number >= wanted and pod in here:
            site.kube.delete(PODS, pod, site.namespace)
    field = SELECTOR_PATHS[resource].rpartition(".")[2]
    status = {"replicas": len(site.pods(role)), field: f"app={name}"}
    if workload.get("status") != status:
        site.kube.patch(resource, name, {"status": status}, site.namespace, subresource="status")


@pytest.mark.parametrize(
    ("prefill", "decode"), [(LEADER_WORKER_SETS, STATEFUL_SETS), (DYNAMO, RBG)], ids=["sets", "adapters"]
)
def test_other_kinds_are_scaled_as_their_definitions_say(
    site: Site, prefill: ResourceType, decode: ResourceType
) -> None:
    stand_ins = {"prefill": prefill, "decode": decode}
    stand_ins = {role: resource for role, resource in stand_ins.items() if resource in SELECTOR_PATHS}
    for resource in stand_ins.values():
        define(site.kube, resource)
    site.workload("prefill", prefill, 2)
    site.workload("decode", decode, 3)

    def controllers() -> None:
        for role, resource in stand_ins.items():
            control(site, role, resource)

    with repeated(controllers):
        site.wait_ready(prefill=2, decode=3)
        site.adopt("Auto")
        eventually(lambda: reason(site.group(), "Balanced") == "AsDecided", what="it starts as it is")
        site.front_end |= signals(PROMPTS)
        eventually(lambda: site.counts() == {"prefill": 3, "decode": 2}, 40, what="the split follows")
        site.wait_ready(prefill=3, decode=2)
        eventually(lambda: reason(site.group(), "Balanced") == "AsDecided", what="it is as decided")

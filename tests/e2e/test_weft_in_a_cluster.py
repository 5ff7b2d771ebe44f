"""The chart's life in a cluster, once: installed, used by live traffic, hurt, upgraded, uninstalled.

The module's first fixtures do it and keep what was seen; each test asserts one thing of it, in the order of events.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import pytest

from weft.api.crd import DEFINITIONS
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
    PODS,
    ResourceType,
)
from weft.cluster import ClusterError, Object
from weft.emulator import journal
from weft_dev import ROOT
from weft_dev.commands import CommandError, environment
from weft_dev.containers import docker
from weft_dev.kind_site import KindSite
from weft_playground.case import Split
from weft_playground.demo.facts import Census, GroupFacts, condition
from weft_playground.demo.manifests import Examples, group_objects, namespace_object, with_plain_pods
from weft_playground.lag import LagMeter
from weft_playground.load import Result, Target, run_load
from weft_playground.trace import Request

T = TypeVar("T")

NAMESPACE = "e2e"
OPERATOR = "weft-system"
NAMESPACES = (NAMESPACE, "demo", "demo-auto", "demo-paused", "monitoring")
WORKERS = {"weft-worker": "sled-0", "weft-worker2": "sled-1"}
START = Split(2, 4)
SHIFT_SECONDS = 20.0
LOAD_SECONDS = 115.0
# On a slow machine the load goes on until the split has followed, at most for so long.
LOAD_LIMIT_SECONDS = 240.0
ANSWERS_SECONDS = 120.0
# First short prompts with long answers: two prefill replicas idle most of the time, four decode 37 streams. Then long
# prompts with short answers: three of them a second are the work of 3.2 prefill replicas and of a fifth of a decode
# replica. So 2:4 suits the first part, and no split below four prefill replicas the second.
BEFORE, AFTER = Request(0, 512, 150), Request(0, 3000, 30)
PER_SECOND = {BEFORE: 4.0, AFTER: 3.0}
# Kubernetes' own; and pods of what was there before the chart, which may be replaced.
PASSING = (
    *(
        f"{kind}/{namespace}/"
        for namespace in ("kube-system", "kube-node-lease", "local-path-storage", "default")
        for kind in ("Pod", "Lease", "LeaseCandidate", "EndpointSlice", "Endpoints", "PodMetrics")
    ),
    *(
        f"{kind}/{workload}-"
        for kind in ("Pod", "EndpointSlice", "PodMetrics")
        for workload in ("monitoring/prometheus", "e2e/router")
    ),
    "NodeMetrics/",
)
POOLS = {GPU_POOLS: "h200", MEMORY_POOLS: "cxl"}


def until(check: Callable[[], T | None], what: str, timeout_seconds: float = 90.0) -> T:
    """The first true answer."""
    deadline = time.monotonic() + timeout_seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {timeout_seconds:.0f} s: {what}"
        time.sleep(0.3)
    return answer


def traffic(enough: threading.Event) -> Iterator[Request]:
    at = 0.0
    while at < LOAD_SECONDS or (at < LOAD_LIMIT_SECONDS and not enough.is_set()):
        kind = BEFORE if at < SHIFT_SECONDS else AFTER
        yield Request(at, kind.prompt_tokens, kind.answer_tokens)
        at += 1 / PER_SECOND[kind]


def logical_node(name: str) -> Object:
    accelerators = [{"name": "main", "count": 2, "selector": {"matchAttributes": {"model": "H200"}}}]
    metadata = {"name": name, "namespace": NAMESPACE}
    spec = {"accelerators": accelerators, "memory": [{"name": "buffer", "size": "512Gi"}]}
    return {"apiVersion": "weft.dev/v1alpha2", "kind": "LogicalNode", "metadata": metadata, "spec": spec}


def everything(site: KindSite) -> set[str]:
    """All objects in the cluster, as kind/namespace/name, but for those that come and go by themselves."""
    kinds = site.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    wanted = ",".join(kind for kind in kinds if not kind.startswith(("events", "controllerrevisions")))
    columns = "custom-columns=:kind,:metadata.namespace,:metadata.name"
    listed = site.kubectl("get", wanted, "-A", "--no-headers", "-o", columns, "--ignore-not-found")
    found = {"/".join(line.split()) for line in listed.splitlines() if line.strip()}
    return {each for each in found if not each.startswith(PASSING)}


@pytest.fixture(scope="module")
def examples() -> Examples:
    return with_plain_pods()


@dataclass
class Installed:
    """After `helm install`."""

    before: set[str]
    notes: str
    test_output: str


@pytest.fixture(scope="module")
def installed(site: KindSite, examples: Examples) -> Iterator[Installed]:
    site.clean(*NAMESPACES)
    site.kubectl.apply([namespace_object(name) for name in (OPERATOR, NAMESPACE, "demo", "monitoring")])
    site.start_prometheus()
    site.start_router(NAMESPACE, examples.group_name)
    site.wait_for_rollouts("monitoring", NAMESPACE)
    before = everything(site)
    assert carries_label_of_the_chart(site) == "", "an earlier run's would pass for what was always there"
    notes = site.install()
    yield Installed(before, notes, site.release.test())
    site.clean(*NAMESPACES)


def carries_label_of_the_chart(site: KindSite) -> str:
    """Names of what the chart makes, or has made."""
    kinds = "serviceaccounts,clusterroles,clusterrolebindings,roles,rolebindings,configmaps,secrets,services,pods,jobs"
    return site.kubectl(
        *("get", kinds, "-A", "-o", "name", "--ignore-not-found", "-l", "app.kubernetes.io/name=weft")
    ).strip()


@dataclass
class Lived:
    """What was seen while the chart was in use. Times are monotonic."""

    started: float
    pools: dict[str, int] = field(default_factory=dict)
    nodes_of: dict[str, str] = field(default_factory=dict)
    third: Object = field(default_factory=dict)
    writes: dict[str, list[str]] = field(default_factory=dict)
    facts: GroupFacts = field(default_factory=lambda: GroupFacts(START.replicas * 2))
    sent: int = 0
    results: list[Result] = field(default_factory=list)
    killed: str = ""
    next_leader: str = ""
    killed_at: float = 0.0
    before_upgrade: Sequence[tuple[str, ...]] = ()
    after_upgrade: Sequence[tuple[str, ...]] = ()
    generations: tuple[int, int] = (0, 0)
    journal: list[str] = field(default_factory=list)
    decision: str = ""

    def census_at(self, seconds: float) -> Census:
        """The group's replicas `seconds` after the start of the load."""
        return [census for at, census in self.facts.history if at <= self.started + seconds][-1]


def attachments(site: KindSite) -> list[tuple[str, ...]]:
    """Which device is where, by the identity of the object that says so."""
    return sorted(
        (each["metadata"]["uid"], each["metadata"]["name"], each["spec"]["host"])
        for each in site.kube.list(DEVICE_ATTACHMENTS)
    )


def leader(site: KindSite) -> str:
    lease = site.kube.get(LEASES, "weft-operator", OPERATOR) or {}
    return str(lease.get("spec", {}).get("holderIdentity", ""))


def bind_logical_nodes(site: KindSite, lived: Lived) -> None:
    for name in ("left", "right"):
        site.kubectl.apply([logical_node(name)])
    for name in ("left", "right"):
        bound = until(partial(is_bound, site, name), f"{name} is Bound")
        lived.nodes_of[name] = bound["status"]["nodeName"]
    lived.writes = {each["metadata"]["name"]: each["status"]["writes"] for each in site.kube.list(FABRICS)}
    site.kubectl.apply([logical_node("third")])
    lived.third = until(lambda: has_verdict(site, "third"), "the third logical node is told why it waits")


def is_bound(site: KindSite, name: str) -> Object | None:
    found = site.kube.get(LOGICAL_NODES, name, NAMESPACE) or {}
    return found if condition(found, "Bound")[0] == "True" else None


def has_verdict(site: KindSite, name: str) -> Object | None:
    found = site.kube.get(LOGICAL_NODES, name, NAMESPACE) or {}
    return found if condition(found, "Bound")[0] == "False" else None


class Watcher(threading.Thread):
    """Looks at the group's pods twice a second, whatever else is done to the cluster meanwhile."""

    def __init__(self, site: KindSite, facts: GroupFacts) -> None:
        super().__init__(daemon=True)
        self._site = site
        self._facts = facts
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.wait(0.5):
            # An API server that does not answer for a moment is asked again.
            with contextlib.suppress(OSError, http.client.HTTPException, ClusterError):
                self._facts.see_pods(time.monotonic(), self._site.kube.list(PODS, NAMESPACE))

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join()


def serves(lived: Lived, split: Split) -> bool:
    return (lived.facts.census.prefill, lived.facts.census.decode) == (split.prefill, split.decode)


def has_followed(lived: Lived) -> bool:
    return lived.facts.census.prefill > lived.facts.census.decode


class Traffic(threading.Thread):
    """Sends everything through the router's Service; its results are complete when it has ended."""

    def __init__(self, url: str, model_name: str) -> None:
        super().__init__(daemon=True)
        self._targets = [Target(NAMESPACE, url, model_name)]
        self._out = io.StringIO()
        self._begun = threading.Event()
        self.zero = 0.0
        self.sent = 0
        self.enough = threading.Event()

    def run(self) -> None:
        asyncio.run(run_load(self._targets, self._count(), self._out, LagMeter(), started=self._note_zero))

    def _count(self) -> Iterator[Request]:
        for request in traffic(self.enough):
            self.sent += 1
            yield request

    def begin(self) -> float:
        self.start()
        assert self._begun.wait(30)
        return self.zero

    def _note_zero(self, zero: float) -> None:
        self.zero = zero
        self._begun.set()

    def results(self) -> list[Result]:
        return [Result(**json.loads(line)) for line in self._out.getvalue().splitlines()]


@pytest.fixture(scope="module")
def lived(site: KindSite, installed: Installed, examples: Examples) -> Lived:
    """Pools, logical nodes, a group under load; the leader is killed after the shift, then the chart is upgraded."""
    lived = Lived(started=0.0)
    site.kubectl.apply(each for each in examples.common if each["kind"] != "LogicalNode")
    for kind, name in POOLS.items():
        lived.pools[name] = until(partial(devices, site, kind, name), f"pool {name} has devices")
    site.kubectl.apply(group_objects(examples.group, NAMESPACE, "Auto", START))
    with Watcher(site, lived.facts):
        until(lambda: serves(lived, START), f"{START} serve", 180)
        be_used(site, lived, examples)
    group = site.kube.get(INFERENCE_GROUPS, examples.group_name, NAMESPACE) or {}
    lived.decision = json.dumps(group.get("status", {}).get("decision"))
    return lived


def be_used(site: KindSite, lived: Lived, examples: Examples) -> None:
    """Logical nodes, and the load with what is done to the operator under it."""
    # After the group's pods are placed: a node that carries a logical node takes none but its owner's.
    bind_logical_nodes(site, lived)

    load = Traffic(site.front(NAMESPACE), examples.model_name)
    lived.started = load.begin()
    steps = iter(
        [
            # Before it can have seen the shift: a decision is carried out within seconds.
            (SHIFT_SECONDS + 1, kill_the_leader),
            (SHIFT_SECONDS + 45, upgrade),
        ]
    )
    due, step = next(steps)
    while load.is_alive():
        at = time.monotonic() - lived.started
        assert at < LOAD_LIMIT_SECONDS + ANSWERS_SECONDS, (
            f"no end: {len(load.results())} of {load.sent} answers"
        )
        if at > due:
            step(site, lived)
            due, step = next(steps, (float("inf"), step))
        elif due == float("inf") and has_followed(lived):
            load.enough.set()
        time.sleep(0.5)
    assert lived.generations != (0, 0), "the load ended before all was done to the operator"
    lived.sent, lived.results = load.sent, load.results()


def devices(site: KindSite, kind: ResourceType, name: str) -> int:
    pool = site.kube.get(kind, name) or {}
    return int(pool.get("status", {}).get("devices", {}).get("total", 0))


def kill_the_leader(site: KindSite, lived: Lived) -> None:
    lived.killed = leader(site)
    pod = site.kube.get(PODS, lived.killed, OPERATOR)
    assert pod is not None
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    # Without a word: it gives its Lease up on SIGTERM.
    kill = ("ctr", "--namespace=k8s.io", "task", "kill", "--signal=SIGKILL", container)
    docker("exec", pod["spec"]["nodeName"], *kill)
    lived.killed_at = time.monotonic()
    site.kube.delete(PODS, lived.killed, OPERATOR, grace_seconds=0)
    lived.next_leader = until(
        lambda: now if (now := leader(site)) != lived.killed else "", "another replica leads"
    )


def upgrade(site: KindSite, lived: Lived) -> None:
    """With another setting, so that every pod of the operator is replaced; devices are bound all the while."""
    lived.before_upgrade = attachments(site)
    before = generation(site)
    site.install("--set=settings.workers=16", "--set=crds.keep=false")
    lived.generations = (before, generation(site))
    lived.after_upgrade = attachments(site)
    lived.journal = site.journal_lines()


def generation(site: KindSite) -> int:
    text = site.kubectl("-n", OPERATOR, "get", "deployment", "weft", "-o", "jsonpath={.metadata.generation}")
    return int(text)


def test_the_notes_say_what_to_do_next(installed: Installed) -> None:
    assert "kubectl" in installed.notes
    assert "weft-emulator" in installed.notes, "where the fabric manager is that Weft can be tried with"


def test_the_charts_own_test_passes(installed: Installed) -> None:
    assert "Phase:          Succeeded" in installed.test_output or "Succeeded" in installed.test_output


def test_the_pools_show_the_devices_of_the_fabric_manager(lived: Lived) -> None:
    assert lived.pools == {"h200": 16, "cxl": 8}


def test_accelerators_and_memory_are_at_managers_that_are_written_to_in_two_idioms(lived: Lived) -> None:
    assert lived.writes == {"rack-a": ["ComposeByPatch"], "rack-a-memory": ["Connections"]}


def test_two_workers_carry_a_logical_node_each_and_a_third_waits(lived: Lived) -> None:
    assert set(lived.nodes_of.values()) == set(WORKERS)
    status, message = condition(lived.third, "Bound")
    assert status == "False"
    assert message, "it is told why"


def test_no_request_fails_while_the_split_changes_and_the_operator_is_killed_and_upgraded(
    lived: Lived,
) -> None:
    assert [each.error for each in lived.results if not each.ok] == []
    assert len(lived.results) == lived.sent > SHIFT_SECONDS * PER_SECOND[BEFORE]


def test_the_split_follows_the_mix(lived: Lived) -> None:
    assert (lived.census_at(SHIFT_SECONDS).prefill, lived.census_at(SHIFT_SECONDS).decode) == (2, 4)
    assert has_followed(lived), f"at the end {lived.facts.census}; the last decision: {lived.decision}"


def test_the_budget_is_never_exceeded(lived: Lived) -> None:
    assert lived.facts.most_accelerators <= lived.facts.budget_accelerators


def test_another_replica_takes_over_from_a_killed_leader(lived: Lived) -> None:
    assert lived.killed
    assert lived.next_leader not in ("", lived.killed)
    # What is seen within a second of the kill may be the killed one's doing; the next may move as soon as it leads.
    changes = [round(at - lived.killed_at, 1) for at, *_ in lived.facts.stage_changes]
    assert [at for at in changes if at > 1], f"replicas are moved by the next leader: {changes}"


def test_an_upgrade_replaces_the_operator_and_leaves_what_is_bound_alone(lived: Lived) -> None:
    assert lived.generations[1] > lived.generations[0]
    assert lived.before_upgrade
    assert lived.after_upgrade == lived.before_upgrade
    report = journal.check(lived.journal)
    assert not report.double_attached
    kinds = sorted((host, block.partition("-")[0]) for block, host in report.left_attached)
    assert kinds == [(host, kind) for host in WORKERS.values() for kind in ("cxl", "gpu", "gpu")]


def test_a_freed_host_goes_to_the_logical_node_that_waits(site: KindSite, lived: Lived) -> None:
    site.kube.delete(LOGICAL_NODES, "left", NAMESPACE)
    third = until(lambda: is_bound(site, "third"), "the third logical node is Bound")
    assert third["status"]["nodeName"] == lived.nodes_of["left"]


def test_helm_refuses_to_remove_definitions_while_devices_are_attached(site: KindSite, lived: Lived) -> None:
    with pytest.raises(CommandError, match=r"(?s)hold a finalizer.*logicalnodes: e2e/right"):
        site.release.uninstall()
    assert is_bound(site, "right") is not None


def test_uninstall_leaves_nothing(site: KindSite, installed: Installed, lived: Lived) -> None:
    for kind in (INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES):
        for each in site.kube.list(kind):
            site.kube.delete(kind, each["metadata"]["name"], each["metadata"]["namespace"])
    until(
        lambda: (
            not any(site.kube.list(kind) for kind in (INFERENCE_GROUPS, LOGICAL_NODES, DEVICE_ATTACHMENTS))
        ),
        "groups, logical nodes and attachments are gone",
    )
    lines = site.journal_lines()
    assert len(lines) > len(lived.journal), "the emulator has the whole journal still"
    assert not journal.check(lines).left_attached
    for kind in (*POOLS, FABRICS):
        for each in site.kube.list(kind):
            site.kube.delete(kind, each["metadata"]["name"])
    until(lambda: not any(site.kube.list(kind) for kind in (*POOLS, FABRICS)), "pools and fabrics are gone")
    site.release.uninstall()
    assert until_settled(lambda: everything(site) - installed.before) == set()
    for node in site.kube.list(NODES):
        metadata = node["metadata"]
        keys = [*(each["key"] for each in node["spec"].get("taints", ())), *metadata["labels"]]
        assert not [key for key in (*keys, *metadata["annotations"]) if key.startswith("weft.dev")]
    assert site.kube.get(LEASES, "weft-operator", OPERATOR) is None


def until_settled(look: Callable[[], set[str]]) -> set[str]:
    """What is there in the end: the garbage collector comes after helm, and pods take their grace period."""
    deadline = time.monotonic() + 60
    while (seen := look()) and time.monotonic() < deadline:
        time.sleep(1)
    return seen


def typed(section: str) -> Iterator[str]:
    """The commands of docs/install.md's first block below a heading, as they stand there."""
    text = (ROOT / "docs" / "install.md").read_text().split(f"\n### {section}\n")[1].split("\n### ")[0]
    block = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)[0].replace("\\\n", " ")
    yield from block.splitlines()


def test_the_pages_way_to_install_leads_to_a_bound_node_and_back_to_an_empty_cluster(site: KindSite) -> None:
    site.clean(*NAMESPACES)
    before = everything(site)
    folders = [str(each.parent) for each in (site.kubectl.binary, site.release.helm)]
    kubeconfig = environment(site.kubectl.kubeconfig)
    shell = {**kubeconfig, "PATH": os.pathsep.join((*folders, kubeconfig["PATH"]))}

    def run(section: str) -> None:
        for command in typed(section):
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=ROOT, env=shell, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            if command.startswith("helm uninstall"):
                # crds.keep is true in these values.
                kept = site.kubectl("get", "crd", "-o", "name").split()
                assert len([name for name in kept if name.endswith(".weft.dev")]) == len(DEFINITIONS)

    run("Install Weft")
    run("Hardware: the first logical node")
    assert len(attachments(site)) == 8
    run("And back")
    assert until_settled(lambda: everything(site) - before) == set()

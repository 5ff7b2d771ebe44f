"""docs/examples as the demo applies them: two groups from the one example, everything else as it is. Pure but for
reading the files.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import yaml

from weft.cluster import Object
from weft_dev import ROOT
from weft_playground.case import ACCELERATORS_PER_REPLICA, MODES, Split
from weft_playground.demo.rehearsal import Objectives

EXAMPLES = ROOT / "docs" / "examples"
# The group comes last, so that its first decision knows all its roles.
GROUP_KINDS = ("EngineProfile", "InferenceRole", "InferenceGroup")
RESTART_GRACE_SECONDS = 30
"""For what a front end sent before it heard that a pod ends."""


@dataclass(frozen=True)
class Examples:
    """`common`: fabric, pools, logical nodes and their namespaces; `group`: a group with its roles and profile."""

    common: Sequence[Object]
    group: Sequence[Object]

    @property
    def fabric(self) -> Object:
        """The one that has the accelerators."""
        return next(each for each in self.common if each["kind"] == "Fabric")

    @property
    def objectives(self) -> Objectives:
        spec = only(self.group, "InferenceGroup")["spec"]["objectives"]
        return Objectives(
            spec["timeToFirstTokenMilliseconds"] / 1e3,
            spec["interTokenLatencyMicroseconds"] / 1e6,
            spec["attainmentPermille"] / 1e3,
        )

    @property
    def group_name(self) -> str:
        name: str = only(self.group, "InferenceGroup")["metadata"]["name"]
        return name

    @property
    def model_name(self) -> str:
        name: str = only(self.group, "InferenceGroup")["spec"]["metrics"]["models"][0]
        return name

    def with_fabric_at(self, url: str) -> Examples:
        """The same with the fabric manager at its address of this run."""
        changed = copy.deepcopy(self)
        changed.fabric["spec"]["endpoint"] = url
        return changed

    def with_memory_at(self, url: str) -> Examples:
        """The same with memory and drives at a second fabric manager, which knows the hosts by the same names."""
        changed = copy.deepcopy(self)
        second = copy.deepcopy(changed.fabric)
        second["metadata"]["name"] = f"{second['metadata']['name']}-memory"
        second["spec"]["endpoint"] = url
        for each in changed.common:
            if each["kind"] in ("MemoryPool", "StoragePool"):
                each["spec"]["fabricRef"]["name"] = second["metadata"]["name"]
        return Examples((*changed.common, second), changed.group)

    def with_preset(self, preset: str) -> Examples:
        """The same with another preset of metrics."""
        changed = copy.deepcopy(self)
        only(changed.group, "InferenceGroup")["spec"]["metrics"]["preset"] = preset
        return changed

    def with_restarts(self, argument: str) -> Examples:
        """The same with engines that serve one stage, which `argument` names, and change it by a restart."""
        changed = copy.deepcopy(self)
        group = only(changed.group, "InferenceGroup")["spec"]
        group["rebalance"]["flip"] = "Restart"
        template = group.pop("template")
        template["spec"]["terminationGracePeriodSeconds"] = RESTART_GRACE_SECONDS
        for each in changed.group:
            if each["kind"] == "InferenceRole":
                own = each["spec"]["template"] = copy.deepcopy(template)
                own["spec"]["containers"][0]["args"].append(f"{argument}={each['spec']['stage'].lower()}")
        return changed

    def with_engine_argument(self, argument: str) -> Examples:
        """The same with one more argument for every engine."""
        changed = copy.deepcopy(self)
        template = only(changed.group, "InferenceGroup")["spec"]["template"]
        template["spec"]["containers"][0]["args"].append(argument)
        return changed


def read(*names: str) -> list[Object]:
    """The objects of files of docs/examples, in their order."""
    return [
        document
        for name in names
        for document in yaml.safe_load_all((EXAMPLES / name).read_text())
        if document
    ]


def with_logical_nodes() -> Examples:
    """Replicas on logical nodes of their own: needs as many nodes as the examples' fabric has hosts."""
    common = read("00-namespace.yaml", "10-fabric.yaml", "20-pools.yaml", "30-logical-node.yaml")
    return Examples(common, read("40-inference-group.yaml"))


def with_plain_pods() -> Examples:
    """For a cluster with real kubelets and two workers."""
    common = read("00-namespace.yaml", "kind/20-fabric.yaml", "30-logical-node.yaml")
    return Examples(common, read("kind/40-inference-group.yaml"))


def only(objects: Iterable[Object], kind: str) -> Object:
    """The one object of this kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def group_objects(group: Sequence[Object], namespace: str, mode: str, split: Split) -> list[Object]:
    """The example's group in a namespace of its own: with this mode, this split and a budget of just its size."""
    replicas = {"Prefill": split.prefill, "Decode": split.decode}
    result: list[Object] = [namespace_object(namespace)]
    for each in sorted(group, key=lambda each: GROUP_KINDS.index(each["kind"])):
        changed = copy.deepcopy(each)
        changed["metadata"]["namespace"] = namespace
        if each["kind"] == "InferenceGroup":
            changed["spec"]["rebalance"]["mode"] = mode
            changed["spec"]["accelerators"]["maximum"] = split.replicas * ACCELERATORS_PER_REPLICA
        if each["kind"] == "InferenceRole":
            changed["spec"]["replicas"] = replicas[each["spec"]["stage"]]
            changed["spec"]["maxReplicas"] = max(split.replicas - 1, replicas[each["spec"]["stage"]])
        result.append(changed)
    return result


def all_groups(examples: Examples, split: Split, namespaces: Iterable[str] = MODES) -> list[Object]:
    return [each for name in namespaces for each in group_objects(examples.group, name, MODES[name], split)]


def namespace_object(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}

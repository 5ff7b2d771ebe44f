"""docs/examples as the demo applies them: two groups from the one example, everything else as it is. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from weft_dev.demo.case import ACCELERATORS_PER_REPLICA, AUTO, PAUSED, Split
from weft_dev.demo.rehearsal import Objectives
from weft_dev.kube import Object

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"
# The group comes last, so that its first decision knows all its roles.
GROUP_KINDS = ("ConfigMap", "InferenceRole", "InferenceGroup")


def read_examples(folder: Path = EXAMPLES) -> list[Object]:
    """All objects of the examples, in the order of file names."""
    return [
        document
        for file in sorted(folder.glob("[0-9]*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
        if document
    ]


def only(objects: Iterable[Object], kind: str) -> Object:
    """The one object of this kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def objectives(group: Object) -> Objectives:
    spec = group["spec"]["objectives"]
    return Objectives(
        spec["timeToFirstTokenMilliseconds"] / 1000, spec["interTokenLatencyMilliseconds"] / 1000
    )


def common(objects: Sequence[Object], fabric_url: str) -> list[Object]:
    """Everything but the group: the fabric at its address of this run, pools, the logical node."""
    result = []
    for each in objects:
        if each["kind"] in GROUP_KINDS:
            continue
        changed = copy.deepcopy(each)
        if each["kind"] == "Fabric":
            changed["spec"]["endpoint"] = fabric_url
        result.append(changed)
    return result


def group_objects(objects: Sequence[Object], namespace: str, mode: str, split: Split) -> list[Object]:
    """The example's group in a namespace of its own: with this mode, this split and a budget of just its size."""
    replicas = {"Prefill": split.prefill, "Decode": split.decode}
    result: list[Object] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}]
    for each in sorted(
        (each for each in objects if each["kind"] in GROUP_KINDS),
        key=lambda each: GROUP_KINDS.index(each["kind"]),
    ):
        changed = copy.deepcopy(each)
        changed["metadata"]["namespace"] = namespace
        if each["kind"] == "InferenceGroup":
            changed["spec"]["rebalance"]["mode"] = mode
            changed["spec"]["budget"]["accelerators"] = split.replicas * ACCELERATORS_PER_REPLICA
        if each["kind"] == "InferenceRole":
            changed["spec"]["replicas"] = replicas[each["spec"]["stage"]]
            changed["spec"]["maxReplicas"] = max(split.replicas - 1, replicas[each["spec"]["stage"]])
        result.append(changed)
    return result


def both_groups(objects: Sequence[Object], split: Split) -> list[Object]:
    return [
        *group_objects(objects, AUTO, "Auto", split),
        *group_objects(objects, PAUSED, "Paused", split),
    ]

"""What is kept of a cached object: the fields that somebody reads, and each text once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from weft.api.names import LABEL_GROUP
from weft.api.resources import GROUP, NODES, PODS, ResourceType
from weft.cluster import Object

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
USED: Mapping[ResourceType, Mapping[str, frozenset[str]]] = {
    PODS: {
        "spec": frozenset({"nodeName", "tolerations", "hostNetwork"}),
        "status": frozenset({"phase", "reason", "conditions"}),
    },
    NODES: {
        "spec": frozenset({"taints", "unschedulable"}),
        "status": frozenset({"allocatable", "conditions", "nodeInfo"}),
    },
}
"""The fields that are kept of Kubernetes' own objects, of which a cluster has many. Who reads another one adds it."""
ANNOTATIONS = frozenset({"controller.kubernetes.io/pod-deletion-cost"})
"""What is kept of their annotations beside Weft's own."""
MOST_TEXTS = 20_000
"""Texts that are known at a time: a few MiB."""
LONGEST_TEXT = 1024
"""Characters of a text that is known, as many as a condition's message may have: a tenant's file in a pod template is
a megabyte, and would stay when its object is gone."""
DEEPEST = 40
"""Levels of an object that are kept: no field of Kubernetes is deeper, and what goes through one calls itself."""
TOO_DEEP = "(nested too deep)"
"""Stands for what is deeper, in a tenant's pod template: the API server refuses the pod by the name of the field."""


def lean(resource: ResourceType, obj: Object) -> Object:
    """An object without what nobody here reads and every object has much of.

    A status that is written without managed fields leaves those that are stored as they are.
    """
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    used = USED.get(resource, {})
    if annotations := metadata.get("annotations"):
        metadata["annotations"] = {
            key: value
            for key, value in annotations.items()
            if key != LAST_APPLIED and (not used or key in ANNOTATIONS or key.startswith(f"{GROUP}/"))
        }
    parts = {
        part: {key: value for key, value in obj[part].items() if key in fields}
        for part, fields in used.items()
        if obj.get(part)
    }
    if resource == PODS and (status := obj.get("status")):
        is_engine = LABEL_GROUP in (metadata.get("labels") or {})
        containers = list(_waiting(status))
        if is_engine and (started := min(_starts(status), default=None)):
            containers.append({"state": {"running": {"startedAt": started}}})
        if containers:
            parts["status"]["containerStatuses"] = containers
        if is_engine and (address := status.get("podIP")) is not None:
            parts["status"]["podIP"] = address  # it may be called
    return {**obj, "metadata": metadata, **parts}


def _waiting(status: Mapping[str, Any]) -> Iterator[Object]:
    """Why containers of a pod wait, in a word; nothing of those that run, as nearly all do."""
    for state in _states(status):
        if reason := (state.get("waiting") or {}).get("reason"):
            yield {"state": {"waiting": {"reason": reason}}}


def _starts(status: Mapping[str, Any]) -> Iterator[str]:
    """When containers of a pod began; one API server writes all of them alike, so that the first sorts first."""
    for state in _states(status):
        for one in state.values():
            if at := (one or {}).get("startedAt"):
                yield at


def _states(status: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        yield container.get("state") or {}


class Texts:
    """Gives equal texts of different objects one memory: each is decoded with field names and reasons of its own."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def share(self, obj: Object, before: Object | None = None) -> Object:
        """An object that says the same, down to DEEPEST, with the texts that are known already where they are.

        `before`: the same object as it was, whose spec stays where it is equal. Most changes are of a status or a
        label, and to walk through a spec takes many times as long as to compare it: 20 ms for one of a megabyte.
        """
        if len(self._known) > MOST_TEXTS:
            # Names come and go. What all objects have is known again with the next one.
            self._known.clear()
        spec = obj.get("spec")
        if before is None or spec is None or spec != before.get("spec"):
            shared: Object = self._share(obj, DEEPEST)
            return shared
        rest = {key: value for key, value in obj.items() if key != "spec"}
        return {**self._share(rest, DEEPEST), "spec": before["spec"]}

    def _share(self, value: Any, levels: int) -> Any:
        if type(value) is str:
            return self._known.setdefault(value, value) if len(value) <= LONGEST_TEXT else value
        if not levels and isinstance(value, dict | list):
            return TOO_DEEP
        if type(value) is dict:
            text, share = self._known.setdefault, self._share
            return {text(key, key): share(each, levels - 1) for key, each in value.items()}
        if type(value) is list:
            return [self._share(each, levels - 1) for each in value]
        return value

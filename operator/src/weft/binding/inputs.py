"""Which changes of objects placement depends on: a heartbeat of a Node, or a status that says why something waits,
is none of them, and neither is what another's bind takes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from weft.api.names import FINALIZER, OWN_TAINTS
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    LOGICAL_NODES,
    NAMESPACES,
    NODES,
    PRIORITY_CLASSES,
    ResourceType,
)
from weft.binding.hosts import system_uuid
from weft.binding.objects import is_ready, logical_node_taint
from weft.cluster import Cluster, Object


class Inputs:
    """Counts the changes that matter. For one event loop."""

    def __init__(self) -> None:
        self.generation = 0
        """Grows with every change that matters."""
        self._seen: dict[tuple[ResourceType, str, str], tuple[Hashable, bool]] = {}

    def changed(self, cluster: Cluster, resource: ResourceType, obj: Object) -> bool:
        """Take note of an object that changed; whether that matters."""
        metadata = obj["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        key = (resource, namespace, name)
        gone = cluster.get(resource, name, namespace) is None
        meaning = None if gone else (metadata.get("uid"), _MEANING.get(resource, _spec)(obj))
        before, takes = self._seen.pop(key, (None, False))
        taking = not gone and _takes(resource, obj)
        if meaning is not None:
            self._seen[key] = meaning, taking
        # What only takes something away makes no place for anybody who waits.
        if (meaning == before and not (takes and not taking)) or (before is None and taking):
            return False
        self.generation += 1
        return True


def _takes(resource: ResourceType, obj: Object) -> bool:
    """Whether an object withholds something that is there without it: a claim its device, Weft's taint its host."""
    if resource == NODES:
        return bool(logical_node_taint(obj))
    return resource == DEVICE_ATTACHMENTS


def _spec(obj: Object) -> Hashable:
    return obj["metadata"].get("generation"), "deletionTimestamp" in obj["metadata"]


def _condition(obj: Object, kind: str) -> str:
    conditions = obj.get("status", {}).get("conditions", [])
    return next((str(each.get("status")) for each in conditions if each.get("type") == kind), "")


def _logical_node(obj: Object) -> Hashable:
    # What it is bound to is in its claims; of its status, that it has not what it asks for now.
    metadata = obj["metadata"]
    said = _condition(obj, "Expired"), _condition(obj, "Resized")
    return "deletionTimestamp" in metadata, metadata.get("generation"), *said


def _claim(obj: Object) -> Hashable:
    metadata = obj["metadata"]
    held = FINALIZER in metadata.get("finalizers", [])
    return "deletionTimestamp" in metadata, held, _condition(obj, "Quarantined"), _condition(obj, "Leaving")


def _node(obj: Object) -> Hashable:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    allocatable = status.get("allocatable", {})
    return (
        _items(obj["metadata"].get("labels", {})),
        bool(spec.get("unschedulable")),
        frozenset(_items(taint) for taint in spec.get("taints", []) if taint["key"] not in OWN_TAINTS),
        is_ready(obj),
        (allocatable.get("cpu"), allocatable.get("memory")),
        system_uuid(obj),
    )


def _labels(obj: Object) -> Hashable:
    return _items(obj["metadata"].get("labels", {}))


def _priority_class(obj: Object) -> Hashable:
    return obj.get("value"), bool(obj.get("globalDefault")), obj.get("preemptionPolicy")


def _items(mapping: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((key, str(value)) for key, value in mapping.items())


_MEANING: Mapping[ResourceType, Callable[[Object], Hashable]] = {
    LOGICAL_NODES: _logical_node,
    DEVICE_ATTACHMENTS: _claim,
    NODES: _node,
    NAMESPACES: _labels,
    PRIORITY_CLASSES: _priority_class,
}

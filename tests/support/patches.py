"""The API server's two ways to apply a patch: JSON merge patch for custom kinds, strategic merge for its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from weft.cluster import ClusterError

MERGE_KEYS: Mapping[str, str] = {
    "metadata.ownerReferences": "uid",
    "spec.containers": "name",
    "spec.initContainers": "name",
    "spec.volumes": "name",
    "spec.imagePullSecrets": "name",
    "spec.schedulingGates": "name",
    "spec.topologySpreadConstraints": "topologyKey",
    "spec.hostAliases": "ip",
    "spec.containers.ports": "containerPort",
    "spec.containers.env": "name",
    "spec.containers.volumeMounts": "mountPath",
    "spec.containers.volumeDevices": "devicePath",
    "status.conditions": "type",
    "status.addresses": "type",
    "status.podIPs": "ip",
}
"""Lists of Pods and Nodes whose elements are merged, by what; every other list is replaced as a whole.

Not here, because it is replaced: a Node's `spec.taints`, a Pod's `spec.tolerations` and `spec.readinessGates`.
"""
MERGED_AS_SETS = frozenset({"metadata.finalizers"})
DELETE_FROM = "$deleteFromPrimitiveList/"


def merged(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def strategic(target: Any, patch: Any, path: str = "") -> Any:
    """Strategic merge patch of a Pod or a Node. Raises ClusterError 500 for an element without its merge key."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        here = f"{path}.{key}" if path else key
        if key.startswith(DELETE_FROM):
            name = key.removeprefix(DELETE_FROM)
            result[name] = [item for item in result.get(name, []) if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, list):
            result[key] = _merged_list(result.get(key), value, here)
        else:
            result[key] = strategic(result.get(key), value, here)
    return result


def _merged_list(old: list[Any] | None, patch: list[Any], path: str) -> list[Any]:
    name = MERGE_KEYS.get(path)
    if old is None or (name is None and path not in MERGED_AS_SETS):
        return [copy.deepcopy(item) for item in patch if not _is_directive(item)]
    if name is None:
        return _in_order(old, patch, [*patch, *(item for item in old if item not in patch)])
    for item in patch:
        if name not in item and "$patch" not in item:
            raise ClusterError(500, "", f"map: {item} does not contain declared merge key: {name}")
    if any(item.get("$patch") == "replace" and name not in item for item in patch):
        return [copy.deepcopy(item) for item in patch if not _is_directive(item)]
    # Deletions come first: what the same patch names besides is new.
    deleted = {item[name] for item in patch if item.get("$patch") == "delete"}
    kept = {item[name]: item for item in old if item[name] not in deleted}
    named = [item[name] for item in patch if item.get("$patch") != "delete"]
    for item in patch:
        if item.get("$patch") != "delete":
            kept[item[name]] = strategic(kept.get(item[name]), item, path)
    order = _in_order([item[name] for item in old if item[name] not in deleted], named, list(kept))
    return [kept[each] for each in order]


def _is_directive(item: Any) -> bool:
    return isinstance(item, Mapping) and "$patch" in item


def _in_order(old: list[Any], patch: list[Any], kept: list[Any]) -> list[Any]:
    """Those of the patch in its order, the others in theirs, before what they stood before and else behind."""
    others = [each for each in old if each in kept and each not in patch]
    result: list[Any] = []
    for each in dict.fromkeys(patch):
        while others and each in old and old.index(others[0]) < old.index(each):
            result.append(others.pop(0))
        result.append(each)
    return result + others

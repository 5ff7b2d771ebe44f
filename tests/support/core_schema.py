"""Pods and Nodes decoded as the API server decodes them: by the published schemas of a Kubernetes version."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate

from weft.api.resources import NODES, PODS, ResourceType
from weft.cluster import Object

FOLDER = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / "v1.37.0-local"
ROOTS = {PODS: "io.k8s.api.core.v1.Pod", NODES: "io.k8s.api.core.v1.Node"}

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


@functools.cache
def _definitions() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "_definitions.json").read_text())["$defs"]
    return found


def decoded(resource: ResourceType, obj: Object) -> tuple[Object, list[str], list[str]]:
    """The object without the fields that its kind does not have, their names, and the fields of a wrong type."""
    unknown: list[str] = []
    wrong: list[str] = []
    parts = {
        key: _decoded(value, _definitions()[ROOTS[resource]]["properties"][key], key, unknown, wrong)
        for key, value in obj.items()
        if key in ("spec", "status")
    }
    return {**obj, **parts}, unknown, wrong


def _decoded(value: Any, schema: Mapping[str, Any], path: str, unknown: list[str], wrong: list[str]) -> Any:
    if "$ref" in schema:
        schema = _definitions()[schema["$ref"].rpartition("/")[2]]
    if value is None:
        return None
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if kind != "null"]
    if kinds and not any(_is(value, kind) for kind in kinds):
        wrong.append(path)
        return value
    if isinstance(value, dict):
        properties, values = schema.get("properties"), schema.get("additionalProperties")
        kept = {}
        for key, item in value.items():
            inner = (properties or {}).get(key, values)
            if isinstance(inner, Mapping):
                kept[key] = _decoded(item, inner, f"{path}.{key}", unknown, wrong)
            elif properties is None:
                kept[key] = item
            else:
                unknown.append(f"{path}.{key}")
        return kept
    if isinstance(value, list):
        items = schema.get("items", {})
        return [_decoded(item, items, f"{path}[{n}]", unknown, wrong) for n, item in enumerate(value)]
    return value


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))

"""Structural schemas of custom kinds, applied as the API server applies them: prune, fill in defaults, check."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
TIME = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
)

NOTHING = object()
"""No value, where None is one."""


def pruned(value: Any, schema: Schema, path: str, unknown: list[str]) -> Any:
    if isinstance(value, Mapping):
        properties, values = schema.get("properties"), schema.get("additionalProperties")
        kept: dict[str, Any] = {}
        for key, item in value.items():
            inner = (properties or {}).get(key, values)
            here = f"{path}.{key}" if path else key
            if inner is None and PRESERVE in schema:
                kept[key] = copy.deepcopy(item)
            elif inner is None:
                unknown.append(here)
            elif item is None and key in (properties or {}):
                continue  # no field of ours is nullable: a null is as good as nothing
            else:
                kept[key] = pruned(item, inner, here, unknown)
        return kept
    if isinstance(value, list):
        items = schema.get("items", {})
        return [pruned(item, items, f"{path}[{n}]", unknown) for n, item in enumerate(value)]
    return value


def defaulted(value: Any, schema: Schema) -> Any:
    if isinstance(value, Mapping):
        result = dict(value)
        for key, inner in (schema.get("properties") or {}).items():
            if key not in result and "default" in inner:
                result[key] = copy.deepcopy(inner["default"])
            if key in result:
                result[key] = defaulted(result[key], inner)
        if isinstance(values := schema.get("additionalProperties"), Mapping):
            for key in result.keys() - (schema.get("properties") or {}).keys():
                result[key] = defaulted(result[key], values)
        return result
    if isinstance(value, list):
        return [defaulted(item, schema.get("items", {})) for item in value]
    return value


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
}


def problems(value: Any, schema: Schema, path: str, old: Any) -> Iterator[str]:
    """What does not fit; `old` is what stood there before, and is not looked at again where it still does."""
    if old is not NOTHING and old == value:
        return
    kind = schema.get("type", "")
    if INT_OR_STRING in schema:
        if not (_TYPES["integer"](value) or isinstance(value, str)):
            yield f"{path}: must be an integer or a string"
            return
    elif kind and not _TYPES[kind](value):
        yield f"{path}: Invalid value: must be of type {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: Unsupported value: {value!r}"
    if isinstance(value, str):
        yield from _text_problems(value, schema, path)
    elif isinstance(value, Mapping):
        yield from _object_problems(value, schema, path, old if isinstance(old, Mapping) else NOTHING)
    elif isinstance(value, list):
        yield from _list_problems(value, schema, path, old if isinstance(old, list) else NOTHING)
    elif _TYPES["integer"](value) and not schema.get("minimum", value) <= value <= schema.get(
        "maximum", value
    ):
        yield f"{path}: Invalid value: {value}: out of range"


def _text_problems(value: str, schema: Schema, path: str) -> Iterator[str]:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{path}: Invalid value: wrong length"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: Invalid value: does not match {schema['pattern']}"
    if schema.get("format") == "date-time" and not TIME.fullmatch(value):
        yield f"{path}: Invalid value: must be of type date-time"


def _object_problems(value: Mapping[str, Any], schema: Schema, path: str, old: Any) -> Iterator[str]:
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{path}.{key}: Required value"
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        yield f"{path}: wrong number of properties"
    properties, values = schema.get("properties") or {}, schema.get("additionalProperties")
    for key, item in value.items():
        inner = properties.get(key, values)
        if isinstance(inner, Mapping):
            before = old.get(key, NOTHING) if isinstance(old, Mapping) else NOTHING
            yield from problems(item, inner, f"{path}.{key}" if path else key, before)


def _list_problems(value: list[Any], schema: Schema, path: str, old: Any) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{path}: wrong number of items"
    keys = schema.get("x-kubernetes-list-map-keys", ())
    known: dict[Any, Any] = {}
    if keys and isinstance(old, list):
        known = {_identity(item, keys): item for item in old}
    identities = []
    for n, item in enumerate(value):
        before = known.get(_identity(item, keys), NOTHING) if keys else NOTHING
        yield from problems(item, schema.get("items", {}), f"{path}[{n}]", before)
        if keys:
            identities.append(_identity(item, keys))
        elif schema.get("x-kubernetes-list-type") == "set":
            identities.append(repr(item))
    if len(set(identities)) < len(identities):
        yield f"{path}: Duplicate value"


def _identity(item: Any, keys: list[str]) -> Any:
    return tuple(repr(item.get(key)) for key in keys) if isinstance(item, Mapping) else repr(item)

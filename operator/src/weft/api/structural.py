"""From a model's JSON schema to a structural OpenAPI v3 schema, as a CustomResourceDefinition wants it.

References are inlined and `X | None` becomes an optional X. What a structural schema or the API server's cost
limit for rules needs is demanded of the models: a description and a bound for everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.api.meta import Resource

Schema = dict[str, Any]

_RULES = "x-kubernetes-validations"
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_KEPT_IN_ORDER = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    _PRESERVE,
    _INT_OR_STRING,
    "required",
    "properties",
    "additionalProperties",
    "items",
    _RULES,
)
_DROPPED = frozenset({"title", "$defs", "additionalProperties"})
_STANDARD_FIELDS: Mapping[str, str] = {
    "apiVersion": "Version of this schema: weft.dev/v1alpha2.",
    "kind": "Kind of the object.",
}


class SchemaError(ValueError):
    """A model cannot be written as a bounded structural schema; the text names the field."""


def structural_schema(model: type[Resource]) -> Schema:
    """The `openAPIV3Schema` of a kind.

    Raises SchemaError, naming the field, where a description or a bound is missing, or where a construct (a
    float, a union) has no structural form.
    """
    raw = model.model_json_schema(by_alias=True)
    definitions = raw.get("$defs", {})
    kind = model.__name__
    root = _merge_references(
        {key: value for key, value in raw.items() if key != "properties"}, definitions, kind
    )
    properties = raw["properties"]
    parts = {
        name: _convert(properties[name], definitions, f"{kind}.{name}")
        for name in ("spec", "status")
        if name in properties
    }
    parts.get("status", {}).pop("default", None)
    root["required"] = ["spec"]
    root["properties"] = {
        **{name: {"description": text, "type": "string"} for name, text in _STANDARD_FIELDS.items()},
        "metadata": {"type": "object"},
        **parts,
    }
    return _ordered(root, kind)


def _convert(raw: Schema, definitions: Schema, path: str) -> Schema:
    """One value's schema and all below it. `path` is for messages: `LogicalNode.spec.memory[].size`."""
    schema = _merge_references(raw, definitions, path)
    for construct in ("anyOf", "oneOf", "allOf", "not", "$ref", "prefixItems", "const"):
        if construct in schema:
            raise SchemaError(f"{path}: {construct} has no structural form here: give the field one type")
    if schema.get("default", "") in (None, "", []):
        schema.pop("default", None)
    kind = schema.get("type")
    if schema.get(_INT_OR_STRING):
        _demand(schema, path, "maximum", "maxLength", _RULES)
    elif kind == "object":
        _convert_object(schema, definitions, path)
    elif kind == "array":
        schema["items"] = _convert(schema["items"], definitions, f"{path}[]")
        _demand(schema, path, "maxItems")
        if schema["items"].get("type") == "object":
            _demand(schema, path, "x-kubernetes-list-type")
    elif kind == "string":
        if "enum" not in schema and schema.get("format") != "date-time":
            _demand(schema, path, "maxLength")
    elif kind == "integer":
        _demand(schema, path, "minimum", "maximum")
    elif kind != "boolean":
        raise SchemaError(f"{path}: type {kind} is not used in this API: use a string, an integer or a list")
    return _ordered(schema, path)


def _convert_object(schema: Schema, definitions: Schema, path: str) -> None:
    """Convert a model's properties, or a map's values, in place."""
    properties = schema.get("properties")
    if schema.get(_PRESERVE):
        _demand(schema, path, "maxProperties")
        schema.pop("additionalProperties", None)
    elif properties is None:
        _demand(schema, path, "additionalProperties", "maxProperties")
        schema["additionalProperties"] = _convert(schema["additionalProperties"], definitions, f"{path}{{}}")
    if schema.get("default") == {}:
        # A default that says nothing; in an element of a list it would make every `kubectl apply` report a change.
        del schema["default"]
    if properties is not None:
        schema["properties"] = {
            name: _described(_convert(value, definitions, f"{path}.{name}"), f"{path}.{name}")
            for name, value in properties.items()
        }
        if "default" in schema:
            # The API server fills it with the defaults of the properties.
            schema["default"] = {}


def _merge_references(raw: Schema, definitions: Schema, path: str) -> Schema:
    """`raw` with `$ref` and `X | None` replaced by what they mean.

    What stands beside a reference wins over what is behind it; rules of both apply.
    """
    schema = dict(raw)
    while True:
        choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
        if "$ref" in schema:
            name = schema.pop("$ref").rpartition("/")[2]
            behind = dict(definitions[name])
        elif len(choices) == 1:
            del schema["anyOf"]
            behind = dict(choices[0])
        else:
            break
        both = [*behind.pop(_RULES, []), *schema.pop(_RULES, [])]
        schema = behind | schema
        if both:
            schema[_RULES] = both
    return schema


def _described(schema: Schema, path: str) -> Schema:
    _demand(schema, path, "description")
    return schema


def _demand(schema: Schema, path: str, *keywords: str) -> None:
    for keyword in keywords:
        if keyword not in schema:
            raise SchemaError(f"{path}: has no {keyword}")


def _ordered(schema: Schema, path: str) -> Schema:
    """The schema with its keywords in one fixed order, for a diff that shows what changed."""
    unknown = schema.keys() - set(_KEPT_IN_ORDER) - _DROPPED
    if unknown:
        raise SchemaError(f"{path}: {', '.join(sorted(unknown))} is not a keyword of this API's schemas")
    return {keyword: schema[keyword] for keyword in _KEPT_IN_ORDER if keyword in schema}

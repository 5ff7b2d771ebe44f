from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, create_model

from weft.api.crd import DEFINITIONS, manifests, write
from weft.api.meta import Model, Resource
from weft.api.structural import SchemaError, structural_schema

ROOT = Path(__file__).parents[3]
SCHEMAS = {definition.resource.kind: structural_schema(definition.model) for definition in DEFINITIONS}
PRESERVE = "x-kubernetes-preserve-unknown-fields"
QUANTITY = "x-kubernetes-int-or-string"


def walk(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """All schemas below: path, schema, whether it is a named field."""
    for name, below in schema.get("properties", {}).items():
        yield f"{path}.{name}", below, True
        yield from walk(below, f"{path}.{name}")
    for keyword, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if keyword in schema:
            yield path + mark, schema[keyword], False
            yield from walk(schema[keyword], path + mark)


def type_of(schema: dict[str, Any]) -> str:
    """The type of a value; what takes numbers and strings has none."""
    return QUANTITY if schema.get(QUANTITY) else schema["type"]


NODES = [
    node
    for kind, schema in SCHEMAS.items()
    for node in walk(schema, kind)
    if node[0] not in (f"{kind}.metadata", f"{kind}.apiVersion", f"{kind}.kind")
]


def test_the_committed_crds_are_those_of_the_models() -> None:
    committed = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}

    assert committed == manifests(), "run `make generate`"


def test_every_field_has_a_description() -> None:
    assert [path for path, schema, is_field in NODES if is_field and not schema.get("description")] == []


def test_every_value_is_bounded() -> None:
    needed = {
        "string": ("maxLength",),
        "integer": ("minimum", "maximum"),
        QUANTITY: ("maxLength", "maximum"),
        "array": ("maxItems",),
        "boolean": (),
        "object": (),
    }
    unbounded = [
        path
        for path, schema, _ in NODES
        if not ("enum" in schema or schema.get("format") == "date-time")
        and any(keyword not in schema for keyword in needed[type_of(schema)])
    ]
    maps = [
        path
        for path, schema, _ in NODES
        if ("additionalProperties" in schema or PRESERVE in schema) and "maxProperties" not in schema
    ]

    assert unbounded + maps == []


def test_every_schema_is_structural_and_has_no_float() -> None:
    forbidden = {"$ref", "anyOf", "oneOf", "allOf", "not", "nullable", "title", "$defs"}

    assert [(path, forbidden & schema.keys()) for path, schema, _ in NODES if forbidden & schema.keys()] == []
    types = {type_of(schema) for _, schema, _ in NODES}
    assert types <= {"string", "integer", "array", "boolean", "object", QUANTITY}


def test_every_list_of_objects_says_how_it_is_merged() -> None:
    lists = [(path, schema) for path, schema, _ in NODES if type_of(schema) == "array"]
    unsaid = [
        path
        for path, schema in lists
        if type_of(schema["items"]) == "object" and "x-kubernetes-list-type" not in schema
    ]
    keys_not_required = [
        path
        for path, schema in lists
        for key in schema.get("x-kubernetes-list-map-keys", ())
        if key not in schema["items"].get("required", ())
    ]

    assert unsaid + keys_not_required == []


def test_every_rule_has_a_message_of_one_line() -> None:
    rules = [(path, rule) for path, schema, _ in NODES for rule in schema.get("x-kubernetes-validations", ())]

    assert len(rules) > 30
    assert [path for path, rule in rules if len(rule["message"]) < 15 or "\n" in rule["message"]] == []


def test_no_default_stands_for_nothing() -> None:
    empty = [path for path, schema, _ in NODES if schema.get("default", "set") in (None, "", [])]

    assert empty == []


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.resource.kind)
def test_every_kind_has_category_and_age_and_a_status_where_there_is_something_to_say(
    definition: Any,
) -> None:
    crd = yaml.safe_load(manifests()[f"weft.dev_{definition.resource.plural}.yaml"])
    version = crd["spec"]["versions"][0]

    # As with kubectl's `all`, what has no namespace is not in it: a tenant, who may not list that, gets an answer.
    namespaced = ["weft"] if definition.resource.namespaced else []
    assert crd["spec"]["names"]["categories"] == [*namespaced, "weft-all"]
    assert crd["spec"]["names"]["shortNames"]
    # Whatever could be wrong with a profile is refused when it is written.
    assert ("status" in version["subresources"]) == (definition.resource.kind != "EngineProfile")
    assert version["additionalPrinterColumns"][-1]["name"] == "Age"
    assert ("scale" in version["subresources"]) == (definition.resource.kind == "InferenceRole")


def test_short_names_are_taken_once() -> None:
    names = [
        name for definition in DEFINITIONS for name in (*definition.short_names, definition.resource.plural)
    ]

    assert len(names) == len(set(names))


def test_the_same_models_give_the_same_text(tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in write(tmp_path / "a")}
    second = {path.name: path.read_bytes() for path in write(tmp_path / "b")}

    assert first == second
    assert len(first) == len(DEFINITIONS)


class Empty(Model):
    pass


class Undescribed(Model):
    size: int = Field(ge=0, le=1)


class Unbounded(Model):
    text: str = Field(description="Any text.")


class Floating(Model):
    share: float = Field(ge=0, le=1, description="A share.")


class Union(Model):
    either: int | str = Field(description="One or the other.")


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (Undescribed, "Sample.spec.size: has no description"),
        (Unbounded, "Sample.spec.text: has no maxLength"),
        (Floating, "Sample.spec.share: type number is not used"),
        (Union, "Sample.spec.either: anyOf has no structural form"),
    ],
)
def test_a_field_that_is_not_fit_for_a_crd_is_named(spec: type[Model], complaint: str) -> None:
    sample = create_model(
        "Sample",
        __base__=Resource,
        spec=(spec, Field(description="Spec.")),
        status=(Empty, Field(default=Empty(), description="Status.")),
    )

    with pytest.raises(SchemaError) as caught:
        structural_schema(sample)

    assert complaint in str(caught.value)

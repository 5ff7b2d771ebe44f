"""Objects that a released version stored are read, and written back, without loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.api.crd import DEFINITIONS

STORED = Path(__file__).parents[2] / "data" / "stored"
FILES = sorted(STORED.glob("*/*.yaml"))
MODELS = {definition.resource.kind: definition.model for definition in DEFINITIONS}

SHOWN_ELSEWHERE = (
    "spec.acceleratorsPerReplica",  # excludes node
    "spec.scaleTargetRef",  # excludes template
    "spec.node.",  # the LogicalNode shows this shape in full
    "spec.allowedNamespaces.",  # the MemoryPool's is empty, which means something; the other pools' is full
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_stored_object_is_written_back_as_it_is_stored(path: Path) -> None:
    stored = yaml.safe_load(path.read_text())

    assert MODELS[stored["kind"]].model_validate(stored).dump() == stored


@pytest.mark.parametrize("tag", sorted(path.name for path in STORED.iterdir()))
def test_every_tag_has_one_object_of_each_kind(tag: str) -> None:
    assert sorted(path.stem for path in (STORED / tag).glob("*.yaml")) == sorted(map(str.lower, MODELS))


@pytest.mark.parametrize("kind", MODELS)
def test_the_newest_stored_object_uses_every_field_of_its_kind(kind: str) -> None:
    newest = max(STORED.iterdir(), key=lambda tag: tuple(map(int, tag.name.removeprefix("v").split("."))))
    stored = yaml.safe_load((newest / f"{kind.lower()}.yaml").read_text())
    schema = MODELS[kind].model_json_schema(by_alias=True)
    properties = schema["properties"]

    unused = {
        path
        for part in ("spec", "status")
        if part in properties
        for path in _unused(properties[part], stored[part], part, schema["$defs"])
    }

    assert {path for path in unused if not path.startswith(SHOWN_ELSEWHERE)} == set()


def _unused(schema: dict[str, Any], value: Any, path: str, definitions: dict[str, Any]) -> set[str]:
    """Fields that the schema has and that no element of `value` uses."""
    if "anyOf" in schema:
        schema = next(choice for choice in schema["anyOf"] if choice != {"type": "null"})
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "array" and "items" in schema:
        per_element = [_unused(schema["items"], element, path + "[]", definitions) for element in value]
        return set.intersection(*per_element)
    unused: set[str] = set()
    for name, below in schema.get("properties", {}).items():
        if name not in value:
            unused.add(f"{path}.{name}")
        else:
            unused |= _unused(below, value[name], f"{path}.{name}", definitions)
    return unused

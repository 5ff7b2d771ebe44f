"""What the documentation shows is what the models know: an unknown field would be dropped without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.api.crd import DEFINITIONS

DOCS = Path(__file__).parents[3] / "docs"
MODELS = {definition.resource.kind: definition.model for definition in DEFINITIONS}


def shown() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the documentation, with its place."""
    for path in sorted((DOCS / "examples").glob("**/[0-9]*.yaml")):
        for body in yaml.safe_load_all(path.read_text()):
            yield path.relative_to(DOCS / "examples").as_posix(), body
    for block in re.findall(r"```yaml\n(.*?)```", (DOCS / "api.md").read_text(), re.DOTALL):
        for body in yaml.safe_load_all(block):
            yield "api.md", body


def lost(written: Any, read: Any, path: str = "") -> list[str]:
    """Paths of `written` that `read` does not have or has otherwise; what is empty may be left out."""
    if isinstance(written, dict) and isinstance(read, dict):
        return [
            each
            for name, value in written.items()
            if value not in ([], {}) or name in read
            for each in lost(value, read.get(name), f"{path}.{name}")
        ]
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        return [each for pair in zip(written, read, strict=True) for each in lost(*pair, f"{path}[]")]
    return [] if written == read else [path]


@pytest.mark.parametrize(
    "body",
    [pytest.param(body, id=f"{place}:{body['kind']}/{body['metadata']['name']}") for place, body in shown()],
)
def test_a_documented_object_has_no_field_that_is_unknown(body: dict[str, Any]) -> None:
    if not body["apiVersion"].startswith("weft.dev/"):
        return
    assert lost(body, MODELS[body["kind"]].model_validate(body).dump()) == []


def test_the_reference_shows_every_kind() -> None:
    kinds = {body["kind"] for place, body in shown() if place == "api.md"}

    assert kinds == MODELS.keys() - {"StoragePool"}


@pytest.mark.parametrize("example", ["40-inference-group.yaml", "kind/40-inference-group.yaml"])
def test_both_roles_of_the_example_can_be_flipped_by_label(example: str) -> None:
    roles = [body["spec"] for place, body in shown() if place == example and body["kind"] == "InferenceRole"]

    assert [role["stage"] for role in roles] == ["Prefill", "Decode"]
    assert [role.get("template") for role in roles] == [None, None]  # both have the group's
    for counted in ("node", "acceleratorsPerReplica"):
        assert roles[0].get(counted) == roles[1].get(counted)

"""Which test shows that a field of the API makes a difference: the table in docs/fields.md.

A test says so with `@pytest.mark.shows("InferenceGroup.spec.accelerators.maximum")`. `*` stands for a part of a name
(`*Pool.spec.jurisdiction`), `[]` for the entries of a list. `python -m support.fields`, with `tests` on the path,
writes the table; tests/unit/api/test_fields.py holds it against the models and the tests.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft.api.crd import DEFINITIONS
from weft.api.structural import structural_schema

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "fields.md"

PASSED_ON = ("InferenceRole.spec.node",)
"""Fields that become another object's spec as a whole: what is below is shown with that object's kind."""

_HEAD = """# Fields, and the tests in which they make a difference

Generated from the marks of the tests by `make generate`; a test fails where a field has no row.

| field | shown by |
|---|---|
"""


def fields() -> tuple[str, ...]:
    """Every field that can be set in a spec, down to values, maps and pod templates, in the order of the schemas."""
    return tuple(
        path
        for definition in DEFINITIONS
        for path in _below(
            structural_schema(definition.model)["properties"]["spec"], f"{definition.resource.kind}.spec"
        )
    )


def _below(schema: dict[str, Any], path: str) -> Iterator[str]:
    if path in PASSED_ON or "x-kubernetes-preserve-unknown-fields" in schema:
        yield path
    elif "properties" in schema:
        for name, field in schema["properties"].items():
            yield from _below(field, f"{path}.{name}")
    elif "properties" in schema.get("items", {}):
        yield from _below(schema["items"], f"{path}[]")
    else:
        yield path


@functools.cache
def marks() -> dict[str, list[str]]:
    """What the marks say: path as it is written -> tests, as `file::test`."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for path in _shown_by(node):
                    found.setdefault(path, []).append(f"{file.relative_to(ROOT).as_posix()}::{node.name}")
    return found


def _shown_by(test: ast.AST) -> Iterator[str]:
    for node in ast.walk(test):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "shows":
            for argument in node.args:
                assert isinstance(argument, ast.Constant), ast.unparse(node)
                yield str(argument.value)


def is_meant(mark: str, field: str) -> bool:
    """Whether a mark is about a field."""
    pattern = re.escape(mark).replace(r"\*", "[A-Za-z]*")
    return re.fullmatch(pattern, field) is not None


def shown() -> dict[str, list[str]]:
    """Every field with the tests that show it."""
    written = marks()
    return {
        field: sorted({test for mark, tests in written.items() if is_meant(mark, field) for test in tests})
        for field in fields()
    }


def table() -> str:
    """The page."""
    rows = []
    for field, tests in shown().items():
        links = [f"[{test.partition('::')[2]}](../{test.partition('::')[0]})" for test in tests]
        rows.append(f"| `{field}` | {'<br>'.join(links) or 'no test yet'} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    TABLE.write_text(table())

"""What the operator says of an object, as its code has it and as `weft.api.reasons` declares it; docs/reasons.md.

`python -m support.reasons`, with `tests` on the path, writes the page; tests/unit/api/test_reasons.py holds the
declaration against the code. `support.memory_cluster` holds every status and event that it is given against it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from weft.api.crd import DEFINITIONS
from weft.api.reasons import CONDITIONS, EVENTS, ConditionType, is_condition

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "operator" / "src" / "weft"
PAGE = ROOT / "docs" / "reasons.md"

_STATUS = {True: "True", False: "False", None: "Unknown"}

_HEAD = """# Conditions, reasons and events

What the operator says of each kind of object, what it means and what to do. Generated from
`operator/src/weft/api/reasons` by `make generate`; a test fails for a word in the code that is not declared there.

A condition's message says more than its reason: names, and what would change it (`kubectl describe`). Where a reason is
marked *event* (*warning*: an event of type Warning), an event with the same reason tells when it begins
(`kubectl events --for <kind>/<name>`; those of objects without a namespace are in the namespace `default`).
"""


# The code


def words(package: str) -> dict[str, str]:
    """Every string in a package that looks like a reason (CamelCase), with a place where it is."""
    found = {}
    for path, tree in _trees(package):
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.fullmatch(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*", text):
                found[text] = f"{path}:{node.lineno}"
    return found


def facts(package: str) -> Iterator[tuple[str, str, str, str]]:
    """What is said with all three words in one place: place, condition type ("": any), status, reason.

    Those are tuples (type, status, reason, message), and Findings.
    """
    for path, tree in _trees(package):
        for node in ast.walk(tree):
            match node:
                case ast.Tuple(
                    elts=[
                        ast.Constant(value=str(type)),
                        ast.Constant(value=status),
                        ast.Constant(value=why),
                        _,
                    ]
                ):
                    pass
                case ast.Call(
                    func=ast.Name(id="Finding"),
                    args=[ast.Constant(value=status), ast.Constant(value=why), *_],
                ):
                    type = ""
                case _:
                    continue
            if status in _STATUS:
                yield f"{path}:{node.lineno}", type, _STATUS[status], str(why)


def _trees(package: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((SOURCE / package).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


# What is written in a test


def undeclared(kind: str, status: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[str]:
    """The conditions of a status that are not declared for the kind, but for those that were there before.

    Weft's own say of which generation they are; a test may write those of strangers, too.
    """
    known = [(each["type"], each["reason"]) for each in _conditions(before or {})]
    return [
        f"{kind}: {each['type']}={each['status']} {each['reason']}"
        for each in _conditions(status)
        if each.get("observedGeneration")
        and (each["type"], each["reason"]) not in known
        and not is_condition(kind, each["type"], each["status"], each["reason"])
    ]


def _conditions(status: Mapping[str, Any]) -> Iterable[Mapping[str, str]]:
    return status.get("conditions") or ()


# The page


def page() -> str:
    """docs/reasons.md."""
    kinds = list(dict.fromkeys([each.resource.kind for each in DEFINITIONS] + ["Pod"]))
    sections: dict[tuple[str, ...], list[str]] = {}
    for kind in kinds:
        for condition in CONDITIONS:
            if condition.kinds[0] == kind:
                sections.setdefault(condition.kinds, []).append(_condition(condition))
        if events := [each for each in EVENTS if each.kinds[0] == kind]:
            rows = [f"| {each.reason} | {each.type} | {each.meaning} | {each.action} |\n" for each in events]
            table = "\n### Other events\n\n| reason | type | meaning | what to do |\n|---|---|---|---|\n"
            sections.setdefault(events[0].kinds, []).append(table + "".join(rows))
    parts = [f"\n## {', '.join(names)}\n{''.join(texts)}" for names, texts in sections.items()]
    return _HEAD + "".join(parts)


def _condition(condition: ConditionType) -> str:
    rows = []
    for each in condition.reasons:
        told = {"": "", "Normal": " (event)", "Warning": " (warning)"}[each.event]
        rows.append(f"| {each.status} | {each.word}{told} | {each.meaning} | {each.action} |\n")
    head = "| status | reason | meaning | what to do |\n|---|---|---|---|\n"
    return f"\n### {condition.type}\n\n{condition.meaning}\n\n{head}{''.join(rows)}"


if __name__ == "__main__":
    PAGE.write_text(page())

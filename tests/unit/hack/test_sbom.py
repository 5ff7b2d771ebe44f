"""The list of what the image contains: that it is of the present lock file, and what a licence is called in it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from weft_dev.sbom import LICENCES, LOCK, TOOL, licence, licences

ROW = re.compile(r"^\| ([\w.-]+) \| (\S+) \| (.+) \|$", re.MULTILINE)


def locked() -> set[tuple[str, str]]:
    return {
        (name.replace("_", "-"), version)
        for name, version in re.findall(r"^([\w.-]+)==(\S+) ", LOCK.read_text(), re.MULTILINE)
    }


def test_the_licences_are_of_the_packages_that_are_locked_and_none_forbids_to_ship_them() -> None:
    rows = [row for row in ROW.findall(LICENCES.read_text()) if row[0] != "package"]

    assert {(name.replace("_", "-"), version) for name, version, _ in rows} == locked(), "make sbom"
    assert [name for name, _, words in rows if re.search(r"GPL|declared|Proprietary", words)] == []


def test_the_tool_that_lists_them_is_pinned_by_hash() -> None:
    pinned = re.findall(r"^([\w.-]+)==\S+.*\\\n    --hash=sha256:", TOOL.read_text(), re.MULTILINE)

    assert "cyclonedx-bom" in pinned
    assert len(pinned) == len(re.findall("==", TOOL.read_text())) - TOOL.read_text().count(
        "python_full_version =="
    )


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ([{"expression": "Apache-2.0 AND MIT"}], "Apache-2.0 AND MIT"),
        (
            [
                {"license": {"id": "MIT"}},
                {"license": {"name": "License :: OSI Approved :: Apache Software License"}},
            ],
            "MIT",
        ),
        (
            [{"license": {"name": "License :: OSI Approved :: Apache Software License"}}],
            "Apache Software License",
        ),
        ([], "not declared"),
    ],
)
def test_a_licence_is_named_as_the_package_declares_it(declared: list[dict[str, Any]], words: str) -> None:
    component = {"name": "Some_Thing", "version": "1", "licenses": declared}

    assert licence(component) == words
    assert licences({"components": [component]}).endswith(f"| some_thing | 1 | {words} |\n")

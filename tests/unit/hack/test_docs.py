"""What the documentation refers to is there."""

from __future__ import annotations

import collections
import re
from pathlib import Path

import pytest

from weft_dev import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/**/*.md"), *ROOT.glob("hack/**/*.md")]
)
CHANGELOG = ROOT / "CHANGELOG.md"


def defined() -> set[str]:
    """Every test function of the repository, and every file of them."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    source = "\n".join(path.read_text() for path in files)
    return {path.stem for path in files} | set(
        re.findall(r"^ *(?:async )?def (test_\w+)", source, re.MULTILINE)
    )


def named_tests(page: Path) -> set[str]:
    return set(re.findall(r"`(test_\w+)`", page.read_text()))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != CHANGELOG], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    assert named_tests(page) - defined() == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    gone = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert gone == []


def anchors(page: Path) -> set[str]:
    """Those of a page's headings, as GitHub makes them: a heading that comes again has a number."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    counted: collections.Counter[str] = collections.Counter()
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{anchor}-{counted[anchor]}" if counted[anchor] else anchor)
        counted[anchor] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_part_of_a_page_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s:]*)#([^)]*)\)", page.read_text())
    targets = [(page.parent / link if link else page, anchor) for link, anchor in links]
    assert [
        f"{to.name}#{anchor}" for to, anchor in targets if to.suffix == ".md" and anchor not in anchors(to)
    ] == []


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_every_make_target_that_a_page_names_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z][a-z0-9-]*)", page.read_text()))
    assert named - targets == set()


def test_every_page_of_docs_is_found_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text()))
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")}
    assert pages - linked == set()

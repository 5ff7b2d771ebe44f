"""What the documentation refers to is there."""

from __future__ import annotations

import collections
import functools
import re
from pathlib import Path

import pytest
import yaml

from support.options import parsers
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


COMMAND = re.compile(r"\bweft ((?:check |fabric )?[a-z]+)((?: [^`\n|]*)?)")
PARTS = re.compile(r"[`#|]| && | -- |\$\(|; ")


@functools.cache
def taken() -> dict[str, set[str]]:
    """The options of each verb."""
    return {verb: {o for each in parser._actions for o in each.option_strings} for verb, parser in parsers()}


def wrong_options(text: str) -> list[str]:
    """Options of `weft VERB` that the verb does not take; lines that end in a backslash are one."""
    takes = taken()
    found = []
    for verb, rest in COMMAND.findall(text.replace("\\\n", " ")):
        if verb in takes:
            given = re.findall(r"(?<=\s)--?[a-z][a-z-]*", PARTS.split(rest)[0])
            found += [f"{verb} {option}" for option in given if option not in takes[verb] | {"-A"}]
    return found


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != CHANGELOG], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_option_of_weft_that_a_page_shows_is_one(page: Path) -> None:
    assert wrong_options(page.read_text()) == []


def test_a_misspelt_option_would_have_been_found() -> None:
    text = "`kubectl weft pause --take lnode/x`, then\nweft plan --file x \\\n  --opertor URL   # --not"
    assert wrong_options(text) == ["pause --take", "plan --file", "plan --opertor"]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != CHANGELOG], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_value_of_the_chart_that_a_page_sets_is_one(page: Path) -> None:
    values = yaml.safe_load((ROOT / "charts" / "weft" / "values.yaml").read_text())
    gone = []
    for path in re.findall(r"--set(?:-string|-json)? ([A-Za-z.]+)[=.]", page.read_text()):
        here = values
        for name in path.split("."):
            if here == {} or not isinstance(here, dict):
                break  # whatever its user puts there
            if name not in here:
                gone.append(path)
                break
            here = here[name]
    assert gone == []

"""The charts at the end of the demo: what they are made of, and that they stand alone."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from weft.rehearse.charts import ROLE_COLOURS
from weft_playground.demo.picture import COLOURS, picture, poster

from .test_report import evidence

DECIDED = [(62.0, "Weft decides: decode 5, prefill 4\nprefill <needs> 3.6 replicas")]


def figures(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page)
    assert found is not None
    return dict(json.loads(found[1]))


def test_the_charts_show_the_share_in_time_of_both_groups_and_of_the_best_fixed_split() -> None:
    page = picture(evidence(), DECIDED)

    within = figures(page)["within"]
    assert isinstance(within, dict)
    # One request of each in time in the first five seconds, one too late, of the best split in time, at 60 s.
    assert within["demo-auto"] == [[2.5, 100.0], *([at, None] for at in _middles(1, 12)), [62.5, 0.0]]
    (best,) = (line for name, line in within.items() if "4:5 (computed)" in name)
    assert best[-1] == [62.5, 100.0]


def test_each_decision_is_marked_with_its_reason_and_cannot_break_the_page() -> None:
    page = picture(evidence(), DECIDED)

    assert page.count('class="decision"') == 1
    assert "prefill &lt;needs&gt; 3.6 replicas" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)


def test_the_page_says_first_what_came_of_it_and_has_each_decision_in_words() -> None:
    page = picture(evidence(), DECIDED)

    head, below = page.split("<h2>", 1)
    assert re.search(r"Requests within both objectives: demo-auto [0-9.]+ %; demo-paused [0-9.]+ %", head)
    assert "<li>after 62 s: Weft decides: decode 5, prefill 4<br>prefill &lt;needs&gt;" in below


def test_a_colour_of_a_chart_is_of_a_group_or_of_a_stage() -> None:
    assert not set(COLOURS) & set(ROLE_COLOURS.values())


def test_the_page_refers_to_nothing_outside_itself() -> None:
    assert re.findall(r"(?:src|href)=|url\(|https?://", picture(evidence(), DECIDED)) == []


def test_the_picture_for_a_readme_is_one_svg_with_both_groups_and_stands_alone() -> None:
    text = poster(evidence(), DECIDED)

    root = ElementTree.fromstring(text)
    headings = [one.text for one in root.iter() if one.get("class") == "heading"]
    assert headings[1:] == [
        "demo-auto (Auto): replicas that serve",
        "demo-paused (Paused): replicas that serve",
    ]
    names = [one.text or "" for one in root if one.tag.endswith("text") and one.get("class") is None]
    assert names[:2] == ["demo-auto", "demo-paused"]
    assert "4:5 (computed)" in names[2]
    assert sum(one.get("class") == "decision" for one in root.iter()) == 1
    # A picture of a page has no script and loads nothing: the one address in it names SVG itself.
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<script|href=|url\(", text)


def test_a_load_without_answers_is_drawn_empty() -> None:
    found = evidence()
    empty = replace(found, auto=replace(found.auto, results=[]), paused=replace(found.paused, results=[]))
    assert "demo-auto: replicas that serve" in picture(replace(empty, computed=[]), [])


def _middles(first: int, last: int) -> list[float]:
    return [(number + 0.5) * 5.0 for number in range(first, last)]

"""The report as a file that one opens."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from weft.balancing.profile import Curve, Profile
from weft.rehearse.engine import Speeds
from weft.rehearse.page import page
from weft.rehearse.play import Case, Decided, play
from weft.rehearse.static import Static
from weft.rehearse.summary import course, figures, verdict
from weft.rehearse.trace import Trace
from weft.rehearse.world import Objectives

PROFILE = Profile(Curve((100, 10_000), (0.02, 2.0)), Curve((1, 32), (0.02, 0.04)), 60_000, 32)
CASE = Case(
    Trace.of([(i * 0.7, 300, 40) for i in range(60)]), Speeds(PROFILE), PROFILE, Objectives(1.0, 0.1), 4
)


def written(title: str = "A trace") -> str:
    run = play(CASE, Static(CASE))
    run.decisions.append(
        Decided(12.0, {"prefill": 1, "decode": 3}, "decode needs <3> & more; so", ("stay: 2",))
    )
    other = replace(run, policy="other", decisions=[])
    runs = [run, other]
    return page(title, CASE, [figures(each) for each in runs], {each.policy: course(each) for each in runs})


def test_it_refers_to_nothing_outside_itself() -> None:
    assert not re.search(r"https?:|src=|href=|@import|url\(", written())


def test_every_decision_can_be_asked_for_its_reason() -> None:
    (tip,) = re.findall(r'data-tip="([^"]*)"', written())
    assert unescape(tip) == "12 s: 1:3\ndecode needs <3> & more\nso\nelse stay: 2"


def test_the_names_of_files_are_no_markup() -> None:
    text = written("<script>alert(1)</script>")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_the_figures_are_in_it_for_programs_too() -> None:
    found = re.search(r'id="figures">(.*?)</script>', written())
    assert found is not None
    assert [row["policy"] for row in json.loads(found[1])["policies"]] == ["static", "other"]


def test_the_report_says_what_a_request_drew_and_what_that_rests_on() -> None:
    run = play(CASE, Static(CASE))
    text = page("A trace", CASE, [figures(run, 400.0, 2.0)], {run.policy: course(run)})
    assert "<th>Wh/request at 400 W</th><th>cost/1M tokens at 2/h</th>" in text


def row(
    policy: str, attainment: float, first: str = "3:5", hours: float = 8.0, free: bool = False
) -> dict[str, Any]:
    return {
        "policy": policy,
        "attainment": attainment,
        "promised": 0.95,
        "sizeIsFree": free,
        "first": first,
        "acceleratorHours": hours,
    }


def test_the_verdict_can_be_to_move_nothing_and_to_keep_the_stages_together() -> None:
    assert verdict([row("best-static", 0.99), row("weft", 0.985)])[0].startswith("Do not move")
    assert verdict([row("best-static", 0.99, "0:8:0"), row("weft", 0.9)])[0].startswith("Do not disaggregate")
    assert verdict([row("best-static", 0.8), row("weft", 0.9)])[0].startswith("Weft met 90.0 %")
    assert "25 % fewer" in verdict([row("best-static", 0.9), row("weft", 0.9, hours=6.0)])[0]


@pytest.mark.parametrize(
    ("fixed", "weft", "hours", "says"),
    [
        (0.96, 0.955, 6.0, "Weft keeps the promise (95.5 %) with 25 % fewer accelerator-hours than that."),
        (0.97, 0.952, 6.0, "Weft keeps the promise (95.2 %) with 25 % fewer"),
        (0.96, 0.98, 9.0, "Weft keeps the promise (98.0 %) with 12 % more accelerator-hours than that."),
        (0.96, 0.98, 9.0, "Keep a fixed size: 3:5 does as well."),
        (0.96, 0.94, 6.0, "Weft does not keep the promise: 94.0 %, with 25 % fewer"),
        (0.96, 0.94, 6.0, "Keep a fixed size, 3:5, or promise less."),
        (
            0.90,
            0.94,
            8.0,
            "No fixed fleet within the bounds keeps 95 %: 3:5 comes nearest with 90.0 % for 8.00",
        ),
        (0.90, 0.96, 8.0, "with as many accelerator-hours as that."),
    ],
)
def test_where_the_size_is_free_the_verdict_is_whether_the_promise_is_kept_and_for_how_much(
    fixed: float, weft: float, hours: float, says: str
) -> None:
    said = verdict([row("best-static", fixed, free=True), row("weft", weft, hours=hours, free=True)])
    assert any(line.startswith(says) or line.endswith(says) for line in said), said


def test_of_a_trace_that_takes_no_time_nothing_is_saved() -> None:
    said = verdict([row("best-static", 1.0, hours=0.0, free=True), row("weft", 1.0, hours=0.0, free=True)])
    assert "Weft keeps the promise (100.0 %) with as many accelerator-hours as that." in said


def test_the_report_says_of_each_policy_whether_it_kept_the_promise() -> None:
    text = written()
    assert "<th>99 % promised</th>" in text
    assert "<td>kept</td>" in text

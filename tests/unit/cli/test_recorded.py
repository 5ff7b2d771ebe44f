"""`weft ui --prometheus`: what groups were asked for and needed over time, out of a Prometheus."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from support.looked_at import GROUP, NOW, cluster, reading
from weft.balancing.settings import SourceSettings
from weft.cli.look.board import board_of
from weft.cli.look.page import page
from weft.cli.look.recorded import POINTS, QUERIES, GroupRecord, Records, read_records, records_of

from .test_ui import EVIL, Page

END = NOW.timestamp()
BEGIN, STEP = END - (POINTS - 1) * 60, 60.0
GROUP_LABELS = {"namespace": "team-a", "group": "llama"}
Series = list[dict[str, Any]]


def series(points: dict[int, float | str], **labels: str) -> dict[str, Any]:
    """As Prometheus answers: numbers are text."""
    values = [[BEGIN + n * STEP, str(value)] for n, value in points.items()]
    return {"metric": {**GROUP_LABELS, **labels}, "values": values}


def answers() -> dict[str, Series]:
    whole = range(POINTS)
    condition = {"metric": {"namespace": "team-a", "name": "llama"}}
    return {
        "serving": [
            series({n: 2 if n < 30 else 3 for n in whole}, role="prefill", stage="Prefill"),
            series(dict.fromkeys(whole, 1), role="prefill-b", stage="Prefill"),
            series(dict.fromkeys(whole, 4), role="decode", stage="Decode"),
        ],
        "needed": [
            series({n: 1.6 if n < 28 else 3.4 for n in whole if n > 4}, stage="Prefill"),
            series(dict.fromkeys(whole, 2.5), stage="Decode"),
        ],
        "requests": [series(dict.fromkeys(range(50), 4.25))],
        "tokens": [
            series({n: 11_000 if n > 30 else 8000 for n in whole}, of="prompts"),
            series({n: "NaN" if n == 7 else 1200 for n in whole}, of="answers"),
        ],
        "within": [series(dict.fromkeys(whole, 0.973), objective="TimeToFirstToken")],
        "met": [{**condition, "values": series({n: 1 if n < 30 else 0 for n in whole})["values"]}],
        "decided": [series({n: END - 7200 if n < 20 else END - 300 for n in whole})],
    }


def drawn(found: dict[str, Series]) -> Page:
    """The page of a group of which a Prometheus said this."""
    return Page(
        page(
            board_of(reading(GROUP), None, Records(BEGIN, STEP, records_of(found, BEGIN, STEP))),
            "n",
            live=True,
        )
    )


def label(seen: Page, what: str) -> str:
    return next(
        text
        for tag, one in seen.elements
        if tag == "svg" and (text := one.get("aria-label") or "").startswith(what)
    )


def test_what_serves_and_what_is_needed_are_drawn_by_stage_and_said_in_words() -> None:
    seen = drawn(answers())

    assert label(seen, "Replicas of team-a/llama for prefill") == (
        "Replicas of team-a/llama for prefill: 3 at first, 4 now serve; 1.6 at first, 3.4 now needed"
    )
    assert "4 serve, 3.4 needed" in seen.text
    assert "4 serve, 2.5 needed" in seen.text
    paths = {one["class"]: one["d"] for tag, one in seen.elements if tag == "path"}
    # 3 of 4, then 4 of 4 replicas, in steps that are as wide as they lasted.
    assert paths["area prefill"] == "M0 100V28h30V100M30 100V4h30V100"
    assert paths["met"] == "M0 100V52h30V100"
    assert paths["missed"] == "M30 100V4h30V100"


def test_traffic_is_told_with_its_highest_and_what_ended_has_no_present_value() -> None:
    seen = drawn(answers())

    assert "11,000/s, up to 11,000" in seen.text
    assert "not known now, up to 4.2" in seen.text
    assert "first token 97.3%" in seen.text
    assert label(seen, "Objectives") == "Objectives of team-a/llama: missed in 30 of 60 moments"


def test_the_table_says_what_the_charts_say_and_marks_what_is_not_known() -> None:
    seen = drawn(answers())

    assert seen.row("12:00:00 ") == "12:00:00 4 3.4 4 2.5 - 11,000 1,200 missed"
    assert seen.row("11:05:00 ") == "11:05:00 3 - 4 2.5 4.2 8,000 1,200 met"
    early = drawn({"needed": answers()["needed"], "met": []})
    assert early.row("12:00:00 ") == "12:00:00 - 3.4 - 2.5 - - - not known"


def test_a_decision_is_marked_when_it_was_made_and_the_last_one_says_why() -> None:
    at = NOW.timestamp() - 300
    found = answers()
    found["decided"] = [series(dict.fromkeys(range(POINTS), at))]
    seen = drawn(found)
    assert "decided at 11:55:00: decode 1, prefill 2 is better than decode 2, prefill 1;" in seen.text
    marks = {one["d"] for tag, one in seen.elements if tag == "path" and one["class"] == "mark"}
    assert marks == {"M55.00 0V100"}

    # Two hours ago: the decision is older than the chart.
    found["decided"] = [series(dict.fromkeys(range(POINTS), at - 7200))]
    assert "decided at" not in drawn(found).text


def test_a_group_that_the_prometheus_does_not_know_is_said_to_have_nothing() -> None:
    other = [{**one, "metric": {"namespace": "team-b", "group": "llama"}} for one in answers()["requests"]]
    assert "team-a/llama nothing recorded" in drawn({"requests": other}).text


def test_no_label_of_a_prometheus_becomes_a_part_of_the_page() -> None:
    found = answers()
    for name, label_name in (
        ("serving", "stage"),
        ("needed", "stage"),
        ("tokens", "of"),
        ("within", "objective"),
    ):
        found[name].append(series({59: 1e308, 58: "Inf", 57: -5}, **{label_name: EVIL}))
    seen = drawn(found)
    assert EVIL not in seen.text
    assert [tag for tag, _ in seen.elements] == [tag for tag, _ in drawn(answers()).elements]


def test_without_a_prometheus_the_page_says_what_is_missing_and_how_to_get_it() -> None:
    text = Page(page(board_of(reading(GROUP)), "n", live=True)).text
    assert "name a Prometheus that scrapes them, --prometheus URL" in text


Answer = Callable[[web.Request, str], Any]


@asynccontextmanager
async def prometheus(answer: Answer) -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """Answers range queries by the name of the query; yields its URL, and what it was asked."""
    asked: list[dict[str, str]] = []

    async def query(request: web.Request) -> web.Response:
        form = {key: str(value) for key, value in (await request.post()).items()}
        asked.append(form)
        name = next(one for one, text in QUERIES.items() if text.replace("$group", ".*") == form["query"])
        return web.Response(text=json.dumps(answer(request, name)))

    app = web.Application()
    app.router.add_post("/api/v1/query_range", query)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


def success(result: object) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


async def test_one_range_of_sixty_points_is_asked_for_whole_steps_however_long_it_is() -> None:
    async with prometheus(lambda _, name: success(answers()[name])) as (url, asked):
        records = await read_records(SourceSettings(url=url), END + 12, 3600)
        assert (records.begin, records.step, records.missing) == (BEGIN, 60, "")
        assert records.groups["team-a", "llama"].requests[0] == 4.25
        assert {(one["start"], one["end"], one["step"]) for one in asked} == {
            (f"{BEGIN:.3f}", f"{END:.3f}", "60")
        }
        asked.clear()
        await read_records(SourceSettings(url=url), END, 7 * 86400)
        assert {one["step"] for one in asked} == {"10080"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": "error", "error": "too many points"}, "the Prometheus server says: too many points."),
        (success([]), "has nothing of Weft's metrics in this time: does it scrape the operator?"),
        (success([{"values": []}]), "no Prometheus server answers at http://127.0.0.1"),
        (success([{"metric": {}, "values": [["x", "y"]]}]), "no Prometheus server answers at"),
        (success(["x"]), "no Prometheus server answers at"),
        ([], "gave no usable answer"),
    ],
)
async def test_a_prometheus_that_cannot_tell_is_said_with_what_it_answered_and_the_page_is_made(
    answer: Any, words: str
) -> None:
    async with prometheus(lambda *_: answer) as (url, _):
        records = await read_records(SourceSettings(url=url), END, 3600)
    assert words in records.missing
    assert words in Page(page(board_of(reading(GROUP), None, records), "n", live=True)).text


async def test_a_prometheus_that_is_not_there_is_said_without_the_login_of_its_address() -> None:
    records = await read_records(SourceSettings(url="http://weft:canary@127.0.0.1:1/x"), END, 3600)
    assert "the Prometheus server at http://127.0.0.1:1/x gave no usable answer" in records.missing
    assert "canary" not in records.missing


def test_two_hundred_groups_with_all_their_lines_stay_small() -> None:
    known = records_of(answers(), BEGIN, STEP)["team-a", "llama"]
    groups: dict[tuple[str, str], GroupRecord] = {("team-a", f"llama-{n:03}"): known for n in range(200)}
    text = page(board_of(cluster(hosts=252, groups=200), None, Records(BEGIN, STEP, groups)), "n", live=True)

    seen = Page(text)
    assert sum(one.get("class") == "card" for _, one in seen.elements) == 200
    ids = [one["id"] for _, one in seen.elements if "id" in one]
    assert len(ids) == len(set(ids))
    assert len(text) < 2_000_000

"""What `weft ui` has read of a group since it was opened, as a chart."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import timedelta

from support.looked_at import FABRIC, GROUP, NOW, ROLE, reading, said
from weft.cli.look.board import Board, board_of
from weft.cli.look.history import MOST_SPANS, History
from weft.cli.look.page import page

from .test_ui import Page


def looked_at_again(
    history: History, seconds: int, objectives: str, decode: int, why: str = "first", stage: str = "Decode"
) -> Board:
    """A reading so many seconds later, with so many replicas of decode, or of another stage, that serve."""
    group, role = copy.deepcopy(GROUP), copy.deepcopy(ROLE)
    role["metadata"]["name"], role["spec"]["stage"], role["status"]["readyReplicas"] = (
        stage.lower(),
        stage,
        decode,
    )
    group["status"]["conditions"] = [said("ObjectivesMet", objectives, "Met")]
    group["status"]["decision"]["reason"] = why
    group["metadata"]["uid"] = "g"
    seen = replace(reading(group, ROLE, role), now=NOW + timedelta(seconds=seconds))
    return board_of(seen, history.add(seen))


def test_a_groups_split_objectives_and_decisions_are_drawn_over_the_time_that_the_page_was_open() -> None:
    history = History()
    for seconds in range(0, 60, 5):
        board = looked_at_again(history, seconds, "False", 1)
    for seconds in range(60, 125, 5):
        board = looked_at_again(history, seconds, "True", 3, "more decode <b>")

    seen = Page(page(board, "n", live=True))

    label = next(
        attributes["aria-label"]
        for tag, attributes in seen.elements
        if tag == "svg" and "aria-label" in attributes
    )
    assert label == (
        "Replicas of team-a/llama that serve, over the last 2 min:"
        " decode 1, prefill 1 at first, decode 3, prefill 1 now"
    )
    assert seen.row("12:01:00 to 12:02:00") == "12:01:00 to 12:02:00 decode 3, prefill 1 met more decode <b>"
    assert seen.row("12:00:00 to 12:01:00") == "12:00:00 to 12:01:00 decode 1, prefill 1 missed first"
    drawn = [
        (attributes.get("class", ""), attributes.get("width"))
        for tag, attributes in seen.elements
        if tag == "rect"
    ]
    half = "500.0"
    assert [one for one in drawn if one[1] not in ("1", None)] == [
        *(("prefill", half), ("decode", half), ("missed", half)),
        *(("prefill", half), ("decode", half), ("met", half)),
        ("", "6"),
    ]  # fmt: skip


def test_encoders_are_drawn_below_what_they_encode_for() -> None:
    history = History()
    for seconds in range(0, 60, 5):
        board = looked_at_again(history, seconds, "True", 2, stage="Encode")

    seen = Page(page(board, "n", live=True))

    drawn = [attributes.get("class") for tag, attributes in seen.elements if tag == "rect"]
    assert drawn[:2] == ["encode", "prefill"]


def test_where_nobody_looked_the_history_has_a_gap_and_it_forgets_what_is_an_hour_old_or_gone() -> None:
    history = History()
    looked_at_again(history, 0, "True", 1)
    looked_at_again(history, 15, "True", 1)
    later = looked_at_again(history, 600, "True", 1)

    assert [(one.since.minute, one.until.minute) for one in later.groups[0].history] == [(0, 0), (10, 10)]
    assert len(looked_at_again(history, 4000, "True", 1).groups[0].history) == 2
    assert history.add(reading(FABRIC)) == {}


def test_a_history_that_changes_with_every_reading_does_not_grow_without_end() -> None:
    history = History()
    for turn in range(200):
        board = looked_at_again(history, 5 * turn, ("True", "False")[turn % 2], 1)

    assert len(board.groups[0].history) == MOST_SPANS

"""What a user reads: never silence for long, with or without a terminal."""

from __future__ import annotations

import asyncio
import io

import pytest

from support.eventually import eventually
from weft_playground.demo import narrator as module
from weft_playground.demo.narrator import Narrator


async def test_without_a_terminal_a_long_wait_is_told_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)
    out = io.StringIO()
    narrator = Narrator(out)
    alive = asyncio.create_task(narrator.keep_alive())
    with narrator.waiting("building", 60):
        await eventually(lambda: out.getvalue().count("building (usually 60 s)") >= 2)
    alive.cancel()


def test_every_line_begins_with_the_time_and_continues_below_it() -> None:
    out = io.StringIO()
    Narrator(out).say("first\nsecond")
    first, second = out.getvalue().splitlines()
    assert first == "0:00  first"
    assert second == "      second"


def test_nothing_but_text_goes_to_a_file() -> None:
    out = io.StringIO()
    narrator = Narrator(out)
    with narrator.waiting("x"):
        narrator.say("y")
    narrator.show("z")
    assert "\x1b" not in out.getvalue()

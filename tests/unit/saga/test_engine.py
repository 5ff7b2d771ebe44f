from __future__ import annotations

import pytest

from weft.saga.engine import Step, advance


async def test_the_first_step_that_is_not_done_is_carried_out_and_no_other() -> None:
    acted: list[str] = []

    async def second() -> None:
        acted.append("second")

    async def third() -> None:
        acted.append("third")

    progress = await advance(
        [Step("first", True), Step("second", False, second), Step("third", False, third)]
    )
    assert acted == ["second"]
    assert (progress.finished, progress.at) == (False, "second")


async def test_a_step_without_an_action_holds_the_saga_and_says_what_it_waits_for() -> None:
    progress = await advance([Step("drain", False, None, "two requests are running")])
    assert progress.waiting_for == "two requests are running"


async def test_a_saga_whose_steps_are_all_done_is_finished() -> None:
    assert (await advance([Step("a", True), Step("b", True)])).finished


async def test_what_an_action_raises_reaches_the_caller() -> None:
    async def fail() -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        await advance([Step("a", False, fail)])

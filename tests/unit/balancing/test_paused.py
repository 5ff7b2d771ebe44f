"""A group that is paused, or set to Recommend, once its replicas have moved: nothing happens until it is edited."""

from __future__ import annotations

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import PROMPT_HEAVY
from weft.api.conditions import find
from weft.api.inference_role import InferenceRole
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES

MOVED = {"prefill": 5, "decode": 4}


async def moved(**options: bool) -> Fleet:
    """A group of 3 and 6 that the traffic has moved."""
    fleet = Fleet(3, 6, **options)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(60)
    assert fleet.serving() == MOVED
    return fleet


def set_mode(fleet: Fleet, mode: str) -> None:
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(mode=mode))


def ask(fleet: Fleet, role: str, replicas: int) -> None:
    fleet.edit(INFERENCE_ROLES, role, lambda spec: spec.update(replicas=replicas))


def ignored(fleet: Fleet, name: str) -> tuple[str, str]:
    role = InferenceRole.model_validate(fleet.cluster.objects[INFERENCE_ROLES, NAMESPACE, name])
    found = find(role.status.conditions, "ReplicasIgnored")
    assert found is not None
    return found.reason, found.message


@pytest.mark.parametrize("mode", ["Paused", "Recommend"])
async def test_pausing_moves_nothing_also_not_under_another_operator_and_resume_goes_on_from_there(
    mode: str,
) -> None:
    fleet = await moved()
    decided = fleet.status()["decision"]
    set_mode(fleet, mode)
    await fleet.run(10)
    fleet.restart()
    await fleet.run(30)
    assert fleet.serving() == MOVED
    assert fleet.status()["decision"] == decided
    assert ignored(fleet, "decode") == (
        "DecidedByAuto",
        "the role keeps the 4 replicas that Auto gave it: edit spec.replicas (6) for others",
    )
    set_mode(fleet, "Auto")
    await fleet.run(30)
    assert fleet.serving() == MOVED


@pytest.mark.parametrize("mode", ["Paused", "Recommend"])
async def test_a_role_that_is_edited_while_paused_is_followed_and_the_others_stay(mode: str) -> None:
    fleet = await moved()
    set_mode(fleet, mode)
    await fleet.run(2)
    ask(fleet, "prefill", 4)
    await fleet.run(30)
    assert fleet.serving() == {"prefill": 4, "decode": 4}
    assert f"{mode}: what role prefill asked for is followed" in fleet.status()["decision"]["reason"]
    ask(fleet, "prefill", 3)
    await fleet.run(30)
    assert fleet.serving() == {"prefill": 3, "decode": 4}
    # Back to the number that was recorded first: that is an edit, too.
    ask(fleet, "decode", 5)
    await fleet.run(30)
    ask(fleet, "decode", 6)
    await fleet.run(30)
    assert fleet.serving() == {"prefill": 3, "decode": 6}


async def test_an_edit_that_auto_ignored_stays_without_effect_when_the_group_is_paused() -> None:
    fleet = await moved()
    ask(fleet, "decode", 2)
    await fleet.run(10)
    set_mode(fleet, "Paused")
    await fleet.run(30)
    assert fleet.serving() == MOVED


async def test_an_edit_right_after_the_pause_is_followed_though_the_operator_saw_both_at_once() -> None:
    fleet = await moved()
    set_mode(fleet, "Paused")
    ask(fleet, "prefill", 4)
    await fleet.run(30)
    assert fleet.serving() == {"prefill": 4, "decode": 4}


async def test_an_edit_is_kept_until_it_can_be_followed() -> None:
    fleet = await moved()
    set_mode(fleet, "Paused")
    await fleet.run(2)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(suspend=True))
    ask(fleet, "prefill", 4)
    ask(fleet, "decode", 5)
    await fleet.run(10)
    assert fleet.serving() == MOVED
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.pop("suspend"))
    await fleet.run(60)
    assert fleet.serving() == {"prefill": 4, "decode": 5}


async def test_a_role_that_is_added_while_paused_gets_what_it_asks_for_and_one_that_goes_takes_nothing_along() -> (
    None
):
    fleet = await moved()
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=40))
    set_mode(fleet, "Paused")
    await fleet.run(2)
    fleet.put_role("more", "Decode", 2)
    await fleet.run(20)
    assert fleet.split() == {**MOVED, "more": 2}
    del fleet.cluster.objects[INFERENCE_ROLES, NAMESPACE, "more"]
    await fleet.run(40)
    assert fleet.split() == MOVED


async def test_a_group_of_before_that_says_nothing_of_what_was_asked_stays_as_it_is() -> None:
    fleet = await moved()
    set_mode(fleet, "Paused")
    status = {key: value for key, value in fleet.status().items() if key != "replicasAsked"}
    fleet.cluster._store((INFERENCE_GROUPS, NAMESPACE, GROUP), {**fleet.group(), "status": status})
    await fleet.run(20)
    assert fleet.serving() == MOVED
    ask(fleet, "prefill", 4)
    await fleet.run(20)
    assert fleet.serving() == {"prefill": 4, "decode": 4}


async def test_a_maximum_that_is_lowered_and_raised_while_paused_takes_and_gives_back() -> None:
    fleet = await moved()
    set_mode(fleet, "Paused")
    await fleet.run(2)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=12))
    await fleet.run(60)
    assert sum(fleet.serving().values()) == 6
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=18))
    await fleet.run(30)
    assert sum(fleet.serving().values()) == 9
    fleet.restart()
    before = fleet.serving()
    await fleet.run(10)
    assert fleet.serving() == before


async def test_an_operator_that_is_killed_at_any_write_while_a_group_is_paused_moves_nothing() -> None:
    fleet = await moved()
    fleet.cluster.after_write = fleet.restart
    set_mode(fleet, "Paused")
    await fleet.run(20)
    assert fleet.serving() == MOVED
    ask(fleet, "prefill", 4)
    await fleet.run(40)
    assert fleet.serving() == {"prefill": 4, "decode": 4}

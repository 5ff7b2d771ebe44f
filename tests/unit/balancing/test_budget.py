"""What becomes of a group whose accelerators.maximum is lowered below what it has, and raised again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, group, role
from weft.api import RebalanceMode, Stage
from weft.api.conditions import find
from weft.api.inference_role import InferenceRole
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES
from weft.balancing.plan import plan_split
from weft.balancing.state import NO_SPLIT, Split


def set_maximum(fleet: Fleet, maximum: int) -> None:
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=maximum))


def said(fleet: Fleet, name: str, type: str) -> tuple[str, str]:
    found = fleet.cluster.objects[INFERENCE_ROLES, NAMESPACE, name]
    condition = find(InferenceRole.model_validate(found).status.conditions, type)
    assert condition is not None
    return condition.status, condition.reason


@pytest.mark.parametrize("mode", RebalanceMode)
async def test_a_maximum_without_room_for_one_replica_of_each_role_changes_nothing_and_is_said(
    mode: RebalanceMode,
) -> None:
    fleet = Fleet(4, 4, mode=str(mode))
    await fleet.run(10)
    set_maximum(fleet, 3)
    await fleet.run(30)
    assert fleet.serving() == {"prefill": 4, "decode": 4}
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.condition("Balanced") == ("False", "BudgetTooSmall")
    message = fleet.message("Balanced")
    assert "decode 1, prefill 1, which hold 4 accelerators: decode 4, prefill 4 stays until" in message
    set_maximum(fleet, 16)
    await fleet.run(5)
    assert fleet.serving() == {"prefill": 4, "decode": 4}
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_a_group_that_is_made_with_such_a_maximum_makes_nothing_and_no_view_calls_it_ready() -> None:
    fleet = Fleet(4, 4)
    set_maximum(fleet, 3)
    await fleet.run(5)
    assert fleet.pods() == []
    assert fleet.condition("Ready") == ("False", "NoReplicaGiven")
    assert fleet.condition("Balanced") == ("False", "BudgetTooSmall")
    assert said(fleet, "decode", "Ready") == said(fleet, "prefill", "Ready") == ("False", "NoReplicaGiven")
    set_maximum(fleet, 16)
    await fleet.run(10)
    assert fleet.serving() == {"prefill": 4, "decode": 4}


async def test_replicas_that_a_lower_maximum_took_come_back_with_a_higher_one() -> None:
    fleet = Fleet(4, 4, nodes=True)
    await fleet.run(10)
    set_maximum(fleet, 4)
    await fleet.run(40)
    assert fleet.serving() == {"prefill": 1, "decode": 1}
    assert "6 of the replicas asked for do not fit" in fleet.message("Balanced")
    assert fleet.status()["leftOutReplicas"] == 6
    assert said(fleet, "decode", "ReplicasIgnored") == ("True", "BudgetTooSmall")
    set_maximum(fleet, 3)
    await fleet.run(5)
    set_maximum(fleet, 8)
    await fleet.run(10)
    assert fleet.serving() == {"prefill": 2, "decode": 2}
    assert "4 of the replicas asked for do not fit" in fleet.message("Balanced")
    fleet.restart()
    set_maximum(fleet, 16)
    await fleet.run(10)
    assert fleet.serving() == {"prefill": 4, "decode": 4}
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    assert said(fleet, "decode", "ReplicasIgnored") == ("False", "AsAsked")


async def test_they_come_back_once_a_window_for_the_size_opens() -> None:
    fleet = Fleet(4, 4)
    await fleet.run(10)
    set_maximum(fleet, 4)
    await fleet.run(40)
    window = {"from": "03:00", "to": "04:00", "reasons": ["Size"]}  # the fleet's clock begins at midnight
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(windows=[window]))
    set_maximum(fleet, 16)
    await fleet.run(10)
    assert fleet.serving() == {"prefill": 1, "decode": 1}
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.pop("windows"))
    await fleet.run(10)
    assert fleet.serving() == {"prefill": 4, "decode": 4}


def split(prefill: int, decode: int) -> Split:
    return Split.of({"decode": decode, "prefill": prefill})


ASKED = (role("decode", Stage.DECODE, 4), role("prefill", Stage.PREFILL, 4))


def test_what_the_traffic_decided_meanwhile_stays_as_replicas_come_back() -> None:
    observed = replace(group(1, 3, None, budget=16, roles=ASKED), left_out=4)
    plan = plan_split(observed)
    assert plan.allocation == split(4, 4)
    assert plan.left_out == 0
    # Where the traffic asked for more than the role does, it keeps them.
    assert plan_split(replace(group(1, 5, None, budget=16, roles=ASKED), left_out=2)).allocation == split(
        3, 5
    )


def test_replicas_that_nothing_left_out_are_not_added_to_a_decision() -> None:
    assert plan_split(group(1, 3, None, budget=16, roles=ASKED)).allocation == split(1, 3)


def test_a_role_of_which_replicas_are_asked_for_keeps_one_while_the_mode_is_paused() -> None:
    roles = tuple(replace(one, minimum=0) for one in ASKED)
    paused = group(4, 4, None, budget=4, roles=roles, mode=RebalanceMode.PAUSED)
    assert plan_split(paused).allocation == split(1, 1)


def test_roles_that_come_or_go_while_a_maximum_is_too_small_change_nothing_of_the_others() -> None:
    more = (*ASKED, role("both", Stage.AGGREGATED, 2))
    held = plan_split(group(4, 4, None, budget=3, roles=more)).allocation
    assert dict(held.counts) == {"both": 0, "decode": 4, "prefill": 4}
    alone = plan_split(group(4, 4, None, budget=1, roles=ASKED[:1])).allocation
    assert dict(alone.counts) == {"decode": 4}


def test_nothing_is_decided_by_traffic_while_a_maximum_is_too_small() -> None:
    plan = plan_split(group(8, 1, ANSWER_HEAVY, budget=3))
    assert plan.allocation == split(8, 1)
    assert plan.decision is None
    assert plan_split(replace(group(1, 1, None, budget=3), allocation=NO_SPLIT)).allocation == NO_SPLIT

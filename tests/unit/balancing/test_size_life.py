"""A group whose size is free, through the reconciler, in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from support.fleet import GROUP, MODEL, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY, known, steady
from weft.api.names import LABEL_ROLE
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES
from weft.balancing.presets import PAST_SECONDS


async def elastic(prefill: int, decode: int, *, nodes: bool = False) -> Fleet:
    """Between 4 and 18 accelerators, two per replica; the load is that of ANSWER_HEAVY."""
    fleet = Fleet(prefill, decode, nodes=nodes)
    fleet.group()["spec"]["accelerators"]["minimum"] = 4
    fleet.traffic = known(ANSWER_HEAVY, 3)
    await fleet.run(10)
    return fleet


def held(fleet: Fleet) -> int:
    """Accelerators of everything that is there."""
    names = {
        one["metadata"]["name"] for one in (*fleet.pods(), *fleet.cluster.list(LOGICAL_NODES, NAMESPACE))
    }
    return 2 * len(names)


@pytest.mark.shows("InferenceGroup.spec.accelerators.minimum")
async def test_a_group_that_is_too_small_gets_replicas_and_logical_nodes_and_says_why() -> None:
    fleet = await elastic(2, 3, nodes=True)
    most: list[int] = []
    fleet.cluster.after_write = lambda: most.append(held(fleet))
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.split() == fleet.serving() == {"prefill": 5, "decode": 4}
    assert len(fleet.cluster.list(LOGICAL_NODES, NAMESPACE)) == 9
    assert max(most) <= 18
    told = [text for _, reason, text in fleet.cluster.events if reason == "ScaledUp"]
    assert told
    assert told[0].startswith("grows by ")
    assert fleet.status()["decision"]["reason"] == told[-1]
    assert fleet.status()["lastScaleTime"]


async def test_a_group_that_is_too_large_drains_the_least_loaded_and_gives_its_hardware_back() -> None:
    fleet = await elastic(3, 6, nodes=True)
    busy = {
        pod["metadata"]["name"]: 1.0
        for pod in fleet.pods()
        if pod["metadata"]["labels"][LABEL_ROLE] == "decode"
    }
    idle = sorted(busy)[0]
    fleet.requests = {**busy, idle: 0.0}
    fleet.traffic = known(ANSWER_HEAVY)
    await fleet.run(40)
    assert fleet.status()["allocation"] == [
        {"role": "decode", "replicas": 4},
        {"role": "prefill", "replicas": 2},
    ]
    names = {pod["metadata"]["name"] for pod in fleet.pods()}
    assert idle not in names
    # The other one has requests: it stays until they are done.
    assert fleet.split()["decode"] == 5
    fleet.requests = {}
    await fleet.run(40)
    assert fleet.split() == fleet.serving() == {"prefill": 2, "decode": 4}
    assert len(fleet.cluster.list(LOGICAL_NODES, NAMESPACE)) == 6
    (told,) = [text for _, reason, text in fleet.cluster.events if reason == "ScaledDown"]
    assert f"the last {PAST_SECONDS / 60:.0f} minutes needed at most" in told


async def test_a_new_leader_goes_on_from_what_the_last_one_had_learnt_of_the_promise() -> None:
    fleet = Fleet(5, 4)
    fleet.group()["spec"]["accelerators"].update(minimum=4, maximum=40)
    fleet.traffic = known(PROMPT_HEAVY)
    await fleet.run(20)
    assert sum(fleet.serving().values()) == 9
    for pod in fleet.pods():
        if pod["metadata"]["labels"][LABEL_ROLE] == "decode":
            # As many answers as this load keeps there.
            fleet.requests[pod["metadata"]["name"]] = 19.0
            fleet.changed_values["engine:kv_usage", pod["metadata"]["name"]] = 0.7
    # As an earlier leader left it: the promise was missed for hours.
    fleet.group()["status"]["decision"]["headroomPercent"] = 40
    fleet.restart()
    await fleet.run(20)
    assert sum(fleet.split().values()) > 9
    assert fleet.status()["decision"]["headroomPercent"] == 40
    assert "% are promised: 40 % more headroom" in fleet.status()["decision"]["reason"]


@pytest.mark.parametrize("maximum", [18, 40])
async def test_requests_that_were_late_for_lack_of_a_larger_budget_widen_no_headroom(maximum: int) -> None:
    fleet = Fleet(5, 4)
    fleet.group()["spec"]["accelerators"].update(minimum=18, maximum=maximum)
    fleet.traffic = replace(known(PROMPT_HEAVY), ttft_buckets=((2.5, 0.0), (math.inf, 7.5)))
    await fleet.run(150)
    fleet.group()["spec"]["accelerators"]["maximum"] = 40
    fleet.traffic = replace(fleet.traffic, long=steady(15, 1420, 145).long)
    await fleet.run(10)
    learnt = fleet.status()["decision"]["headroomPercent"]
    assert learnt <= 1 if maximum == 18 else learnt >= 4


async def test_a_replica_without_devices_is_said_and_not_counted_on() -> None:
    fleet = await elastic(2, 4, nodes=True)
    fleet.devices_free = False
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.condition("Balanced") == ("False", "WaitingForHardware")
    assert f"no free hardware yet for {GROUP}-6" in fleet.message("Balanced")
    ordered = len(fleet.cluster.list(LOGICAL_NODES, NAMESPACE))
    await fleet.run(30)
    assert len(fleet.cluster.list(LOGICAL_NODES, NAMESPACE)) == ordered
    assert fleet.serving() == {"prefill": 2, "decode": 4}
    fleet.devices_free = True
    await fleet.run(40)
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_the_size_stays_where_it_is_while_the_operator_is_replaced() -> None:
    fleet = await elastic(2, 3)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    before = fleet.status()
    for _ in range(5):
        fleet.restart()
        await fleet.run(5)
    assert fleet.status() == before


async def test_a_group_that_is_paused_keeps_the_size_that_the_load_gave_it() -> None:
    fleet = await elastic(2, 3)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    before = fleet.split()
    assert before != {"prefill": 2, "decode": 3}
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(mode="Paused"))
    await fleet.run(90)
    assert fleet.split() == before


def lasting(fleet: Fleet, minimum: int, zone: str = "") -> dict[str, Any]:
    """A scheduled minimum that begins in an hour and lasts for two."""
    begins = (fleet.now + timedelta(hours=1)).astimezone(ZoneInfo(zone or "UTC"))
    return {
        "days": [begins.strftime("%A")],
        "from": begins.strftime("%H:%M"),
        "to": (begins + timedelta(hours=2)).strftime("%H:%M"),
        "minimum": minimum,
        **({"timeZone": zone} if zone else {}),
    }


@pytest.mark.shows(
    "InferenceGroup.spec.accelerators.schedule[].days",
    "InferenceGroup.spec.accelerators.schedule[].from",
    "InferenceGroup.spec.accelerators.schedule[].to",
    "InferenceGroup.spec.accelerators.schedule[].timeZone",
    "InferenceGroup.spec.accelerators.schedule[].minimum",
)
async def test_a_scheduled_minimum_is_held_while_it_lasts_and_the_size_follows_the_load_afterwards() -> None:
    fleet = await elastic(2, 4)
    another_day = {**lasting(fleet, 18), "days": [(fleet.now + timedelta(days=3)).strftime("%A")]}
    schedule = [lasting(fleet, 14), lasting(fleet, 16, "Asia/Tokyo"), another_day]
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(schedule=schedule))
    fleet.traffic = known(ANSWER_HEAVY, 1)
    await fleet.run(20)
    before = fleet.split()
    assert sum(before.values()) < 8
    fleet.now += timedelta(hours=1)
    await fleet.run(40)
    assert sum(fleet.serving().values()) == 8, "the larger of the two that last"
    assert "its schedule, asks for 16 accelerators" in fleet.status()["decision"]["reason"]
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    fleet.now += timedelta(hours=1)
    await fleet.run(20)
    assert sum(fleet.split().values()) == 8, "little load is no reason to go below it"
    fleet.now += timedelta(hours=1)
    await fleet.run(40)
    assert sum(fleet.split().values()) < 8, (
        "what the load needs, with the headroom of a stage that takes little"
    )


async def test_a_scheduled_minimum_wakes_a_group_that_sleeps() -> None:
    fleet = Fleet(1, 1)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(minimum=0))
    for role in ("prefill", "decode"):
        fleet.edit(INFERENCE_ROLES, role, lambda spec: spec.update(minReplicas=0))
    fleet.changed_values["front:queued", MODEL] = 0.0
    fleet.traffic = known(steady(0, 0, 0))
    await fleet.run(40)
    assert fleet.serving() == {"prefill": 0, "decode": 0}
    schedule = [lasting(fleet, 6)]
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(schedule=schedule))
    await fleet.run(20)
    assert fleet.serving() == {"prefill": 0, "decode": 0}
    fleet.now += timedelta(hours=1)
    await fleet.run(20)
    assert sum(fleet.serving().values()) == 3


async def test_a_schedule_in_a_time_zone_that_nobody_knows_is_held_at_any_time_and_said() -> None:
    fleet = await elastic(2, 4)
    schedule = [{**lasting(fleet, 16), "timeZone": "Europe/Atlantis"}]
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(schedule=schedule))
    await fleet.run(40)
    assert sum(fleet.serving().values()) == 8
    assert fleet.condition("Balanced") == ("False", "ScheduleUnreadable")
    assert "Europe/Atlantis" in fleet.message("Balanced")

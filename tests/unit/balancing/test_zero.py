"""The last replicas go while nobody asks for anything, and come when a request waits at a front end that keeps it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.fleet import GROUP, MODEL, NAMESPACE, Fleet
from support.inference import known, steady
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES

QUEUED = ("front:queued", MODEL)
SLEEPING = {"prefill": 0, "decode": 0}
AWAKE = {"prefill": 1, "decode": 1}
QUIET = known(steady(0, 0, 0))


async def idle(*, queued: float | None = 0.0, minimum: int = 0, **least: int) -> Fleet:
    """A group whose front end has flow control, unless `queued` is None; nobody has asked it for 20 minutes."""
    fleet = Fleet(1, 1, nodes=True)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(minimum=minimum))
    for role in ("prefill", "decode"):
        change = {"minReplicas": least.get(role, 0)}
        fleet.edit(INFERENCE_ROLES, role, lambda spec, change=change: spec.update(change))
    fleet.changed_values[QUEUED] = queued
    fleet.traffic = QUIET
    await fleet.run(50)
    return fleet


@pytest.mark.shows("InferenceRole.spec.minReplicas")
async def test_a_group_that_nobody_asks_gives_all_its_hardware_back_and_wakes_when_a_request_waits() -> None:
    fleet = await idle()
    assert fleet.serving() == SLEEPING
    assert fleet.pods() == fleet.cluster.list(LOGICAL_NODES, NAMESPACE) == []
    assert fleet.condition("Ready") == ("False", "ScaledToZero")
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    assert fleet.condition("AbleToScaleToZero") == ("True", "FrontEndQueues")
    assert fleet.condition("MetricsFresh") == ("Unknown", "ScaledToZero"), "no reason for an alert"
    assert fleet.status()["decision"]["reason"].startswith("shrinks by 1 decode, 1 prefill: no request came")
    await fleet.run(300)
    assert fleet.pods() == [], "it sleeps on"

    fleet.changed_values[QUEUED] = 1.0
    await fleet.run(5)
    assert fleet.serving() == AWAKE, "both stages come back together"
    assert fleet.status()["decision"]["reason"].startswith(
        "grows from zero to decode 1, prefill 1: a request"
    )
    assert "serves after" in fleet.status()["decision"]["reason"]
    assert {"ScaledDown", "ScaledUp"} <= {reason for _, reason, _ in fleet.cluster.events}
    fleet.changed_values[QUEUED] = 0.0
    await fleet.run(120)
    assert fleet.serving() == AWAKE, "one request is not followed by none for 20 minutes"


async def test_no_replica_goes_while_requests_come_or_have_come_in_the_last_minutes() -> None:
    for traffic in (
        known(steady(0.01, 400, 40)),
        replace(QUIET, past=replace(QUIET.past, requests_per_second=0.001)),
    ):  # type: ignore[type-var]
        fleet = Fleet(1, 1)
        fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(minimum=0))
        for role in ("prefill", "decode"):
            fleet.edit(INFERENCE_ROLES, role, lambda spec: spec.update(minReplicas=0))
        fleet.changed_values[QUEUED] = 0.0
        fleet.traffic = traffic
        await fleet.run(60)
        assert fleet.serving() == AWAKE


async def test_no_replica_goes_while_a_request_waits_at_the_front_end_though_none_was_counted() -> None:
    fleet = await idle(queued=1.0)
    assert fleet.serving() == AWAKE
    assert "ScaledDown" not in {reason for _, reason, _ in fleet.cluster.events}


async def test_where_nothing_tells_which_requests_wait_one_replica_of_each_role_stays_and_it_is_said() -> (
    None
):
    fleet = await idle(queued=None)
    assert fleet.serving() == AWAKE
    assert fleet.condition("AbleToScaleToZero") == ("False", "NoActivator")
    assert "preset vllm" in fleet.message("AbleToScaleToZero")


@pytest.mark.parametrize("keeps", [{"decode": 1}, {"minimum": 4}])
async def test_what_else_keeps_replicas_is_said(keeps: dict[str, int]) -> None:
    fleet = await idle(**keeps)  # type: ignore[arg-type]
    assert fleet.serving() == AWAKE
    assert fleet.condition("AbleToScaleToZero") == ("False", "RolesKeepReplicas")


async def test_a_group_wakes_when_nothing_tells_any_more_whether_somebody_waits_but_not_at_once() -> None:
    for break_it in (
        lambda fleet: fleet.changed_values.update({QUEUED: None}),
        lambda fleet: setattr(fleet, "broken", "it is down"),
    ):
        fleet = await idle()
        break_it(fleet)
        await fleet.run(50)
        assert fleet.pods() == [], "a restart of Prometheus wakes nobody"
        await fleet.run(20)
        assert fleet.serving() == AWAKE
        assert fleet.condition("AbleToScaleToZero") == ("False", "NoActivator")


async def test_a_request_that_comes_while_the_last_replicas_go_gets_new_ones() -> None:
    fleet = await idle()
    fleet.changed_values[QUEUED] = 1.0
    await fleet.run(5)
    fleet.changed_values[QUEUED] = 0.0
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(mode="Paused"))
    for role in ("prefill", "decode"):
        fleet.edit(INFERENCE_ROLES, role, lambda spec: spec.update(replicas=0))
    leaving = {pod["metadata"]["name"] for pod in fleet.pods()}
    fleet.requests = dict.fromkeys(leaving, 1.0)
    await fleet.run(5)
    assert {pod["metadata"]["name"] for pod in fleet.pods()} == leaving, "they end what they have"
    assert fleet.serving() == SLEEPING
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(mode="Auto"))
    fleet.changed_values[QUEUED] = 2.0
    await fleet.run(5)
    assert fleet.serving() == AWAKE
    assert {pod["metadata"]["name"] for pod in fleet.pods()} > leaving


async def test_an_operator_that_takes_over_lets_a_sleeping_group_sleep() -> None:
    fleet = await idle()
    fleet.restart()
    fleet.broken = "not there yet"
    await fleet.run(10)
    fleet.broken = ""
    await fleet.run(30)
    assert fleet.pods() == []


async def test_paused_keeps_to_zero_replicas_where_the_roles_ask_for_none() -> None:
    fleet = await idle(queued=None)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(mode="Paused"))
    for role in ("prefill", "decode"):
        fleet.edit(INFERENCE_ROLES, role, lambda spec: spec.update(replicas=0))
    await fleet.run(20)
    assert fleet.pods() == []
    assert fleet.condition("Ready") == ("False", "ScaledToZero")


async def test_an_operator_that_is_killed_at_any_write_takes_the_last_replicas_and_brings_them_back() -> None:
    fleet = await idle(queued=None)
    fleet.cluster.after_write = fleet.restart
    fleet.changed_values[QUEUED] = 0.0
    await fleet.run(60)
    assert fleet.pods() == fleet.cluster.list(LOGICAL_NODES, NAMESPACE) == []
    fleet.changed_values[QUEUED] = 1.0
    await fleet.run(10)
    assert fleet.serving() == AWAKE

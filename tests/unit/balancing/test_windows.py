"""When an inference group's moves may begin: windows of the week, and a suspension."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS


async def started(*, nodes: bool = False, windows: list[Any] | None = None) -> Fleet:
    fleet = Fleet(nodes=nodes)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(15)
    if windows is not None:
        fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(windows=windows))
    return fleet


def later(fleet: Fleet, hours: float, minutes: float = 0) -> str:
    """A time of the day of UTC."""
    return (fleet.now + timedelta(hours=hours, minutes=minutes)).strftime("%H:%M")


@pytest.mark.shows(
    "InferenceGroup.spec.windows[].from",
    "InferenceGroup.spec.windows[].to",
    "InferenceGroup.spec.windows[].days",
    "InferenceGroup.spec.windows[].timeZone",
)
async def test_a_split_waits_for_its_window_says_when_that_opens_and_moves_then() -> None:
    fleet = await started()
    opens = fleet.now + timedelta(hours=1)
    window = {
        "days": [opens.strftime("%A")],
        "from": opens.strftime("%H:%M"),
        "to": later(fleet, 2),
        "timeZone": "UTC",
    }
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(windows=[window]))
    before = fleet.split()
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.split() == before
    assert fleet.condition("Balanced") == ("False", "OutsideWindow")
    assert f"{opens:%A %Y-%m-%d %H:%M} UTC" in fleet.message("Balanced")
    writes = len(fleet.cluster.writes)
    await fleet.run(15)
    assert len(fleet.cluster.writes) == writes
    fleet.now = opens.replace(second=0)
    await fleet.run(40)
    assert fleet.split() != before


@pytest.mark.shows("InferenceGroup.spec.windows[].reasons")
async def test_a_window_that_is_for_other_moves_holds_none() -> None:
    fleet = await started()
    window = {"from": later(fleet, 1), "to": later(fleet, 2), "reasons": ["Rollout"]}
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(windows=[window]))
    before = fleet.split()
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.split() != before


@pytest.mark.shows("InferenceGroup.spec.windows[].maxConcurrent")
async def test_a_window_says_how_many_replicas_change_their_role_at_once() -> None:
    most = {}
    for limit in (None, 1):
        fleet = await started()
        window = {"from": "00:00", "to": "00:00", **({"maxConcurrent": limit} if limit else {})}
        fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec, one=window: spec.update(windows=[one]))
        fleet.requests = dict.fromkeys((pod["metadata"]["name"] for pod in fleet.pods()), 3.0)
        fleet.traffic = PROMPT_HEAVY
        seen = 0
        for _ in range(25):
            await fleet.run(1)
            seen = max(seen, len(fleet.status().get("transfers", ())))
        most[limit] = seen
    assert most[1] == 1 < most[None]


async def test_a_changed_template_waits_for_its_window_and_a_pod_that_vanished_does_not() -> None:
    fleet = await started()
    window = {"from": later(fleet, 1), "to": later(fleet, 2)}
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(windows=[window]))
    spec = {"spec": {"containers": [{"name": "engine", "image": "vllm:2"}]}}
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec_: spec_.update(template=spec))
    gone = fleet.pods()[0]["metadata"]
    await fleet.cluster.delete(PODS, gone["name"], gone["namespace"])
    await fleet.run(15)
    images = [pod["spec"]["containers"][0]["image"] for pod in fleet.pods()]
    assert (len(images), images.count("vllm:2")) == (9, 1)
    assert fleet.condition("Balanced") == ("False", "OutsideWindow")
    assert "Rollout" in fleet.message("Balanced")
    fleet.now += timedelta(hours=1)
    await fleet.run(120)
    assert {pod["spec"]["containers"][0]["image"] for pod in fleet.pods()} == {"vllm:2"}


async def test_a_raised_minimum_waits_for_its_window_and_a_number_that_a_paused_group_is_given_does_not() -> (
    None
):
    fleet = await started()
    window = {"from": later(fleet, 1), "to": later(fleet, 2), "reasons": ["Size"]}
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(windows=[window]))
    before = len(fleet.pods())
    limits = {"minimum": 2 * (before + 2), "maximum": 2 * (before + 4)}  # of two per replica
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(accelerators=limits))
    await fleet.run(30)
    assert len(fleet.pods()) == before
    assert fleet.condition("Balanced") == ("False", "OutsideWindow")
    fleet.now += timedelta(hours=1)
    await fleet.run(30)
    assert len(fleet.pods()) >= before + 2

    fleet.now += timedelta(hours=1)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(mode="Paused"))
    await fleet.run(10)
    here = len(fleet.pods())
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=1))
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=1))
    await fleet.run(60)
    assert len(fleet.pods()) == 2 != here


async def test_a_clock_that_jumps_into_a_window_and_back_leaves_it_closed() -> None:
    fleet = await started()
    window = {"from": later(fleet, 5), "to": later(fleet, 7)}
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(windows=[window]))
    fleet.set_clock(6)
    await fleet.run(5)
    fleet.set_clock(-6)
    before = fleet.split()
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.split() == before
    assert fleet.condition("Balanced") == ("False", "OutsideWindow")


async def test_a_zone_that_the_operator_does_not_know_holds_and_is_said() -> None:
    fleet = await started(windows=[{"from": "00:00", "to": "00:00", "timeZone": "Mars/Olympus"}])
    before = fleet.split()
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.split() == before
    assert "Mars/Olympus is not known" in fleet.message("Balanced")


@pytest.mark.shows("InferenceGroup.spec.suspend")
async def test_a_suspended_group_begins_no_move_and_adds_no_replica_and_lets_go_of_what_is_not_wanted() -> (
    None
):
    fleet = await started(nodes=True)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(suspend=True))
    before = fleet.split()
    fleet.traffic = PROMPT_HEAVY
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(maxReplicas=9, minReplicas=8))
    await fleet.run(40)
    assert fleet.split() == before
    assert fleet.condition("Balanced") == ("False", "Suspended")
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(maxReplicas=4, minReplicas=1))
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(maxReplicas=before["prefill"]))
    await fleet.run(60)
    assert fleet.split()["decode"] == 4
    assert len(fleet.cluster.list(LOGICAL_NODES)) == sum(fleet.split().values())
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.pop("suspend"))
    await fleet.run(15)
    assert fleet.condition("Balanced")[1] != "Suspended"


def suspend_at(fleet: Fleet, write: int) -> None:
    """`kubectl weft pause --taking` right after the so many-th write from now."""
    writes = 0

    def after_write() -> None:
        nonlocal writes
        writes += 1
        if writes == write:
            fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(suspend=True))

    fleet.cluster.after_write = after_write


@pytest.mark.parametrize("write", [2, 14])
async def test_a_move_that_has_begun_when_its_group_is_suspended_is_brought_to_its_end(write: int) -> None:
    fleet = await started(nodes=True)
    fleet.now += timedelta(seconds=60)
    suspend_at(fleet, write)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(12)
    assert fleet.group()["spec"]["suspend"]
    assert fleet.split() == fleet.serving() == {"prefill": 5, "decode": 4}
    assert not fleet.status().get("transfers")


@pytest.mark.parametrize("write", [3, 24])
async def test_a_group_that_is_suspended_while_it_is_composed_anew_gives_back_and_takes_when_it_is_resumed(
    write: int,
) -> None:
    fleet = Fleet(nodes=True, flip="Recompose", drainFirst=None, mode="Paused")
    await fleet.run(10)
    suspend_at(fleet, write)
    for role, replicas in (("decode", 5), ("prefill", 4)):
        fleet.edit(INFERENCE_ROLES, role, lambda spec, n=replicas: spec.update(replicas=n))
    await fleet.run(15)
    assert fleet.condition("Balanced") == ("False", "Suspended")
    made = {node["metadata"]["uid"] for node in fleet.cluster.list(LOGICAL_NODES, NAMESPACE)}
    assert (len(made), fleet.serving()) == (8, {"prefill": 3, "decode": 5})
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.pop("suspend"))
    await fleet.run(15)
    assert fleet.split() == fleet.serving() == {"prefill": 4, "decode": 5}
    assert made < {node["metadata"]["uid"] for node in fleet.cluster.list(LOGICAL_NODES, NAMESPACE)}

"""Roles on different hardware: a replica of one goes with its logical node, and one of the other is composed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY, steady
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS
from weft.cluster import Object

PREFILL: Object = {"accelerators": [{"name": "main", "count": 2}]}
DECODE: Object = {**PREFILL, "memory": [{"name": "cxl", "size": "512Gi"}]}


async def composed(**options: object) -> Fleet:
    fleet = Fleet(nodes=True, **{"flip": "Recompose", "drainFirst": None, **options})
    for role, node in (("prefill", PREFILL), ("decode", DECODE)):
        fleet.edit(INFERENCE_ROLES, role, lambda spec, one=node: spec.update(node=one))
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    return fleet


def shapes(fleet: Fleet) -> dict[str, int]:
    """Logical nodes with memory, and without."""
    found = {"prefill": 0, "decode": 0}
    for node in fleet.cluster.list(LOGICAL_NODES, NAMESPACE):
        found["decode" if node["spec"].get("memory") else "prefill"] += 1
    return found


@pytest.mark.shows("InferenceGroup.spec.rebalance.flip")
async def test_the_hardware_under_a_role_follows_the_load_and_the_decision_says_what_it_costs() -> None:
    fleet = await composed()
    assert shapes(fleet) == {"prefill": 3, "decode": 6}
    most, fewest = 0, 9

    def count() -> None:
        nonlocal most, fewest
        most = max(most, len(fleet.cluster.list(LOGICAL_NODES, NAMESPACE)))
        fewest = min(fewest, sum(fleet.serving().values()))

    fleet.cluster.after_write = count
    fleet.traffic = PROMPT_HEAVY
    for _ in range(120):
        await fleet.run(1)
        if fleet.split()["prefill"] >= 5 and fleet.condition("Balanced")[1] == "AsDecided":
            break
    assert fleet.split() == fleet.serving() == shapes(fleet)
    assert fleet.split()["prefill"] >= 5
    assert most == 9, "the donor is gone before the other is asked for"
    assert fewest >= 7, "a quarter of them at a time"
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    assert "accelerator-seconds" in fleet.status()["decision"]["reason"]


async def test_nothing_is_composed_before_the_donors_devices_are_free_even_where_the_budget_has_room() -> (
    None
):
    fleet = await composed(mode="Paused")
    fleet.stays_terminating = lambda pod: pod["metadata"]["labels"]["weft.dev/role"] == "decode"
    for role, replicas in (("decode", 5), ("prefill", 4)):
        fleet.edit(INFERENCE_ROLES, role, lambda spec, n=replicas: spec.update(replicas=n))
    await fleet.run(30)
    assert shapes(fleet) == {"prefill": 3, "decode": 6}
    fleet.stays_terminating = lambda pod: False
    await fleet.run(20)
    assert fleet.serving() == shapes(fleet) == {"prefill": 4, "decode": 5}


async def test_one_replica_makes_room_for_several_smaller_ones_and_they_for_it_within_what_was_asked_for() -> (
    None
):
    fleet = Fleet(nodes=True, flip="Recompose", drainFirst=None)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=40))
    for role, count, replicas in (("prefill", 1, 3), ("decode", 3, 6)):
        node: Object = {"accelerators": [{"name": "main", "count": count}]}
        change: Object = {"node": node, "replicas": replicas}
        fleet.edit(INFERENCE_ROLES, role, lambda spec, change=change: spec.update(change))
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)

    def held() -> int:
        nodes = fleet.cluster.list(LOGICAL_NODES, NAMESPACE)
        return sum(one["count"] for node in nodes for one in node["spec"]["accelerators"])

    assert (fleet.split(), held()) == ({"prefill": 3, "decode": 6}, 21)
    most = 0

    def count() -> None:
        nonlocal most
        most = max(most, held())

    async def settled() -> dict[str, int]:
        for _ in range(150):
            await fleet.run(1)
            if fleet.split() != before and fleet.condition("Balanced")[1] == "AsDecided":
                break
        assert fleet.split() == fleet.serving()
        return fleet.split()

    fleet.cluster.after_write = count
    fleet.traffic, before = PROMPT_HEAVY, fleet.split()
    after = await settled()
    assert after["prefill"] >= 6
    assert after["decode"] <= 5
    assert held() >= 19, "what fits is taken"
    fleet.traffic, before = steady(9.0, 300, 300), after
    await fleet.run(60)
    back = await settled()
    assert back["decode"] > after["decode"]
    assert most == 21, "never more than was asked for, although the budget has room"
    assert not {reason for _, reason, _ in fleet.cluster.events} & {"ScaledUp", "ScaledDown"}


async def test_a_role_without_accelerators_makes_no_room_for_one_that_has_them() -> None:
    fleet = await composed()
    node = {"memory": [{"name": "cxl", "size": "512Gi"}]}
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(node=node))
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.condition("Balanced") == ("False", "FlipIncompatible")


async def test_an_operator_that_is_killed_at_any_write_of_it_goes_on_where_it_was() -> None:
    fleet = await composed(mode="Paused")
    fleet.cluster.after_write = fleet.restart
    for role, replicas in (("decode", 4), ("prefill", 5)):
        fleet.edit(INFERENCE_ROLES, role, lambda spec, n=replicas: spec.update(replicas=n))
    await fleet.run(60)
    assert fleet.serving() == shapes(fleet) == {"prefill": 5, "decode": 4}


async def test_in_the_place_of_a_pod_whose_machine_is_gone_another_is_composed() -> None:
    fleet = await composed(mode="Paused")
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=20))
    fleet.stays_terminating = lambda pod: pod["metadata"]["name"] == f"{GROUP}-4"
    await fleet.cluster.delete(PODS, f"{GROUP}-4", NAMESPACE)
    await fleet.run(5)
    fleet.now += timedelta(seconds=120)
    await fleet.run(10)
    assert sum(fleet.serving().values()) == 9
    assert fleet.condition("Balanced") == ("False", "ReplicaStuck")

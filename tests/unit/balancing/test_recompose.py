"""Roles on different hardware: a replica of one goes with its logical node, and one of the other is composed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY
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


async def test_roles_with_different_numbers_of_accelerators_are_not_composed_for_each_other() -> None:
    fleet = await composed()
    node = {"accelerators": [{"name": "main", "count": 1}]}
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

"""Flips by a restart: the pod is replaced on its logical node, whose devices stay."""

from __future__ import annotations

from typing import Any

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS
from weft.cluster import Object


def template(role: str) -> Object:
    args = [f"--disaggregation-mode={role}"]
    return {"spec": {"containers": [{"name": "engine", "image": "dynamo:1", "args": args}]}}


async def restarting(**options: Any) -> Fleet:
    """Engines whose role is fixed by their arguments, each on a logical node."""
    fleet = Fleet(nodes=True, **{"flip": "Restart", "drainFirst": None, **options})
    for role in ("prefill", "decode"):
        fleet.edit(INFERENCE_ROLES, role, lambda spec, role=role: spec.update(template=template(role)))
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    return fleet


def nodes(fleet: Fleet) -> dict[str, str]:
    return {
        one["metadata"]["name"]: one["metadata"]["uid"]
        for one in fleet.cluster.list(LOGICAL_NODES, NAMESPACE)
    }


@pytest.mark.shows("InferenceGroup.spec.rebalance.flip")
async def test_a_restarted_replica_has_the_other_roles_arguments_on_the_same_logical_node() -> None:
    fleet = await restarting()
    before = nodes(fleet)
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    fleet.traffic = PROMPT_HEAVY
    fewest = 9

    def count() -> None:
        nonlocal fewest
        fewest = min(fewest, sum(fleet.serving().values()))

    fleet.cluster.after_write = count
    await fleet.run(120)
    assert fleet.serving() == {"prefill": 5, "decode": 4}
    assert fleet.split() == {"prefill": 5, "decode": 4}
    assert nodes(fleet) == before
    for pod in fleet.pods():
        role = pod["metadata"]["labels"]["weft.dev/role"]
        assert pod["spec"]["containers"][0]["args"] == [f"--disaggregation-mode={role}"]
    assert fewest == 7, "a quarter of them at a time"
    assert fleet.status().get("transfers", []) == []
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    told = [reason for _, reason, _ in fleet.cluster.events]
    assert told.count("TransferStarted") == told.count("TransferFinished") == 2
    labels = {
        one["metadata"]["labels"]["weft.dev/role"] for one in fleet.cluster.list(LOGICAL_NODES, NAMESPACE)
    }
    assert labels == {"prefill", "decode"}


async def test_an_engine_is_not_ended_while_it_has_requests_and_rolls_back_when_its_drain_times_out() -> None:
    fleet = await restarting()
    fleet.requests = {f"{GROUP}-{n}": 2.0 for n in range(9)}
    before = {pod["metadata"]["uid"] for pod in fleet.pods()}
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert {one["step"] for one in fleet.status()["transfers"]} == {"Draining"}
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == before
    await fleet.run(60)
    assert "TransferRolledBack" in {reason for _, reason, _ in fleet.cluster.events}
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == before


async def test_an_operator_that_is_killed_at_any_write_of_a_restart_goes_on_where_it_was() -> None:
    fleet = await restarting()
    before = nodes(fleet)
    fleet.traffic = PROMPT_HEAVY
    fleet.cluster.after_write = fleet.restart
    await fleet.run(150)
    assert fleet.serving() == {"prefill": 5, "decode": 4}
    assert nodes(fleet) == before


async def test_roles_on_different_hardware_or_without_logical_nodes_do_not_restart_into_each_other() -> None:
    fleet = Fleet(flip="Restart")
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(20)
    assert fleet.condition("Balanced") == ("False", "FlipIncompatible")
    assert fleet.split() == {"prefill": 3, "decode": 6}


async def test_nothing_restarts_into_a_role_whose_template_the_api_server_refuses() -> None:
    fleet = await restarting(mode="Paused")
    bad = template("prefill")
    bad["spec"]["containers"][0]["imagePullPolicy"] = 7
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=4, template=bad))
    await fleet.run(5)
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=5))
    await fleet.run(20)
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert fleet.condition("Balanced") == ("False", "TemplateInvalid")
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(template=template("prefill")))
    await fleet.run(60)
    assert fleet.serving() == {"prefill": 4, "decode": 5}


async def test_the_group_says_that_it_is_deleted_with_a_restart_under_way() -> None:
    fleet = await restarting()
    fleet.traffic = PROMPT_HEAVY
    for _ in range(60):
        await fleet.run(1)
        if fleet.status().get("transfers"):
            break
    await fleet.cluster.delete(INFERENCE_GROUPS, GROUP, NAMESPACE)
    await fleet.run(90)
    assert fleet.cluster.list(PODS, NAMESPACE) == []

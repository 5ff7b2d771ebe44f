"""What the fields of a group's and its roles' specs change, as it is seen in the pods."""

from __future__ import annotations

from typing import Any

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES


@pytest.mark.shows("InferenceGroup.spec.accelerators.maximum")
async def test_a_group_holds_no_more_accelerators_than_its_maximum() -> None:
    fleet = Fleet(3, 6)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=11))
    await fleet.run(10)
    assert len(fleet.pods()) == 5  # of two accelerators each


@pytest.mark.shows("InferenceRole.spec.acceleratorsPerReplica")
async def test_plain_pods_count_for_as_many_accelerators_as_their_role_says() -> None:
    fleet = Fleet(3, 6)
    for name in ("prefill", "decode"):
        fleet.edit(INFERENCE_ROLES, name, lambda spec: spec.update(acceleratorsPerReplica=6))
    await fleet.run(10)
    assert len(fleet.pods()) == 3  # of 18 accelerators


@pytest.mark.shows("InferenceGroup.spec.metrics.preset")
async def test_a_preset_that_the_operator_does_not_have_is_a_condition_that_names_it() -> None:
    fleet = Fleet()
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["metrics"].update(preset="vlm"))
    await fleet.run(5)
    assert fleet.condition("MetricsFresh") == ("False", "PresetNotFound")
    assert "'vlm'" in fleet.message("MetricsFresh")


@pytest.mark.shows("InferenceGroup.spec.rebalance.cooldownSeconds")
async def test_no_second_decision_is_taken_within_the_cooldown() -> None:
    fleet = Fleet(cooldownSeconds=120)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(100)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    await fleet.run(60)
    assert fleet.split() == {"prefill": 5, "decode": 4}


@pytest.mark.shows("InferenceRole.spec.groupRef.name")
async def test_a_role_of_another_group_gives_a_group_no_pods() -> None:
    fleet = Fleet(3, 6)
    fleet.put_role("decode", "Decode", 6, groupRef={"name": "another"})
    await fleet.run(10)
    assert fleet.split() == {"prefill": 3}


@pytest.mark.shows("InferenceRole.spec.replicas")
async def test_a_role_starts_with_its_replicas() -> None:
    fleet = Fleet(2, 4)
    await fleet.run(10)
    assert fleet.split() == {"prefill": 2, "decode": 4}


@pytest.mark.shows("InferenceRole.spec.minReplicas")
async def test_a_role_whose_replicas_were_left_at_one_has_its_fewest() -> None:
    fleet = Fleet(1, 1)
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(minReplicas=4))
    await fleet.run(10)
    assert fleet.split() == {"prefill": 1, "decode": 4}


@pytest.mark.shows("InferenceRole.spec.maxReplicas")
@pytest.mark.parametrize(("role", "bound", "split"), [
    ("prefill", {"maxReplicas": 4}, {"prefill": 4, "decode": 5}),
    ("decode", {"minReplicas": 5}, {"prefill": 4, "decode": 5}),
])  # fmt: skip
async def test_the_load_moves_no_role_beyond_its_bounds(
    role: str, bound: dict[str, Any], split: dict[str, int]
) -> None:
    fleet = Fleet(3, 6)  # the load asks for five and four
    fleet.edit(INFERENCE_ROLES, role, lambda spec: spec.update(bound))
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(90)
    assert fleet.split() == split


async def test_a_role_without_a_template_in_a_group_without_one_says_where_to_set_it() -> None:
    fleet = Fleet(3, 6)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.pop("template"))
    await fleet.run(5)
    role = fleet.cluster.get(INFERENCE_ROLES, "decode", NAMESPACE)
    assert role is not None
    ready = next(one for one in role["status"]["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "TemplateMissing")
    assert "spec.template" in ready["message"]
    assert fleet.pods() == []


@pytest.mark.parametrize("nodes", [False, True])
async def test_a_template_taken_from_its_group_takes_no_replica_away_and_moves_to_the_roles(
    nodes: bool,
) -> None:
    fleet = Fleet(3, 6, nodes=nodes)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(90)
    pods = {pod["metadata"]["uid"] for pod in fleet.pods()}
    template = fleet.group()["spec"]["template"]

    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.pop("template"))
    await fleet.run(30)
    assert fleet.serving() == {"prefill": 5, "decode": 4}
    assert fleet.condition("Ready") == ("False", "TemplateMissing")
    assert fleet.condition("Balanced") == ("False", "TemplateMissing")

    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(template=template))
    await fleet.run(30)
    assert fleet.serving() == {"prefill": 5, "decode": 4}
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(template=template))
    await fleet.run(30)
    assert fleet.condition("Ready") == ("True", "Serving")
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == pods


async def test_a_role_deleted_while_another_has_no_template_takes_its_own_replicas_alone() -> None:
    fleet = Fleet(3, 6)
    await fleet.run(10)
    template = fleet.group()["spec"]["template"]
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(template=template))
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.pop("template"))
    await fleet.run(5)
    del fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, "decode")]
    await fleet.run(90)
    assert fleet.split() == {"prefill": 3}


@pytest.mark.parametrize("one", ["timeToFirstTokenMilliseconds", "interTokenLatencyMicroseconds"])
async def test_one_objective_is_enough_to_move_replicas_where_the_load_needs_them(one: str) -> None:
    fleet = Fleet(1, 8)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["objectives"].pop(one))
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(200)
    assert fleet.split()["prefill"] >= 4  # 3.73 replicas saturate
    assert fleet.split()["decode"] >= 3  # 2.84 replicas saturate

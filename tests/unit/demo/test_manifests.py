"""The examples as the demo applies them."""

from __future__ import annotations

import pytest

from weft.cluster import Object
from weft_playground.case import ACCELERATORS_PER_REPLICA, AUTO, NODE_COUNT, PAUSED, Case, Split
from weft_playground.demo.manifests import Examples, all_groups, only, with_logical_nodes, with_plain_pods
from weft_playground.profile import KV_CAPACITY_TOKENS, MAX_BATCH

EXAMPLES = with_logical_nodes()
IN_PODS = with_plain_pods()


def of(objects: list[Object], kind: str, namespace: str) -> list[Object]:
    return [
        each for each in objects if each["kind"] == kind and each["metadata"].get("namespace") == namespace
    ]


@pytest.mark.parametrize("examples", [EXAMPLES, IN_PODS])
def test_all_groups_are_the_examples_but_for_their_mode(examples: Examples) -> None:
    objects = all_groups(examples, Split(4, 6))
    (auto,), (paused,) = of(objects, "InferenceGroup", AUTO), of(objects, "InferenceGroup", PAUSED)
    assert (auto["spec"]["rebalance"].pop("mode"), paused["spec"]["rebalance"].pop("mode")) == (
        "Auto",
        "Paused",
    )
    assert auto["spec"] == paused["spec"]
    for kind in ("InferenceRole", "EngineProfile"):
        first, second = of(objects, kind, AUTO), of(objects, kind, PAUSED)
        assert [each["spec"] for each in first] == [each["spec"] for each in second]


def test_the_budget_is_just_the_split_and_each_role_gets_its_replicas() -> None:
    objects = all_groups(EXAMPLES, Split(2, 3))
    (group,) = of(objects, "InferenceGroup", AUTO)
    assert group["spec"]["accelerators"]["maximum"] == 5 * ACCELERATORS_PER_REPLICA
    replicas = {
        each["spec"]["stage"]: each["spec"]["replicas"] for each in of(objects, "InferenceRole", AUTO)
    }
    assert replicas == {"Prefill": 2, "Decode": 3}


def test_the_examples_replicas_hold_as_many_accelerators_as_the_demo_counts() -> None:
    for role in (each for each in EXAMPLES.group if each["kind"] == "InferenceRole"):
        assert sum(each["count"] for each in role["spec"]["node"]["accelerators"]) == ACCELERATORS_PER_REPLICA
    for role in (each for each in IN_PODS.group if each["kind"] == "InferenceRole"):
        assert role["spec"]["acceleratorsPerReplica"] == ACCELERATORS_PER_REPLICA


@pytest.mark.parametrize("examples", [EXAMPLES, IN_PODS])
def test_the_planners_profile_has_the_engines_limits(examples: Examples) -> None:
    spec = only(examples.group, "EngineProfile")["spec"]
    assert (spec["kvCapacityTokens"], spec["maxBatch"]) == (KV_CAPACITY_TOKENS, MAX_BATCH)


def test_the_fabric_gets_the_address_of_this_run_and_has_a_host_for_every_replica() -> None:
    fabric = EXAMPLES.with_fabric_at("http://127.0.0.1:1").fabric
    assert fabric["spec"]["endpoint"] == "http://127.0.0.1:1"
    assert len(fabric["spec"]["hosts"]) == NODE_COUNT >= 2 * Case().replicas + 1
    assert EXAMPLES.fabric["spec"]["endpoint"] != "http://127.0.0.1:1", "the examples stay as they are"


def test_memory_and_drives_are_at_a_second_manager_with_the_same_hosts() -> None:
    changed = EXAMPLES.with_memory_at("http://127.0.0.1:2")
    first, second = (each for each in changed.common if each["kind"] == "Fabric")
    assert (first, second["spec"]["endpoint"]) == (EXAMPLES.fabric, "http://127.0.0.1:2")
    assert second["spec"]["hosts"] == first["spec"]["hosts"]
    fabrics = {
        each["kind"]: each["spec"]["fabricRef"]["name"] for each in changed.common if "Pool" in each["kind"]
    }
    assert fabrics == {"GPUPool": "rack-a", "MemoryPool": "rack-a-memory", "StoragePool": "rack-a-memory"}


def test_the_objectives_are_the_examples() -> None:
    found = EXAMPLES.objectives
    assert (found.time_to_first_token, found.inter_token_latency) == (3.0, 0.1)


@pytest.mark.parametrize("text", ["", "3", "3:", "0:6", "3:0", "a:b", "-1:4"])
def test_a_split_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="3:6"):
        Split.parse(text)


def test_a_split_is_prefill_and_decode() -> None:
    assert Split.parse("3:6") == Split(3, 6)
    assert str(Split(3, 6)) == "3:6"

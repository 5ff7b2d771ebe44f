"""A group's life through the reconciler, in memory: started, edited, broken, removed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.fleet import GROUP, NAMESPACE, TEMPLATE, Fleet, condition, started
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY
from support.refusals import Policy, Write
from weft.api import InferenceGroup, InferenceRole
from weft.api.names import FINALIZER, GATE_SERVING, LABEL_ROLE, LABEL_STAGE
from weft.api.resources import ENGINE_PROFILES, INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS


async def test_a_group_starts_with_its_roles_replicas_and_all_serve() -> None:
    fleet = await started()
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    assert fleet.condition("MetricsFresh") == ("True", "Fresh")
    assert {pod["metadata"]["name"] for pod in fleet.pods()} == {f"{GROUP}-{n}" for n in range(9)}


async def test_roles_say_what_they_have_and_how_to_select_it() -> None:
    fleet = await started()
    role = fleet.cluster.get(INFERENCE_ROLES, "decode", NAMESPACE)
    assert role is not None
    counted = ("desiredReplicas", "replicas", "updatedReplicas", "readyReplicas")
    assert [role["status"][name] for name in counted] == [6, 6, 6, 6]
    assert [fleet.status()[name] for name in counted] == [9, 9, 9, 9]
    assert fleet.status()["split"] == "decode 6, prefill 3"
    assert role["status"]["observedGeneration"] == 1
    assert role["status"]["selector"] == (
        f"weft.dev/group={GROUP},weft.dev/role=decode,weft.dev/worker-index=0"
    )
    assert condition(role, "Ready") == condition(role, "ProfileValid") == "True"


async def test_a_pod_waits_for_its_logical_node_and_is_tied_to_its_host() -> None:
    fleet = Fleet(1, 1, nodes=True)
    for _ in range(4):
        await fleet.look()
    assert len(fleet.cluster.list(LOGICAL_NODES, NAMESPACE)) == 2
    assert fleet.pods() == []
    fleet.play()  # binds
    await fleet.run(3)
    pod = fleet.cluster.objects.get((PODS, NAMESPACE, f"{GROUP}-0"))
    assert pod is not None
    affinity = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert affinity["nodeSelectorTerms"] == [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [f"worker-{GROUP}-0"]}]}
    ]
    assert "weft.dev/logical-node" in {each["key"] for each in pod["spec"]["tolerations"]}
    assert fleet.serving() == {"prefill": 1, "decode": 1}


async def removed(fleet: Fleet) -> str:
    """The name of a decode replica that has just left the router to be removed, with nothing to do."""
    await fleet.run(10)
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=5))
    await fleet.run(1)
    (left,) = [pod["metadata"]["name"] for pod in fleet.pods() if condition(pod, GATE_SERVING) == "False"]
    return left


async def test_a_replica_that_is_removed_ends_what_a_router_that_learns_of_it_ten_seconds_late_sent() -> None:
    fleet = Fleet(3, 6, mode="Paused")
    left = await removed(fleet)
    await fleet.run(8)
    fleet.requests = {left: 1.0}
    await fleet.run(20)
    assert left in {pod["metadata"]["name"] for pod in fleet.pods()}
    fleet.requests = {}
    await fleet.run(3)
    assert left not in {pod["metadata"]["name"] for pod in fleet.pods()}


async def test_a_decode_replica_that_is_removed_waits_for_the_prompts_of_its_requests_to_be_read() -> None:
    fleet = Fleet(3, 6, mode="Paused")
    await fleet.run(5)
    reads = next(
        pod["metadata"]["name"] for pod in fleet.pods() if pod["metadata"]["labels"][LABEL_STAGE] == "prefill"
    )
    fleet.changed_values = {("engine:waiting", reads): 40.0}
    left = await removed(fleet)
    await fleet.run(25)
    fleet.requests = {left: 1.0}  # the first of them has been read
    await fleet.run(20)
    assert left in {pod["metadata"]["name"] for pod in fleet.pods()}
    fleet.requests = {}
    await fleet.run(3)
    assert left not in {pod["metadata"]["name"] for pod in fleet.pods()}


async def test_a_vanished_pod_is_made_again_on_the_same_logical_node() -> None:
    fleet = await started(nodes=True)
    uid = fleet.cluster.objects[(LOGICAL_NODES, NAMESPACE, f"{GROUP}-4")]["metadata"]["uid"]
    del fleet.cluster.objects[(PODS, NAMESPACE, f"{GROUP}-4")]
    await fleet.run(5)
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert fleet.cluster.objects[(LOGICAL_NODES, NAMESPACE, f"{GROUP}-4")]["metadata"]["uid"] == uid


async def test_a_template_that_the_api_server_refuses_binds_no_hardware_and_is_said() -> None:
    fleet = Fleet(nodes=True)
    refused = []

    def no_decode(write: Write) -> str | None:
        if write.body["metadata"]["labels"][LABEL_ROLE] == "decode":
            refused.append(write)
            return "spec.containers[0].image: Required value"
        return None

    fleet.cluster.rules.append(Policy(PODS, no_decode))
    await fleet.run(10)
    assert len(fleet.cluster.list(LOGICAL_NODES, NAMESPACE)) == 3
    role = fleet.cluster.get(INFERENCE_ROLES, "decode", NAMESPACE)
    assert role is not None
    ready = next(one for one in role["status"]["conditions"] if one["type"] == "Ready")
    assert ready["reason"] == "TemplateInvalid"
    assert "spec.containers[0].image: Required value" in ready["message"]
    assert len(refused) == 3, "asked at 0, 2 and 6 s"
    assert fleet.condition("Ready") == ("False", "TemplateInvalid")


@pytest.mark.shows("InferenceRole.spec.profileRef.name")
async def test_a_profile_that_cannot_be_read_is_said_on_role_and_group() -> None:
    fleet = Fleet()
    del fleet.cluster.objects[(ENGINE_PROFILES, NAMESPACE, "speed")]
    await fleet.run(10)
    assert fleet.condition("Balanced") == ("False", "ProfileMissing")
    role = fleet.cluster.get(INFERENCE_ROLES, "decode", NAMESPACE)
    assert role is not None
    assert condition(role, "ProfileValid") == "False"
    assert fleet.serving() == {"prefill": 3, "decode": 6}


def with_container(**changes: Any) -> dict[str, Any]:
    """The group's template with these changes to its container."""
    template = copy.deepcopy(TEMPLATE)
    template["spec"]["containers"][0].update(changes)
    return template


@pytest.mark.shows("InferenceRole.spec.template")
async def test_templates_that_differ_in_more_than_labels_are_not_flipped() -> None:
    fleet = Fleet()
    fleet.edit(
        INFERENCE_ROLES,
        "decode",
        lambda spec: spec.update(template=with_container(args=["--decode"])),
    )
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(60)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.condition("Balanced") == ("False", "FlipIncompatible")


@pytest.mark.shows("InferenceGroup.spec.template")
async def test_one_edit_of_the_groups_template_rolls_the_replicas_of_all_roles_one_at_a_time() -> None:
    fleet = await started(mode="Paused")
    fewest = 9

    def count() -> None:
        nonlocal fewest
        fewest = min(fewest, sum(fleet.serving().values()))

    fleet.cluster.after_write = count
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(template=with_container(image="vllm:2")))
    await fleet.look()
    assert (fleet.status()["updatedReplicas"], fleet.status()["readyReplicas"]) == (0, 9)
    await fleet.run(120)
    assert fleet.status()["updatedReplicas"] == 9
    assert {pod["spec"]["containers"][0]["image"] for pod in fleet.pods()} == {"vllm:2"}
    assert fewest == 8


async def test_deleting_a_role_takes_its_own_replicas_and_not_those_that_serve_another() -> None:
    fleet = await started(nodes=True)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(60)
    assert fleet.split() == {"prefill": 5, "decode": 4}
    kept = {p["metadata"]["uid"] for p in fleet.pods() if p["metadata"]["labels"][LABEL_ROLE] == "prefill"}
    del fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, "decode")]
    await fleet.run(60)
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == kept
    assert len(fleet.cluster.list(LOGICAL_NODES, NAMESPACE)) == 5


async def test_a_deleted_group_drains_then_removes_pods_then_nodes_then_itself() -> None:
    fleet = await started(nodes=True)
    fleet.requests = {f"{GROUP}-5": 1.0}
    await fleet.cluster.delete(INFERENCE_GROUPS, GROUP, NAMESPACE)
    assert FINALIZER in fleet.group()["metadata"]["finalizers"]
    await fleet.run(10)
    assert f"{GROUP}-5" in {pod["metadata"]["name"] for pod in fleet.pods()}
    fleet.requests = {}
    order: list[str] = []

    def note() -> None:
        pods, nodes = fleet.pods(), fleet.cluster.list(LOGICAL_NODES, NAMESPACE)
        order.append(f"{bool(pods)} {bool(nodes)}")

    fleet.cluster.after_write = note
    await fleet.run(40)
    assert fleet.pods() == []
    assert fleet.cluster.list(LOGICAL_NODES, NAMESPACE) == []
    assert (INFERENCE_GROUPS, NAMESPACE, GROUP) not in fleet.cluster.objects
    assert "True False" not in order


async def test_a_group_deleted_with_its_roles_and_metrics_goes_when_the_drain_they_promised_is_over() -> None:
    fleet = await started()
    await fleet.cluster.delete(INFERENCE_GROUPS, GROUP, NAMESPACE)
    for name in ("prefill", "decode"):
        del fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, name)]
    fleet.broken = "no answer"
    await fleet.run(50)  # the roles' drain.timeoutSeconds was 60
    assert len(fleet.pods()) == 9
    await fleet.run(30)
    assert fleet.pods() == []
    assert (INFERENCE_GROUPS, NAMESPACE, GROUP) not in fleet.cluster.objects


async def test_a_deleted_group_says_what_it_waits_for() -> None:
    fleet = await started()
    fleet.requests = {f"{GROUP}-5": 1.0}
    await fleet.cluster.delete(INFERENCE_GROUPS, GROUP, NAMESPACE)
    await fleet.run(40)  # prefill replicas may be read from for 30 s, as long as a decode replica works
    assert fleet.condition("Ready") == ("False", "Removing")
    assert fleet.message("Ready") == f"1 replica finishes its requests before it is removed: {GROUP}-5"
    fleet.broken = "no answer"
    await fleet.run(5)
    assert "until its drain times out" in fleet.message("Ready")
    fleet.cluster.writes.clear()
    await fleet.run(5)
    assert fleet.cluster.writes == []


async def test_a_pod_with_the_groups_label_that_the_group_does_not_own_is_left_alone() -> None:
    fleet = await started()
    pod = {
        "metadata": {"name": "stranger", "namespace": NAMESPACE, "labels": {"weft.dev/group": GROUP}},
        "spec": {"containers": [{"name": "main", "image": "other:1"}]},
    }
    await fleet.cluster.create(PODS, pod)
    fleet.cluster.writes.clear()
    await fleet.look()
    assert all(name != "stranger" for _, _, name in fleet.cluster.writes)


async def test_a_settled_group_causes_no_writes() -> None:
    fleet = await started()
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(40)
    fleet.cluster.writes.clear()
    await fleet.run(20)
    assert fleet.cluster.writes == []


async def test_what_is_written_are_valid_objects_that_read_back_the_same() -> None:
    fleet = await started()
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(35)
    group = fleet.group()
    assert InferenceGroup.model_validate(group).status.dump() == group["status"]
    role = fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, "decode")]
    assert InferenceRole.model_validate(role).status.dump() == role["status"]


async def test_one_status_write_per_pass_at_most_and_a_conflict_is_retried() -> None:
    fleet = await started()
    fleet.traffic = PROMPT_HEAVY
    for _ in range(60):
        fleet.cluster.writes.clear()
        await fleet.look()
        for plural, name in (
            ("inferencegroups", GROUP),
            ("inferenceroles", "decode"),
            ("inferenceroles", "prefill"),
        ):
            assert fleet.cluster.writes.count(("status", plural, name)) <= 1
        fleet.play()
        await fleet.run(1)

    def rival() -> None:
        fleet.cluster.before_write = lambda: None
        key = (PODS, NAMESPACE, f"{GROUP}-0")
        fleet.cluster._store(key, fleet.cluster.objects[key])

    del fleet.cluster.objects[(PODS, NAMESPACE, f"{GROUP}-1")]
    fleet.cluster.before_write = rival
    await fleet.run(10)
    assert sum(fleet.serving().values()) == 9


def test_the_gate_is_the_one_that_pods_are_made_with() -> None:
    assert GATE_SERVING == "weft.dev/serving"


async def test_a_role_more_than_a_group_can_have_is_told_so_and_stops_nothing() -> None:
    fleet = await started(prefill=1, decode=1)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=100))
    for number in range(14):
        fleet.put_role(f"more-{number:02}", "Decode", 1)
    await fleet.run(5)
    # Its name would be the first of all.
    fleet.put_role("added", "Decode", 1)
    await fleet.run(5)
    role = fleet.cluster.get(INFERENCE_ROLES, "added", NAMESPACE)
    assert role is not None
    (ready,) = (one for one in role["status"]["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "TooManyRoles")
    assert fleet.condition("Balanced") == ("False", "TooManyRoles")
    assert fleet.condition("Ready") == ("True", "Serving")
    assert len(fleet.split()) == len(fleet.status()["allocation"]) == 16
    await fleet.cluster.delete(INFERENCE_ROLES, "more-00", NAMESPACE)
    await fleet.run(90)
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    assert fleet.split()["added"] == 1


async def test_a_replica_whose_name_somebody_elses_pod_has_taken_is_made_under_another() -> None:
    fleet = Fleet(1, 1, nodes=True)
    for _ in range(4):
        await fleet.look()
    (name, _) = sorted(node["metadata"]["name"] for node in fleet.cluster.list(LOGICAL_NODES, NAMESPACE))
    body = {"metadata": {"name": name, "namespace": NAMESPACE, "labels": {}}, "spec": TEMPLATE["spec"]}
    body["metadata"]["labels"] = {LABEL_ROLE: "somebody", LABEL_STAGE: "else"}
    theirs = await fleet.cluster.create(PODS, body)
    await fleet.run(3)
    for node in fleet.cluster.list(LOGICAL_NODES, NAMESPACE):
        if "deletionTimestamp" in node["metadata"]:
            del fleet.cluster.objects[(LOGICAL_NODES, NAMESPACE, node["metadata"]["name"])]
    await fleet.run(10)
    assert fleet.condition("Ready") == ("True", "Serving")
    assert name not in {node["metadata"]["name"] for node in fleet.cluster.list(LOGICAL_NODES, NAMESPACE)}
    left = fleet.cluster.get(PODS, name, NAMESPACE)
    assert left is not None
    assert left["metadata"]["uid"] == theirs["metadata"]["uid"]


@pytest.mark.parametrize("hours", [10, -10])
async def test_a_clock_that_is_set_ahead_or_back_neither_holds_a_decision_nor_cuts_off_a_drain(
    hours: int,
) -> None:
    fleet = await started()
    fleet.requests = {f"{GROUP}-{n}": 1.0 for n in range(9)}
    fleet.set_clock(hours)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert {one["step"] for one in fleet.status()["transfers"]} == {"Draining"}
    fleet.set_clock(-hours)
    await fleet.run(10)
    assert {one["step"] for one in fleet.status()["transfers"]} == {"Draining"}
    assert fleet.condition("MetricsFresh") == ("True", "Fresh")
    fleet.requests.clear()
    await fleet.run(10)
    assert fleet.split() == fleet.serving() == {"prefill": 5, "decode": 4}


@pytest.mark.parametrize("hours", [10, -10])
async def test_a_clock_that_is_set_ahead_or_back_ends_no_replica_with_requests_and_keeps_none(
    hours: int,
) -> None:
    fleet = await started(prefill=2, decode=2)
    fleet.requests = {f"{GROUP}-{n}": 1.0 for n in range(4)}
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(maxReplicas=1, replicas=1))
    await fleet.run(5)
    fleet.set_clock(hours)
    await fleet.run(20)
    assert fleet.split() == {"prefill": 2, "decode": 2}
    await fleet.run(60)
    assert fleet.split() == {"prefill": 2, "decode": 1}

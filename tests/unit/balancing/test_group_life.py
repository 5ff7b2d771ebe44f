"""A group's life through the reconciler, in memory: started, moved, paused, broken, removed."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from support.fleet import GROUP, MODEL, NAMESPACE, TEMPLATE, Fleet, condition
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY
from support.refusals import Policy, Write
from weft.api import InferenceGroup, InferenceRole
from weft.api.names import FINALIZER, GATE_SERVING, LABEL_ROLE, LABEL_STAGE
from weft.api.resources import ENGINE_PROFILES, INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS


async def started(**options: Any) -> Fleet:
    """A fleet that serves the load its split was made for."""
    fleet = Fleet(**options)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    return fleet


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


async def test_a_shift_of_the_load_moves_replicas_to_the_split_it_needs() -> None:
    fleet = await started()
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(60)
    assert fleet.split() == {"prefill": 5, "decode": 4}
    assert fleet.serving() == {"prefill": 5, "decode": 4}
    assert fleet.status().get("transfers", []) == []
    reasons = [reason for _, reason, _ in fleet.cluster.events]
    assert reasons.count("TransferStarted") == reasons.count("TransferFinished") == 2


async def test_a_flipped_pod_carries_the_other_templates_labels_in_one_write() -> None:
    fleet = await started()
    fleet.traffic = PROMPT_HEAVY
    seen: list[tuple[str, str, str]] = []

    def look() -> None:
        for pod in fleet.pods():
            labels = pod["metadata"]["labels"]
            seen.append((labels[LABEL_ROLE], labels[LABEL_STAGE], labels["llm-d.ai/role"]))

    fleet.cluster.after_write = look
    await fleet.run(60)
    assert set(seen) == {("prefill",) * 3, ("decode",) * 3}


async def test_a_replica_with_requests_keeps_its_role_until_they_are_done() -> None:
    fleet = await started()
    fleet.requests = {f"{GROUP}-{n}": 2.0 for n in range(9)}
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(40)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.condition("Balanced") == ("False", "Moving")
    assert {one["step"] for one in fleet.status()["transfers"]} == {"Draining"}
    assert fleet.drains == []
    fleet.requests = {}
    await fleet.run(10)
    assert fleet.split() == {"prefill": 5, "decode": 4}
    assert [(end, 10 < seconds < 60) for end, seconds in fleet.drains] == [("Transfer", True)] * 2


@pytest.mark.parametrize(
    ("drain_first", "words"),
    [(True, "it ends its old requests first"), (False, "it ends its old requests beside the new")],
)
async def test_the_event_of_a_move_tells_whether_the_replica_drains_first(
    drain_first: bool, words: str
) -> None:
    fleet = await started(drainFirst=drain_first)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(60)
    told = [text for _, reason, text in fleet.cluster.events if reason == "TransferStarted"]
    assert told
    assert all(text.endswith(words) for text in told)


async def test_replicas_of_one_decision_drain_together_instead_of_one_after_the_other() -> None:
    fleet = Fleet(1, 8, drainFirst=True)
    fleet.traffic = PROMPT_HEAVY
    fleet.requests = {f"{GROUP}-{n}": 2.0 for n in range(9)}
    await fleet.run(40)
    assert len(fleet.status()["transfers"]) == 4
    assert fleet.serving() == {"prefill": 1, "decode": 4}
    fleet.requests = {}
    await fleet.run(5)
    assert fleet.serving() == {"prefill": 5, "decode": 4}


@pytest.mark.parametrize("mode", ["Paused", "Recommend"])
@pytest.mark.parametrize(("drains", "leave_at_once"), [(True, 2), (False, 4)])
async def test_for_an_edit_while_paused_a_quarter_of_the_replicas_drains_at_a_time(
    mode: str, drains: bool, leave_at_once: int
) -> None:
    fleet = Fleet(1, 8, drainFirst=drains, mode=mode)
    await fleet.run(10)
    fleet.requests = {f"{GROUP}-{n}": 2.0 for n in range(9)}
    for role, stage, replicas in (("decode", "Decode", 4), ("prefill", "Prefill", 5)):
        fleet.put_role(role, stage, replicas)
    fewest = 9
    left: set[int] = set()

    def look() -> None:
        nonlocal fewest
        fewest = min(fewest, sum(fleet.serving().values()))
        left.add(len(fleet.status().get("transfers", [])))

    fleet.cluster.after_write = look
    await fleet.run(5)
    assert max(left) == leave_at_once
    fleet.requests = {}
    await fleet.run(30)
    assert fewest == (9 - leave_at_once if drains else 9)
    assert fleet.serving() == {"prefill": 5, "decode": 4}


@pytest.mark.shows("InferenceGroup.spec.rebalance.drainFirst")
async def test_a_flip_that_overlaps_gives_requests_of_the_new_stage_at_once_and_is_never_out_of_the_router() -> (
    None
):
    fleet = await started(drainFirst=False)
    fleet.requests = {f"{GROUP}-{n}": 2.0 for n in range(9)}
    fleet.traffic = PROMPT_HEAVY
    ready: list[int] = []
    fleet.cluster.after_write = lambda: ready.append(sum(fleet.serving().values()))
    await fleet.run(40)
    assert fleet.split() == {"prefill": 5, "decode": 4}
    assert set(ready) == {9}
    assert fleet.status().get("transfers", []) == []


async def test_an_aggregated_replica_becomes_a_prefill_one_and_one_again_and_is_never_out_of_the_router() -> (
    None
):
    fleet = Fleet(3, 4, drainFirst=False, mode="Paused")
    fleet.put_role("both", "Aggregated", 2, minReplicas=0)
    await fleet.run(10)
    names = {pod["metadata"]["name"] for pod in fleet.pods()}
    fleet.requests = dict.fromkeys(names, 2.0)
    ready: list[int] = []
    fleet.cluster.after_write = lambda: ready.append(sum(fleet.serving().values()))
    for both, prefill in ((0, 5), (2, 3)):
        fleet.put_role("both", "Aggregated", both, minReplicas=0)
        fleet.put_role("prefill", "Prefill", prefill)
        await fleet.run(20)
        assert fleet.serving().get("aggregated", 0) == both
        assert (fleet.serving()["prefill"], fleet.serving()["decode"]) == (prefill, 4)
    assert set(ready) == {9}
    assert {pod["metadata"]["name"] for pod in fleet.pods()} == names


async def test_a_flip_changed_to_overlap_while_it_drains_goes_on_without_the_drain() -> None:
    fleet = await started()
    fleet.requests = {f"{GROUP}-{n}": 2.0 for n in range(9)}
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(20)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    fleet.group()["spec"]["rebalance"]["drainFirst"] = False
    await fleet.run(10)
    assert fleet.split() == fleet.serving() == {"prefill": 5, "decode": 4}


@pytest.mark.shows("InferenceRole.spec.drain.timeoutSeconds")
async def test_a_drain_that_times_out_is_rolled_back_and_not_tried_again_at_once() -> None:
    fleet = await started()
    fleet.requests = {f"{GROUP}-{n}": 2.0 for n in range(9)}
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(100)  # drain.timeoutSeconds is 60
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.serving()["decode"] == 6
    assert fleet.status().get("transfers", []) == []
    assert any(
        reason == "TransferRolledBack" and "within 60 s" in text for _, reason, text in fleet.cluster.events
    )
    assert {(end, 60 < seconds < 65) for end, seconds in fleet.drains} == {("RolledBack", True)}
    assert {one["role"]: one["replicas"] for one in fleet.status()["allocation"]} == {
        "prefill": 3,
        "decode": 6,
    }


async def test_replicas_that_still_drain_for_an_edit_are_called_back_when_it_is_taken_back() -> None:
    fleet = await started(mode="Paused")
    fleet.requests = {f"{GROUP}-{n}": 2.0 for n in range(9)}
    for replicas in ({"prefill": 5, "decode": 4}, {"prefill": 3, "decode": 6}):
        for role, count in replicas.items():
            fleet.edit(INFERENCE_ROLES, role, lambda spec, count=count: spec.update(replicas=count))
        await fleet.run(15)  # drain.timeoutSeconds is 60
        if replicas["prefill"] == 5:
            assert [one["step"] for one in fleet.status()["transfers"]] == ["Draining", "Draining"]
    assert fleet.status().get("transfers", []) == []
    assert fleet.split() == fleet.serving() == {"prefill": 3, "decode": 6}
    assert {one["role"]: one["replicas"] for one in fleet.status()["allocation"]} == fleet.split()
    reasons = [reason for _, reason, _ in fleet.cluster.events]
    assert [reasons.count(f"Transfer{what}") for what in ("Started", "CalledBack", "RolledBack")] == [2, 2, 0]


async def test_a_load_of_answers_that_take_minutes_gets_its_prefill_before_the_first_has_ended() -> None:
    fleet = Fleet(1, 8)
    none = {"answers": 0.0, "answer_tokens": 0.0}
    short, long = replace(PROMPT_HEAVY.short, **none), replace(PROMPT_HEAVY.long, **none)
    fleet.traffic = replace(PROMPT_HEAVY, short=short, long=replace(long, requests=0.2 * long.requests))
    for pod in range(9):
        fleet.changed_values["engine:generated_tokens_per_second", f"{GROUP}-{pod}"] = 50.0
    await fleet.run(10)
    assert fleet.condition("DemandEstimated") == ("Unknown", "LoadBegan")
    assert fleet.split() == {"prefill": 1, "decode": 8}
    fleet.traffic = replace(fleet.traffic, long=replace(long, requests=0.4 * long.requests))
    await fleet.run(40)
    assert fleet.condition("DemandEstimated") == ("True", "AnswersNotEnded")
    assert fleet.split()["prefill"] > 3


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


BAD_ENGINES = [
    ("age", 60.0, "Stale"),
    ("running", None, "SeriesMissing"),
    ("running", float("nan"), "NotANumber"),
    ("busy_share", float("inf"), "NotANumber"),
    ("kv_usage", 40.0, "NotAShare"),
    ("targets", 2.0, "ScrapedTwice"),
    ("copies", 2.0, "ScrapedTwice"),
    ("resets", 1.0, "CounterReset"),
]


@pytest.mark.parametrize(("signal", "value", "reason"), BAD_ENGINES)
async def test_one_replica_whose_metrics_cannot_be_trusted_is_left_out_and_named(
    signal: str, value: float | None, reason: str
) -> None:
    fleet = await started()
    fleet.traffic = PROMPT_HEAVY
    fleet.changed_values = {(f"engine:{signal}", f"{GROUP}-4"): value}
    await fleet.run(60)
    assert fleet.split() == {"prefill": 5, "decode": 4}
    assert fleet.condition("MetricsFresh") == ("True", "PartlyFresh")
    assert f"pod {GROUP}-4" in fleet.message("MetricsFresh")
    assert reason in fleet.message("MetricsFresh")


@pytest.mark.parametrize(("signal", "value", "reason"), BAD_ENGINES)
async def test_more_than_half_of_a_stage_that_cannot_be_trusted_hold_the_split(
    signal: str, value: float | None, reason: str
) -> None:
    fleet = await started()
    fleet.traffic = PROMPT_HEAVY
    prefill = [
        pod["metadata"]["name"] for pod in fleet.pods() if pod["metadata"]["labels"][LABEL_ROLE] == "prefill"
    ]
    fleet.changed_values = {(f"engine:{signal}", pod): value for pod in prefill[:2]}
    await fleet.run(60)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.condition("MetricsFresh") == ("False", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({("front:requests_long", MODEL): float("nan")}, "NotANumber"),
        ({("front:requests_short", MODEL): None}, "SeriesMissing"),
        ({("front:age", MODEL): 60.0}, "Stale"),
        ({("front:jobs", MODEL): 2.0}, "ScrapedTwice"),
        ({("front:resets", MODEL): 1.0}, "CounterReset"),
    ],
)
async def test_metrics_that_cannot_be_trusted_hold_the_split_and_say_why(
    change: dict[tuple[str, str], float | None], reason: str
) -> None:
    fleet = await started()
    fleet.traffic = PROMPT_HEAVY
    fleet.changed_values = change
    await fleet.run(60)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.condition("MetricsFresh") == ("False", reason)
    assert fleet.condition("ObjectivesMet")[0] == "Unknown"
    assert fleet.condition("DemandEstimated") == ("Unknown", "MetricsNotFresh")
    fleet.changed_values = {}
    await fleet.run(45)
    assert fleet.split() == {"prefill": 5, "decode": 4}


async def test_metrics_that_come_and_go_every_second_do_not_make_the_condition_flicker() -> None:
    fleet = await started()
    seen = []
    for second in range(60):
        age = 60.0 if second % 2 else 0.0
        fleet.changed_values = {("front:age", MODEL): age, ("engine:age", f"{GROUP}-4"): age}
        await fleet.run(1)
        seen.append((fleet.condition("MetricsFresh"), fleet.message("MetricsFresh")))
    changes = sum(before != after for before, after in pairwise(seen))
    assert changes <= 1


async def test_of_a_role_most_of_which_does_not_serve_none_of_the_last_serving_replicas_is_taken() -> None:
    fleet = await started()
    decode = [
        pod["metadata"]["name"] for pod in fleet.pods() if pod["metadata"]["labels"][LABEL_ROLE] == "decode"
    ]
    fleet.unready = set(decode[:4])
    await fleet.run(5)
    assert fleet.serving() == {"prefill": 3, "decode": 2}
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(120)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.serving() == {"prefill": 3, "decode": 2}
    fleet.unready = set()
    await fleet.run(60)
    assert fleet.split() == {"prefill": 5, "decode": 4}


async def test_a_metrics_server_that_is_down_holds_the_split_but_not_the_replicas() -> None:
    fleet = await started()
    fleet.broken = "the Prometheus server did not answer in time"
    fleet.traffic = PROMPT_HEAVY
    del fleet.cluster.objects[(PODS, NAMESPACE, f"{GROUP}-2")]
    await fleet.run(60)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert fleet.condition("MetricsFresh") == ("False", "SourceUnavailable")


@pytest.mark.shows("InferenceGroup.spec.metrics.source")
async def test_an_unknown_source_is_a_condition_that_names_it() -> None:
    fleet = Fleet()
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["metrics"].update(source="elsewhere"))
    await fleet.run(5)
    assert fleet.condition("MetricsFresh") == ("False", "SourceNotFound")
    assert fleet.serving() == {"prefill": 3, "decode": 6}


@pytest.mark.shows("InferenceGroup.spec.rebalance.mode")
async def test_recommend_says_what_it_would_do_and_does_nothing() -> None:
    fleet = await started(mode="Recommend")
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(60)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    recommendation = fleet.status()["recommendation"]
    assert "decode 4, prefill 5 would be better" in recommendation["reason"]
    assert recommendation["allocation"] == [
        {"role": "decode", "replicas": 4},
        {"role": "prefill", "replicas": 5},
    ]
    assert fleet.status()["decision"]["reason"].startswith("start with the roles' replicas")

    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(mode="Paused"))
    await fleet.run(2)
    assert "recommendation" not in fleet.status()


@pytest.mark.shows("InferenceGroup.spec.rebalance.mode")
async def test_paused_follows_the_roles_replicas_by_flips_where_it_can() -> None:
    fleet = await started(mode="Paused")
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(60)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    names = {pod["metadata"]["uid"] for pod in fleet.pods()}
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=4))
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=5))
    await fleet.run(20)
    assert fleet.split() == {"prefill": 4, "decode": 5}
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == names


@pytest.mark.shows("InferenceGroup.spec.rebalance.flip")
async def test_without_flips_a_paused_group_removes_first_and_creates_then_within_the_budget() -> None:
    fleet = await started(mode="Paused", flip="None")
    most = 0

    def count() -> None:
        nonlocal most
        most = max(most, len(fleet.pods()))

    fleet.cluster.after_write = count
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=4))
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=5))
    await fleet.run(60)
    assert fleet.split() == {"prefill": 4, "decode": 5}
    assert most == 9  # the budget is 18 accelerators, 2 for each


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

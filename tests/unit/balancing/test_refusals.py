"""What the API server refuses is said in its words, tried again at growing intervals, and stops nothing else."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY
from support.refusals import BrokenWebhook, LostAnswers, Policy, Quota, Rule, Write, forbidden, pod_security
from weft.api.names import LABEL_ROLE
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS
from weft.cluster import ClusterError


def role_condition(fleet: Fleet, role: str, kind: str = "Ready") -> dict[str, Any]:
    raw = fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, role)]
    return next(one for one in raw["status"]["conditions"] if one["type"] == kind)


def of_role(role: str, rule: Rule) -> Rule:
    """The rule, for pods of one role only."""

    def limited(write: Write) -> ClusterError | None:
        labels = write.body.get("metadata", {}).get("labels") or {}
        return rule(write) if labels.get(LABEL_ROLE) == role else None

    return limited


def shedding(write: Write) -> ClusterError | None:
    if write.verb != "create" or write.resource != PODS:
        return None
    return ClusterError(429, "TooManyRequests", "the server has asked us to try again later", 1.0)


house_rule = Policy(PODS, lambda write: "no engines on Fridays")

REFUSALS: list[tuple[Rule, str, str]] = [
    (pod_security, "PodRefused", 'violates PodSecurity "restricted:latest"'),
    (house_rule, "TemplateInvalid", "denied request: no engines on Fridays"),
    (BrokenWebhook(PODS), "PodRefused", 'failed calling webhook "checks.team.example"'),
    (shedding, "PodRefused", "the server has asked us to try again later"),
]


@pytest.mark.parametrize(("rule", "reason", "words"), REFUSALS)
async def test_a_refused_pod_is_said_on_role_and_group_in_the_servers_words(
    rule: Rule, reason: str, words: str
) -> None:
    fleet = Fleet()
    fleet.cluster.rules = [of_role("decode", rule)]
    await fleet.run(10)
    said = role_condition(fleet, "decode")
    assert (said["status"], said["reason"]) == ("False", reason)
    assert words in said["message"]
    assert fleet.condition("Ready") == ("False", reason)
    assert fleet.condition("Balanced") == ("False", reason)
    assert words in fleet.message("Ready")
    assert "role decode" in fleet.message("Ready")
    events = [text for kind, why, text in fleet.cluster.events if (kind, why) == ("Warning", reason)]
    assert len(events) == 2, "one about the group, one about the role"
    assert all(words in text for text in events)


@pytest.mark.parametrize(("rule", "reason", "words"), REFUSALS)
async def test_a_refused_role_keeps_no_other_from_serving_and_comes_when_the_rule_goes(
    rule: Rule, reason: str, words: str
) -> None:
    fleet = Fleet()
    fleet.cluster.rules = [of_role("decode", rule)]
    await fleet.run(200)
    assert fleet.serving() == {"prefill": 3, "decode": 0}
    assert role_condition(fleet, "prefill")["status"] == "True"
    fleet.cluster.rules = []
    await fleet.run(130)  # nobody edits anything
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_a_refused_pod_is_tried_again_at_growing_intervals() -> None:
    fleet = Fleet()
    tries: list[float] = []

    def webhook(write: Write) -> ClusterError | None:
        if write.resource == PODS and write.verb == "create":
            tries.append((fleet.now - start).total_seconds())
        return BrokenWebhook(PODS)(write)

    start = fleet.now
    fleet.cluster.rules = [of_role("decode", webhook)]
    await fleet.run(400)
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert gaps == [2, 4, 8, 16, 32, 64, 120, 120]


async def test_an_edit_is_tried_at_once() -> None:
    fleet = Fleet()
    fleet.cluster.rules = [of_role("decode", BrokenWebhook(PODS))]
    await fleet.run(100)
    fleet.cluster.rules = []
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(maxReplicas=31))
    await fleet.run(3)
    assert fleet.serving() == {"prefill": 3, "decode": 6}


async def test_a_quota_is_used_up_to_its_limit_and_its_moving_numbers_cause_no_writes() -> None:
    fleet = Fleet()
    quota = Quota(fleet.cluster.list, PODS, 5)
    fleet.cluster.rules = [quota]
    await fleet.run(60)
    assert sum(fleet.serving().values()) == 5
    assert "exceeded quota: team" in fleet.message("Balanced")
    role = fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, "decode")]["status"]
    assert (role["replicas"], role["readyReplicas"]) == (fleet.split()["decode"], fleet.serving()["decode"])
    quota.hard = 4  # "used" and "limited" are other numbers now
    fleet.cluster.writes.clear()
    await fleet.run(300)
    assert [write for write in fleet.cluster.writes if write[0] == "status"] == []
    quota.hard = 9
    await fleet.run(130)
    assert fleet.serving() == {"prefill": 3, "decode": 6}


async def test_while_pods_are_refused_transfers_removals_and_gates_go_on() -> None:
    fleet = Fleet(mode="Paused")
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    fleet.put_role("spare", "Decode", 1, acceleratorsPerReplica=0)
    fleet.cluster.rules = [of_role("spare", BrokenWebhook(PODS))]
    await fleet.run(5)
    assert role_condition(fleet, "spare")["reason"] == "PodRefused"
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=4))
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=4))
    del fleet.cluster.objects[(PODS, NAMESPACE, f"{GROUP}-0")]
    await fleet.run(60)
    assert fleet.split() == {"prefill": 4, "decode": 4}
    assert fleet.serving() == {"prefill": 4, "decode": 4}
    assert role_condition(fleet, "prefill")["status"] == role_condition(fleet, "decode")["status"] == "True"
    assert fleet.condition("Ready") == ("False", "PodRefused"), "a role that cannot run"


async def test_one_forbidden_write_does_not_silence_the_group() -> None:
    fleet = Fleet()

    def no_gate_for_one(write: Write) -> ClusterError | None:
        if write.verb == "patch status" and write.name == f"{GROUP}-4":
            return forbidden(write, "the gate is closed")
        return None

    fleet.cluster.rules = [no_gate_for_one]
    await fleet.run(30)
    assert sum(fleet.serving().values()) == 8
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.condition("Balanced") == ("False", "WriteRefused")
    assert f"replica {GROUP}-4" in fleet.message("Balanced")
    assert "the gate is closed" in fleet.message("Balanced")
    fleet.cluster.rules = []
    await fleet.run(40)
    assert sum(fleet.serving().values()) == 9
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_a_forbidden_role_status_is_said_on_the_group_and_keeps_no_other_status_from_being_written() -> (
    None
):
    fleet = Fleet()

    def no_status_of_decode(write: Write) -> ClusterError | None:
        refused = write.verb == "status" and write.name == "decode"
        return forbidden(write, "decode may not be touched") if refused else None

    fleet.cluster.rules = [no_status_of_decode]
    await fleet.run(20)
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert fleet.condition("Ready") == ("True", "Serving")
    assert role_condition(fleet, "prefill")["status"] == "True"
    assert "status of role decode" in fleet.message("Balanced")
    assert "decode may not be touched" in fleet.message("Balanced")
    fleet.cluster.rules = []
    await fleet.run(130)
    assert role_condition(fleet, "decode")["status"] == "True"
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_a_forbidden_group_status_stops_no_replica() -> None:
    fleet = Fleet()
    await fleet.run(1)

    def no_status(write: Write) -> ClusterError | None:
        refused = write.verb == "status" and write.resource == INFERENCE_GROUPS
        return forbidden(write, "no statuses today") if refused else None

    fleet.cluster.rules = [no_status]
    await fleet.run(20)
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert any("no statuses today" in text for _, _, text in fleet.cluster.events)
    fleet.cluster.rules = []
    await fleet.run(130)
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_a_write_whose_answer_is_lost_is_not_made_twice() -> None:
    fleet = Fleet(nodes=True)
    creates: list[str] = []

    def note(write: Write) -> ClusterError | None:
        if write.verb == "create" and not write.dry_run:
            creates.append(f"{write.resource.plural}/{write.name}")
        return None

    fleet.cluster.rules = [note, LostAnswers(30)]
    for _ in range(60):
        try:
            await fleet.look()
        except ClusterError as error:
            assert error.status == 0  # noqa: PT017 - the runtime tries such a pass again
        fleet.play()
    await fleet.run(5)
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert len(creates) == len(set(creates)) == 18


async def test_a_refused_logical_node_is_said_and_comes_when_it_may() -> None:
    fleet = Fleet(nodes=True)
    fleet.cluster.rules = [Quota(fleet.cluster.list, LOGICAL_NODES, 0)]
    await fleet.run(10)
    assert fleet.condition("Ready") == ("False", "NodeRefused")
    assert "exceeded quota" in role_condition(fleet, "decode")["message"]
    fleet.cluster.rules = []
    await fleet.run(20)
    assert fleet.serving() == {"prefill": 3, "decode": 6}


async def test_a_restarted_operator_says_the_same_of_what_is_still_refused() -> None:
    fleet = Fleet()
    fleet.cluster.rules = [of_role("decode", BrokenWebhook(PODS))]
    await fleet.run(20)
    before = fleet.status()["conditions"], role_condition(fleet, "decode")
    fleet.restart()
    await fleet.run(20)
    assert (fleet.status()["conditions"], role_condition(fleet, "decode")) == before


# What a group and its roles say of themselves


async def test_pods_that_no_host_has_room_for_are_not_counted_as_serving() -> None:
    fleet = Fleet()
    fleet.pending = {f"{GROUP}-{n}" for n in range(9) if n in (3, 7)}
    await fleet.run(20)
    assert fleet.condition("Ready") == ("True", "Serving"), "a request can pass"
    assert fleet.condition("Balanced") == ("False", "Starting")
    ready = {
        role: fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, role)]["status"]["readyReplicas"]
        for role in ("prefill", "decode")
    }
    assert ready == fleet.serving()
    fleet.pending = set()
    await fleet.run(3)
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_a_group_without_decode_is_not_ready_although_all_its_replicas_serve() -> None:
    fleet = Fleet()
    del fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, "decode")]
    await fleet.run(10)
    assert fleet.serving() == {"prefill": 3, "decode": 0}
    assert fleet.condition("Ready") == ("False", "StageMissing")
    assert "Decode" in fleet.message("Ready")


async def test_a_group_of_aggregated_replicas_is_ready_with_one_that_serves() -> None:
    fleet = Fleet()
    for name in ("prefill", "decode"):
        del fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, name)]
    fleet.put_role("both", "Aggregated", 2)
    fleet.pending = {f"{GROUP}-1"}
    await fleet.run(10)
    assert fleet.condition("Ready") == ("True", "Serving")
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.pop("template"))
    await fleet.run(3)
    assert fleet.condition("Ready") == ("False", "TemplateMissing"), "a role that cannot run"


async def test_a_budget_that_is_too_small_stays_said_and_does_not_stop_the_balancing() -> None:
    fleet = Fleet(5, 5)  # 20 accelerators; the budget is 18
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(60)
    assert sum(fleet.serving().values()) == 9
    for _ in range(10):
        await fleet.run(1)
        assert fleet.condition("Balanced") == ("False", "BudgetTooSmall")
    assert "1 of the replicas asked for" in fleet.message("Balanced")
    fleet.cluster.writes.clear()
    await fleet.run(10)
    assert fleet.cluster.writes == []
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=4))
    await fleet.run(2)
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_a_role_whose_group_does_not_exist_says_so_until_it_does() -> None:
    fleet = Fleet()
    group = fleet.cluster.objects.pop((INFERENCE_GROUPS, NAMESPACE, GROUP))
    await fleet.look()
    for role in ("prefill", "decode"):
        said = role_condition(fleet, role)
        assert (said["status"], said["reason"]) == ("False", "GroupNotFound")
        assert GROUP in said["message"]
    fleet.cluster.writes.clear()
    await fleet.look()
    assert fleet.cluster.writes == []
    fleet.cluster.objects[(INFERENCE_GROUPS, NAMESPACE, GROUP)] = group
    await fleet.run(10)
    assert role_condition(fleet, "decode")["status"] == "True"


async def test_the_roles_of_a_deleted_group_say_that_it_is_gone() -> None:
    fleet = Fleet()
    await fleet.run(10)
    await fleet.cluster.delete(INFERENCE_GROUPS, GROUP, NAMESPACE)
    await fleet.run(60)
    assert (INFERENCE_GROUPS, NAMESPACE, GROUP) not in fleet.cluster.objects
    await fleet.look()
    assert role_condition(fleet, "decode")["reason"] == "GroupNotFound"
    status = fleet.cluster.objects[(INFERENCE_ROLES, NAMESPACE, "decode")]["status"]
    assert status["replicas"] == status["readyReplicas"] == 0


async def test_no_condition_holds_a_number_that_moves_by_itself() -> None:
    fleet = Fleet()
    await fleet.run(20)
    messages = [one["message"] for one in fleet.status()["conditions"]]
    assert [text for text in messages if re.search(r"\d", text)] == []

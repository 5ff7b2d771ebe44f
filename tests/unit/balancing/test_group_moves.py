"""A group's replicas move between its roles, in memory: what drains, overlaps, is taken back, is only recommended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.fleet import GROUP, Fleet, started
from support.inference import PROMPT_HEAVY
from weft.api.names import LABEL_ROLE, LABEL_STAGE
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES


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

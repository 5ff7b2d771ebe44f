"""A role of stage Encode: its replicas are made, rolled and drained as all others, as many as it asks for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from support.fleet import GROUP, NAMESPACE, TEMPLATE, Fleet, condition
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY, group, known, role, steady
from weft.api import Stage
from weft.api.names import LABEL_STAGE
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES
from weft.balancing.engines import generated_tokens_per_second, queues
from weft.balancing.plan import plan_split
from weft.balancing.state import Engine, EngineLoad, RoleState, Split, SplitInputs


async def encoding(replicas: int = 2, **options: object) -> Fleet:
    """Nine replicas beside so many encoders, which serve the load their split was made for."""
    fleet = Fleet(**options)  # type: ignore[arg-type]
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=24))
    fleet.put_role("encode", "Encode", replicas)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    return fleet


async def prompts_grow(fleet: Fleet) -> None:
    """Until a replica has gone to prefill, which then lacks some."""
    fleet.traffic = PROMPT_HEAVY
    for _ in range(30):
        await fleet.run(4)
        if fleet.serving()["prefill"] > 3:
            return
    pytest.fail(f"no replica went to prefill: {fleet.status()['conditions']}")


def encoders(fleet: Fleet) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in fleet.pods()
        if pod["metadata"]["labels"].get(LABEL_STAGE) == "encode"
    ]


async def test_encoders_are_composed_labelled_counted_and_shown() -> None:
    fleet = await encoding(nodes=True)
    assert fleet.serving() == fleet.split() == {"encode": 2, "prefill": 3, "decode": 6}
    assert len(fleet.cluster.list(LOGICAL_NODES, NAMESPACE)) == 11
    labels = [pod["metadata"]["labels"] for pod in fleet.pods() if pod["metadata"]["name"] in encoders(fleet)]
    assert [one["llm-d.ai/role"] for one in labels] == ["encode", "encode"]
    assert fleet.status()["split"] == "decode 6, encode 2, prefill 3"
    found = fleet.cluster.get(INFERENCE_ROLES, "encode", NAMESPACE)
    assert found is not None
    assert condition(found, "Ready") == "True"
    told = {one["type"]: one["reason"] for one in found["status"]["conditions"]}
    assert told == {"Ready": "Serving", "ReplicasIgnored": "HeldAsAsked", "KeepsUp": "QueueShort"}


async def test_encoders_beyond_the_budget_are_not_made_and_the_group_says_so() -> None:
    fleet = await encoding(replicas=9)
    assert sum(fleet.serving().values()) == 12, "24 accelerators, two per replica"
    assert fleet.condition("Balanced") == ("False", "BudgetTooSmall")


async def test_replicas_move_between_prefill_and_decode_beside_encoders_that_stay() -> None:
    fleet = await encoding()
    before = encoders(fleet)
    await prompts_grow(fleet)
    assert fleet.split()["encode"] == 2
    assert encoders(fleet) == before


@pytest.mark.parametrize("flip", ["Restart", "Recompose"])
async def test_no_way_of_moving_takes_an_encoder_for_another_stage(flip: str) -> None:
    fleet = await encoding(nodes=True, flip=flip, drainFirst=None)
    before = encoders(fleet)
    await prompts_grow(fleet)
    assert encoders(fleet) == before


async def test_in_auto_the_role_follows_its_own_replicas_and_the_least_loaded_encoder_drains_first() -> None:
    fleet = await encoding()
    fleet.edit(INFERENCE_ROLES, "encode", lambda spec: spec.update(replicas=3))
    await fleet.run(10)
    assert fleet.serving() == {"encode": 3, "prefill": 3, "decode": 6}
    busy = encoders(fleet)
    fleet.requests = {busy[0]: 2.0, busy[1]: 1.0, busy[2]: 3.0}
    for pod in busy:
        fleet.changed_values[("engine:kv_usage", pod)] = 0.0
    fleet.edit(INFERENCE_ROLES, "encode", lambda spec: spec.update(replicas=2))
    await fleet.run(10)
    assert fleet.serving() == {"encode": 2, "prefill": 3, "decode": 6}
    assert len(encoders(fleet)) == 3, "it finishes what it has"
    fleet.requests[busy[1]] = 0.0
    await fleet.run(20)
    assert len(encoders(fleet)) == 3, "its embeddings may still be read"
    await fleet.run(20)
    assert encoders(fleet) == [busy[0], busy[2]]


async def test_an_encoder_that_drains_for_long_holds_no_flip_of_the_others() -> None:
    fleet = await encoding()
    fleet.requests = dict.fromkeys(encoders(fleet), 5.0)
    fleet.edit(INFERENCE_ROLES, "encode", lambda spec: spec.update(replicas=1, drain={"timeoutSeconds": 600}))
    await fleet.run(5)
    assert fleet.serving()["encode"] == 1
    await prompts_grow(fleet)
    assert len(encoders(fleet)) == 2


async def test_encoders_are_made_anew_where_another_stage_asks_for_fewer_at_the_same_time() -> None:
    fleet = await encoding(mode="Paused")
    before = {pod["metadata"]["name"] for pod in fleet.pods()}
    fleet.edit(INFERENCE_ROLES, "encode", lambda spec: spec.update(replicas=3))
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=2))
    for _ in range(15):
        await fleet.run(1)
        assert not fleet.status().get("transfers")
    assert len(encoders(fleet)) == 3
    assert set(encoders(fleet)) - before


async def test_an_encoder_that_waits_for_hardware_holds_no_growth_of_the_others() -> None:
    fleet = await encoding(nodes=True)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(minimum=8, maximum=40))
    fleet.devices_free = False
    fleet.edit(INFERENCE_ROLES, "encode", lambda spec: spec.update(replicas=3))
    await fleet.run(3)
    fleet.traffic = known(steady(12.0, 1420, 281))
    await fleet.run(30)
    given = {one["role"]: one["replicas"] for one in fleet.status()["allocation"]}
    assert given["encode"] == 3
    assert given["prefill"] + given["decode"] > 9


async def test_another_number_of_encoders_is_no_change_of_the_size_that_the_load_asked_for() -> None:
    fleet = await encoding()
    fleet.edit(INFERENCE_ROLES, "encode", lambda spec: spec.update(replicas=3))
    await fleet.run(10)
    assert fleet.split()["encode"] == 3
    assert "lastScaleTime" not in fleet.status()
    assert "lastScaleUpTime" not in fleet.status()


async def test_an_encoder_that_no_series_tell_of_holds_no_decision_of_the_others() -> None:
    fleet = await encoding()
    for pod in encoders(fleet):
        for signal in ("running", "waiting"):
            fleet.changed_values[(f"engine:{signal}", pod)] = None
    await prompts_grow(fleet)
    assert fleet.condition("MetricsFresh") == ("True", "Fresh")


def keeps_up(fleet: Fleet) -> tuple[str, str]:
    found = fleet.cluster.get(INFERENCE_ROLES, "encode", NAMESPACE)
    assert found is not None
    return next(
        (one["status"], one["reason"]) for one in found["status"]["conditions"] if one["type"] == "KeepsUp"
    )


async def test_a_queue_at_the_encoders_that_lasts_is_said_until_it_is_gone_and_a_burst_is_not() -> None:
    fleet = await encoding()
    one, other = encoders(fleet)
    fleet.requests = {one: 2.0, other: 2.0}
    fleet.changed_values[("engine:waiting", one)] = 5.0
    await fleet.run(50)
    assert keeps_up(fleet) == ("True", "QueueShort"), "it has waited for less than a long window"
    await fleet.run(15)
    assert keeps_up(fleet) == ("False", "QueueLong")
    fleet.restart()
    await fleet.run(2)
    assert keeps_up(fleet) == ("False", "QueueLong"), "a new leader knows no better"
    fleet.changed_values[("engine:waiting", one)] = 4.0
    await fleet.run(2)
    assert keeps_up(fleet) == ("True", "QueueShort")


@pytest.mark.parametrize("queued", [0.0, 5.0], ids=["encoders keep up", "encoders do not"])
async def test_late_requests_widen_the_headroom_of_prefill_and_decode_only_while_encoders_keep_up(
    queued: float,
) -> None:
    fleet = await encoding(replicas=1)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(minimum=8, maximum=60))
    fleet.changed_values[("engine:waiting", encoders(fleet)[0])] = queued
    await fleet.run(65)
    late = known(ANSWER_HEAVY)
    fleet.traffic = replace(late, ttft_buckets=((2.5, 0.5), (math.inf, 1.0)))
    await fleet.run(60)
    fleet.traffic = replace(known(steady(12.0, 1420, 281)), ttft_buckets=fleet.traffic.ttft_buckets)
    await fleet.run(10)
    assert ("more headroom" in fleet.status()["decision"]["reason"]) is (queued == 0)


async def test_encoders_whose_engine_tells_no_queue_say_that_it_does_not() -> None:
    fleet = await encoding()
    for pod in encoders(fleet):
        fleet.changed_values[("engine:waiting", pod)] = None
    await fleet.run(2)
    assert keeps_up(fleet) == ("Unknown", "NotTold")


async def test_encoders_without_devices_make_the_group_unready_and_hold_no_flip() -> None:
    fleet = await encoding(nodes=True)
    fleet.devices_free = False
    fleet.edit(INFERENCE_ROLES, "encode", lambda spec: spec.update(replicas=3))
    await prompts_grow(fleet)
    assert fleet.condition("Balanced") == ("False", "WaitingForHardware")


async def test_without_a_serving_encoder_the_group_is_not_ready_and_says_which_requests_cannot_pass() -> None:
    fleet = await encoding()
    fleet.unready = set(encoders(fleet))
    await fleet.run(10)
    assert fleet.condition("Ready") == ("False", "NoServingReplica")
    told = next(one for one in fleet.status()["conditions"] if one["type"] == "Ready")
    assert "images" in told["message"]
    fleet.unready = set()
    await fleet.run(10)
    assert fleet.condition("Ready") == ("True", "Serving")


async def test_a_group_of_encoders_alone_says_which_stage_it_lacks() -> None:
    fleet = Fleet()
    for name in ("prefill", "decode"):
        fleet.cluster.objects.pop((INFERENCE_ROLES, NAMESPACE, name))
    fleet.put_role("encode", "Encode", 1)
    await fleet.run(10)
    assert fleet.condition("Ready") == ("False", "StageMissing")


async def test_a_new_template_rolls_encoders_one_by_one() -> None:
    fleet = await encoding()
    fleet.edit(
        INFERENCE_ROLES,
        "encode",
        lambda spec: spec.update(
            template={**TEMPLATE, "spec": {"containers": [{"name": "engine", "image": "vllm:2"}]}}
        ),
    )
    fewest = 2

    def count() -> None:
        nonlocal fewest
        fewest = min(fewest, fleet.serving()["encode"])

    def images() -> set[str]:
        made = [pod for pod in fleet.pods() if pod["metadata"]["name"] in encoders(fleet)]
        return {pod["spec"]["containers"][0]["image"] for pod in made}

    fleet.cluster.after_write = count
    for _ in range(60):
        await fleet.run(3)
        if images() == {"vllm:2"}:
            break
    assert images() == {"vllm:2"}
    assert fewest == 1


def with_encoders(inputs: SplitInputs, replicas: int = 2) -> SplitInputs:
    held = RoleState("encode", Stage.ENCODE, 1, 32, replicas, 1, "encode")
    return replace(
        inputs,
        roles=(held, *inputs.roles),
        allocation=Split.of({**dict(inputs.allocation.counts), "encode": replicas}),
        budget_accelerators=inputs.budget_accelerators + replicas,
    )


@pytest.mark.parametrize("prefill", [1, 3, 5, 8])
@pytest.mark.parametrize("traffic", [ANSWER_HEAVY, PROMPT_HEAVY], ids=["answers", "prompts"])
@pytest.mark.parametrize("size", [None, 4], ids=["fixed", "free"])
def test_what_is_decided_for_the_others_is_what_was_decided_without_encoders(
    prefill: int, traffic: object, size: int | None
) -> None:
    alone = replace(
        group(prefill, 9 - prefill, known(traffic)),  # type: ignore[arg-type]
        minimum_accelerators=size,
        budget_accelerators=40,
    )
    without = plan_split(alone)
    beside = plan_split(
        replace(with_encoders(alone), minimum_accelerators=None if size is None else size + 2)
    )
    assert dict(beside.allocation.counts) == {**dict(without.allocation.counts), "encode": 2}
    assert (beside.decision is None) == (without.decision is None)


def test_encoders_are_in_no_queue_of_prompts_or_answers() -> None:
    roles = [
        role("encode", Stage.ENCODE, 1),
        role("prefill", Stage.PREFILL, 1),
        role("decode", Stage.DECODE, 1),
    ]
    busy = EngineLoad(running=3.0, waiting=5.0, generated_tokens_per_second=7.0)
    engines = [Engine(one, busy) for one in ("encode", "prefill", "decode")]
    found = queues(roles, engines)
    assert found is not None
    assert (found.prompts_waiting, found.answers_present) == (5.0, 8.0)
    assert generated_tokens_per_second(roles, engines) == 7.0

"""A changed template rolls one replica at a time; one that fails stops, is said, and can be set back. What is stuck
costs no more than itself."""

from __future__ import annotations

from datetime import timedelta

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY, steady
from support.refusals import Policy
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, PODS
from weft.cluster import Object


def image(name: str) -> Object:
    return {"spec": {"containers": [{"name": "engine", "image": name}]}}


async def serving(*, nodes: bool = False, mode: str = "Paused") -> Fleet:
    fleet = Fleet(nodes=nodes, mode=mode)
    for role in ("prefill", "decode"):
        fleet.edit(INFERENCE_ROLES, role, lambda spec: spec.update(template=image("vllm:1")))
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    return fleet


def roll(fleet: Fleet, role: str, name: str) -> None:
    fleet.edit(INFERENCE_ROLES, role, lambda spec: spec.update(template=image(name)))


def images(fleet: Fleet) -> dict[str, int]:
    found: dict[str, int] = {}
    for pod in fleet.pods():
        name = pod["spec"]["containers"][0]["image"]
        found[name] = found.get(name, 0) + 1
    return found


def never_starts(fleet: Fleet, name: str) -> None:
    fleet.stays_pending = lambda pod: pod["spec"]["containers"][0]["image"] == name


@pytest.mark.parametrize("nodes", [False, True])
async def test_a_template_that_never_runs_takes_one_replica_and_is_named_and_the_old_one_takes_it_back(
    nodes: bool,
) -> None:
    fleet = await serving(nodes=nodes)
    never_starts(fleet, "vllm:bad")
    roll(fleet, "decode", "vllm:bad")
    await fleet.run(30)
    assert sum(fleet.serving().values()) == 8
    assert images(fleet) == {"vllm:1": 8, "vllm:bad": 1}
    assert fleet.condition("Balanced") == ("False", "Starting")
    (bad,) = [pod for pod in fleet.pods() if pod["spec"]["containers"][0]["image"] == "vllm:bad"]
    name = bad["metadata"]["name"]
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    status = {**bad["status"], "containerStatuses": [{"name": "engine", "state": {"waiting": waiting}}]}
    fleet.cluster._store((PODS, NAMESPACE, name), {**bad, "status": status})
    fleet.now += timedelta(seconds=150)
    await fleet.run(5)
    assert sum(fleet.serving().values()) == 8
    assert fleet.condition("Balanced") == ("False", "ReplicaStuck")
    assert f"{name} of role decode is not running in time (ImagePullBackOff)" in fleet.message("Balanced")
    roll(fleet, "decode", "vllm:1")
    await fleet.run(60)
    assert images(fleet) == {"vllm:1": 9}
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_a_third_template_replaces_the_second_that_never_ran() -> None:
    fleet = await serving()
    never_starts(fleet, "vllm:bad")
    roll(fleet, "decode", "vllm:bad")
    await fleet.run(20)
    roll(fleet, "decode", "vllm:2")
    await fleet.run(100)
    assert images(fleet) == {"vllm:1": 3, "vllm:2": 6}


async def test_no_serving_replica_goes_for_a_template_that_the_api_server_refuses() -> None:
    fleet = await serving()
    before = {pod["metadata"]["uid"] for pod in fleet.pods()}
    fleet.cluster.rules.append(
        Policy(PODS, lambda write: "no latest" if "latest" in str(write.body.get("spec", "")) else None)
    )
    roll(fleet, "decode", "vllm:latest")
    await fleet.run(60)
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == before
    assert sum(fleet.serving().values()) == 9
    assert fleet.condition("Balanced") == ("False", "TemplateInvalid")
    roll(fleet, "decode", "vllm:2")
    await fleet.run(120)
    assert images(fleet) == {"vllm:1": 3, "vllm:2": 6}


async def test_both_stages_have_replicas_of_the_new_template_after_each_second_step() -> None:
    fleet = await serving()
    for role in ("prefill", "decode"):
        roll(fleet, role, "vllm:2")
    steps: list[tuple[int, int]] = []
    for _ in range(150):
        await fleet.run(1)
        new = [pod for pod in fleet.pods() if pod["spec"]["containers"][0]["image"] == "vllm:2"]
        stages = [pod["metadata"]["labels"]["weft.dev/stage"] for pod in new]
        steps.append((stages.count("prefill"), stages.count("decode")))
    assert steps[-1] == (3, 6)
    alone = {step for step in steps if sum(step) > 1 and 0 in step}
    assert alone == set()


async def test_the_only_replica_of_a_role_rolls_where_the_budget_has_room_for_another() -> None:
    fleet = Fleet(1, 1, mode="Paused")
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    fewest = 2

    def count() -> None:
        nonlocal fewest
        fewest = min(fewest, sum(fleet.serving().values()))

    fleet.cluster.after_write = count
    roll(fleet, "decode", "vllm:2")
    await fleet.run(60)
    assert images(fleet) == {"vllm:1": 1, "vllm:2": 1}
    assert fewest == 2
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=4))
    roll(fleet, "decode", "vllm:3")
    await fleet.run(30)
    assert images(fleet) == {"vllm:1": 1, "vllm:2": 1}
    assert fleet.condition("Balanced") == ("False", "NoSpareReplica")


async def test_in_the_place_of_a_pod_whose_machine_is_gone_another_is_made_where_the_budget_has_room() -> (
    None
):
    fleet = await serving()
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=20))
    fleet.stays_terminating = lambda pod: pod["metadata"]["name"] == f"{GROUP}-4"
    await fleet.cluster.delete(PODS, f"{GROUP}-4", NAMESPACE)
    await fleet.run(10)
    assert sum(fleet.serving().values()) == 8
    fleet.now += timedelta(seconds=120)
    await fleet.run(5)
    assert sum(fleet.serving().values()) == 9
    assert fleet.condition("Balanced") == ("False", "ReplicaStuck")
    assert f"{GROUP}-4" in fleet.message("Balanced")
    fleet.stays_terminating = lambda pod: False
    await fleet.run(10)
    assert len(fleet.pods()) == 9
    assert fleet.condition("Balanced") == ("True", "AsDecided")


def hang(fleet: Fleet, name: str) -> None:
    """The engine of this pod runs and is not ready any more."""
    pod = fleet.cluster.objects[(PODS, NAMESPACE, name)]
    conditions = [
        {**one, "status": "False"} if one["type"] in ("Ready", "ContainersReady") else one
        for one in pod["status"]["conditions"]
    ]
    fleet.pending.add(name)
    status = {**pod["status"], "conditions": conditions}
    fleet.cluster.objects[(PODS, NAMESPACE, name)] = {**pod, "status": status}


async def until_split(fleet: Fleet, split: str, seconds: int) -> None:
    for _ in range(seconds):
        await fleet.run(1)
        if fleet.status()["split"] == split:
            return
    raise AssertionError(f"{fleet.status()['split']}: {fleet.message('Balanced')}")


async def test_replicas_that_do_not_come_up_in_their_new_role_do_not_hold_the_opposite_decision() -> None:
    fleet = Fleet(drainFirst=False)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)

    def look() -> None:
        for pod in fleet.pods():
            name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
            if name in flipping and name not in fleet.pending and labels["weft.dev/role"] == "prefill":
                hang(fleet, name)

    flipping = {
        pod["metadata"]["name"]
        for pod in fleet.pods()
        if pod["metadata"]["labels"]["weft.dev/role"] == "decode"
    }
    fleet.cluster.after_write = look
    fleet.traffic = PROMPT_HEAVY
    await until_split(fleet, "decode 4, prefill 5", 60)
    await fleet.run(3)
    assert {one["step"] for one in fleet.status()["transfers"]} == {"Verifying"}
    stuck = sorted(one["replica"] for one in fleet.status()["transfers"])
    fleet.traffic = steady(6.5, 900, 300)
    await fleet.run(18)
    for name in stuck:
        assert f"{name} from decode to prefill (does not get ready" in fleet.message("Balanced")
    await until_split(fleet, "decode 6, prefill 3", 90)


async def test_a_decision_for_which_a_role_has_none_to_spare_does_not_hold_the_opposite_one() -> None:
    fleet = Fleet(drainFirst=False)
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(minReplicas=4))
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    broken = [
        pod["metadata"]["name"]
        for pod in fleet.pods()
        if pod["metadata"]["labels"]["weft.dev/role"] == "decode"
    ][:2]
    for name in broken:
        hang(fleet, name)

    def decode() -> int:
        found: int = next(one["replicas"] for one in fleet.status()["allocation"] if one["role"] == "decode")
        return found

    fleet.traffic = PROMPT_HEAVY
    for _ in range(60):
        await fleet.run(1)
        if decode() < 6:
            break
    await fleet.run(3)
    assert fleet.condition("Balanced") == ("False", "NoSpareReplica")
    assert ", ".join(broken) in fleet.message("Balanced")
    fleet.traffic = steady(9.0, 300, 300)
    for _ in range(90):
        await fleet.run(1)
        if decode() >= 6:
            break
    assert decode() >= 6

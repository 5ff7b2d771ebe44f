"""Pods that end by themselves, as a kubelet refuses or evicts them, and pods that another controller holds back."""

from __future__ import annotations

from itertools import pairwise

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY
from weft.api.resources import LOGICAL_NODES, PODS
from weft.cluster import Object

LAST = f"{GROUP}-8"


async def refusing(*, nodes: bool = False) -> tuple[Fleet, list[float]]:
    """A group of which the pods under one name are refused by their kubelet, and when each of those is made."""
    fleet, made, known = Fleet(nodes=nodes), [], {""}
    fleet.traffic = ANSWER_HEAVY
    fleet.refused_by_kubelet = lambda pod: pod["metadata"]["name"] == LAST
    start = fleet.now

    def note() -> None:
        pod = fleet.cluster.objects.get((PODS, NAMESPACE, LAST))
        if pod is not None and pod["metadata"]["uid"] not in known:
            known.add(pod["metadata"]["uid"])
            made.append((fleet.now - start).total_seconds())

    fleet.cluster.after_write = note
    return fleet, made


@pytest.mark.parametrize("nodes", [False, True])
async def test_a_pod_that_its_kubelet_refuses_again_and_again_is_named_and_made_ever_more_rarely(
    nodes: bool,
) -> None:
    fleet, made = await refusing(nodes=nodes)
    await fleet.run(1800)
    waits = [later - earlier for earlier, later in pairwise(made)]
    assert min(waits) >= 10
    assert max(waits) <= 310
    assert len(made) < 12
    assert sum(fleet.serving().values()) == 8
    assert fleet.condition("Balanced") == ("False", "ReplicaStuck")
    assert f"{LAST} of role" in fleet.message("Balanced")
    assert "UnexpectedAdmissionError" in fleet.message("Balanced")


async def test_what_is_said_of_a_pod_that_is_refused_does_not_change_while_it_is_made_anew() -> None:
    fleet, made = await refusing()
    await fleet.run(120)
    said, before, note = set(), len(made), fleet.cluster.after_write

    def look() -> None:
        note()
        said.add((fleet.condition("Balanced"), fleet.message("Balanced")))

    fleet.cluster.after_write = look
    await fleet.run(600)
    assert len(made) - before >= 2
    assert len(said) == 1


async def test_a_pod_that_is_evicted_once_is_made_again_after_ten_seconds_and_nothing_is_said() -> None:
    fleet, made = await refusing()
    fleet.refused_by_kubelet = lambda pod: False
    await fleet.run(30)
    pod = fleet.cluster.objects[(PODS, NAMESPACE, LAST)]
    evicted = {**pod["status"], "phase": "Failed", "reason": "Evicted", "conditions": []}
    fleet.cluster._store((PODS, NAMESPACE, LAST), {**pod, "status": evicted})
    await fleet.run(15)
    assert len(made) == 2
    assert sum(fleet.serving().values()) == 9
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_a_replica_that_was_refused_and_then_ran_is_made_again_at_once_the_next_time() -> None:
    fleet, made = await refusing()
    await fleet.run(120)
    fleet.refused_by_kubelet = lambda pod: False
    await fleet.run(120)
    assert sum(fleet.serving().values()) == 9
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    before = len(made)
    fleet.refused_by_kubelet = lambda pod: pod["metadata"]["name"] == LAST
    await fleet.run(45)
    assert len(made) - before >= 2


async def test_a_pod_that_a_queue_holds_back_waits_for_hardware_and_is_not_stuck() -> None:
    fleet = Fleet()
    fleet.traffic = ANSWER_HEAVY
    fleet.pending = {LAST}
    await fleet.run(5)
    pod = fleet.cluster.objects[(PODS, NAMESPACE, LAST)]
    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    fleet.cluster._store((PODS, NAMESPACE, LAST), {**pod, "status": {**pod["status"], "conditions": [gated]}})
    await fleet.run(200)
    assert fleet.condition("Balanced") == ("False", "WaitingForHardware")
    assert LAST in fleet.message("Balanced")


def tied_to(pod: Object) -> str:
    """The only Node on which the scheduler may place it."""
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return str(required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])


async def test_a_pod_that_waits_for_the_node_that_its_logical_node_has_left_is_made_anew_for_the_other_one() -> (
    None
):
    fleet = Fleet(nodes=True)
    fleet.traffic = ANSWER_HEAVY
    # The scheduler has no room there.
    fleet.stays_pending = lambda pod: tied_to(pod) == f"worker-{LAST}"
    await fleet.run(30)
    waits = fleet.cluster.objects[PODS, NAMESPACE, LAST]
    node = fleet.cluster.objects[LOGICAL_NODES, NAMESPACE, LAST]
    (bound,) = node["status"]["conditions"]
    unbound = {**node["status"], "conditions": [{**bound, "status": "False", "reason": "Releasing"}]}
    for status in (unbound, node["status"]):
        fleet.cluster._store((LOGICAL_NODES, NAMESPACE, LAST), {**node, "status": status})
        await fleet.run(10)
    assert fleet.cluster.objects[PODS, NAMESPACE, LAST]["metadata"]["uid"] == waits["metadata"]["uid"]

    moved = {**node["status"], "nodeName": "worker-other"}
    fleet.cluster._store((LOGICAL_NODES, NAMESPACE, LAST), {**node, "status": moved})
    await fleet.run(30)
    assert tied_to(fleet.cluster.objects[PODS, NAMESPACE, LAST]) == "worker-other"
    assert sum(fleet.serving().values()) == 9

"""An operator killed at any write of a move, a rolled back move or a removal goes on where it stopped.

Meanwhile no invariant breaks: the budget, a serving replica per stage, role and stage that change together.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet, condition
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY
from weft.api.names import GATE_SERVING, LABEL_ROLE, LABEL_STAGE
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS


class Killed(BaseException):
    """The operator's end; nothing in it may catch this."""


async def settled_fleet() -> Fleet:
    fleet = Fleet(nodes=True, cooldownSeconds=5)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(8)
    return fleet


async def live(fleet: Fleet, seconds: int, write: int, when: str, check: Callable[[], None]) -> int:
    """Let the fleet live, its operator killed before or after the given write; the number of writes it made."""
    writes = 0

    def before() -> None:
        nonlocal writes
        writes += 1
        if when == "before" and writes == write:
            raise Killed

    def after() -> None:
        check()
        if when == "after" and writes == write:
            raise Killed

    fleet.cluster.before_write = before
    for tick in range(3 * seconds):
        fleet.cluster.after_write = after
        try:
            await fleet.look()
        except Killed:
            writes = write + 1  # once is enough
            fleet.restart()
        fleet.cluster.after_write = lambda: None
        fleet.play()
        check()
        if tick % 3 == 2:
            fleet.now += timedelta(seconds=1)
    return writes


def check_invariants(fleet: Fleet) -> None:
    held = {one["metadata"]["name"] for one in fleet.pods()}
    held |= {one["metadata"]["name"] for one in fleet.cluster.list(LOGICAL_NODES, NAMESPACE)}
    assert 2 * len(held) <= 18, "the budget"
    assert min(fleet.serving().values()) >= 1, "a serving replica of each stage"
    for pod in fleet.pods():
        labels = pod["metadata"]["labels"]
        assert labels[LABEL_ROLE] == labels[LABEL_STAGE] == labels["llm-d.ai/role"]


WRITES_OF_A_MOVE = 19
"""Two flips, each: out of the router, labels, into the router, the logical node's label; the rest are statuses of
the group (decision with both transfers, their steps, the end) and of the roles."""
SECONDS_OF_A_MOVE = 12


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", range(1, WRITES_OF_A_MOVE + 1))
async def test_a_move_is_finished_by_an_operator_that_was_killed_in_it(write: int, when: str) -> None:
    fleet = await settled_fleet()
    fleet.traffic = PROMPT_HEAVY
    writes = await live(fleet, SECONDS_OF_A_MOVE, write, when, lambda: check_invariants(fleet))
    assert writes > write, "it was not killed"
    assert fleet.split() == fleet.serving() == {"prefill": 5, "decode": 4}
    assert fleet.status().get("transfers", []) == []
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    assert {one["role"]: one["replicas"] for one in fleet.status()["allocation"]} == {
        "prefill": 5,
        "decode": 4,
    }
    assert [condition(pod, GATE_SERVING) for pod in fleet.pods()] == ["True"] * 9


async def test_a_move_takes_the_writes_that_the_test_above_kills_at() -> None:
    fleet = await settled_fleet()
    fleet.traffic = PROMPT_HEAVY
    assert await live(fleet, SECONDS_OF_A_MOVE, 0, "never", lambda: None) == WRITES_OF_A_MOVE


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", range(1, 10))
async def test_a_move_that_cannot_drain_is_rolled_back_once_by_an_operator_that_was_killed(
    write: int, when: str
) -> None:
    fleet = await settled_fleet()
    for name in ("prefill", "decode"):
        fleet.edit(INFERENCE_ROLES, name, lambda spec: spec.update(drain={"timeoutSeconds": 3}))
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(cooldownSeconds=300))
    fleet.now += timedelta(seconds=300)
    fleet.requests = {f"{GROUP}-{n}": 1.0 for n in range(9)}
    fleet.traffic = PROMPT_HEAVY
    await live(fleet, 10, write, when, lambda: check_invariants(fleet))
    assert fleet.split() == fleet.serving() == {"prefill": 3, "decode": 6}
    assert fleet.status().get("transfers", []) == []
    assert {one["role"]: one["replicas"] for one in fleet.status()["allocation"]} == {
        "prefill": 3,
        "decode": 6,
    }
    assert len([one for one in fleet.cluster.events if one[1] == "TransferStarted"]) <= 2


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", [1, 5, 9, 10, 14, 18, 19, 23, 27, 28])
async def test_a_deleted_group_is_gone_wholly_although_the_operator_was_killed(write: int, when: str) -> None:
    fleet = await settled_fleet()
    await fleet.cluster.delete(INFERENCE_GROUPS, GROUP, NAMESPACE)

    def check() -> None:
        names = {one["metadata"]["name"] for one in fleet.cluster.list(LOGICAL_NODES, NAMESPACE)}
        assert {one["metadata"]["name"] for one in fleet.pods()} <= names, "a pod lost its hardware"

    await live(fleet, 20, write, when, check)
    assert fleet.cluster.list(PODS, NAMESPACE) == []
    assert fleet.cluster.list(LOGICAL_NODES, NAMESPACE) == []
    assert fleet.cluster.get(INFERENCE_GROUPS, GROUP, NAMESPACE) is None

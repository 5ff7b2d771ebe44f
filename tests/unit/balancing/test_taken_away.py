"""A replica whose devices are taken out of service, or go to a greater priority, hands its requests over first."""

from __future__ import annotations

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY
from weft.api.names import GATE_SERVING
from weft.api.resources import INFERENCE_GROUPS, LOGICAL_NODES
from weft.cluster import Object


async def running(room: int = 0, **options: object) -> Fleet:
    """Nine replicas of two accelerators each; the budget has room for so many more."""
    fleet = Fleet(nodes=True, mode="Paused", **options)  # type: ignore[arg-type]  # rebalance's fields
    maximum = 18 + 2 * room
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=maximum))
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    return fleet


def take_away(fleet: Fleet, name: str, reason: str) -> None:
    key = (LOGICAL_NODES, NAMESPACE, name)
    node = fleet.cluster.get(LOGICAL_NODES, name, NAMESPACE)
    assert node is not None
    said = {
        "type": "Draining",
        "status": "True",
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {**node["status"], "conditions": [*node["status"].get("conditions", ()), said]}
    fleet.cluster._store(key, {**node, "status": status})


def uid(fleet: Fleet, name: str) -> str | None:
    node = fleet.cluster.get(LOGICAL_NODES, name, NAMESPACE)
    return node["metadata"]["uid"] if node is not None else None


def gate(pod: Object) -> str:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", ())}
    return str(conditions.get(GATE_SERVING))


@pytest.mark.parametrize("reason", ["Maintenance", "Preempted"])
async def test_it_leaves_the_router_before_its_pod_goes_and_another_takes_its_place(reason: str) -> None:
    fleet = await running()
    victim = f"{GROUP}-4"
    before, gates = uid(fleet, victim), list[str]()

    def note() -> None:
        if uid(fleet, victim) == before:
            gates.extend(gate(pod) for pod in fleet.pods() if pod["metadata"]["name"] == victim)

    fleet.cluster.after_write = note
    take_away(fleet, victim, reason)
    await fleet.run(60)

    assert uid(fleet, victim) != before
    assert gates[-1] == "False", "no pod ends while the router sends it requests"
    assert sum(fleet.serving().values()) == 9
    assert len(fleet.cluster.list(LOGICAL_NODES, NAMESPACE)) == 9


async def test_a_device_that_is_replaced_alone_takes_no_replica_away() -> None:
    fleet = await running()
    before = uid(fleet, f"{GROUP}-4")
    take_away(fleet, f"{GROUP}-4", "DeviceFailed")
    await fleet.run(30)
    assert uid(fleet, f"{GROUP}-4") == before


async def test_the_last_that_serves_a_role_waits_for_the_one_that_takes_its_place() -> None:
    fleet = await running(room=1, prefill=1, decode=6)
    (last,) = (pod for pod in fleet.pods() if pod["metadata"]["labels"]["weft.dev/role"] == "prefill")
    name, fewest = last["metadata"]["name"], 9
    before = uid(fleet, name)

    def count() -> None:
        nonlocal fewest
        fewest = min(fewest, fleet.serving()["prefill"])

    fleet.cluster.after_write = count
    take_away(fleet, name, "Maintenance")
    await fleet.run(60)

    assert fewest == 1
    assert uid(fleet, name) != before
    assert fleet.serving() == {"prefill": 1, "decode": 6}

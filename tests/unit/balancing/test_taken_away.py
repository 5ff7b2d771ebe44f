"""A replica whose devices are taken out of service, or go to a greater priority, hands its requests over first."""

from __future__ import annotations

from datetime import timedelta

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY
from weft.api.names import GATE_SERVING, LABEL_ROLE
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS
from weft.cluster import Object


async def running(room: int = 0, **options: object) -> Fleet:
    """Nine replicas of two accelerators each; the budget has room for so many more."""
    fleet = Fleet(nodes=True, mode="Paused", **options)  # type: ignore[arg-type]  # rebalance's fields
    maximum = 18 + 2 * room
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=maximum))
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    return fleet


def take_away(fleet: Fleet, name: str, reason: str, timeout_seconds: int | None = None) -> None:
    """As binding says it; a maintenance has a timeout."""
    key = (LOGICAL_NODES, NAMESPACE, name)
    node = fleet.cluster.get(LOGICAL_NODES, name, NAMESPACE)
    assert node is not None
    said = {
        "type": "Draining",
        "status": "True",
        "reason": reason,
        "message": "",
        "lastTransitionTime": fleet.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    others = [one for one in node["status"].get("conditions", ()) if one["type"] != "Draining"]
    status = {**node["status"], "conditions": [*others, said]}
    if timeout_seconds is not None:
        status["drainTimeoutSeconds"] = timeout_seconds
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


def of_role(fleet: Fleet, role: str) -> list[str]:
    """Its replicas."""
    return [pod["metadata"]["name"] for pod in fleet.pods() if pod["metadata"]["labels"][LABEL_ROLE] == role]


def away(fleet: Fleet, names: list[str]) -> int:
    """How many of these replicas do not serve."""
    pods = [pod for pod in fleet.pods() if pod["metadata"]["name"] in names]
    return len(names) - sum(gate(pod) == "True" for pod in pods)


async def decode_of_five(room: int = 0) -> tuple[Fleet, list[str]]:
    """A group with five decode replicas, and four of them; every replica has a request that lasts."""
    fleet = await running(room, prefill=1, decode=5)
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["accelerators"].update(maximum=12 + 2 * room))
    fleet.requests = {pod["metadata"]["name"]: 1.0 for pod in fleet.pods()}
    await fleet.run(2)
    return fleet, sorted(of_role(fleet, "decode"))[:4]


def end_maintenance(fleet: Fleet, names: list[str]) -> None:
    for name in names:
        node = fleet.cluster.get(LOGICAL_NODES, name, NAMESPACE)
        if node is not None:
            others = [one for one in node["status"]["conditions"] if one["type"] != "Draining"]
            status = {**node["status"], "conditions": others}
            status.pop("drainTimeoutSeconds", None)
            fleet.cluster._store((LOGICAL_NODES, NAMESPACE, name), {**node, "status": status})


@pytest.mark.parametrize("room", [0, 1, 4])
async def test_of_five_replicas_of_which_four_are_taken_out_four_serve_at_any_time(room: int) -> None:
    fleet, names = await decode_of_five(room)
    before = {name: uid(fleet, name) for name in names}
    serving: list[int] = []
    fleet.cluster.after_write = lambda: serving.append(fleet.serving()["decode"])
    for name in names:
        take_away(fleet, name, "Maintenance", timeout_seconds=3600)
    await fleet.run(20)
    assert away(fleet, names) >= 1
    for _ in range(6):
        # What is out of the router has finished what it had after a while.
        gone = [pod["metadata"]["name"] for pod in fleet.pods() if gate(pod) != "True"]
        fleet.requests = {name: load for name, load in fleet.requests.items() if name not in gone}
        await fleet.run(20)
    assert min(serving) == 4
    assert {name for name in names if uid(fleet, name) == before[name]} == set()
    assert fleet.serving() == {"prefill": 1, "decode": 5}
    assert fleet.condition("Balanced") == ("True", "AsDecided")


async def test_the_others_serve_until_their_time_is_nearly_over_where_nothing_can_take_their_place() -> None:
    fleet, names = await decode_of_five()
    fleet.devices_free = False
    for name in names:
        take_away(fleet, name, "Maintenance", timeout_seconds=600)
    started = fleet.now
    await fleet.run(70)
    assert away(fleet, names) == 1
    assert fleet.condition("Balanced") == ("False", "WaitingForHardware")
    latest = started + timedelta(seconds=600 - 60 - 15)
    assert f"at {latest:%Y-%m-%d %H:%M} UTC at the latest" in fleet.message("Balanced")
    fleet.now = latest - timedelta(seconds=5)
    await fleet.run(3)
    assert away(fleet, names) == 1
    await fleet.run(5)
    assert away(fleet, names) == 4
    # Long before they would be evicted, with the time that their role gives a drain.
    assert fleet.now < started + timedelta(seconds=600 - 60)


async def test_without_the_time_to_leave_one_after_the_other_all_leave_at_once() -> None:
    fleet, names = await decode_of_five()
    for name in names:
        take_away(fleet, name, "Maintenance", timeout_seconds=70)
    await fleet.run(2)
    assert away(fleet, names) == 4


async def test_all_that_are_preempted_leave_at_once() -> None:
    fleet, names = await decode_of_five()
    for name in names:
        take_away(fleet, name, "Preempted")
    await fleet.run(2)
    assert away(fleet, names) == 4


async def test_a_role_of_which_a_replica_fails_gives_none_up_before_it_has_to() -> None:
    fleet, names = await decode_of_five()
    other = next(name for name in of_role(fleet, "decode") if name not in names)
    fleet.unready = {other}
    await fleet.run(2)
    for name in names:
        take_away(fleet, name, "Maintenance", timeout_seconds=600)
    await fleet.run(10)
    assert away(fleet, names) == 0
    assert fleet.condition("Balanced") == ("False", "WaitingForTurn")
    assert fleet.message("Balanced").startswith(", ".join(names[:3]))
    fleet.unready = {other, names[0]}
    await fleet.run(2)
    # What serves nobody goes at once, whoever else is away.
    assert away(fleet, names) == 1


async def test_a_role_all_of_which_is_taken_out_serves_until_the_last_has_to_go() -> None:
    fleet, names = await decode_of_five()
    names = sorted(of_role(fleet, "decode"))
    for name in names:
        take_away(fleet, name, "Maintenance", timeout_seconds=600)
    await fleet.run(2)
    assert away(fleet, names) == 1
    fleet.devices_free = False
    fleet.now += timedelta(seconds=550)
    await fleet.run(2)
    assert away(fleet, names) == 4


async def test_a_maintenance_that_ends_keeps_those_whose_turn_had_not_come_and_a_second_one_has_its_own_time() -> (
    None
):
    fleet, names = await decode_of_five()
    for name in names:
        take_away(fleet, name, "Maintenance", timeout_seconds=600)
    await fleet.run(10)
    stay = [pod["metadata"]["name"] for pod in fleet.pods() if gate(pod) == "True"]
    before = {name: uid(fleet, name) for name in stay}
    end_maintenance(fleet, names)
    await fleet.run(100)
    assert {name: uid(fleet, name) for name in stay} == before
    assert fleet.serving() == {"prefill": 1, "decode": 5}
    fleet.now += timedelta(seconds=3600)
    names = [name for name in of_role(fleet, "decode") if name in stay][:3]
    for name in names:
        take_away(fleet, name, "Maintenance", timeout_seconds=600)
    await fleet.run(10)
    assert away(fleet, names) == 1


@pytest.mark.parametrize("hours", [-10, 10])
async def test_neither_a_clock_that_is_set_nor_another_leader_takes_the_others_out_before_their_time(
    hours: float,
) -> None:
    fleet, names = await decode_of_five()
    fleet.devices_free = False
    for name in names:
        take_away(fleet, name, "Maintenance", timeout_seconds=600)
    await fleet.run(10)
    fleet.restart()
    await fleet.run(10)
    fleet.set_clock(hours)
    await fleet.run(10)
    assert away(fleet, names) == 1
    fleet.now += timedelta(seconds=500)
    await fleet.run(5)
    assert away(fleet, names) == 4


async def test_a_role_that_has_successors_beside_those_that_serve_on_gives_none_to_another_role() -> None:
    fleet, names = await decode_of_five(room=4)
    fleet.pending = {f"{GROUP}-{number}" for number in range(6, 20)}
    for name in names:
        take_away(fleet, name, "Maintenance", timeout_seconds=600)
    await fleet.run(5)
    assert len(of_role(fleet, "decode")) == 9
    (prefill,) = of_role(fleet, "prefill")
    moves: list[Object] = []
    fleet.cluster.after_write = lambda: moves.extend(fleet.status().get("transfers", ()))
    del fleet.cluster.objects[(PODS, NAMESPACE, prefill)]
    await fleet.run(5)
    assert not moves
    assert of_role(fleet, "prefill") == [prefill]


async def test_another_one_changes_its_role_than_one_whose_devices_are_taken_away() -> None:
    fleet, names = await decode_of_five()
    # It would be the first to move, and serves on, since another one fails.
    fleet.requests[names[0]] = 0.0
    fleet.unready = {names[1]}
    await fleet.run(2)
    take_away(fleet, names[0], "Maintenance", timeout_seconds=600)
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=3))
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=3))
    moved: set[str] = set()
    fleet.cluster.after_write = lambda: moved.update(
        one["replica"] for one in fleet.status().get("transfers", ())
    )
    await fleet.run(10)
    assert moved
    assert names[0] not in moved

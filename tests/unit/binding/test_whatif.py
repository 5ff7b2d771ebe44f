"""What would become of logical nodes, said before anything is written, and what comes of it when it is."""

from __future__ import annotations

from typing import Any

import pytest

from support.rack import Rack, condition, secret
from weft.api.resources import (
    DEVICE_QUOTAS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    PRIORITY_CLASSES,
    ResourceType,
)
from weft.binding.keys import PlacementKey
from weft.binding.placement import PlacementController
from weft.binding.whatif import Answer, Forecast
from weft.cluster import Object

PRICED = {
    "fabricRef": {"name": "rack"},
    "selector": {},
    "allowedNamespaces": {},
    "cost": {"perDeviceHour": "2.10"},
}


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


async def planned(rack: Rack, *changes: tuple[ResourceType, Object]) -> Answer:
    """The answer; a question that writes anything fails."""
    placement = rack.controllers[PlacementKey]
    assert isinstance(placement, PlacementController)
    rack.cluster.writes.clear()
    answer = await placement.what_if(changes, rack.clock.wall)
    assert answer is not None
    assert rack.cluster.writes == []
    return answer


def asked(name: str, gpus: int = 2, **spec: Any) -> tuple[ResourceType, Object]:
    body = {"accelerators": [{"name": "main", "count": gpus}], **spec}
    return LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": body}


async def only(rack: Rack, *change: Any, **spec: Any) -> Forecast:
    (forecast,) = (await planned(rack, asked(*change, **spec))).own
    return forecast


async def test_what_is_planned_is_what_is_bound_when_it_is_applied(rack: Rack) -> None:
    await rack.build()
    await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": PRICED})
    forecast = await only(rack, "new")
    assert (forecast.outcome, forecast.cost_per_hour) == ("binds", "4.2")
    assert {(each.model, each.pool, each.fabric) for each in forecast.devices} == {
        ("M", "GPUPool gpus", "rack")
    }
    await rack.ask("new")
    status = rack.node("new")["status"]
    assert status["nodeName"] == forecast.node_name
    assert {each["device"] for each in status["devices"]} == {each.device for each in forecast.devices}


async def test_several_that_are_planned_together_take_from_each_other(rack: Rack) -> None:
    await rack.build()
    answer = await planned(rack, asked("one", 3), asked("two", 3))
    assert sorted(each.outcome for each in answer.own) == ["binds", "waits"]
    (waits,) = (each for each in answer.own if each.outcome == "waits")
    assert (waits.reason, waits.place) == ("NotEnoughDevices", "1")


async def test_who_would_wait_is_told_the_place_behind_those_who_wait_already(rack: Rack) -> None:
    await rack.build()
    await rack.ask("holds", 3)
    await rack.ask("waits", 3)
    forecast = await only(rack, "late", 4)
    assert (forecast.outcome, forecast.reason, forecast.place) == ("waits", "NotEnoughDevices", "2")
    await rack.ask("late", 4)
    assert rack.node("late")["status"]["queuePlace"] == forecast.place


async def test_what_can_never_be_met_is_refused_in_the_words_that_it_would_be_told(rack: Rack) -> None:
    await rack.build()
    forecast = await only(rack, "huge", 16)
    await rack.ask("huge", 16)
    (bound,) = (each for each in rack.node("huge")["status"]["conditions"] if each["type"] == "Bound")
    assert (forecast.outcome, forecast.reason, forecast.message) == (
        "refused",
        bound["reason"],
        bound["message"],
    )


async def test_a_bound_node_that_would_ask_for_more_or_less_is_told_what_comes_and_goes(rack: Rack) -> None:
    await rack.build()
    await rack.ask("grows")
    more = await only(rack, "grows", 3)
    assert (more.outcome, len(more.devices), more.node_name) == (
        "grows",
        1,
        rack.node("grows")["status"]["nodeName"],
    )
    less = await only(rack, "grows", 1)
    assert (less.outcome, len(less.gives_back)) == ("shrinks", 1)
    assert (await only(rack, "grows", 2)).outcome == "stays"
    assert (await only(rack, "grows", 5)).outcome in ("waits", "refused")


async def test_a_status_in_the_question_moves_nobody_ahead(rack: Rack) -> None:
    await rack.build()
    await rack.ask("holds", 3)
    await rack.ask("waits", 3)
    kind, late = asked("late", 3)
    late["status"] = {"queuePlace": "1"}
    late["metadata"] |= {"uid": "forged", "creationTimestamp": "2000-01-01T00:00:00Z"}
    (forecast,) = (await planned(rack, (kind, late))).own
    assert forecast.place == "2"


async def test_it_says_whom_a_greater_priority_would_ask_to_give_way(rack: Rack) -> None:
    await rack.build()
    spec = {**PRICED, "preemption": {"scope": "SameNamespace", "drain": {}}}
    await rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": spec})
    await rack.cluster.create(PRIORITY_CLASSES, {"metadata": {"name": "high"}, "value": 10})
    await rack.ask("low", 3)
    forecast = await only(rack, "urgent", 4, priorityClassName="high")
    assert (forecast.outcome, forecast.place, forecast.preempts) == ("waits", "1", ("a/low",))
    assert condition(rack.node("low"), "Bound")[0] == "True"


async def test_a_fabric_that_would_be_managed_says_who_gets_a_place_by_it(rack: Rack) -> None:
    await rack.build(mode="Observe")
    await rack.ask("waits")
    assert condition(rack.node("waits"), "Bound") == ("False", "OnlyPlanned")
    raw = rack.cluster.get(FABRICS, "rack")
    assert raw is not None
    answer = await planned(rack, (FABRICS, {**raw, "spec": {**raw["spec"], "mode": "Manage"}}))
    assert [(each.name, each.outcome) for each in answer.others] == [("waits", "binds")]


async def test_a_new_pool_says_what_it_would_offer_and_who_would_be_helped(rack: Rack) -> None:
    await rack.build()
    await rack.cluster.delete(GPU_POOLS, "gpus")
    await rack.ask("waits")
    assert condition(rack.node("waits"), "Bound") == ("False", "NoSuchDevices")
    answer = await planned(rack, (GPU_POOLS, {"metadata": {"name": "fresh"}, "spec": PRICED}))
    assert [(each.name, each.devices, each.models) for each in answer.pools] == [("fresh", 4, ("M",))]
    assert [(each.name, each.outcome) for each in answer.others] == [("waits", "binds")]


async def test_a_tighter_quota_says_who_would_wait_for_it(rack: Rack) -> None:
    await rack.build()
    await rack.ask("holds", 3)
    await rack.ask("waits", 3)
    limits = [{"kind": "GPUPool", "name": "gpus", "count": 3}]
    quota = {"metadata": {"name": "devices", "namespace": "a"}, "spec": {"limits": limits}}
    answer = await planned(rack, (DEVICE_QUOTAS, quota))
    assert [(each.name, each.reason) for each in answer.others] == [("waits", "QuotaExceeded")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (asked("odd", -1), "count"),
        ((GPU_POOLS, {"metadata": {"name": "gpus"}, "spec": {"selector": {}}}), "fabricRef"),
        ((GPU_POOLS, {"metadata": {"name": "gpus"}, "spec": {"fabricRef": "rack"}}), "fabricRef"),
        ((GPU_POOLS, {"metadata": {"name": "gpus"}, "spec": {**PRICED, "cost": "much"}}), "cost"),
        ((FABRICS, {"metadata": {"name": "rack"}, "spec": {"mode": "Manage"}}), "endpoint"),
        ((DEVICE_QUOTAS, {"metadata": {"name": "q", "namespace": "a"}, "spec": {"limits": 7}}), "limits"),
    ],
)
async def test_a_spec_that_cannot_be_read_is_said_and_not_left_out(
    rack: Rack, change: tuple[ResourceType, Object], why: str
) -> None:
    await rack.build()
    with pytest.raises(ValueError, match=why):
        await planned(rack, change)


@pytest.mark.parametrize("name", ["gpus", "new"])
async def test_a_second_question_about_a_pool_is_answered_for_its_second_spec(rack: Rack, name: str) -> None:
    await rack.build()
    await rack.cluster.delete(GPU_POOLS, "gpus")
    if name == "gpus":
        await rack.cluster.create(GPU_POOLS, {"metadata": {"name": name}, "spec": PRICED})
    await rack.ask("waits", 5)
    none = {**PRICED, "selector": {"matchAttributes": {"model": "another"}}}
    for spec, devices, outcome in ((PRICED, 4, "binds"), (none, 0, "refused"), (PRICED, 4, "binds")):
        answer = await planned(rack, (GPU_POOLS, {"metadata": {"name": name}, "spec": spec}), asked("x"))
        assert [each.devices for each in answer.pools] == [devices]
        assert [each.outcome for each in answer.own] == [outcome]


async def test_a_question_leaves_the_next_pass_of_placement_as_it_was(rack: Rack) -> None:
    await rack.build()
    await planned(rack, asked("imagined", 4))
    await rack.ask("real", 4)
    assert condition(rack.node("real"), "Bound")[0] == "True"


async def test_a_fabric_that_could_not_be_read_says_all_that_it_lacks_before_it_is_applied(
    rack: Rack,
) -> None:
    await rack.build()
    spec = {"endpoint": "https://new", "credentialsSecretRef": {"name": "login"}}
    for driver, secrets, lacks in (
        ("redfsh", {}, ["no driver 'redfsh' is installed", "Secret weft-system/login with the key username"]),
        ("redfish", {}, ["Secret weft-system/login with the key username"]),
        ("redfish", {"login": secret(username=b"u", password=b"p")}, []),
    ):
        rack.secrets = secrets
        answer = await planned(
            rack, (FABRICS, {"metadata": {"name": "new"}, "spec": {**spec, "driver": driver}})
        )
        told = [lack for each in answer.fabrics for lack in each.lacks]
        assert len(told) == len(lacks)
        assert all(lack.startswith(start) for lack, start in zip(told, lacks, strict=True))


async def test_a_pool_of_a_fabric_that_does_not_exist_is_refused_unless_it_comes_with_it(rack: Rack) -> None:
    await rack.build()
    pool = (GPU_POOLS, {"metadata": {"name": "more"}, "spec": {**PRICED, "fabricRef": {"name": "nofab"}}})
    (forecast,) = (await planned(rack, pool)).pools
    assert forecast.refused
    assert "there is no Fabric nofab" in forecast.message
    fabric = (
        FABRICS,
        {"metadata": {"name": "nofab"}, "spec": {"endpoint": "https://new", "driver": "redfish"}},
    )
    (forecast,) = (await planned(rack, fabric, pool)).pools
    assert not forecast.refused
    assert "not known (yet)" in forecast.message

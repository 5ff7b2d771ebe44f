"""What takes nothing new, and goes on giving back: suspended logical nodes and fabrics, and fabrics' windows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from support.rack import Rack, condition
from weft.api.resources import FABRICS, LOGICAL_NODES
from weft.binding.keys import LogicalNodeKey, PlacementKey
from weft.cluster import Object


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


def message(node: Object) -> str:
    return next(str(one["message"]) for one in node["status"]["conditions"] if one["type"] == "Bound")


async def edit(rack: Rack, name: str, **spec: object) -> None:
    await rack.cluster.patch(LOGICAL_NODES, name, "a", {"spec": spec})
    await rack.work(name)


@pytest.mark.shows("Fabric.spec.suspend")
async def test_a_suspended_fabric_gives_nothing_new_says_what_it_would_and_takes_back(rack: Rack) -> None:
    await rack.build()
    await rack.ask("bound")
    await rack.edit_fabric(suspend=True)
    await rack.ask("waits")
    assert condition(rack.node("waits"), "Bound") == ("False", "Suspended")
    assert "Fabric rack is suspended" in message(rack.node("waits"))
    assert len(rack.node("waits")["status"]["plan"]["devices"]) == 2
    await edit(rack, "bound", accelerators=[{"name": "main", "count": 3}])
    assert condition(rack.node("bound"), "Bound")[0] == "True"
    assert condition(rack.node("bound"), "Resized")[0] == "False"
    assert len(rack.claims()) == 2
    await rack.cluster.delete(LOGICAL_NODES, "bound", "a")
    await rack.work("bound")
    await rack.poll()
    assert (rack.claims(), rack.driver.pairs) == ([], set())
    await rack.edit_fabric(suspend=False)
    assert condition(rack.node("waits"), "Bound")[0] == "True"


async def test_a_claim_that_stands_is_carried_out_though_its_fabric_is_suspended_meanwhile(
    rack: Rack,
) -> None:
    await rack.build()

    async def suspend() -> None:
        await rack.cluster.patch(FABRICS, "rack", "", {"spec": {"suspend": True}})

    rack.driver.before_attach = suspend
    await rack.ask("begun")
    await rack.poll()
    assert condition(rack.node("begun"), "Bound")[0] == "True"


@pytest.mark.shows("LogicalNode.spec.suspend")
async def test_a_suspended_logical_node_takes_nothing_has_no_place_and_keeps_nobody_waiting(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("calm", 4, suspend=True)
    await rack.ask("other")
    assert condition(rack.node("calm"), "Bound") == ("False", "Suspended")
    assert "queuePlace" not in rack.node("calm")["status"]
    assert condition(rack.node("calm"), "Accepted")[0] == "True"
    assert condition(rack.node("other"), "Bound")[0] == "True"
    await edit(rack, "other", suspend=True, accelerators=[{"name": "main", "count": 3}])
    assert condition(rack.node("other"), "Resized") == ("False", "Suspended")
    assert len(rack.claims()) == 2
    await edit(rack, "other", accelerators=[{"name": "main", "count": 1}])
    await rack.poll()
    assert len(rack.claims()) == 1
    await edit(rack, "calm", suspend=False, accelerators=[{"name": "main", "count": 1}])
    assert condition(rack.node("calm"), "Bound")[0] == "True"


@pytest.mark.shows(
    "Fabric.spec.windows[].from",
    "Fabric.spec.windows[].to",
    "Fabric.spec.windows[].days",
    "Fabric.spec.windows[].timeZone",
)
async def test_a_fabric_gives_devices_in_its_windows_alone_and_says_when_the_next_opens(rack: Rack) -> None:
    await rack.build()
    await rack.ask("bound", 1)
    # Midnight of UTC on a Thursday is one o'clock in Berlin.
    window = {"days": ["Thursday"], "from": "02:00", "to": "04:00", "timeZone": "Europe/Berlin"}
    await rack.edit_fabric(windows=[window])
    await rack.ask("waits")
    assert condition(rack.node("waits"), "Bound") == ("False", "OutsideWindow")
    assert "Thursday 2026-01-01 02:00 Europe/Berlin" in message(rack.node("waits"))
    before = len(rack.cluster.writes)
    assert await rack.reconcile(PlacementKey()) is not None
    assert len(rack.cluster.writes) == before
    # What is bound lacks one: that is no new request.
    await edit(rack, "bound", accelerators=[{"name": "main", "count": 2}])
    await rack.poll()
    assert condition(rack.node("bound"), "Resized")[0] in ("True", "")
    assert len(rack.claims()) == 2
    rack.clock.wall += timedelta(hours=1)
    await rack.place_again()
    assert condition(rack.node("waits"), "Bound")[0] == "True"


async def test_a_window_that_closes_between_the_choice_of_a_place_and_its_claim_gives_nothing(
    rack: Rack,
) -> None:
    await rack.build(windows=[{"from": "23:00", "to": "01:00"}])
    await rack.ask("late")
    await rack.cluster.delete(LOGICAL_NODES, "late", "a")
    await rack.work("late")
    await rack.poll()
    body = {"accelerators": [{"name": "main", "count": 2}]}
    await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": "late", "namespace": "a"}, "spec": body})
    key = LogicalNodeKey("a", "late")
    await rack.reconcile(key)
    await rack.reconcile(PlacementKey())
    rack.clock.forward(3600)
    await rack.work("late")
    await rack.place_again()
    assert condition(rack.node("late"), "Bound") == ("False", "OutsideWindow")
    assert rack.claims() == []


@pytest.mark.parametrize(
    ("closed", "opened", "reason"),
    [
        ({"suspend": True}, {"suspend": False}, "Suspended"),
        ({"windows": [{"from": "02:00", "to": "03:00"}]}, {"windows": None}, "OutsideWindow"),
    ],
)
async def test_what_is_attached_at_a_fabric_that_gives_nothing_is_not_taken_over_and_that_is_said(
    rack: Rack, closed: Object, opened: Object, reason: str
) -> None:
    rack.driver.pairs = {("gpu-0", "sled-0")}
    await rack.build(orphanPolicy="Adopt", **closed)
    await rack.poll()
    await rack.ask("n", gpus=1, adopt=[{"fabric": "rack", "device": "gpu-0"}])
    assert condition(rack.node("n"), "Bound") == ("False", reason)
    assert rack.claims() == []
    await rack.edit_fabric(**opened)
    await rack.place_again()
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_window_of_a_zone_that_the_operator_does_not_know_is_not_open(rack: Rack) -> None:
    await rack.build()
    await rack.edit_fabric(windows=[{"from": "00:00", "to": "00:00", "timeZone": "Mars/Olympus"}])
    await rack.ask("waits")
    assert condition(rack.node("waits"), "Bound") == ("False", "OutsideWindow")

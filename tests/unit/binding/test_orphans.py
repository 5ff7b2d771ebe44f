"""Attachments on a fabric that nobody here made: reported, adopted or detached, as the Fabric says."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.rack import Rack, condition
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, LOGICAL_NODES, PODS
from weft.fabric.driver import Unread
from weft.fabric.errors import Transient

ORPHANS = {("gpu-0", "sled-0"), ("gpu-1", "sled-0")}
DAY = 86_400


@pytest.fixture
async def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    """Two GPUs are at sled-0 already."""
    made = Rack(monkeypatch)
    made.driver.pairs = set(ORPHANS)
    return made


async def build(rack: Rack, policy: str, **limits: int) -> None:
    limits = {"settleSeconds": 60, "requestTimeoutSeconds": 1, "orphanSeconds": 600, **limits}
    await rack.build(orphanPolicy=policy, limits=limits)
    # The first reading also opens the session: time is counted from the next.
    await rack.poll()


async def after(rack: Rack, seconds: float) -> None:
    rack.clock.forward(seconds)
    await rack.poll()


def said(rack: Rack, kind: str = "NoOrphans") -> str:
    conditions = (rack.cluster.get(FABRICS, "rack") or {})["status"]["conditions"]
    return next(f"{each['status']} {each['message']}" for each in conditions if each["type"] == kind)


def reasons(rack: Rack) -> set[str]:
    return {reason for _, reason, _ in rack.cluster.events}


async def add_pod(rack: Rack, name: str, node: str, namespace: str = "elsewhere", **metadata: Any) -> None:
    body = {
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
    }
    await rack.cluster.create(PODS, body)


@pytest.mark.parametrize("policy", ["Report", "Adopt"])
async def test_orphans_stay_for_ever_unless_the_fabric_says_detach(rack: Rack, policy: str) -> None:
    await build(rack, policy)
    await after(rack, DAY)
    await after(rack, DAY)
    assert rack.driver.pairs == ORPHANS
    assert said(rack).startswith("False 2 attachments without a DeviceAttachment")


@pytest.mark.shows("Fabric.spec.orphanPolicy", "Fabric.spec.limits.orphanSeconds")
async def test_orphans_are_detached_after_their_time_with_an_event_that_names_them(rack: Rack) -> None:
    await build(rack, "Detach")
    await after(rack, 590)
    assert rack.driver.pairs == ORPHANS
    assert said(rack).startswith("False ")
    await after(rack, 20)
    assert rack.driver.pairs == set()
    assert said(rack).startswith("True ")
    (text,) = (text for _, reason, text in rack.cluster.events if reason == "OrphansDetached")
    assert text.startswith("gpu-0, gpu-1: detached from sled-0")
    # They are free for everybody from now on.
    await rack.ask("n", gpus=4)
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_an_orphan_that_went_and_came_back_has_its_whole_time_again(rack: Rack) -> None:
    await build(rack, "Detach")
    await after(rack, 590)
    rack.driver.pairs = set()
    await after(rack, 5)
    rack.driver.pairs = set(ORPHANS)
    await after(rack, 5)
    await after(rack, 590)
    assert rack.driver.pairs == ORPHANS


async def test_a_new_leader_gives_orphans_their_whole_time(rack: Rack) -> None:
    await build(rack, "Detach")
    await after(rack, 590)
    rack.restart()
    await after(rack, 20)
    await after(rack, 20)
    assert rack.driver.pairs == ORPHANS


async def test_nothing_is_detached_while_pods_run_on_the_node_whoever_s_they_are(rack: Rack) -> None:
    await build(rack, "Detach")
    await add_pod(rack, "job", "node-sled-0")
    await after(rack, 700)
    assert rack.driver.pairs == ORPHANS
    assert "gpu-0 at sled-0: pods run on Node node-sled-0 (elsewhere/job)" in said(rack)
    await rack.cluster.delete(PODS, "job", "elsewhere", grace_seconds=0)
    await rack.poll()
    assert rack.driver.pairs == set()


async def test_a_pod_that_no_watch_has_shown_keeps_the_orphans_of_its_node(rack: Rack) -> None:
    await build(rack, "Detach")
    await add_pod(rack, "job", "node-sled-0")
    rack.cluster.unheard_of.add((PODS, "elsewhere", "job"))
    await after(rack, 700)
    assert rack.driver.pairs == ORPHANS


async def test_agents_that_run_on_every_node_keep_no_orphans(rack: Rack) -> None:
    await build(rack, "Detach")
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "u"}
    await add_pod(rack, "agent-1", "node-sled-0", ownerReferences=[owner])
    await after(rack, 700)
    assert rack.driver.pairs == set()


async def test_an_orphan_at_a_host_whose_node_is_not_known_stays(rack: Rack) -> None:
    rack.driver.hosts = [*rack.hosts, "another-clusters"]
    rack.driver.pairs = {("gpu-0", "another-clusters")}
    await build(rack, "Detach")
    await after(rack, DAY)
    assert rack.driver.pairs == {("gpu-0", "another-clusters")}
    assert "gpu-0 at another-clusters: no Node is known to run there" in said(rack)


@pytest.mark.parametrize(
    ("complete", "unread"), [(False, Unread()), (False, Unread(devices=frozenset({"gpu-3"})))]
)
async def test_nothing_is_detached_on_a_reading_that_is_not_whole(
    rack: Rack, complete: bool, unread: Unread
) -> None:
    await build(rack, "Detach")
    rack.driver.complete = complete
    rack.driver.unread = unread
    await after(rack, 700)
    assert rack.driver.pairs == ORPHANS


async def test_what_is_claimed_is_no_orphan_and_is_left_alone(rack: Rack) -> None:
    rack.driver.pairs = set()
    await build(rack, "Detach")
    await rack.ask("n")
    before = set(rack.driver.pairs)
    await after(rack, DAY)
    await after(rack, DAY)
    assert rack.driver.pairs == before


async def test_a_fabric_that_is_only_observed_loses_no_attachment(rack: Rack) -> None:
    await rack.build(mode="Observe", orphanPolicy="Detach", limits={"orphanSeconds": 1})
    await after(rack, DAY)
    await after(rack, DAY)
    assert rack.driver.pairs == ORPHANS


async def test_a_manager_that_refuses_the_detach_is_asked_again_and_no_event_says_it_was_done(
    rack: Rack,
) -> None:
    await build(rack, "Detach")
    detach = rack.driver.detach

    async def refuse(*_: object) -> object:
        raise Transient("not now")

    rack.driver.detach = refuse  # type: ignore[method-assign,assignment]
    await after(rack, 700)
    assert "OrphansDetached" not in reasons(rack)
    assert condition(rack.cluster.get(FABRICS, "rack") or {}, "Connected")[0] == "True"
    rack.driver.detach = detach  # type: ignore[method-assign]
    await rack.poll()
    assert rack.driver.pairs == set()


def named(*devices: str, fabric: str = "rack") -> list[dict[str, str]]:
    return [{"fabric": fabric, "device": device} for device in devices]


@pytest.mark.shows("LogicalNode.spec.adopt[].fabric", "LogicalNode.spec.adopt[].device")
async def test_a_logical_node_that_names_orphans_takes_them_over_without_moving_them(rack: Rack) -> None:
    await build(rack, "Adopt")
    await rack.ask("n", adopt=named("gpu-0", "gpu-1"))
    assert condition(rack.node("n"), "Bound")[0] == condition(rack.node("n"), "Ready")[0] == "True"
    assert rack.driver.pairs == ORPHANS
    assert {"attach", "detach"} & set(rack.driver.calls) == set()
    assert rack.tainted() == {"node-sled-0": "a.n"}
    await rack.poll()
    assert said(rack).startswith("True ")
    # From here on it is like any other: its devices are given back when it goes.
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert (rack.driver.pairs, rack.claims(), rack.tainted()) == (set(), [], {})


async def test_a_leader_that_ended_in_the_middle_of_an_adoption_is_followed_by_one_that_completes_it(
    rack: Rack,
) -> None:
    await build(rack, "Adopt")

    async def die() -> None:
        raise KeyboardInterrupt

    rack.driver.before_attached = die
    with pytest.raises(KeyboardInterrupt):
        await rack.ask("n", adopt=named("gpu-0", "gpu-1"))

    async def nothing() -> None:
        return None

    rack.driver.before_attached = nothing
    rack.restart()
    await rack.poll()
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert rack.driver.pairs == ORPHANS
    assert "attach" not in rack.driver.calls


@pytest.mark.parametrize(
    ("names", "gpus", "why"),
    [
        (("gpu-0",), 1, "gpu-1 of Fabric rack is at Node node-sled-0, too, and is not named"),
        (("gpu-0", "gpu-1"), 1, "no request asks for gpu-1 of Fabric rack"),
        (("gpu-0", "gpu-1"), 3, "what it names does not meet the requests"),
        (("gpu-0", "gpu-1", "gpu-2"), 3, "gpu-2 of Fabric rack is attached to no host"),
        (("gpu-0", "no-such"), 2, "no-such of Fabric rack is attached to no host"),
    ],
)
async def test_what_cannot_be_taken_over_is_said_and_nothing_is_claimed_or_moved(
    rack: Rack, names: tuple[str, ...], gpus: int, why: str
) -> None:
    await build(rack, "Adopt")
    await rack.ask("n", gpus=gpus, adopt=named(*names))
    assert condition(rack.node("n"), "Bound") == ("False", "CannotAdopt")
    assert why in str(rack.node("n")["status"]["conditions"])
    assert (rack.claims(), rack.driver.pairs) == ([], ORPHANS)


@pytest.mark.parametrize("policy", ["Report", "Detach"])
async def test_a_tenant_takes_nothing_over_where_the_fabric_does_not_say_adopt(
    rack: Rack, policy: str
) -> None:
    await build(rack, policy)
    await rack.ask("n", adopt=named("gpu-0", "gpu-1"))
    assert condition(rack.node("n"), "Bound") == ("False", "CannotAdopt")
    await rack.cluster.patch(FABRICS, "rack", "", {"spec": {"orphanPolicy": "Adopt"}})
    await rack.poll()
    await rack.place_again()
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert rack.driver.pairs == ORPHANS


async def test_devices_that_two_name_go_to_the_first(rack: Rack) -> None:
    await build(rack, "Adopt")
    for name in ("n", "m"):
        body = {"accelerators": [{"name": "main", "count": 2}], "adopt": named("gpu-0", "gpu-1")}
        await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": body})
        rack.clock.forward(1)
    await rack.work("m")
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert condition(rack.node("m"), "Bound") == ("False", "CannotAdopt")
    assert len(rack.cluster.list(DEVICE_ATTACHMENTS)) == 2


async def test_what_is_at_several_machines_is_not_taken_over_together(rack: Rack) -> None:
    rack.driver.pairs = {("gpu-0", "sled-0"), ("gpu-1", "sled-1")}
    await build(rack, "Adopt")
    await rack.ask("n", adopt=named("gpu-0", "gpu-1"))
    assert "gpu-1 of Fabric rack is at Node node-sled-1, and others are at node-sled-0" in str(rack.node("n"))
    assert rack.claims() == []


async def test_what_could_not_be_given_back_is_not_taken_over(rack: Rack) -> None:
    rack.driver.not_writable = {"sled-0": "its systems take no PATCH"}
    await build(rack, "Adopt")
    await rack.ask("n", adopt=named("gpu-0", "gpu-1"))
    assert "gpu-0 of Fabric rack could not be given back" in str(rack.node("n"))
    assert rack.claims() == []


async def test_what_carries_another_owners_mark_is_neither_detached_nor_taken_over(rack: Rack) -> None:
    rack.driver.other_owners = {"gpu-0": "0b0b0b0b0b0b"}
    await build(rack, "Detach")
    await after(rack, 700)
    assert rack.driver.pairs == {("gpu-0", "sled-0")}
    assert "gpu-0 at sled-0: it carries the mark of another owner, 0b0b0b0b0b0b" in said(rack)
    await rack.cluster.patch(FABRICS, "rack", "", {"spec": {"orphanPolicy": "Adopt"}})
    await rack.poll()
    await rack.ask("n", gpus=1, adopt=named("gpu-0"))
    assert "carries the mark of another owner" in str(rack.node("n"))
    assert rack.claims() == []


async def test_what_may_be_at_a_host_unclaimed_is_not_detached_as_an_orphan(rack: Rack) -> None:
    await build(rack, "Detach")
    await rack.cluster.patch(FABRICS, "rack", "", {"spec": {"hostsWithUnclaimedDevices": ["sled-0"]}})
    await after(rack, 700)
    await after(rack, 700)
    assert rack.driver.pairs == ORPHANS


async def test_a_device_that_grew_after_the_backup_is_given_to_nobody_when_the_cluster_is_restored(
    rack: Rack,
) -> None:
    rack.driver.pairs.clear()
    await rack.build()
    await rack.ask("n", gpus=1)
    backup = copy.deepcopy(rack.cluster.objects)
    more = {"spec": {"accelerators": [{"name": "main", "count": 2}]}}
    await rack.cluster.patch(LOGICAL_NODES, "n", "a", more)
    await rack.work("n")
    (host,) = {at for _, at in rack.driver.pairs}
    grown = set(rack.driver.pairs)
    assert len(grown) == 2

    rack.cluster.objects = backup
    rack.restart()
    await rack.poll()
    await rack.ask("other", gpus=1)
    assert condition(rack.cluster.get(FABRICS, "rack") or {}, "NoOrphans") == ("False", "OrphansFound")
    # It grows again: not by what nobody is known to have, and not at a host that has it.
    await rack.cluster.patch(LOGICAL_NODES, "n", "a", more)
    await rack.work("n")
    assert condition(rack.node("n"), "Resized") == ("False", "NoHost")
    (new,) = rack.driver.pairs - grown
    assert new[1] != host
    assert grown < rack.driver.pairs
    assert len({device for device, _ in rack.driver.pairs}) == 3

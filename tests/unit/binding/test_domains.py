"""A group's replicas in one interconnect domain: the group's controller and placement's together, over one rack."""

from __future__ import annotations

import pytest

from support.rack import condition
from support.rail import IB, Rail, rail, serves
from weft.api.resources import (
    DEVICE_QUOTAS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    MEMORY_POOLS,
    PODS,
)
from weft.fabric.driver import Device, DeviceKind


class Killed(BaseException):
    """The operator is gone at this moment."""


@pytest.mark.shows("InferenceGroup.spec.placement.sameDomain")
async def test_all_replicas_get_devices_of_one_domain_which_has_room_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=4, ib1=6, ib2=16)
    await one.ask("llama", prefill=1, decode=2)
    await one.run("llama")
    # The fullest that suffices, so that the large one stays whole.
    assert (one.domain("llama"), one.domains("llama")) == ("ib1", ["ib1"] * 6)
    nodes = one.rack.cluster.list(LOGICAL_NODES, "a")
    asked = [each["spec"]["accelerators"][0]["selector"] for each in nodes]
    assert asked == [{"matchAttributes": {IB: "ib1"}}] * 3


async def test_no_replica_holds_a_device_until_a_domain_has_room_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=4, ib1=4)
    await one.ask("llama", prefill=1, decode=2)
    await one.run("llama")
    assert (one.nodes(), one.domain("llama")) == ([], "")
    assert condition(one.group("llama"), "Balanced") == ("False", "WaitingForDomain")
    assert "free some of one, add devices there, or ask for fewer replicas" in one.message("llama")
    more = Device("ib1-new", DeviceKind.ACCELERATOR, {"model": "M", IB: "ib1"}, 1, True)
    another = Device("ib1-newer", DeviceKind.ACCELERATOR, {"model": "M", IB: "ib1"}, 1, True)
    one.rack.driver.others += (more, another)
    await one.rack.poll()
    await one.run("llama")
    assert one.domains("llama") == ["ib1"] * 6


async def test_a_group_that_does_not_serve_yet_moves_to_a_domain_that_suffices_with_what_it_gives_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Rail(monkeypatch, ib0=4, ib1=6)
    one.rack.driver.others += tuple(
        Device(f"cxl-{n}", DeviceKind.MEMORY, {"type": "CXL"}, 2**30, True) for n in range(3)
    )
    await one.build()
    pool = {"fabricRef": {"name": "rack"}, "selector": {}, "allowedNamespaces": {}}
    await one.rack.cluster.create(MEMORY_POOLS, {"metadata": {"name": "cxl"}, "spec": pool})
    await one.ask("llama", prefill=1, decode=1, rebalance={"mode": "Paused"})
    for role in ("llama-prefill", "llama-decode"):
        memory = {"spec": {"node": {"memory": [{"name": "kv", "size": "1Gi"}]}}}
        await one.rack.cluster.patch(INFERENCE_ROLES, role, "a", memory)
    await one.run("llama", serve=False)
    assert one.domain("llama") == "ib0"
    # Three replicas need six GPUs, and the two memory devices that the group itself has.
    await one.set_replicas("llama-decode", 2)
    for _ in range(4):
        await one.run("llama", serve=False)
    assert one.domain("llama") == "ib1"
    assert [each for each in one.domains("llama") if each] == ["ib1"] * 6


async def test_an_attribute_that_no_accelerator_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await rail(monkeypatch, ib0=8)
    await one.ask("llama", placement={"sameDomain": "rdmadomain"})
    await one.run("llama")
    assert one.message("llama").endswith("has the attribute rdmadomain")


async def test_a_domain_of_pools_that_are_not_open_to_the_namespace_is_neither_chosen_nor_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=8, ib1=2)
    requirement = {"key": "rdmaDomain", "operator": "NotIn", "values": ["ib0"]}
    selector = {"matchExpressions": [requirement]}
    await one.rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"selector": selector}})
    other = {"selector": {"matchAttributes": {IB: "ib0"}}, "allowedNamespaces": {"matchLabels": {"of": "b"}}}
    spec = {"fabricRef": {"name": "rack"}, **other}
    await one.rack.cluster.create(GPU_POOLS, {"metadata": {"name": "other"}, "spec": spec})
    await one.ask("llama")
    await one.run("llama")
    assert condition(one.group("llama"), "Balanced") == ("False", "WaitingForDomain")
    assert "ib0" not in one.message("llama")


async def test_a_later_replica_goes_to_the_domain_of_the_others_or_waits_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=6, ib1=16)
    await one.ask("llama", rebalance={"mode": "Paused"})
    await one.run("llama")
    assert one.domain("llama") == "ib0"
    await one.set_replicas("llama-decode", 3)
    await one.run("llama")
    assert (one.domain("llama"), one.domains("llama")) == ("ib0", ["ib0"] * 6)
    assert condition(one.group("llama"), "Balanced") == ("False", "WaitingForHardware")
    assert "in rdmaDomain ib0, where the group's replicas are" in one.message("llama")
    await one.set_replicas("llama-decode", 2)
    await one.run("llama")
    assert condition(one.group("llama"), "Balanced") == ("True", "AsDecided")


async def test_two_groups_that_ask_at_the_same_time_are_not_given_the_same_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=4, ib1=6)
    await one.ask("llama")
    await one.ask("qwen")
    await one.run("llama", "qwen")
    assert {one.domain("llama"), one.domain("qwen")} == {"ib0", "ib1"}
    for group in ("llama", "qwen"):
        assert one.domains(group) == [one.domain(group)] * 4
        assert condition(one.group(group), "Balanced") == ("True", "AsDecided")
    said = [message for _, reason, message in one.rack.cluster.events if reason == "DomainChosen"]
    assert len(said) == 2, "neither had to go elsewhere"


@pytest.mark.parametrize(("elsewhere", "goes_to"), [(6, "ib1"), (3, "")])
async def test_who_lost_its_room_to_another_goes_elsewhere_or_waits_without_devices(
    monkeypatch: pytest.MonkeyPatch, elsewhere: int, goes_to: str
) -> None:
    one = await rail(monkeypatch, ib0=4, ib1=elsewhere)
    await one.ask("llama")
    for _ in range(3):
        await one.look("llama")
    assert one.domain("llama") == "ib0"
    # Another's request comes first to what was free when the domain was chosen.
    selector = {"matchAttributes": {IB: "ib0"}}
    await one.rack.ask("other", accelerators=[{"name": "main", "count": 3, "selector": selector}])
    await one.run("llama")
    assert (one.domain("llama"), one.domains("llama")) == (goes_to, [goes_to] * 4 if goes_to else [])
    if not goes_to:
        assert one.nodes() == ["other"]
        assert condition(one.group("llama"), "Balanced") == ("False", "WaitingForDomain")


async def test_a_group_of_which_the_domain_is_drained_goes_to_another_and_serves_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=4, ib1=6)
    await one.ask("llama", prefill=1, decode=1)
    await one.run("llama")
    assert one.domain("llama") == "ib0"
    devices = [each.id for each in one.rack.driver.others if each.id.startswith("ib0")]
    maintenance = {"devices": devices, "drain": {}}
    await one.rack.cluster.patch(GPU_POOLS, "gpus", "", {"spec": {"maintenance": maintenance}})
    least = []
    for _ in range(10):
        await one.run("llama")
        least.append(sum(map(serves, one.rack.cluster.list(PODS, "a"))))
    assert (one.domain("llama"), one.domains("llama")) == ("ib1", ["ib1"] * 4)
    assert min(least) == 2


async def test_a_group_that_got_the_field_later_moves_replica_by_replica_and_serves_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=3, ib1=9)
    await one.ask("llama", prefill=2, decode=2, placement=None, rebalance={"mode": "Paused"})
    await one.run("llama")
    assert set(one.domains("llama")) == {"ib0", "ib1"}
    await one.rack.cluster.patch(
        INFERENCE_GROUPS,
        "llama",
        "a",
        {"metadata": {"generation": 2}, "spec": {"placement": {"sameDomain": IB}}},
    )
    least = []
    for _ in range(30):
        await one.run("llama")
        least.append(sum(map(serves, one.rack.cluster.list(PODS, "a"))))
    assert (one.domain("llama"), one.domains("llama")) == ("ib1", ["ib1"] * 8)
    assert min(least) >= 3
    assert condition(one.group("llama"), "Balanced") == ("True", "AsDecided")


async def test_a_group_that_got_the_field_and_has_no_domain_for_all_serves_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=3, ib1=7)
    await one.ask("llama", prefill=2, decode=2, placement=None, rebalance={"mode": "Paused"})
    await one.run("llama")
    before = one.nodes()
    change = {"metadata": {"generation": 2}, "spec": {"placement": {"sameDomain": IB}}}
    await one.rack.cluster.patch(INFERENCE_GROUPS, "llama", "a", change)
    await one.run("llama")
    assert condition(one.group("llama"), "Balanced") == ("False", "WaitingForDomain")
    assert one.nodes() == before
    assert sum(map(serves, one.rack.cluster.list(PODS, "a"))) == 4


async def test_a_new_leader_goes_on_with_the_domain_that_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await rail(monkeypatch, ib0=4, ib1=4)
    await one.ask("llama")
    for _ in range(3):
        await one.look("llama")
    recorded = one.domain("llama")
    one.take_over()
    await one.rack.poll()
    await one.run("llama")
    assert recorded
    assert one.domains("llama") == [recorded] * 4


@pytest.mark.parametrize("write", range(1, 55, 6))
async def test_two_groups_have_a_domain_each_whatever_write_the_operator_was_killed_at(
    monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    one = await rail(monkeypatch, ib0=4, ib1=6)
    await one.ask("llama")
    await one.ask("qwen")
    first = one.rack.cluster.writes
    begun = len(first)

    def die() -> None:
        if len(first) - begun >= write:
            raise Killed

    one.rack.cluster.before_write = die
    with pytest.raises(Killed):
        await one.run("llama", "qwen")
    one.rack.cluster.before_write = lambda: None
    one.take_over()
    for _ in range(7):
        # What the first one may have called for has to settle.
        one.rack.clock.forward(40)
        await one.rack.poll()
        await one.run("llama", "qwen")
    for group in ("llama", "qwen"):
        assert one.domains(group) == [one.domain(group)] * 4
    assert one.domain("llama") != one.domain("qwen")


async def test_a_domain_that_a_quota_or_hosts_do_not_allow_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=8)
    quota = {"hosts": 1}
    await one.rack.cluster.create(
        DEVICE_QUOTAS, {"metadata": {"name": "q", "namespace": "a", "uid": "q"}, "spec": quota}
    )
    await one.ask("llama")
    await one.run("llama")
    assert one.nodes() == []
    assert "does not allow another host" in one.message("llama")


async def test_a_role_of_plain_pods_is_told_that_the_field_has_no_effect_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=8)
    await one.ask("llama", rebalance={"flip": "None"})
    role = one.rack.cluster.get(INFERENCE_ROLES, "llama-decode", "a")
    assert role is not None
    spec = {key: value for key, value in role["spec"].items() if key != "node"}
    one.rack.cluster._store((INFERENCE_ROLES, "a", "llama-decode"), {**role, "spec": spec})
    await one.run("llama")
    assert condition(one.group("llama"), "Balanced") == ("False", "PlacementIgnored")

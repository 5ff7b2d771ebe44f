"""Who has its turn, what is kept for the head of the queue, and what each of those that wait is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.placing import GPUS, bytes_, chosen, gpu, gpus, host, model, place_on, request, tied
from support.rack import Rack, condition
from weft.api.resources import (
    DEVICE_QUOTAS,
    GPU_POOLS,
    LOGICAL_NODES,
    NAMESPACES,
    PRIORITY_CLASSES,
)
from weft.binding.asked import Selector, Waiting
from weft.binding.keys import PlacementKey, PoolsKey
from weft.binding.plan import Placement, Remembered
from weft.binding.stock import HostOffer, Offer, Stock
from weft.binding.turns import place_words
from weft.cluster import Object
from weft.fabric.driver import DeviceKind


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


def held(offer: Offer) -> Offer:
    return replace(offer, free=False, held=True)


def hosts(count: int = 20) -> tuple[HostOffer, ...]:
    return tuple(host(f"h{n}") for n in range(count))


def names(placement: Placement) -> list[str]:
    return [each.waiting.name for each in placement.assignments]


# --- turns ---


def test_the_namespace_that_holds_the_least_goes_first() -> None:
    offers = tuple(gpu(f"g{n}") for n in range(2))
    old = request("old", gpus(2), created="1", namespace="rich")
    young = request("young", gpus(2), created="2", namespace="poor")
    used = {("rich", DeviceKind.ACCELERATOR): 2}
    busy = tuple(held(gpu(f"x{n}")) for n in range(2))
    assert names(place_on([old, young], Stock((*offers, *busy), hosts(), used=used))) == ["young"]
    assert names(place_on([old, young], Stock((*offers, *busy), hosts()))) == ["old"]


def test_what_is_taken_in_a_pass_counts_at_once() -> None:
    waiting = [request(f"a{n}", gpus(1), created=f"1{n}", namespace="a") for n in range(4)]
    waiting += [request(f"b{n}", gpus(1), created=f"2{n}", namespace="b") for n in range(4)]
    offers = tuple(gpu(f"g{n}") for n in range(4))
    assert sorted(names(place_on(waiting, Stock(offers, hosts())))) == ["a0", "a1", "b0", "b1"]


def test_a_share_is_of_the_kind_of_which_the_namespace_holds_the_greatest_part() -> None:
    offers = tuple(gpu(f"g{n}") for n in range(10))
    wishes = [
        request("a", gpus(10), created="1", namespace="a"),
        request("b", gpus(10), created="2", namespace="b"),
    ]
    memory_ = Offer(
        "rack", (DeviceKind.MEMORY, "cxl"), replace(gpu("m").device, kind=DeviceKind.MEMORY), free=False
    )
    # All memory weighs more than half of the accelerators.
    used = {("a", DeviceKind.MEMORY): memory_.device.capacity_bytes, ("b", DeviceKind.ACCELERATOR): 5}
    assert names(place_on(wishes, Stock((*offers, memory_), hosts(), used=used))) == ["b"]


def test_a_weight_gives_a_namespace_so_much_more() -> None:
    waiting = [
        request(f"{space}{n:02}", gpus(1), created=f"{n:02}", namespace=space)
        for n in range(20)
        for space in "ab"
    ]
    offers = tuple(gpu(f"g{n}") for n in range(12))
    placed = names(place_on(waiting, Stock(offers, hosts(), weights={"a": 3})))
    assert sum(name.startswith("a") for name in placed) == 9


def test_priority_goes_before_age_within_a_namespace_and_not_across() -> None:
    urgent = replace(request("urgent", gpus(1), created="2"), priority=100)
    old = request("old", gpus(1), created="1")
    offers = (gpu("g"),)
    assert names(place_on([old, urgent], Stock(offers, hosts()))) == ["urgent"]
    other = replace(urgent, namespace="b")
    assert names(place_on([old, other], Stock(offers, hosts()))) == ["old"]


def test_the_words_for_a_place_change_for_few_when_somebody_leaves() -> None:
    words = [place_words(rank) for rank in range(1500)]
    assert words[:9] == ["1", "2", "3-4", "3-4", "5-8", "5-8", "5-8", "5-8", "9-16"]
    assert sum(before != after for before, after in zip(words[1:], words, strict=False)) == 11


# --- the head of the queue ---


class Queue:
    """Passes one after the other over devices that are taken and given back."""

    def __init__(self, devices: list[Offer], count: int = 20) -> None:
        self.offers = {offer.device.id: offer for offer in devices}
        self.hosts = {each.node_name: each for each in hosts(count)}
        self.busy: dict[str, str] = {}
        self.waiting: dict[str, Waiting] = {}
        self.got: dict[str, set[str]] = {}
        self.remembered = Remembered()

    def ask(self, *waiting: Waiting) -> list[str]:
        self.waiting |= {each.uid: each for each in waiting}
        placement = place_on(list(self.waiting.values()), self.stock(), self.remembered)
        self.last, self.remembered = placement, placement.remembered
        for each in placement.assignments:
            del self.waiting[each.waiting.uid]
            self.got[each.waiting.name] = chosen(each)
            self.busy[each.host.node_name] = each.waiting.name
            for name in chosen(each):
                self.offers[name] = held(self.offers[name])
        return names(placement)

    def stock(self) -> Stock:
        free = tuple(each for name, each in self.hosts.items() if name not in self.busy)
        busy = tuple(each for name, each in self.hosts.items() if name in self.busy)
        return Stock(tuple(self.offers.values()), free, busy_hosts=busy)

    def release(self, name: str) -> list[str]:
        for device in self.got.pop(name):
            self.offers[device] = replace(self.offers[device], free=True, held=False)
        self.busy = {node: who for node, who in self.busy.items() if who != name}
        return self.ask()


def eight(domain: str) -> list[Offer]:
    return [gpu(f"{domain}{n}", domain=domain) for n in range(4)]


def test_small_requests_do_not_take_what_the_head_of_the_queue_waits_for() -> None:
    queue = Queue(eight("x"))
    assert queue.ask(*(request(f"s{n}", gpus(1), created=f"0{n}") for n in range(4))) == [
        "s0",
        "s1",
        "s2",
        "s3",
    ]
    assert queue.ask(request("large", gpus(4), created="1")) == []
    for number in range(3):
        assert queue.release(f"s{number}") == []
        assert queue.ask(request(f"t{number}", gpus(1), created=f"2{number}")) == []
    assert queue.release("s3") == ["large"]


def test_what_the_head_does_not_need_goes_to_those_behind() -> None:
    queue = Queue([*eight("x"), *eight("y")])
    tie = tied("nvlinkDomain")
    assert queue.ask(request("a", gpus(3), created="0", constraints=tie)) == ["a"]
    assert queue.ask(request("b", gpus(2), created="1", constraints=tie)) == ["b"]
    assert queue.ask(request("large", gpus(4), created="2", constraints=tie)) == []
    first, other = (queue.got[name] for name in "ab")
    assert {name[0] for name in first} != {name[0] for name in other}
    # The domain with the least missing is kept; the other has one device left, or two.
    assert queue.ask(request("small", gpus(1), created="3")) == ["small"]
    assert queue.got["small"].isdisjoint({f"{next(iter(other))[0]}{n}" for n in range(4)})
    assert queue.release("b") == ["large"]


def test_the_head_stays_the_head_though_another_namespace_holds_less_meanwhile() -> None:
    queue = Queue(eight("x"))
    assert queue.ask(request("s0", gpus(3), created="0", namespace="b")) == ["s0"]
    assert queue.ask(request("large", gpus(4), created="1", namespace="a")) == []
    assert queue.ask(request("small", gpus(1), created="2", namespace="c")) == []
    assert queue.release("s0") == ["large"]


def test_a_greater_priority_of_its_own_namespace_goes_before_the_head() -> None:
    queue = Queue(eight("x"))
    assert queue.ask(request("s0", gpus(3), created="0")) == ["s0"]
    assert queue.ask(request("large", gpus(4), created="1")) == []
    assert queue.ask(replace(request("urgent", gpus(1), created="2"), priority=1)) == ["urgent"]


def test_nothing_is_kept_for_what_no_release_can_meet() -> None:
    broken = replace(gpu("x3", domain="x"), free=False)
    queue = Queue([*eight("x")[:3], broken])
    assert queue.ask(request("large", gpus(4), created="1")) == []
    assert queue.last.refusals[0].reason == "NotEnoughDevices"
    assert queue.ask(request("small", gpus(1), created="2")) == ["small"]
    queue = Queue(eight("x"))
    assert queue.ask(request("picky", gpus(1), created="1", cpu=host("h", cpu=999).cpu)) == []
    assert queue.ask(request("small", gpus(4), created="2")) == ["small"]


def test_the_head_of_the_queue_keeps_a_host_too() -> None:
    queue = Queue([*eight("x"), *eight("y")], count=2)
    assert queue.ask(request("a", gpus(8), created="0")) == ["a"]
    assert queue.ask(request("large", gpus(4), bytes_(1), created="1")) == []
    queue = Queue([*eight("x"), gpu("z", model="H200")], count=2)
    assert queue.ask(request("a", gpus(3), created="0")) == ["a"]
    assert queue.ask(request("large", gpus(4), created="1", constraints=tied("nvlinkDomain"))) == []
    assert queue.ask(request("small", gpus(1, name="main"), created="2")) == []


def test_a_new_leader_keeps_for_the_head_that_the_status_names() -> None:
    offers = [*eight("x")[:3], held(gpu("x3", domain="x"))]
    large = replace(request("large", gpus(4), created="1", namespace="a"), was_head=True)
    small = request("small", gpus(1), created="0", namespace="b")
    assert names(place_on([large, small], Stock(tuple(offers), hosts()))) == []
    assert names(place_on([replace(large, was_head=False), small], Stock(tuple(offers), hosts()))) == [
        "small"
    ]


def test_the_head_loses_its_place_to_nobody_of_its_namespace() -> None:
    head = replace(request("head", gpus(1), created="1"), was_head=True)
    large = request("large", gpus(4), created="2")
    assert names(place_on([head, large], Stock(tuple(eight("x")), hosts()))) == ["head"]
    assert names(place_on([replace(head, was_head=False), large], Stock(tuple(eight("x")), hosts()))) == [
        "large"
    ]


# --- what is told ---


def test_never_not_granted_over_quota_busy_and_host_are_told_apart() -> None:
    offers = (*(held(each) for each in eight("x")), gpu("spare", model="B200"))
    waiting = [
        request("never", gpus(5, name="main"), created="1", constraints=tied("nvlinkDomain")),
        request("closed", gpus(1), created="2", allowed_pools=frozenset()),
        request("quota", gpus(1), created="3", namespace="q"),
        request("busy", gpus(4), created="4"),
        request("labels", gpus(1), created="5", node_selector=Selector((("zone", "b"),))),
        request("cpu", gpus(1), created="6", cpu=host("h", cpu=999).cpu),
    ]
    stock = Stock(offers, hosts(), {("q", GPUS): 0})
    answers = {each.waiting.name: each for each in place_on(waiting, stock).refusals}
    assert {name: (each.reason, each.accepted, bool(each.place)) for name, each in answers.items()} == {
        "never": ("NoSuchDevices", False, False),
        "closed": ("NotGranted", False, False),
        "quota": ("QuotaExceeded", True, False),
        "busy": ("NotEnoughDevices", True, True),
        "labels": ("NoHost", True, False),
        "cpu": ("NoHost", True, False),
    }
    assert "no Node has the labels asked for" in answers["labels"].message
    assert "no Node of those with the labels asked for has the CPU asked for" in answers["cpu"].message


def test_what_is_said_does_not_change_while_others_bind_and_release() -> None:
    """Neither for the host that is free or busy, nor for devices kept for another."""
    offers = tuple(eight("x"))
    wish = request("r", gpus(1), created="9")
    free, busy = hosts(2)
    answers = set()
    for stock in (
        Stock(offers, (), busy_hosts=(free, busy)),
        Stock(tuple(map(held, offers[:2])) + offers[2:], (), busy_hosts=(free, busy)),
    ):
        (refusal,) = place_on([wish], stock).refusals
        answers.add((refusal.reason, refusal.message, refusal.place))
    assert len(answers) == 1


def test_a_fabric_that_was_not_read_makes_nothing_impossible() -> None:
    (refusal,) = place_on([request("r", gpus(1))], Stock((), hosts(), unread=("rack",))).refusals
    assert refusal.accepted
    assert "nothing is known yet of Fabric rack" in refusal.message


def test_the_first_of_a_namespace_is_told_who_of_its_own_releases_next() -> None:
    offers = tuple(held(each) for each in eight("x"))
    stock = Stock(offers, hosts(), next_release={("a", GPUS): "trainer"})
    waiting = [request(f"r{n}", gpus(1), created=str(n)) for n in range(2)]
    waiting.append(request("other", gpus(1), created="0", namespace="b"))
    messages = {each.waiting.name: each.message for each in place_on(waiting, stock).refusals}
    assert [name for name, text in messages.items() if "trainer" in text] == ["r0"]


def test_what_is_free_and_usable_by_nobody_who_waits_is_counted_with_its_reason() -> None:
    x = eight("x")
    offers = (*x[:2], *map(held, x[2:]), *eight("y")[:2], *(gpu(f"m{n}", model="B200") for n in range(3)))
    wish = request("r", gpus(4, *model("A100")), constraints=tied("nvlinkDomain"))
    unused = place_on([wish], Stock(offers, hosts())).unused[GPUS]
    assert unused.kept == 2
    assert dict(unused.stranded) == {"ConstraintUnmet": 2, "NotAskedFor": 3}
    assert place_on([], Stock(offers, hosts())).unused == {}


# --- in a cluster ---


async def quota(rack: Rack, **spec: Any) -> None:
    body = {"metadata": {"name": "devices", "namespace": "a"}, "spec": {"limits": [], **spec}}
    await rack.cluster.create(DEVICE_QUOTAS, body)


async def priority(rack: Rack, name: str, value: int, **more: Any) -> None:
    await rack.cluster.create(PRIORITY_CLASSES, {"metadata": {"name": name}, "value": value, **more})


async def create(rack: Rack, name: str, namespace: str = "a", gpus: int = 4, **spec: Any) -> None:
    rack.clock.forward(1)
    body = {"accelerators": [{"name": "main", "count": gpus}], **spec}
    await rack.cluster.create(
        LOGICAL_NODES, {"metadata": {"name": name, "namespace": namespace}, "spec": body}
    )


@pytest.mark.shows("LogicalNode.spec.priorityClassName")
async def test_the_greater_priority_class_binds_first_and_an_unknown_one_is_not_accepted(rack: Rack) -> None:
    await rack.build()
    await priority(rack, "urgent", 100)
    await create(rack, "old")
    await create(rack, "urgent", priorityClassName="urgent")
    await create(rack, "unknown", priorityClassName="nobody")
    await rack.reconcile(PlacementKey())
    await rack.settle()
    for name in ("old", "urgent", "unknown"):
        await rack.work(name)
    assert condition(rack.node("urgent"), "Bound")[0] == "True"
    assert condition(rack.node("urgent"), "Accepted") == ("True", "Accepted")
    assert rack.node("old")["status"]["queuePlace"] == "1"
    assert condition(rack.node("unknown"), "Accepted") == ("False", "PriorityClassNotFound")
    assert "queuePlace" not in rack.node("unknown")["status"]
    # It is created: nothing else has to happen.
    await priority(rack, "nobody", -5)
    await rack.settle()
    assert condition(rack.node("unknown"), "Accepted") == ("True", "Accepted")


@pytest.mark.shows("DeviceQuota.spec.priorityClasses")
async def test_a_priority_class_that_no_quota_allows_is_refused_by_condition(rack: Rack) -> None:
    await rack.build()
    await priority(rack, "urgent", 100)
    await quota(rack, priorityClasses=["batch"])
    await rack.ask("n", priorityClassName="urgent")
    assert condition(rack.node("n"), "Accepted") == ("False", "PriorityClassNotAllowed")
    assert rack.claims() == []
    await rack.cluster.patch(
        DEVICE_QUOTAS, "devices", "a", {"spec": {"priorityClasses": ["batch", "urgent"]}}
    )
    await rack.settle()
    assert condition(rack.node("n"), "Bound")[0] == "True"


@pytest.mark.shows("DeviceQuota.spec.weight")
async def test_the_weight_of_a_quota_decides_between_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = {}
    for weight in (1, 3):
        rack = Rack(monkeypatch, gpus=4, hosts=8)
        await rack.build()
        await rack.cluster.create(NAMESPACES, {"metadata": {"name": "b"}})
        await quota(rack, weight=weight)
        for number in range(4):
            await create(rack, f"b{number}", "b", gpus=1)
            await create(rack, f"a{number}", "a", gpus=1)
        await rack.reconcile(PlacementKey())
        await rack.settle()
        owners = [claim["spec"]["claimRef"]["namespace"] for claim in rack.claims()]
        bound[weight] = owners.count("a")
    assert bound == {1: 2, 3: 3}


async def test_a_bound_node_has_no_place_in_the_queue_any_more(rack: Rack) -> None:
    await rack.build()
    await rack.ask("first", gpus=4)
    await rack.ask("second", gpus=4)
    assert rack.node("second")["status"]["queuePlace"] == "1"
    await rack.cluster.delete(LOGICAL_NODES, "first", "a")
    await rack.work("first")
    assert condition(rack.node("second"), "Bound")[0] == "True"
    assert "queuePlace" not in rack.node("second")["status"]


async def test_what_is_kept_and_stranded_stands_in_the_status_of_the_pool(rack: Rack) -> None:
    await rack.build()
    await rack.ask("first", gpus=2)
    await rack.ask("large", gpus=4)
    await rack.reconcile(PoolsKey())
    pool = rack.cluster.get(GPU_POOLS, "gpus")
    assert pool is not None
    assert pool["status"]["kept"] == 2
    await rack.cluster.delete(LOGICAL_NODES, "large", "a")
    await rack.work("large")
    await rack.reconcile(PlacementKey())
    await rack.reconcile(PoolsKey())
    pool = rack.cluster.get(GPU_POOLS, "gpus")
    assert pool is not None
    assert "kept" not in pool["status"]


async def test_an_observed_fabric_is_planned_for_without_a_call_and_does_what_it_said(rack: Rack) -> None:
    await rack.build(mode="Observe")
    for number in range(3):
        await rack.ask(f"n{number}", gpus=2)
    plans = {name: rack.node(name)["status"].get("plan") for name in ("n0", "n1", "n2")}
    assert plans["n2"] is None
    assert condition(rack.node("n0"), "Bound") == ("False", "OnlyPlanned")
    assert set(rack.driver.calls) == {"inventory"}
    assert rack.claims() == []
    assert rack.tainted() == {}
    await rack.edit_fabric(mode="Manage")
    await rack.place_again()
    for name in ("n0", "n1"):
        node: Object = rack.node(name)
        assert condition(node, "Bound")[0] == "True"
        plan = plans[name]
        assert plan is not None
        assert node["status"]["nodeName"] == plan["nodeName"]
        assert {each["device"] for each in node["status"]["devices"]} == {
            each["device"] for each in plan["devices"]
        }
        assert "plan" not in node["status"]

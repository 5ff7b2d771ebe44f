"""Who finds no place gets one where others of the same pass can make room, and nobody pays for it without gain."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from support.placing import GPUS, chosen, gpu, gpus, host, model, place, request, tied
from weft.binding.asked import Choice, Selector
from weft.binding.plan import Placement
from weft.binding.search import place as place_on
from weft.binding.stock import Offer, Stock

HOSTS = [host(f"h{n}") for n in range(8)]


def names(placement: Placement) -> list[str]:
    return [each.waiting.name for each in placement.assignments]


def cheap(offer: Offer) -> Offer:
    return replace(offer, cost_per_hour=Decimal(1))


def dear(offer: Offer) -> Offer:
    return replace(offer, cost_per_hour=Decimal(2))


def test_one_that_takes_any_model_leaves_the_cheap_model_to_one_that_needs_it() -> None:
    offers = [cheap(gpu(f"a{n}")) for n in range(2)] + [dear(gpu(f"h{n}", model="H200")) for n in range(2)]
    picky = gpus(2, Choice(Selector((("model", "A100"),))))
    placement = place(
        [request("any", gpus(2), created="1"), request("picky", picky, created="2")], offers, HOSTS
    )
    assert {each.waiting.name: chosen(each) for each in placement.assignments} == {
        "any": {"h0", "h1"},
        "picky": {"a0", "a1"},
    }


def test_small_ones_are_moved_out_of_the_only_domain_that_is_large_enough() -> None:
    offers = [gpu(f"x{n}", domain="x") for n in range(4)] + [dear(gpu(f"y{n}", domain="y")) for n in range(3)]
    small = [request(f"s{n}", gpus(1), created=f"1{n}") for n in range(3)]
    large = request("large", gpus(4), created="2", constraints=tied("nvlinkDomain"))
    placement = place([*small, large], offers, HOSTS)
    assert names(placement) == ["s0", "s1", "s2", "large"]
    assert chosen(placement.assignments[3]) == {"x0", "x1", "x2", "x3"}


def test_one_is_moved_to_another_host_for_one_that_needs_this_host() -> None:
    hosts = [host("a", 8, zone="z"), host("b", 64)]
    needs_label = request("zone", gpus(1), created="2", node_selector=Selector((("zone", "z"),)))
    placement = place([request("any", gpus(1), created="1"), needs_label], [gpu("g0"), gpu("g1")], hosts)
    assert {each.waiting.name: each.host.host for each in placement.assignments} == {"any": "b", "zone": "a"}


def test_those_that_are_moved_may_move_others() -> None:
    # any takes the A100s; either would move to the H200s, which only has H200 or H100, where the last one is.
    offers = [cheap(gpu("a")), gpu("h2", model="H200"), dear(gpu("h1", model="H100"))]
    requests = [
        request("first", gpus(1, *model("A100", "H200")), created="1"),
        request("second", gpus(1, *model("H200", "H100")), created="2"),
        request("third", gpus(1, *model("A100")), created="3"),
    ]
    placement = place(requests, offers, HOSTS)
    assert [chosen(each) for each in placement.assignments] == [{"h2"}, {"h1"}, {"a"}]


def test_an_older_request_keeps_its_place_before_a_younger_one_of_the_same_size() -> None:
    offers = [gpu("g0"), gpu("g1")]
    placement = place(
        [request("old", gpus(2), created="1"), request("young", gpus(2), created="2")], offers, HOSTS
    )
    assert names(placement) == ["old"]


def test_a_small_one_loses_its_place_where_more_accelerators_are_bound_without_it_but_only_once() -> None:
    offers = [gpu(f"g{n}") for n in range(4)]
    small, large = request("small", gpus(1), created="1"), request("large", gpus(4), created="2")
    first = place([small, large], offers, HOSTS)
    assert names(first) == ["large"]
    assert first.refusals[0].reason == "NotEnoughDevices"
    # The large one was released, and another one asks.
    another = request("another", gpus(4), created="3")
    second = place_on([small, another], Stock(tuple(offers), tuple(HOSTS)), first.remembered)
    assert names(second) == ["small"]


def test_nobody_loses_a_place_to_another_tenant() -> None:
    offers = [gpu(f"g{n}") for n in range(4)]
    small = request("small", gpus(1), created="1")
    large = request("large", gpus(4), created="2", namespace="b")
    assert names(place([small, large], offers, HOSTS)) == ["small"]


def test_a_quota_holds_for_those_that_are_moved() -> None:
    offers = [cheap(gpu("a0")), dear(gpu("h0", model="H200"))]
    offers[1] = replace(offers[1], pool=(GPUS[0], "dear"))
    shape = {"allowed_pools": frozenset({GPUS, (GPUS[0], "dear")})}
    flexible = request("any", gpus(1), created="1", **shape)
    picky = request("picky", gpus(1, *model("A100")), created="2", namespace="b", **shape)
    quota = {("a", (GPUS[0], "dear")): 0}
    assert names(place([flexible, picky], offers, HOSTS, quota)) == ["any"]
    assert names(place([flexible, picky], offers, HOSTS)) == ["any", "picky"]


def test_what_cannot_be_had_moves_nobody() -> None:
    offers = [gpu(f"g{n}") for n in range(4)]
    waiting = [request(f"r{n}", gpus(1), created=f"1{n}") for n in range(4)]
    alone = place(waiting, offers, HOSTS)
    beside = place([*waiting, request("never", gpus(5), created="2")], offers, HOSTS)
    assert beside.assignments == alone.assignments
    assert beside.effort.moves == 0


def test_moving_is_bounded_however_many_ask_for_room() -> None:
    offers = [gpu(f"g{n}", domain=f"d{n // 4}") for n in range(400)]
    hosts = [host(f"h{n}") for n in range(600)]
    waiting = [
        request(f"s{n}", gpus(3), created=f"1{n:03}", constraints=tied("nvlinkDomain")) for n in range(100)
    ]
    waiting += [
        request(f"l{n}", gpus(2), created=f"2{n:03}", cpu=Decimal(n % 50), constraints=tied("nvlinkDomain"))
        for n in range(400)
    ]
    placement = place(waiting, offers, hosts)
    assert len(placement.assignments) == 100
    assert placement.effort.moves <= 3100

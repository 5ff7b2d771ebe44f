from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from support.placing import (
    CXL,
    GIB,
    GPUS,
    bytes_,
    chosen,
    gpu,
    gpus,
    host,
    memory,
    model,
    only,
    place,
    refused,
    request,
    tied,
)
from weft.api.meta import LabelOperator, LabelRequirement
from weft.binding.asked import Choice, Constraint, Selector
from weft.binding.membership import PoolKey
from weft.binding.search import place as place_on
from weft.binding.stock import HostOffer, Offer, Stock
from weft.fabric.driver import Device, DeviceKind


def test_gpus_and_memory_are_assigned_together_on_one_host() -> None:
    offers = [gpu(f"gpu-{n}") for n in range(4)] + [memory(f"mem-{n}", 512) for n in range(4)]
    result = only(place([request("r", gpus(4), bytes_(2048))], offers, [host("h")]))
    assert chosen(result) == {f"gpu-{n}" for n in range(4)} | {f"mem-{n}" for n in range(4)}


def test_a_request_that_lacks_one_device_gets_none_and_is_told_which() -> None:
    taken = replace(memory("mem-1", 512), free=False)
    offers = [gpu("gpu-0"), gpu("gpu-1"), memory("mem-0", 512), taken]
    placement = place([request("r", gpus(2), bytes_(1024))], offers, [host("h")])
    assert placement.assignments == ()
    (refusal,) = placement.refusals
    assert refusal.reason == "NotEnoughDevices"
    assert refusal.message == (
        "kv: 1024 GiB asked for; not enough are free in pools open to this namespace and not kept for a request whose"
        " turn is earlier"
    )


def test_the_older_request_wins_the_last_devices() -> None:
    offers = [gpu("gpu-0"), gpu("gpu-1")]
    young, old = (
        request("young", gpus(2), created="2026-01-02"),
        request("old", gpus(2), created="2026-01-01"),
    )
    placement = place([young, old], offers, [host("h1"), host("h2")])
    assert [item.waiting.name for item in placement.assignments] == ["old"]
    assert [item.waiting.name for item in placement.refusals] == ["young"]


def test_two_requests_never_share_a_host() -> None:
    offers = [gpu("gpu-0"), gpu("gpu-1")]
    placement = place([request("r1", gpus(1)), request("r2", gpus(1))], offers, [host("h")])
    assert len(placement.assignments) == 1
    assert placement.refusals[0].reason == "NoHost"


def test_a_required_domain_is_used_whole_and_the_tightest_one_is_taken() -> None:
    offers = [gpu(f"a{n}", domain="big") for n in range(8)] + [gpu(f"b{n}", domain="tight") for n in range(4)]
    wish = request("r", gpus(4), constraints=tied("nvlinkDomain"))
    assert chosen(only(place([wish], offers, [host("h")]))) == {"b0", "b1", "b2", "b3"}


def test_a_required_domain_that_no_domain_satisfies_is_refused_though_enough_devices_are_free() -> None:
    offers = [gpu("a0", domain="x"), gpu("a1", domain="y")]
    wish = request("r", gpus(2), constraints=tied("nvlinkDomain"))
    placement = place([wish], offers, [host("h")])
    assert placement.refusals[0].reason == "NoSuchDevices"
    assert "one nvlinkDomain" in placement.refusals[0].message
    in_use = [*offers, replace(gpu("a2", domain="x"), free=False)]
    placement = place([wish], in_use, [host("h")])
    assert placement.refusals[0].reason == "ConstraintUnmet"
    assert "one nvlinkDomain for main" in placement.refusals[0].message
    relaxed = request("r", gpus(2), constraints=tied("nvlinkDomain", required=False))
    assert chosen(only(place([relaxed], offers, [host("h")]))) == {"a0", "a1"}


def test_a_request_without_a_domain_leaves_whole_domains_free() -> None:
    offers = [gpu(f"w{n}", domain="whole") for n in range(8)] + [gpu("rest", domain="opened")]
    assert chosen(only(place([request("r", gpus(1))], offers, [host("h")]))) == {"rest"}


def test_the_cheaper_pool_is_used_first() -> None:
    dear = replace(gpu("a-dear"), cost_per_hour=Decimal(4))
    cheap = replace(gpu("z-cheap"), cost_per_hour=Decimal(2))
    assert chosen(only(place([request("r", gpus(1))], [dear, cheap], [host("h")]))) == {"z-cheap"}


def test_devices_that_do_not_reach_the_host_are_not_used() -> None:
    offers = [gpu("far", hosts=frozenset({"h2"})), gpu("near", hosts=frozenset({"h1"}))]
    hosts = [host("h1")]
    assert chosen(only(place([request("r", gpus(1))], offers, hosts))) == {"near"}
    assert place([request("r", gpus(2))], offers, hosts).refusals[0].reason == "NotEnoughDevices"


def test_another_host_is_tried_when_the_first_is_not_reached_by_enough_devices() -> None:
    offers = [gpu("g1", hosts=frozenset({"large"})), gpu("g2", hosts=frozenset({"large"}))]
    result = only(place([request("r", gpus(2))], offers, [host("small", 8), host("large", 64)]))
    assert result.host.host == "large"


def test_the_smallest_host_that_suits_is_taken() -> None:
    wish = request("r", gpus(1), cpu=Decimal(16))
    hosts = [host("large", 64), host("fits", 16), host("small", 8)]
    assert only(place([wish], [gpu("g")], hosts)).host.host == "fits"


def test_node_labels_decide_which_hosts_come_into_question() -> None:
    wish = request("r", gpus(1), node_selector=Selector((("zone", "b"),)))
    hosts = [host("h1", zone="a"), host("h2", zone="b")]
    assert only(place([wish], [gpu("g")], hosts)).host.host == "h2"


def test_a_namespace_at_its_quota_is_refused_and_told_so() -> None:
    offers = [gpu("g0"), gpu("g1"), gpu("g2")]
    quota = {("a", GPUS): 2}
    placement = place([request("r", gpus(3))], offers, [host("h")], quota)
    assert placement.refusals[0].reason == "QuotaExceeded"
    assert only(place([request("r", gpus(2))], offers, [host("h")], quota)).waiting.name == "r"


def test_quota_of_bytes_counts_whole_devices() -> None:
    offers = [memory("m0", 512), memory("m1", 512)]
    quota = {("a", CXL): 600 * GIB}
    placement = place([request("r", bytes_(1024))], offers, [host("h")], quota)
    assert placement.refusals[0].reason == "QuotaExceeded"


def test_pools_closed_to_the_namespace_offer_nothing() -> None:
    wish = request("r", gpus(1), allowed_pools=frozenset({CXL}))
    assert place([wish], [gpu("g")], [host("h")]).refusals[0].reason == "NotGranted"


def test_a_size_is_covered_with_the_smallest_device_that_holds_it() -> None:
    offers = [memory("big", 1024), memory("small", 256), memory("fits", 512)]
    assert chosen(only(place([request("r", bytes_(400))], offers, [host("h")]))) == {"fits"}


def test_memory_comes_from_one_domain_in_the_order_in_which_people_count() -> None:
    def block(number: int) -> Offer:
        domain = {"cxlDomain": f"cxl-{number // 8}"}
        return Offer("rack", CXL, Device(f"cxl-{number}", DeviceKind.MEMORY, domain, 512 * GIB, True))

    offers = [block(number) for number in range(16)]
    assert chosen(only(place([request("r", bytes_(2048))], offers, [host("h")]))) == {
        f"cxl-{n}" for n in range(4)
    }


def test_a_required_domain_for_some_requests_does_not_bind_the_others() -> None:
    offers = [gpu(f"h{n}", model="H200", domain="x") for n in range(4)] + [gpu("a", model="A100", domain="y")]
    needs = gpus(4, *model("H200")), gpus(1, *model("A100"), name="aux")
    result = only(place([request("r", *needs, constraints=tied("nvlinkDomain"))], offers, [host("h")]))
    assert chosen(result) == {"h0", "h1", "h2", "h3", "a"}
    both = request("r", *needs, constraints=tied("nvlinkDomain", "main", "aux"))
    assert refused(place([both], offers, [host("h")])).reason == "NoSuchDevices"


def test_a_constraint_over_accelerators_and_memory_takes_both_from_one_domain() -> None:
    offers = [memory("m0", 512, domain="x"), memory("m1", 512, domain="y"), gpu("g")]
    offers[2] = replace(offers[2], device=replace(offers[2].device, attributes={"cxlDomain": "y"}))
    wish = request("r", gpus(1), bytes_(512), constraints=tied("cxlDomain", "main", "kv"))
    assert chosen(only(place([wish], offers, [host("h")]))) == {"g", "m1"}


def test_constraints_that_share_a_request_are_met_together() -> None:
    def device(name: str, nvlink: str, rdma: str) -> Offer:
        attributes = {"nvlinkDomain": nvlink, "rdmaDomain": rdma}
        return Offer("rack", GPUS, Device(name, DeviceKind.ACCELERATOR, attributes, GIB, True))

    # The smaller NVLink domain spans two RDMA domains.
    offers = [device("a0", "a", "r1"), device("a1", "a", "r2")] + [
        device(f"b{n}", "b", "r3") for n in range(3)
    ]
    wish = request("r", gpus(2), constraints=(*tied("nvlinkDomain"), *tied("rdmaDomain")))
    assert chosen(only(place([wish], offers, [host("h")]))) == {"b0", "b1"}


def test_the_first_alternative_that_can_be_met_is_taken_and_named() -> None:
    offers = [gpu("h200", model="H200"), gpu("h100-a", model="H100"), gpu("h100-b", model="H100")]
    wish = gpus(1, *model("H200", "H100")), gpus(2, *model("H200", "H100"))
    first = only(place([request("r", wish[0])], offers, [host("h")]))
    assert [(item.offer.device.id, item.alternative) for item in first.devices] == [("h200", "h200")]
    # Two H200 are not there, and one of each is neither alternative.
    second = only(place([request("r", wish[1])], offers, [host("h")]))
    assert [(item.offer.device.id, item.alternative) for item in second.devices] == [
        ("h100-a", "h100"),
        ("h100-b", "h100"),
    ]


def test_an_alternative_that_leaves_too_little_for_another_request_is_passed_over() -> None:
    offers = [gpu("h200", model="H200"), gpu("h100", model="H100")]
    needs = gpus(1, *model("H200", "H100")), gpus(1, *model("H200"), name="aux")
    result = only(place([request("r", *needs)], offers, [host("h")]))
    assert {item.need: item.offer.device.id for item in result.devices} == {"main": "h100", "aux": "h200"}


def test_a_refusal_names_all_alternatives_and_no_number_that_moves() -> None:
    wish = request("r", gpus(4, *model("H200", "H100")))
    few = refused(place([wish], [gpu("g", model="H200")], [host("h")]))
    none = refused(place([wish], [], []))
    assert few.message == none.message
    assert few.message == (
        "main: 4 accelerators with model=H200, else model=H100 asked for;"
        " no pool has so many such devices together, in use or not"
    )


def test_a_refusal_says_which_attributes_were_asked_for() -> None:
    requirements = (
        LabelRequirement(key="model", operator=LabelOperator.IN, values=("H200", "H100")),
        LabelRequirement(key="nvlinkDomain", operator=LabelOperator.EXISTS),
    )
    choice = Choice(Selector((("vendor", "NVIDIA"),), requirements), 141 * GIB)
    message = refused(place([request("r", gpus(1, choice))], [], [host("h")])).message
    assert "with vendor=NVIDIA, model in (H200, H100), any nvlinkDomain, 141 GiB each asked for" in message


def test_a_cordoned_or_tainted_node_is_no_place_and_the_refusal_says_so() -> None:
    hosts = [host("a", closed="cordoned"), host("b", closed="tainted x:NoSchedule"), host("small", 1)]
    wish = request("r", gpus(1), cpu=Decimal(2))
    refusal = refused(place([wish], [gpu("g")], hosts))
    assert refusal.reason == "NoHost"
    assert "node-a (cordoned), node-b (tainted x:NoSchedule)" in refusal.message
    assert only(place([wish], [gpu("g")], [*hosts, host("open")])).host.host == "open"


def test_a_quota_is_named_before_a_shortage_that_others_binds_bring_and_take() -> None:
    taken = [replace(gpu(f"g{n}"), free=False) for n in range(4)]
    quota = {("a", GPUS): 1}
    refusals = [
        refused(place([request("r", gpus(2))], offers, [host("h")], quota))
        for offers in (taken, [gpu(f"g{n}") for n in range(4)])
    ]
    assert {refusal.reason for refusal in refusals} == {"QuotaExceeded"}
    assert refusals[0].message == refusals[1].message
    assert "GPUPool gpus" in refusals[0].message


def test_what_no_pool_has_is_said_before_a_quota_that_a_higher_limit_would_not_help() -> None:
    few = [gpu(f"g{n}") for n in range(3)]
    for limits in ({("a", GPUS): 2}, {}):
        refusal = refused(place([request("r", gpus(4))], few, [host("h")], limits))
        assert (refusal.reason, refusal.accepted) == ("NoSuchDevices", False)
    more = [*few, gpu("g3")]
    assert (
        refused(place([request("r", gpus(4))], more, [host("h")], {("a", GPUS): 2})).reason == "QuotaExceeded"
    )


def test_a_quota_that_two_requests_exceed_together_is_named() -> None:
    needs = gpus(2), gpus(2, name="aux")
    placement = place([request("r", *needs)], [gpu(f"g{n}") for n in range(4)], [host("h")], {("a", GPUS): 3})
    assert refused(placement).reason == "QuotaExceeded"


def test_a_node_on_hosts_of_two_fabrics_carries_one_logical_node() -> None:
    one, other = host("h"), replace(host("h"), fabric="other")
    offers = [gpu("g"), replace(gpu("g"), fabric="other")]
    placement = place([request("r1", gpus(1)), request("r2", gpus(1))], offers, [one, other])
    assert (len(placement.assignments), placement.refusals[0].reason) == (1, "NoHost")


def test_a_device_that_is_not_free_is_not_placed() -> None:
    offers = [replace(gpu("taken"), free=False), gpu("free")]
    assert chosen(only(place([request("r", gpus(1))], offers, [host("h")]))) == {"free"}


@pytest.mark.parametrize("count", [1, 200])
def test_devices_are_sorted_and_selectors_compared_once_however_many_requests_there_are(count: int) -> None:
    offers = [gpu(f"g{n}", model="H200") for n in range(50)]
    waiting = [request(f"r{n}", gpus(64, *model("H200"))) for n in range(count)]
    placement = place(waiting, offers, [host("h")])
    assert len(placement.refusals) == count
    assert placement.effort.sorts == 1
    assert placement.effort.matchings == 1
    assert placement.effort.searches == 1


def test_what_was_refused_to_one_namespace_is_not_looked_for_again_for_another_unless_a_quota_differs() -> (
    None
):
    waiting = [
        request(f"{space}{n}", gpus(64), namespace=space, created=str(n)) for n in range(3) for space in "abc"
    ]
    taken = [replace(gpu(f"g{n}"), free=False) for n in range(64)]
    placement = place(waiting, taken, [host("h")], {("c", GPUS): 1})
    assert placement.effort.searches == 2
    assert {item.reason for item in placement.refusals if item.waiting.namespace == "c"} == {"QuotaExceeded"}
    assert {item.reason for item in placement.refusals if item.waiting.namespace != "c"} == {
        "NotEnoughDevices"
    }


def test_who_waited_before_there_was_a_device_gets_one_that_came_while_somebody_else_had_it() -> None:
    wish, hosts = request("r", gpus(1)), (host("h"),)
    taken = replace(gpu("gpu-0"), free=False)
    first = place_on([wish], Stock((), hosts))
    second = place_on([wish], Stock((taken,), hosts), first.remembered)
    third = place_on([wish], Stock((gpu("gpu-0"),), hosts), second.remembered)
    assert chosen(only(third)) == {"gpu-0"}


def test_what_was_refused_is_not_looked_for_again_until_something_was_added() -> None:
    offers = [*(gpu(f"g{n}") for n in range(4)), replace(gpu("g4"), free=False)]
    hosts = [host("h0"), host("h1")]
    waiting = [request("r", gpus(5))]

    def searches(offers: list[Offer], hosts: list[HostOffer], quota: dict[tuple[str, PoolKey], int]) -> int:
        return place_on(waiting, Stock(tuple(offers), tuple(hosts), quota), first.remembered).effort.searches

    first = place_on(waiting, Stock(tuple(offers), tuple(hosts), {("b", GPUS): 3}))
    quota = {("b", GPUS): 3}
    assert searches(offers, hosts, quota) == 0
    # Another's bind takes a device, a host and quota.
    less = [*offers[1:], replace(offers[0], free=False)]
    assert searches(less, hosts[1:], {("b", GPUS): 2}) == 0
    assert searches([*offers[:4], gpu("g4")], hosts, quota) == 1
    assert searches(offers, [*hosts, host("h2")], quota) == 1
    assert searches(offers, [replace(hosts[0], cpu=Decimal(99)), hosts[1]], quota) == 1
    assert searches(offers, hosts, {("b", GPUS): 4}) == 1
    assert searches(offers, hosts, {}) == 1
    assert searches([replace(offers[0], jurisdiction="EU"), *offers[1:]], hosts, quota) == 1


def test_a_release_elsewhere_causes_no_search_for_what_could_not_be_met_though_all_were_free() -> None:
    offers, hosts = [gpu(f"g{n}", domain=f"nvl-{n // 4}") for n in range(8)], [host("h")]
    never = request("never", gpus(5), constraints=tied("nvlinkDomain"))
    later = request("later", gpus(4, name="main"), gpus(4, name="aux"))
    taken = [replace(offers[0], free=False), *offers[1:]]
    first = place_on([never, later], Stock(tuple(taken), tuple(hosts)))
    assert {each.waiting.name: each.reason for each in first.refusals} == {
        "never": "NoSuchDevices",
        "later": "NotEnoughDevices",
    }
    second = place_on([never, later], Stock(tuple(offers), tuple(hosts)), first.remembered)
    assert [each.waiting.name for each in second.assignments] == ["later"]
    assert second.effort.searches == 1
    more = [*offers, gpu("g8", domain="nvl-1")]
    third = place_on([never], Stock(tuple(more), tuple(hosts)), second.remembered)
    assert [each.waiting.name for each in third.assignments] == ["never"]


def test_requests_that_differ_in_the_host_alone_share_the_search_for_devices() -> None:
    def taken_time(count: int) -> int:
        waiting = [
            request(f"r{n}", gpus(9), cpu=Decimal(n), constraints=tied("nvlinkDomain")) for n in range(count)
        ]
        offers = [gpu(f"g{n}", domain=f"nvl-{n // 8}") for n in range(64)]
        placement = place(waiting, offers, [host("h")])
        assert {each.reason for each in placement.refusals} == {"NoSuchDevices"}
        return placement.effort.choices

    assert taken_time(50) == taken_time(1)


def test_a_request_that_could_be_met_in_too_many_ways_is_given_up_in_bounded_time() -> None:
    # Every pair of domains has enough of each device, and none has all four constraints.
    def device(number: int) -> Offer:
        attributes = {f"d{k}Domain": f"v{(number // 7**k) % 7}" for k in range(4)}
        return Offer("rack", GPUS, Device(f"g{number}", DeviceKind.ACCELERATOR, attributes, GIB, True))

    constraints = tuple(Constraint(f"d{k}Domain", frozenset({"main"})) for k in range(4))
    wish = request("r", gpus(2), constraints=constraints)
    assert refused(place([wish], [device(n) for n in range(2000)], [host("h")])).reason == "ConstraintUnmet"

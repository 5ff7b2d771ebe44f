from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from weft.api.devices import DeviceSelector
from weft.api.meta import LabelSelector
from weft.binding.plan import Assignment, HostOffer, Need, Offer, Placement, Waiting, place
from weft.fabric.driver import Device, DeviceKind

GPUS = (DeviceKind.ACCELERATOR, "gpus")
CXL = (DeviceKind.MEMORY, "cxl")
GIB = 2**30


def gpu(
    name: str, *, domain: str = "nvl-0", model: str = "A100", hosts: frozenset[str] | None = None
) -> Offer:
    attributes = {"type": "GPU", "model": model, "nvlinkDomain": domain}
    return Offer("rack", GPUS, Device(name, DeviceKind.ACCELERATOR, attributes, 80 * GIB, True, hosts))


def memory(name: str, gib: int) -> Offer:
    return Offer("rack", CXL, Device(name, DeviceKind.MEMORY, {"type": "CXL"}, gib * GIB, True))


def host(name: str, cpu: int = 64, **labels: str) -> HostOffer:
    return HostOffer("rack", name, f"node-{name}", labels, Decimal(cpu), 512 * GIB)


def request(name: str, *needs: Need, created: str = "2026-01-01", namespace: str = "a") -> Waiting:
    return Waiting(f"uid-{name}", namespace, name, created, needs, frozenset({GPUS, CXL}))


def gpus(count: int, **attributes: str) -> Need:
    return Need(
        "main", DeviceKind.ACCELERATOR, count=count, selector=DeviceSelector(match_attributes=attributes)
    )


def bytes_(gib: int) -> Need:
    return Need("kv", DeviceKind.MEMORY, size_bytes=gib * GIB)


def chosen(assignment: Assignment) -> set[str]:
    return {item.offer.device.id for item in assignment.devices}


def only(placement: Placement) -> Assignment:
    assert placement.refusals == ()
    (assignment,) = placement.assignments
    return assignment


def test_gpus_and_memory_are_assigned_together_on_one_host() -> None:
    offers = [gpu(f"gpu-{n}") for n in range(4)] + [memory(f"mem-{n}", 512) for n in range(4)]
    result = only(place([request("r", gpus(4), bytes_(2048))], offers, [host("h")], {}))
    assert chosen(result) == {f"gpu-{n}" for n in range(4)} | {f"mem-{n}" for n in range(4)}


def test_a_request_that_lacks_one_device_gets_none_and_is_told_which() -> None:
    offers = [gpu("gpu-0"), gpu("gpu-1"), memory("mem-0", 512)]
    placement = place([request("r", gpus(2), bytes_(1024))], offers, [host("h")], {})
    assert placement.assignments == ()
    (refusal,) = placement.refusals
    assert refusal.reason == "NotEnoughDevices"
    assert refusal.message == "kv: 1024 GiB asked for, 512 GiB are free in pools open to this namespace"


def test_the_older_request_wins_the_last_devices() -> None:
    offers = [gpu("gpu-0"), gpu("gpu-1")]
    young, old = (
        request("young", gpus(2), created="2026-01-02"),
        request("old", gpus(2), created="2026-01-01"),
    )
    placement = place([young, old], offers, [host("h1"), host("h2")], {})
    assert [item.waiting.name for item in placement.assignments] == ["old"]
    assert [item.waiting.name for item in placement.refusals] == ["young"]


def test_two_requests_never_share_a_host() -> None:
    offers = [gpu("gpu-0"), gpu("gpu-1")]
    placement = place([request("r1", gpus(1)), request("r2", gpus(1))], offers, [host("h")], {})
    assert len(placement.assignments) == 1
    assert placement.refusals[0].reason == "NoHost"


def test_a_required_domain_is_used_whole_and_the_tightest_one_is_taken() -> None:
    offers = [gpu(f"a{n}", domain="big") for n in range(8)] + [gpu(f"b{n}", domain="tight") for n in range(4)]
    wish = replace(request("r", gpus(4)), domain="nvlinkDomain", domain_required=True)
    assert chosen(only(place([wish], offers, [host("h")], {}))) == {"b0", "b1", "b2", "b3"}


def test_a_required_domain_that_no_domain_satisfies_is_refused_though_enough_devices_are_free() -> None:
    offers = [gpu("a0", domain="x"), gpu("a1", domain="y")]
    wish = replace(request("r", gpus(2)), domain="nvlinkDomain", domain_required=True)
    placement = place([wish], offers, [host("h")], {})
    assert placement.refusals[0].reason == "NoDomain"
    assert "largest has 1 free" in placement.refusals[0].message
    relaxed = replace(wish, domain_required=False)
    assert chosen(only(place([relaxed], offers, [host("h")], {}))) == {"a0", "a1"}


def test_a_request_without_a_domain_leaves_whole_domains_free() -> None:
    offers = [gpu(f"w{n}", domain="whole") for n in range(8)] + [gpu("rest", domain="opened")]
    assert chosen(only(place([request("r", gpus(1))], offers, [host("h")], {}))) == {"rest"}


def test_the_cheaper_pool_is_used_first() -> None:
    dear = replace(gpu("a-dear"), cost_per_hour=Decimal(4))
    cheap = replace(gpu("z-cheap"), cost_per_hour=Decimal(2))
    assert chosen(only(place([request("r", gpus(1))], [dear, cheap], [host("h")], {}))) == {"z-cheap"}


def test_devices_that_do_not_reach_the_host_are_not_used() -> None:
    offers = [gpu("far", hosts=frozenset({"h2"})), gpu("near", hosts=frozenset({"h1"}))]
    hosts = [host("h1")]
    assert chosen(only(place([request("r", gpus(1))], offers, hosts, {}))) == {"near"}
    assert place([request("r", gpus(2))], offers, hosts, {}).refusals[0].reason == "NotEnoughDevices"


def test_another_host_is_tried_when_the_first_is_not_reached_by_enough_devices() -> None:
    offers = [gpu("g1", hosts=frozenset({"large"})), gpu("g2", hosts=frozenset({"large"}))]
    result = only(place([request("r", gpus(2))], offers, [host("small", 8), host("large", 64)], {}))
    assert result.host.host == "large"


def test_the_smallest_host_that_suits_is_taken() -> None:
    wish = replace(request("r", gpus(1)), cpu=Decimal(16))
    hosts = [host("large", 64), host("fits", 16), host("small", 8)]
    assert only(place([wish], [gpu("g")], hosts, {})).host.host == "fits"


def test_node_labels_decide_which_hosts_come_into_question() -> None:
    wish = replace(request("r", gpus(1)), node_selector=LabelSelector(match_labels={"zone": "b"}))
    hosts = [host("h1", zone="a"), host("h2", zone="b")]
    assert only(place([wish], [gpu("g")], hosts, {})).host.host == "h2"


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
    wish = replace(request("r", gpus(1)), allowed_pools=frozenset({CXL}))
    assert place([wish], [gpu("g")], [host("h")], {}).refusals[0].reason == "NotEnoughDevices"


def test_a_size_is_covered_with_the_smallest_device_that_holds_it() -> None:
    offers = [memory("big", 1024), memory("small", 256), memory("fits", 512)]
    assert chosen(only(place([request("r", bytes_(400))], offers, [host("h")], {}))) == {"fits"}


def test_one_pass_places_a_bounded_number() -> None:
    offers = [gpu(f"g{n}") for n in range(10)]
    hosts = [host(f"h{n}") for n in range(10)]
    placement = place([request(f"r{n}", gpus(1)) for n in range(10)], offers, hosts, {}, most=3)
    assert len(placement.assignments) == 3


def test_memory_comes_from_one_domain_in_the_order_in_which_people_count() -> None:
    def block(number: int) -> Offer:
        domain = {"cxlDomain": f"cxl-{number // 8}"}
        return Offer("rack", CXL, Device(f"cxl-{number}", DeviceKind.MEMORY, domain, 512 * GIB, True))

    offers = [block(number) for number in range(16)]
    assert chosen(only(place([request("r", bytes_(2048))], offers, [host("h")], {}))) == {
        f"cxl-{n}" for n in range(4)
    }

"""Whatever waits and whatever is free: no device twice, no half-met request, the same answer every time."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from weft.binding.asked import Constraint, Need, Shape, Waiting
from weft.binding.search import place
from weft.binding.stock import HostOffer, Offer, Stock
from weft.fabric.driver import Device, DeviceKind

GIB = 2**30
POOLS = {kind: (kind, f"pool-{kind.value}") for kind in (DeviceKind.ACCELERATOR, DeviceKind.MEMORY)}


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Waiting], list[Offer], list[HostOffer], dict[object, int]]:
    zones = [None, frozenset({"h0", "h1"}), frozenset({"h2"})]
    offers = []
    for index in range(draw(st.integers(0, 14))):
        kind = draw(st.sampled_from(list(POOLS)))
        domain = draw(st.sampled_from(["x", "y"]))
        size = draw(st.sampled_from([16, 64])) * GIB
        device = Device(f"d{index}", kind, {"linkDomain": domain}, size, True, draw(st.sampled_from(zones)))
        offers.append(Offer("rack", POOLS[kind], device, Decimal(draw(st.integers(0, 3)))))
    hosts = [
        HostOffer("rack", f"h{n}", f"n{n}", {}, Decimal(8), 64 * GIB) for n in range(draw(st.integers(0, 4)))
    ]
    waiting = []
    for index in range(draw(st.integers(0, 6))):
        needs = [Need("a", DeviceKind.ACCELERATOR, count=draw(st.integers(1, 4)))]
        if draw(st.booleans()):
            needs.append(Need("m", DeviceKind.MEMORY, size_bytes=draw(st.integers(1, 100)) * GIB))
        attribute = draw(st.sampled_from(["", "linkDomain"]))
        ties = (Constraint(attribute, frozenset({"a"}), draw(st.booleans())),) if attribute else ()
        waiting.append(
            Waiting(
                f"u{index}",
                draw(st.sampled_from(["ns1", "ns2"])),
                f"r{index}",
                str(draw(st.integers(0, 3))),
                Shape(tuple(needs), frozenset(POOLS.values()), constraints=ties),
            )
        )
    quota = {("ns1", POOLS[DeviceKind.ACCELERATOR]): draw(st.integers(0, 6))} if draw(st.booleans()) else {}
    return waiting, offers, hosts, quota


@given(worlds())
def test_placement_is_exclusive_complete_and_within_quota(world: tuple) -> None:
    waiting, offers, hosts, quota = world
    stock = Stock(tuple(offers), tuple(hosts), quota)
    placement = place(waiting, stock)
    devices = Counter(item.offer.device.id for each in placement.assignments for item in each.devices)
    assert all(count == 1 for count in devices.values())
    assert all(count == 1 for count in Counter(each.host.host for each in placement.assignments).values())
    for each in placement.assignments:
        for need in each.waiting.shape.needs:
            got = [item.offer.device for item in each.devices if item.need == need.name]
            if need.count:
                assert len(got) == need.count
            else:
                assert sum(device.capacity_bytes for device in got) >= need.size_bytes
            for device in got:
                assert device.reachable_hosts is None or each.host.host in device.reachable_hosts
        if any(tie.required for tie in each.waiting.shape.constraints):
            domains = {
                item.offer.device.attributes["linkDomain"] for item in each.devices if item.need == "a"
            }
            assert len(domains) == 1
    for (namespace, pool), limit in quota.items():
        taken = sum(
            item.offer.quota_units
            for each in placement.assignments
            if each.waiting.namespace == namespace
            for item in each.devices
            if item.offer.pool == pool
        )
        assert taken <= limit
    assert len(placement.assignments) + len(placement.refusals) == len(waiting)
    assert place(waiting, stock) == placement

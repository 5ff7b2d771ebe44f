"""Whoever is asked to give way: it helps, it is needed, and it never is for an equal."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from support.placing import GPUS, gpu, gpus, host, request, tied
from weft.api.maintenance import Drain
from weft.binding.asked import Waiting
from weft.binding.plan import Placement
from weft.binding.search import place
from weft.binding.stock import Holder, Stock

NODES = 8


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Stock, list[Waiting]]:
    """Logical nodes that hold some of the devices, and one or two requests."""
    count = draw(st.integers(2, 12))
    offers = [gpu(f"g{n}", domain=draw(st.sampled_from("ab"))) for n in range(count)]
    left, holders = list(range(count)), []
    for number in range(draw(st.integers(1, 5))):
        mine = [left.pop() for _ in range(min(len(left), draw(st.integers(1, 4))))]
        if not mine:
            break
        for each in mine:
            offers[each] = replace(offers[each], free=False, held=True)
        at = frozenset(("rack", f"g{each}") for each in mine)
        holder = Holder(
            f"u{number}", draw(st.sampled_from("ab")), f"n{number}", draw(st.integers(0, 3)), str(number),
            f"node-h{number}", at, {GPUS: len(at)}, draw(st.sampled_from((Drain(), None))),
            draw(st.booleans()), draw(st.booleans()), draw(st.booleans()),
        )  # fmt: skip
        holders.append(holder)
    free = tuple(host(f"f{n}") for n in range(draw(st.integers(0, 1))))
    busy = tuple(replace(host(each.name), node_name=each.node_name) for each in holders)
    stock = Stock(tuple(offers), free, busy_hosts=busy, holders=tuple(holders))
    waiting = []
    for number in range(draw(st.integers(1, 2))):
        more = {"constraints": tied("nvlinkDomain")} if draw(st.booleans()) else {}
        wish = request(
            f"w{number}", gpus(draw(st.integers(1, 8))), namespace=draw(st.sampled_from("ab")), **more
        )
        waiting.append(replace(wish, priority=draw(st.integers(0, 3)), may_preempt=draw(st.booleans())))
    return stock, waiting


def without(stock: Stock, gone: set[str]) -> Stock:
    """What there is when some logical nodes are gone."""
    free = {device for each in stock.holders if each.uid in gone for device in each.devices}
    nodes = {each.node_name for each in stock.holders if each.uid in gone}
    return Stock(
        tuple(
            replace(each, free=True, held=False) if (each.fabric, each.device.id) in free else each
            for each in stock.offers
        ),
        (*stock.hosts, *(each for each in stock.busy_hosts if each.node_name in nodes)),
        busy_hosts=tuple(each for each in stock.busy_hosts if each.node_name not in nodes),
        holders=tuple(each for each in stock.holders if each.uid not in gone),
    )


def head_of(placement: Placement) -> str:
    return placement.remembered.head


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_who_gives_way_may_is_lower_is_needed_and_gives_the_head_its_place(
    world: tuple[Stock, list[Waiting]],
) -> None:
    stock, waiting = world
    placement = place(waiting, stock)
    assert place(list(reversed(waiting)), stock).victims == placement.victims
    if not placement.victims:
        return
    head = next(each for each in waiting if each.uid == head_of(placement))
    assert head.may_preempt
    for each in placement.victims:
        assert each.priority < head.priority
        assert each.may_go_for(head.namespace)
        assert not each.is_leaving
    # What others of this pass were given stays given.
    given = {each.offer.device.id for item in placement.assignments for each in item.devices}
    hosts = {item.host.host for item in placement.assignments}
    rest = replace(
        stock,
        offers=tuple(each for each in stock.offers if each.device.id not in given),
        hosts=tuple(each for each in stock.hosts if each.host not in hosts),
    )
    leaving = {each.uid for each in stock.holders if each.is_leaving}
    gone = {each.uid for each in placement.victims} | leaving
    assert place([head], without(rest, gone)).assignments
    for each in placement.victims:
        assert not place([head], without(rest, gone - {each.uid})).assignments

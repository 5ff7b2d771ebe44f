"""What those that wait are told by one pass after another: as before where nothing of it has changed."""

from __future__ import annotations

from dataclasses import replace

from support.placing import GPUS, gpu, gpus, host, place_on, request
from weft.binding.asked import Waiting
from weft.binding.plan import Placement, Refusal, Remembered
from weft.binding.stock import Stock

OFFERS = (gpu("g0"), gpu("g1"))
HOSTS = (host("h0"), host("h1"))
STOCK = Stock(tuple(replace(each, free=False, held=True) for each in OFFERS), HOSTS)


def asked(name: str, count: int = 1, namespace: str = "a", created: str = "1") -> Waiting:
    return request(name, gpus(count), created=created, namespace=namespace)


def told(placement: Placement) -> dict[str, Refusal]:
    return {each.waiting.name: each for each in placement.refusals}


def test_who_waits_for_the_same_reason_as_before_is_told_the_very_same() -> None:
    waiting = [asked("one"), asked("two", created="2"), asked("other", namespace="b")]
    before = place_on(waiting, STOCK, Remembered())
    after = place_on(waiting, STOCK, before.remembered)
    assert told(before).keys() == {"one", "two", "other"}
    assert all(told(after)[name] is each for name, each in told(before).items())


def test_who_got_a_place_or_is_gone_is_told_nothing_and_the_others_move_up() -> None:
    waiting = [
        asked("one"),
        asked("two", created="2"),
        asked("three", created="3"),
        asked("four", created="4"),
    ]
    before = place_on(waiting, STOCK, Remembered())
    assert [told(before)[each.name].place for each in waiting] == ["1", "2", "3-4", "3-4"]
    free = replace(STOCK, offers=(OFFERS[0], STOCK.offers[1]))
    after = place_on([each for each in waiting if each.name != "two"], free, before.remembered)
    assert [each.waiting.name for each in after.assignments] == ["one"]
    assert {name: each.place for name, each in told(after).items()} == {"three": "1", "four": "2"}


def test_the_first_of_each_namespace_alone_is_told_who_releases_next() -> None:
    stock = replace(STOCK, next_release={(namespace, GPUS): "next" for namespace in "ab"})
    waiting = [asked("one"), asked("two", created="2"), asked("other", namespace="b")]
    said = told(place_on(waiting, stock, Remembered()))
    assert {name for name, each in said.items() if "next is the next" in each.message} == {"one", "other"}


def test_who_could_never_be_met_is_told_that_it_may_be_when_a_device_comes_that_somebody_has() -> None:
    waiting = [asked("one", 3), asked("two", 3, created="2")]
    before = place_on(waiting, STOCK, Remembered())
    assert {(each.reason, each.accepted) for each in before.refusals} == {("NoSuchDevices", False)}
    more = replace(STOCK, offers=(*STOCK.offers, replace(gpu("g2"), free=False, held=True)))
    after = place_on(waiting, more, before.remembered)
    assert {(each.reason, each.accepted) for each in after.refusals} == {("NotEnoughDevices", True)}

"""The queue, whatever comes and goes: nothing is exceeded, nobody is passed over for ever, shares follow weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from support.arrivals import GIB, Arrival, generated
from support.placing import gpu, gpus, host, request, tied
from support.queueing import Rack, Size, replay, utilisation
from weft.binding.keeping import nearest
from weft.binding.plan import Remembered
from weft.binding.room import Room
from weft.binding.search import place
from weft.binding.stock import Stock

SMALL = Size(accelerators=24, hosts=12, memories=3, storages=2)


@st.composite
def events(draw: st.DrawFn) -> Sequence[Arrival | int]:
    """Requests that come, and numbers: one of those that run ends."""
    found: list[Arrival | int] = []
    for number in range(draw(st.integers(1, 25))):
        if draw(st.integers(0, 2)) == 0:
            found.append(draw(st.integers(0, 100)))
            continue
        size = draw(st.sampled_from((1, 1, 2, 4, 8, 12)))
        memory = draw(st.sampled_from((0, 0, 512))) * GIB
        is_tied = 1 < size <= 8 and draw(st.booleans())
        namespace = draw(st.sampled_from("abc"))
        found.append(Arrival(number, float(number), math.inf, namespace, size, memory, 0, is_tied))
    return found


@settings(max_examples=80, deadline=None)
@given(events(), st.sampled_from(({}, {"a": 3})))
def test_at_every_moment_all_is_within_bounds_the_same_again_and_what_the_head_lacks_does_not_grow(
    happening: Sequence[Arrival | int], weights: dict[str, int]
) -> None:
    rack, running = Rack(SMALL, weights), []
    head, missing = "", 0
    for each in happening:
        if isinstance(each, Arrival):
            rack.ask(each, priority=each.number % 3)
        elif running:
            rack.release(running.pop(each % len(running)))
        stock, waiting, before = rack.stock(), rack.waiting_ones(), rack.remembered
        again = place(reversed(waiting), stock, before)
        # Raises where a device or a host would be had twice.
        placement = rack.decide()
        assert again == placement
        running += [item.waiting.uid for item in placement.assignments]
        # Its own result is nothing new to it.
        assert place(rack.waiting_ones(), rack.stock(), placement.remembered).assignments == ()
        # Nor to a leader that knows what stands in the statuses alone.
        known = [replace(one, was_head=one.uid == placement.remembered.head) for one in rack.waiting_ones()]
        assert place(known, rack.stock()).assignments == ()
        first = next((item for item in placement.refusals if item.place == "1"), None)
        if first is None:
            head = ""
            continue
        kept = nearest(Room(rack.stock()), first.waiting)
        assert kept is not None
        before_it = [item for item in placement.assignments if item.waiting.priority > first.waiting.priority]
        if first.waiting.uid == head and not before_it:
            assert kept.missing <= missing
        head, missing = first.waiting.uid, kept.missing


def test_a_stream_of_small_requests_does_not_starve_a_large_one() -> None:
    size = Size(accelerators=16, hosts=16, memories=0, storages=0)
    stream = generated(3, 400, 1.1, 16, ("a", "b"), ((1, 70), (2, 30)), bytes_too=False)
    large = replace(stream[50], accelerators=16)
    stream[50] = large
    started = replay(stream, size).started
    older = max(started[each.number] for each in stream[:50])
    assert started[large.number] <= max(older, large.created) + max(each.lives for each in stream)


def test_shares_converge_to_their_weights() -> None:
    weights = {"a": 1, "b": 3}
    size = Size(accelerators=32, hosts=32, memories=0, storages=0)
    stream = generated(1, 500, 2.2, 32, tuple(weights), ((1, 60), (2, 40)), bytes_too=False)
    started = replay(stream, size, weights).started
    end = stream[-1].created
    held = {
        name: utilisation([each for each in stream if each.namespace == name], started, 32, 0.3 * end, end)
        for name in weights
    }
    assert 0.70 <= held["b"] / sum(held.values()) <= 0.80


def test_the_head_starts_as_soon_as_it_would_if_nobody_behind_it_had_been_placed_on_what_is_kept() -> None:
    domain = [gpu(f"g{n}", domain="x") for n in range(4)]
    held = [replace(each, free=False, held=True) for each in domain[:3]]
    large = replace(request("large", gpus(4), created="1", constraints=tied("nvlinkDomain")), was_head=True)
    small = [request(f"s{n}", gpus(1), created=f"0{n}", namespace="b") for n in range(3)]
    hosts = tuple(host(f"h{n}") for n in range(4))
    remembered = Remembered()
    for free in range(4):
        offers = (*held[free:], *domain[:free], domain[3])
        result = place([large, *small], Stock(offers, hosts), remembered)
        remembered = result.remembered
        assert [each.waiting.name for each in result.assignments] == (["large"] if free == 3 else [])

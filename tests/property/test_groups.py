"""Who waits is looked at in groups, and only what changed is said again: the same as a look at each, from nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from support.placing import CXL, GPUS, bytes_, gpu, gpus, host, memory, model, tied
from weft.api.maintenance import Drain
from weft.binding.asked import Selector, Shape, Waiting
from weft.binding.groups import Groups
from weft.binding.membership import PoolKey
from weft.binding.plan import Assignment, Placement, Remembered, Told
from weft.binding.search import place_groups
from weft.binding.stock import Holder, HostOffer, Offer, Stock
from weft.fabric.driver import DeviceKind

NAMESPACES = ("a", "b", "c")
SEEDS, EVENTS = 120, 40
CLOSED = (DeviceKind.ACCELERATOR, "closed")


def shapes() -> list[Shape]:
    """Few, so that many ask for the same; some never fit, some wait for a release, some for a Node."""
    both, one = frozenset({GPUS, CXL}), frozenset({GPUS})
    return [
        Shape((gpus(1),), both),
        Shape((gpus(2),), both),
        Shape((gpus(2),), both, constraints=tied("nvlinkDomain")),
        Shape((gpus(3),), one, constraints=tied("nvlinkDomain")),
        Shape((gpus(5),), both),
        Shape((gpus(4, *model("H100", "A100")),), one),
        Shape((gpus(1, *model("H100")),), one),
        Shape((gpus(1, *model("GB200")),), one),
        Shape((gpus(40),), both),
        Shape((gpus(1), bytes_(60)), both),
        Shape((gpus(1),), both, node_selector=Selector((("zone", "far"),))),
        Shape((gpus(1),), frozenset({CLOSED})),
    ]


SHAPES = shapes()


@dataclass
class Site:
    """Devices and hosts, and who has them."""

    weights: dict[str, int]
    limits: dict[tuple[str, PoolKey], int]
    preemption: bool
    offers: list[Offer] = field(
        default_factory=lambda: [
            *(gpu(f"a{n}", domain=f"nvl-{n // 4}") for n in range(8)),
            *(gpu(f"h{n}", domain=f"nvl-{n // 4}", model="H100") for n in range(3)),
            *(memory(f"m{n}", 64) for n in range(2)),
        ]
    )
    hosts: list[HostOffer] = field(default_factory=lambda: [host(f"h{n}", cpu=8 + n) for n in range(6)])
    waiting: dict[str, Waiting] = field(default_factory=dict)
    bound: dict[str, Assignment] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)

    def stock(self) -> Stock:
        held = {item.offer.device.id for each in self.bound.values() for item in each.devices}
        nodes = {each.host.node_name for each in self.bound.values()}
        offers = []
        for each in self.offers:
            name = each.device.id
            usable = name not in self.broken
            offers.append(replace(each, free=usable and name not in held, held=usable and name in held))
        hosts = [replace(each, closed="cordoned" if each.host in self.closed else "") for each in self.hosts]
        used: dict[tuple[str, DeviceKind], int] = {}
        left = dict(self.limits)
        for each in self.bound.values():
            for item in each.devices:
                namespace, offer = each.waiting.namespace, item.offer
                used[namespace, offer.device.kind] = (
                    used.get((namespace, offer.device.kind), 0) + offer.quota_units
                )
                if (namespace, offer.pool) in left:
                    left[namespace, offer.pool] -= offer.quota_units
        first = min(self.bound.values(), key=lambda each: each.waiting.uid, default=None)
        return Stock(
            tuple(offers),
            tuple(each for each in hosts if each.node_name not in nodes),
            left,
            {"c": 2 - sum(each.waiting.namespace == "c" for each in self.bound.values())} if left else {},
            busy_hosts=tuple(each for each in hosts if each.node_name in nodes),
            used=used,
            weights=self.weights,
            next_release={(first.waiting.namespace, GPUS): first.waiting.name} if first else {},
            holders=tuple(map(_holder, self.bound.values())) if self.preemption else (),
        )


def _holder(each: Assignment) -> Holder:
    one = each.waiting
    devices = frozenset((item.offer.fabric, item.offer.device.id) for item in each.devices)
    return Holder(
        one.uid,
        one.namespace,
        one.name,
        one.priority,
        one.created,
        each.host.node_name,
        devices,
        drain=Drain(),
        by_any=True,
    )


Event = tuple[str, int, int, int, int]
WHAT = (*("new",) * 5, "gone", "edited", "release", "release", "broken", "cordon")


def happen(site: Site, groups: Groups, number: int, event: Event) -> None:
    what, shape, namespace, priority, which = event
    match what:
        case "new":
            # Ages are not in the order of arrival: who grows is as old as its wish.
            created, refused = f"{(which * 7) % 41:03}", ("PriorityClassNotFound", "there is none")
            uid = f"u{number}"
            request = Waiting(uid, NAMESPACES[namespace], uid, created, SHAPES[shape], priority=priority)
            if which == 40:
                request = replace(request, not_accepted=refused)
            site.waiting[uid] = replace(request, was_head=which == 39)
        case "gone" if site.waiting:
            del site.waiting[sorted(site.waiting)[which % len(site.waiting)]]
        case "edited" if site.waiting:
            uid = sorted(site.waiting)[which % len(site.waiting)]
            site.waiting[uid] = replace(site.waiting[uid], shape=SHAPES[shape])
        case "release" if site.bound:
            del site.bound[sorted(site.bound)[which % len(site.bound)]]
        case "broken":
            site.broken ^= {site.offers[which % len(site.offers)].device.id}
        case "cordon":
            site.closed ^= {site.hosts[which % len(site.hosts)].host}
    for uid in groups.waiting.keys() - site.waiting.keys():
        groups.drop(uid)
    for each in site.waiting.values():
        groups.put(each)


def said(placement: Placement) -> tuple[object, ...]:
    """All that a pass comes to, but what it cost."""
    remembered = placement.remembered
    refusals = {each.waiting.uid: each for each in placement.refusals}
    return (
        placement.assignments,
        refusals,
        placement.unused,
        placement.victims,
        replace(remembered, told=Told()),
    )


def test_all_of_a_group_are_looked_at_when_others_are_moved_for_its_first() -> None:
    small = [Waiting(f"s{n}", "a", f"s{n}", "1", SHAPES[0]) for n in range(2)]
    large = [Waiting(f"l{n}", "a", f"l{n}", "2", Shape((gpus(4),), frozenset({GPUS}))) for n in range(3)]
    stock = Stock(tuple(gpu(f"g{n}") for n in range(12)), (host("h0"), host("h1")))
    placement = place_groups(Groups([*small, *large]), stock, Remembered())
    assert [each.waiting.name for each in placement.assignments] == ["l0", "l1"]


@pytest.mark.parametrize("seed", [1211, 1358])
def test_places_in_the_queue_follow_the_shares_of_its_namespaces_and_its_head(seed: int) -> None:
    live(random.Random(seed))


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_a_pass_by_groups_says_what_a_pass_over_each_says(first: int) -> None:
    for seed in range(first, first + 20):
        live(random.Random(seed))


def live(any_of: random.Random) -> None:
    """Few shapes, namespaces and priorities, so that many ask for the same; a pass for each event, or for several."""
    weights, limits = any_of.choice(({}, {"a": 3})), any_of.choice(({}, {("a", GPUS): 4}))
    site, groups, remembered = Site(weights, limits, any_of.random() < 0.5), Groups(), Remembered()
    shapes = any_of.sample(range(len(SHAPES)), any_of.choice((2, 3, len(SHAPES))))
    namespaces, priorities = any_of.choice((1, 2, 3)), any_of.choice((1, 2, 3))
    at_once = any_of.choice((1, 1, 4, 8))
    for number in range(EVENTS):
        about = any_of.choice(shapes), any_of.randrange(namespaces), any_of.randrange(priorities)
        happen(site, groups, number, (any_of.choice(WHAT), *about, any_of.randrange(41)))
        if number % at_once:
            continue
        stock = site.stock()
        alone = replace(remembered, told=Told())
        each = place_groups(Groups(site.waiting.values()), stock, alone, one_by_one=True)
        placement = place_groups(groups, stock, remembered)
        assert said(placement) == said(each)
        # Who is told the same as before has the same object, and nobody else.
        for refusal in placement.refusals:
            before = remembered.told.refusals.get(refusal.waiting.uid)
            if before is not None and before.waiting is refusal.waiting:
                assert (before is refusal) == (before == refusal)
        remembered = placement.remembered
        for item in placement.assignments:
            site.bound[item.waiting.uid] = item
            del site.waiting[item.waiting.uid]

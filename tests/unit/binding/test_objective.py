"""Which of the sets of devices that would do is taken, as placement.objective asks."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from support.placing import bytes_, chosen, gpu, gpus, host, memory, model, only, place, request, tied
from weft.api.node_shape import Objective
from weft.binding.stock import Offer


def priced(offer: Offer, cost: str, watts: int = 0, pool: str = "") -> Offer:
    key = (offer.pool[0], pool) if pool else offer.pool
    return replace(offer, cost_per_hour=Decimal(cost), added_watts=watts, pool=key)


def names(objective: Objective | None, *needs: object, offers: list[Offer], **shape: object) -> set[str]:
    wish = request("r", *needs, objective=objective, **shape)  # type: ignore[arg-type]
    wish = replace(wish, shape=replace(wish.shape, allowed_pools=frozenset(each.pool for each in offers)))
    return chosen(only(place([wish], offers, [host("h")])))


def test_cost_takes_the_cheapest_domain_and_not_the_fullest() -> None:
    offers = [priced(gpu(f"dear{n}", domain="full"), "3") for n in range(2)]
    offers += [priced(gpu(f"cheap{n}", domain="whole"), "1") for n in range(8)]
    both = {"offers": offers, "constraints": tied("nvlinkDomain")}

    assert names(Objective.COST, gpus(2), **both) == {"cheap0", "cheap1"}
    assert names(None, gpus(2), **both) == {"dear0", "dear1"}


def test_cost_compares_what_the_whole_set_costs_not_its_first_device() -> None:
    mixed = [priced(gpu("m0", domain="mixed"), "1"), priced(gpu("m1", domain="mixed"), "9")]
    even = [priced(gpu(f"e{n}", domain="even"), "2") for n in range(4)]

    taken = names(Objective.COST, gpus(2), offers=mixed + even, constraints=tied("nvlinkDomain"))

    assert taken == {"e0", "e1"}


def test_cost_compares_hosts_that_reach_different_devices() -> None:
    near = [priced(gpu("near", hosts=frozenset({"small"})), "5")]
    far = [priced(gpu("far", hosts=frozenset({"large"})), "1")]
    hosts = [host("small", cpu=8), host("large", cpu=64)]

    for objective, expected in ((Objective.COST, "far"), (None, "near")):
        (taken,) = chosen(only(place([request("r", gpus(1), objective=objective)], near + far, hosts)))
        assert taken == expected


def test_cost_takes_a_larger_device_where_the_bytes_are_cheaper_for_all_that() -> None:
    small = priced(memory("small", 256), "8", pool="dear")
    large = priced(memory("large", 512), "2", pool="cheap")

    assert names(Objective.COST, bytes_(200), offers=[small, large]) == {"large"}
    assert names(None, bytes_(200), offers=[small, large]) == {"small"}


def test_packing_leaves_whole_domains_free_whatever_that_costs() -> None:
    whole = [priced(gpu(f"w{n}", domain="whole"), "1") for n in range(8)]
    begun = [priced(gpu(f"b{n}", domain="begun"), "3") for n in range(3)]

    assert names(Objective.PACKING, gpus(2), offers=whole + begun) == {"b0", "b1"}
    assert names(None, gpus(2), offers=whole + begun) == {"w0", "w1"}


def test_energy_takes_what_draws_the_fewest_watts_more() -> None:
    hungry = [priced(gpu(f"h{n}", domain="h"), "1", watts=600) for n in range(4)]
    frugal = [priced(gpu(f"f{n}", domain="f"), "4", watts=250) for n in range(4)]

    assert names(Objective.ENERGY, gpus(2), offers=hungry + frugal) == {"f0", "f1"}
    tied_taken = names(Objective.ENERGY, gpus(2), offers=hungry + frugal, constraints=tied("nvlinkDomain"))
    assert tied_taken == {"f0", "f1"}


def test_latency_takes_the_devices_from_as_few_domains_as_can_be() -> None:
    offers = [
        gpu(f"{domain}{n}", domain=domain)
        for domain, size in (("a", 2), ("b", 3), ("c", 4))
        for n in range(size)
    ]

    assert names(Objective.LATENCY, gpus(4), offers=offers) == {"c0", "c1", "c2", "c3"}
    # Six are in no domain: two domains, the emptiest first and then the tightest that has the rest.
    assert names(Objective.LATENCY, gpus(6), offers=offers) == {"c0", "c1", "c2", "c3", "a0", "a1"}
    # Without it they come from the fullest domains, here from three.
    assert names(None, gpus(6), offers=offers) == {"a0", "a1", "b0", "b1", "b2", "c0"}


@pytest.mark.parametrize("objective", Objective)
def test_an_objective_refuses_nothing_and_keeps_the_order_of_alternatives(objective: Objective) -> None:
    offers = [priced(gpu("old", model="A100"), "1"), priced(gpu("new", model="H200"), "9", watts=700)]

    assert names(objective, gpus(1, *model("H200", "A100")), offers=offers) == {"new"}
    assert names(objective, gpus(2), offers=offers) == {"old", "new"}

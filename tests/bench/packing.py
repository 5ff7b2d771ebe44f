"""How well placement packs, and how fast: `python tests/bench/packing.py [SEEDS]`. Goals are reported as met or missed.

The objective is accelerators bound. 200 seeded racks (`tests/support/packing.py`) with requests for 70 to 110 percent
of their free accelerators are placed in one pass each, and held against what CP-SAT proves that nobody can exceed, in
whatever order of the requests.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from decimal import Decimal

from counted import Row, at_least, at_most, noted

from support.packing import GIB, GPUS, bound, faults, first_fit, instance, optimum
from weft.binding.asked import Constraint, Need, Shape, Waiting
from weft.binding.search import place
from weft.binding.stock import HostOffer, Offer, Stock
from weft.fabric.driver import Device, DeviceKind

SEEDS = 200
TENANTS = 4
GOAL_PERCENT = 99.0
FIRST_FIT_PERCENT = 95.0
ACCELERATORS, HOSTS = 1600, 200
GOAL_MS = 5.0


def rows(seeds: int = SEEDS) -> list[Row]:
    """All that was promised of packing, as measured."""
    return [*packing(seeds), *speed()]


def packing(seeds: int) -> Iterator[Row]:
    """Plans against the optimum."""
    best = ours = four = first = 0
    worst, poor, unproven, longest = 100.0, 0, 0, 0.0
    for seed in range(seeds):
        case = instance(seed)
        began = time.thread_time()
        plan = place(case.waiting, case.stock)
        longest = max(longest, time.thread_time() - began)
        if wrong := faults(case, plan):
            raise AssertionError(f"seed {seed}: {wrong}")
        got, fit = bound(plan), first_fit(case)
        # Where everything is bound there is nothing to prove.
        most = got
        if got < case.asked:
            proven = optimum(case)
            most, unproven = proven.at_most, unproven + (proven.at_most > proven.found)
        ours, best, first = ours + got, best + most, first + fit
        worst = min(worst, 100 * got / most)
        poor += 100 * fit / most < FIRST_FIT_PERCENT
        shared = instance(seed, TENANTS)
        four += bound(place(shared.waiting, shared.stock))
        print(f"seed {seed:3}: {got:3} of at most {most:3}, first fit {fit:3}", file=sys.stderr, flush=True)
    yield at_least("packing, all instances", 100 * ours / best, "% of optimum", GOAL_PERCENT)
    yield at_least("packing, worst instance", worst, "% of optimum", GOAL_PERCENT)
    name = f"packing, {TENANTS} tenants that take no place from each other"
    yield at_least(name, 100 * four / best, "% of optimum", GOAL_PERCENT)
    yield noted("first fit, all instances", 100 * first / best, "% of optimum")
    yield at_least("instances that leave first fit below 95 %", poor, "instances", seeds / 2)
    yield noted("instances without a proven optimum (held against the bound)", unproven, "instances")
    yield noted("longest pass", 1000 * longest, "ms of CPU")


def speed() -> Iterator[Row]:
    """One request on a rack that is in use, in CPU time of the thread: others share this machine."""
    for tied in (False, True):
        waiting, stock = crowded(tied)
        times = []
        for _ in range(25):
            began = time.thread_time()
            assert place([waiting], stock).assignments
            times.append(1000 * (time.thread_time() - began))
        name = f"a placement over {ACCELERATORS} accelerators{', in one domain' if tied else ''}"
        yield at_most(name, statistics.median(times), "ms of CPU", GOAL_MS)


def crowded(tied: bool) -> tuple[Waiting, Stock]:
    """A request, and 1,600 accelerators of two models in domains of eight, a third of them in use."""
    offers = tuple(
        Offer(
            "rack",
            GPUS,
            Device(
                f"gpu-{number}",
                DeviceKind.ACCELERATOR,
                {
                    "model": "H100" if number // 8 % 2 else "H200",
                    "nvlinkDomain": f"nvl-{number // 8}",
                    "rdmaDomain": f"r-{number // 32}",
                },
                80 * GIB,
                True,
            ),
            Decimal(1),
            free=bool(number % 3),
        )
        for number in range(ACCELERATORS)
    )
    hosts = tuple(
        HostOffer("rack", f"h{number}", f"n{number}", {}, Decimal(64), 512 * GIB) for number in range(HOSTS)
    )
    ties = (Constraint("nvlinkDomain", frozenset({"main"})),) if tied else ()
    needs = (Need("main", DeviceKind.ACCELERATOR, count=4),)
    return Waiting("u", "a", "r", "1", Shape(needs, frozenset({GPUS}), constraints=ties)), Stock(
        offers, hosts
    )


def main() -> int:
    for row in rows(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS):
        print(row.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())

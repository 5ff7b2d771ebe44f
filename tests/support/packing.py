"""Racks that are nearly full, and what can be placed on them: by the first fit, and at best.

An instance has accelerators of several models in NVLink domains of eight and four, two or three of which share an
RDMA domain; memory and NVMe devices by size; hosts that reach only some of it and have CPU, memory and labels; requests
for 70 to 110 percent of the accelerators. One host carries one logical node, so hosts are the slots.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from weft.binding.asked import Choice, Constraint, Need, Selector, Shape, Waiting
from weft.binding.plan import Placement
from weft.binding.stock import HostOffer, Offer, Stock
from weft.fabric.driver import Device, DeviceKind

GIB = 2**30
GPUS, CXL, NVME = (
    (DeviceKind.ACCELERATOR, "gpus"),
    (DeviceKind.MEMORY, "cxl"),
    (DeviceKind.STORAGE, "nvme"),
)
MODELS = {"H200": (141, Decimal(4)), "H100": (80, Decimal(3)), "A100": (80, Decimal(1))}
"""Memory in GiB and cost per hour."""
SOLVER_SECONDS = 20.0


@dataclass(frozen=True)
class Instance:
    """One rack and what waits for it."""

    seed: int
    waiting: tuple[Waiting, ...]
    stock: Stock

    @property
    def asked(self) -> int:
        """Accelerators that all requests ask for together."""
        return sum(map(accelerators, self.waiting))


def accelerators(request: Waiting) -> int:
    """How many a request asks for."""
    return sum(need.count for need in request.shape.needs)


def bound(placement: Placement) -> int:
    """Accelerators that a plan binds: what is held against the optimum."""
    return sum(accelerators(each.waiting) for each in placement.assignments)


def instance(seed: int, tenants: int = 1) -> Instance:
    """The same for the same seed, whoever asks for it: `tenants` namespaces in turn."""
    any_of = random.Random(seed)
    halls = [f"hall-{n}" for n in range(any_of.choice((1, 2, 2)))]
    hosts = [
        HostOffer(
            "rack",
            f"h{number}",
            f"node-{number}",
            {"hall": halls[number % len(halls)], "disk": any_of.choice(("nvme", "none"))},
            Decimal(any_of.choice((32, 64, 64, 128))),
            any_of.choice((256, 512, 1024)) * GIB,
        )
        for number in range(any_of.randint(30, 70))
    ]
    reach = {
        hall: frozenset(host.host for host in hosts if host.labels["hall"] == hall)
        if len(halls) > 1
        else None
        for hall in halls
    }
    offers = [*_accelerators(any_of, reach), *_by_size(any_of, reach)]
    free = sum(offer.free for offer in offers if offer.pool == GPUS)
    waiting = _requests(any_of, free, len(hosts), halls, tenants)
    return Instance(seed, tuple(waiting), Stock(tuple(offers), tuple(hosts)))


def _accelerators(any_of: random.Random, reach: Mapping[str, frozenset[str] | None]) -> list[Offer]:
    offers: list[Offer] = []
    for domain in range(any_of.randint(14, 26)):
        model = any_of.choice(tuple(MODELS))
        memory, cost = MODELS[model]
        size = any_of.choice((8, 8, 8, 4))
        # Some of it is in use already: the rack is not empty when these requests come.
        used = any_of.choice((0, 0, 0, 1, 2, 3))
        for slot in range(size):
            attributes = {
                "type": "GPU",
                "model": model,
                "nvlinkDomain": f"nvl-{domain}",
                "rdmaDomain": f"rdma-{domain // 3}",
            }
            device = Device(
                f"gpu-{len(offers)}",
                DeviceKind.ACCELERATOR,
                attributes,
                memory * GIB,
                True,
                reach[tuple(reach)[domain % len(reach)]],
            )
            offers.append(Offer("rack", GPUS, device, cost, free=slot >= used))
    return offers


def _by_size(any_of: random.Random, reach: Mapping[str, frozenset[str] | None]) -> list[Offer]:
    offers: list[Offer] = []
    for kind, pool, name, sizes, count in (
        (DeviceKind.MEMORY, CXL, "cxl", (256, 512, 1024), 40),
        (DeviceKind.STORAGE, NVME, "nvme", (1024, 2048, 4096), 30),
    ):
        for number in range(count):
            hall = tuple(reach)[number % len(reach)]
            device = Device(
                f"{name}-{number}",
                kind,
                {"type": name.upper(), "cxlDomain": f"{hall}-{number // 16}"},
                any_of.choice(sizes) * GIB,
                True,
                reach[hall],
            )
            offers.append(Offer("rack", pool, device))
    return offers


def _requests(
    any_of: random.Random, free: int, hosts: int, halls: list[str], tenants: int
) -> Iterable[Waiting]:
    left = round(free * any_of.uniform(0.7, 1.1))
    for number in range(hosts):
        if left <= 0:
            return
        count = min(left, any_of.choice((1, 2, 2, 3, 4, 4, 5, 6, 8)))
        left -= count
        wish = any_of.random()
        if wish < 0.35:
            names = [any_of.choice(tuple(MODELS))]
        elif wish < 0.55:
            names = any_of.sample(tuple(MODELS), 2)
        else:
            names = []
        choices = tuple(Choice(Selector((("model", name),)), name=name) for name in names) or (Choice(),)
        needs = [Need("main", DeviceKind.ACCELERATOR, count=count, choices=choices)]
        if any_of.random() < 0.25:
            needs.append(Need("kv", DeviceKind.MEMORY, size_bytes=any_of.choice((200, 500, 900)) * GIB))
        if any_of.random() < 0.15:
            needs.append(Need("cache", DeviceKind.STORAGE, size_bytes=any_of.choice((1000, 3000)) * GIB))
        constraints: list[Constraint] = []
        if count > 1 and (draw := any_of.random()) < 0.75:
            constraints.append(
                Constraint("nvlinkDomain" if draw < 0.6 else "rdmaDomain", frozenset({"main"}))
            )
        elif any_of.random() < 0.3:
            constraints.append(Constraint("nvlinkDomain", frozenset({"main"}), required=False))
        labels: dict[str, str] = {}
        if any_of.random() < 0.15:
            labels["hall"] = any_of.choice(halls)
        if any_of.random() < 0.1:
            labels["disk"] = "nvme"
        shape = Shape(
            tuple(needs),
            frozenset({GPUS, CXL, NVME}),
            Selector(tuple(sorted(labels.items()))),
            cpu=Decimal(any_of.choice((8, 16, 32, 64))),
            memory_bytes=any_of.choice((64, 128, 256)) * GIB,
            constraints=tuple(constraints),
        )
        yield Waiting(f"u{number}", f"team-{number % tenants}", f"r{number}", f"{number:06}", shape)


# --- plain first fit ------------------------------------------------------------------------------------------------


def first_fit(case: Instance) -> int:
    """Accelerators that are bound if each request, oldest first, takes the first host, the first domain and the
    first devices that will do."""
    free = [offer for offer in case.stock.offers if offer.free]
    hosts = list(case.stock.hosts)
    total = 0
    for request in case.waiting:
        for host in hosts:
            found = _fit(request.shape, host, free)
            if found is not None:
                hosts.remove(host)
                taken = set(map(id, found))
                free = [offer for offer in free if id(offer) not in taken]
                total += accelerators(request)
                break
    return total


def _suits(shape: Shape, host: HostOffer) -> bool:
    return (
        not host.closed
        and shape.node_selector.matches(host.labels)
        and host.cpu >= shape.cpu
        and host.memory_bytes >= shape.memory_bytes
    )


def _reaches(offer: Offer, host: HostOffer) -> bool:
    hosts = offer.device.reachable_hosts
    return offer.fabric == host.fabric and (hosts is None or host.host in hosts)


def _fit(shape: Shape, host: HostOffer, free: list[Offer]) -> list[Offer] | None:
    if not _suits(shape, host):
        return None
    here = [offer for offer in free if _reaches(offer, host)]
    ties = [each for each in shape.constraints if each.required]
    values = [
        sorted({offer.device.attributes.get(tie.attribute, "") for offer in here} - {""}) for tie in ties
    ]
    for picks in itertools.product(*values):
        taken: list[Offer] = []
        for need in shape.needs:
            met = None
            for choice in need.choices:
                may = [
                    offer
                    for offer in here
                    if offer.device.kind is need.kind
                    and choice.matches(offer.device)
                    and not any(offer is each for each in taken)
                    and all(
                        need.name not in tie.needs or offer.device.attributes.get(tie.attribute) == value
                        for tie, value in zip(ties, picks, strict=True)
                    )
                ]
                met = _first(need, may)
                if met is not None:
                    break
            if met is None:
                break
            taken += met
        else:
            return taken
    return None


def _first(need: Need, may: list[Offer]) -> list[Offer] | None:
    if need.count:
        return may[: need.count] if len(may) >= need.count else None
    taken, size = [], 0
    for offer in may:
        if size >= need.size_bytes:
            break
        taken.append(offer)
        size += offer.device.capacity_bytes
    return taken if size >= need.size_bytes else None


# --- the optimum ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Optimum:
    """What CP-SAT found, and what it proved that nobody can exceed."""

    found: int
    at_most: int


def optimum(case: Instance, seconds: float = SOLVER_SECONDS) -> Optimum:
    """The most accelerators that can be bound, in whatever order of the requests."""
    from ortools.sat.python import cp_model

    model: Any = cp_model.CpModel()
    bins: dict[object, list[Offer]] = defaultdict(list)
    for offer in case.stock.offers:
        if offer.free:
            bins[_kind(offer)].append(offer)
    groups: dict[object, list[HostOffer]] = defaultdict(list)
    for host in case.stock.hosts:
        reached = frozenset(key for key, offers in bins.items() if _reaches(offers[0], host))
        groups[host.cpu, host.memory_bytes, tuple(sorted(host.labels.items())), reached].append(host)
    used: dict[object, list[Any]] = defaultdict(list)
    carried: dict[object, list[Any]] = defaultdict(list)
    gains: list[Any] = []
    for request in case.waiting:
        shape = request.shape
        is_bound = model.new_bool_var("")
        at: dict[object, Any] = {
            key: model.new_bool_var("") for key, hosts in groups.items() if _suits(shape, hosts[0])
        }
        model.add(sum(at.values()) == is_bound)
        for key, here in at.items():
            carried[key].append(here)
        reach_of = {key: [here for group, here in at.items() if key in group[3]] for key in bins}  # type: ignore[index]
        values: list[tuple[Constraint, dict[str, Any]]] = []
        for tie in shape.constraints:
            if tie.required:
                found = {offers[0].device.attributes.get(tie.attribute, "") for offers in bins.values()} - {
                    ""
                }
                one_of = {value: model.new_bool_var("") for value in sorted(found)}
                model.add(sum(one_of.values()) == is_bound)
                values.append((tie, one_of))
        for need in shape.needs:
            chosen = [model.new_bool_var("") for _ in need.choices]
            model.add(sum(chosen) == is_bound)
            parts: list[Any] = []
            for key, offers in bins.items():
                device = offers[0].device
                may = [
                    var for choice, var in zip(need.choices, chosen, strict=True) if choice.matches(device)
                ]
                if device.kind is not need.kind or not may or not reach_of[key]:
                    continue
                limits = [may, reach_of[key]]
                for tie, one_of in values:
                    if need.name in tie.needs:
                        value = device.attributes.get(tie.attribute, "")
                        limits.append([one_of[value]] if value in one_of else [])
                size = device.capacity_bytes
                most = min(len(offers), need.count or -(-need.size_bytes // size))
                taken = model.new_int_var(0, most, "")
                for limit in limits:
                    if len(limit) < len(at) or limit is may:
                        model.add(taken <= most * sum(limit))
                used[key].append(taken)
                parts.append(taken * (1 if need.count else size // GIB))
            if need.count:
                model.add(sum(parts) == need.count * is_bound)
            else:
                model.add(sum(parts) >= -(-need.size_bytes // GIB) * is_bound)
        gains.append(accelerators(request) * is_bound)
    for key, parts in used.items():
        model.add(sum(parts) <= len(bins[key]))
    for key, parts in carried.items():
        model.add(sum(parts) <= len(groups[key]))
    model.maximize(sum(gains))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 2
    solver.parameters.random_seed = 1
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise RuntimeError(f"seed {case.seed}: CP-SAT ended with {solver.status_name(status)}")
    # What CP-SAT cannot prove in time is no more than what is free, or asked for.
    free = sum(len(offers) for offers in bins.values() if offers[0].device.kind is DeviceKind.ACCELERATOR)
    bound_ = int(solver.best_objective_bound + 1e-6)
    return Optimum(round(solver.objective_value), min(bound_, free, case.asked))


def _kind(offer: Offer) -> object:
    """Equal for devices that no request can tell apart."""
    device = offer.device
    return (
        device.kind,
        offer.pool,
        tuple(sorted(device.attributes.items())),
        device.capacity_bytes,
        device.reachable_hosts,
    )


# --- what a plan must not do ----------------------------------------------------------------------------------------


def faults(case: Instance, placement: Placement) -> list[str]:
    """What is wrong with a plan, by rules written apart from the ones that placement follows."""
    wrong: list[str] = []
    devices = Counter(each.offer.device.id for item in placement.assignments for each in item.devices)
    wrong += [f"{name} twice" for name, count in devices.items() if count > 1]
    free = {offer.device.id for offer in case.stock.offers if offer.free}
    wrong += [f"{name} is not free" for name in devices if name not in free]
    nodes = Counter(item.host.node_name for item in placement.assignments)
    wrong += [f"{name} twice" for name, count in nodes.items() if count > 1]
    for item in placement.assignments:
        shape, name = item.waiting.shape, item.waiting.name
        if not _suits(shape, item.host):
            wrong.append(f"{name} at a host that does not suit")
        by_need = defaultdict(list)
        for each in item.devices:
            by_need[each.need].append(each)
            if not _reaches(each.offer, item.host):
                wrong.append(f"{name}: {each.offer.device.id} does not reach {item.host.host}")
        for need in shape.needs:
            got = by_need[need.name]
            enough = (
                len(got) == need.count
                if need.count
                else sum(each.offer.device.capacity_bytes for each in got) >= need.size_bytes
            )
            one = any(all(choice.matches(each.offer.device) for each in got) for choice in need.choices)
            if not enough or not one:
                wrong.append(f"{name}: {need.name} is not met")
        for tie in shape.constraints:
            found = {
                each.offer.device.attributes.get(tie.attribute)
                for each in item.devices
                if each.need in tie.needs
            }
            if tie.required and len(found) != 1:
                wrong.append(f"{name}: {tie.attribute} is {found}")
    return wrong

"""Where waiting logical nodes go: the placement algorithm. Pure: values in, values out.

Requests are placed in the order in which they were created. For each one the hosts that suit it are tried, the
smallest first; on a host, every need is met from the devices that reach it, or the host is passed over: all or
nothing. Among devices that fit, the cheapest come first, then those from the interconnect domain with the
fewest free devices left, so that whole domains stay free for requests that need one. A domain that the request
requires is chosen as a whole: the fullest one that still holds all its accelerators.

A request that cannot be placed holds nothing and stops nobody; it is told the first need that could not be
met, and how much of it there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from weft.api.devices import DeviceSelector
from weft.api.meta import LabelSelector
from weft.binding.membership import PoolKey
from weft.fabric.driver import Device, DeviceKind


@dataclass(frozen=True)
class Offer:
    """A free device that a pool offers."""

    fabric: str
    pool: PoolKey
    device: Device
    cost_per_hour: Decimal = Decimal(0)
    jurisdiction: str = ""

    @property
    def quota_units(self) -> int:
        """What the device takes from its pool's quota: one accelerator, or its bytes."""
        return 1 if self.device.kind is DeviceKind.ACCELERATOR else self.device.capacity_bytes


@dataclass(frozen=True)
class HostOffer:
    """A host without a logical node, and the Node that runs on it."""

    fabric: str
    host: str
    node_name: str
    labels: Mapping[str, str]
    cpu: Decimal
    memory_bytes: int


@dataclass(frozen=True)
class Need:
    """One entry of a request: `count` accelerators, or devices that hold `size_bytes` together."""

    name: str
    kind: DeviceKind
    count: int = 0
    size_bytes: int = 0
    selector: DeviceSelector = field(default_factory=DeviceSelector)


@dataclass(frozen=True)
class Waiting:
    """A logical node that has no devices yet."""

    uid: str
    namespace: str
    name: str
    created: str
    needs: tuple[Need, ...]
    allowed_pools: frozenset[PoolKey]
    node_selector: LabelSelector = field(default_factory=LabelSelector)
    cpu: Decimal = Decimal(0)
    memory_bytes: int = 0
    domain: str = ""
    """Device attribute whose value the accelerators should share; empty: no wish."""
    domain_required: bool = False
    jurisdictions: frozenset[str] = frozenset()
    avoid_hosts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Chosen:
    """One device for one need."""

    need: str
    offer: Offer


@dataclass(frozen=True)
class Assignment:
    """A place for a request."""

    waiting: Waiting
    host: HostOffer
    devices: tuple[Chosen, ...]
    reason: str


@dataclass(frozen=True)
class Refusal:
    """Why a request has to wait, and for what."""

    waiting: Waiting
    reason: str
    message: str


@dataclass(frozen=True)
class Placement:
    """The result of one pass."""

    assignments: tuple[Assignment, ...]
    refusals: tuple[Refusal, ...]


def place(
    waiting: Iterable[Waiting],
    offers: Iterable[Offer],
    hosts: Iterable[HostOffer],
    quota_left: Mapping[tuple[str, PoolKey], int],
    most: int = 64,
) -> Placement:
    """Place up to `most` requests, oldest first.

    `quota_left` is what a namespace may still take from a pool (accelerators, or bytes); absent: no limit.
    """
    free = {(offer.fabric, offer.device.id): offer for offer in offers}
    hosts_left = {(host.fabric, host.host): host for host in sorted(hosts, key=_host_size)}
    quota = dict(quota_left)
    assignments: list[Assignment] = []
    refusals: list[Refusal] = []
    for request in sorted(waiting, key=lambda item: (item.created, item.namespace, item.name)):
        if len(assignments) >= most:
            break
        result = _place_one(request, free.values(), hosts_left.values(), quota)
        if isinstance(result, Refusal):
            refusals.append(result)
            continue
        assignments.append(result)
        del hosts_left[result.host.fabric, result.host.host]
        for chosen in result.devices:
            del free[chosen.offer.fabric, chosen.offer.device.id]
            limited = (request.namespace, chosen.offer.pool)
            if limited in quota:
                quota[limited] -= chosen.offer.quota_units
    return Placement(tuple(assignments), tuple(refusals))


def _host_size(host: HostOffer) -> tuple[object, ...]:
    return host.cpu, host.memory_bytes, host.fabric, natural(host.host)


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """A sort key that puts gpu-9 before gpu-10."""
    return tuple(
        (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)
    )


def _place_one(
    request: Waiting,
    offers: Iterable[Offer],
    hosts: Iterable[HostOffer],
    quota: Mapping[tuple[str, PoolKey], int],
) -> Assignment | Refusal:
    suited = [host for host in hosts if _suits(request, host)]
    if not suited:
        return Refusal(
            request,
            "NoHost",
            "no host is free that has the node labels, CPU and memory asked for and carries no logical node",
        )
    allowed = [
        offer
        for offer in offers
        if offer.pool in request.allowed_pools
        and (not request.jurisdictions or offer.jurisdiction in request.jurisdictions)
    ]
    # Hosts that the same devices reach are alike: if one fails for want of devices, so do the others.
    failures: dict[frozenset[int], Refusal] = {}
    for host in suited:
        reach = _Reach.of(host, allowed)
        if reach.signature in failures:
            continue
        chosen = _choose(request, reach.offers, quota)
        if isinstance(chosen, Refusal):
            failures[reach.signature] = chosen
            continue
        cost = sum((item.offer.cost_per_hour for item in chosen), Decimal(0))
        reason = f"smallest suitable host, {len(chosen)} devices at {cost} per hour"
        return Assignment(request, host, tuple(chosen), reason)
    return next(iter(failures.values()))


@dataclass(frozen=True)
class _Reach:
    """The offers that reach a host, and which sets of hosts made it so."""

    offers: list[Offer]
    signature: frozenset[int]

    @classmethod
    def of(cls, host: HostOffer, offers: Sequence[Offer]) -> _Reach:
        reached: list[Offer] = []
        zones: set[int] = set()
        known: dict[int, bool] = {}
        for offer in offers:
            if offer.fabric != host.fabric:
                continue
            hosts = offer.device.reachable_hosts
            # Devices of one zone share one set; compare it once.
            zone = id(hosts)
            if zone not in known:
                known[zone] = hosts is None or host.host in hosts
            if known[zone]:
                zones.add(hash(hosts))
                reached.append(offer)
        return cls(reached, frozenset(zones))


def _suits(request: Waiting, host: HostOffer) -> bool:
    return (
        host.host not in request.avoid_hosts
        and request.node_selector.matches(host.labels)
        and host.cpu >= request.cpu
        and host.memory_bytes >= request.memory_bytes
    )


def _choose(
    request: Waiting, offers: Sequence[Offer], quota: Mapping[tuple[str, PoolKey], int]
) -> list[Chosen] | Refusal:
    """Devices for all needs, or the first need that cannot be met."""
    quota_left = {pool: left for (namespace, pool), left in quota.items() if namespace == request.namespace}
    accelerators = [need for need in request.needs if need.kind is DeviceKind.ACCELERATOR]
    others = [need for need in request.needs if need.kind is not DeviceKind.ACCELERATOR]
    crowding = _crowding(offers)

    def order(offer: Offer) -> tuple[object, ...]:
        domains = _domains(offer.device)
        return offer.cost_per_hour, crowding[domains], domains, natural(offer.device.id)

    ordered = sorted(offers, key=order)
    chosen: list[Chosen] = []
    if accelerators:
        result = _choose_accelerators(request, accelerators, ordered, quota_left)
        if isinstance(result, Refusal):
            return result
        chosen = result
    for item in chosen:
        _spend(quota_left, item.offer)
    rest = _meet(request, others, ordered, quota_left)
    return rest if isinstance(rest, Refusal) else [*chosen, *rest]


def _choose_accelerators(
    request: Waiting, needs: Sequence[Need], ordered: Sequence[Offer], quota_left: Mapping[PoolKey, int]
) -> list[Chosen] | Refusal:
    """Accelerators from one domain where the request asks for that, the fullest domain that suffices first."""
    if not request.domain:
        return _meet(request, needs, ordered, dict(quota_left))
    domains: dict[str, list[Offer]] = {}
    for offer in ordered:
        if value := offer.device.attributes.get(request.domain):
            domains.setdefault(value, []).append(offer)
    for value in sorted(domains, key=lambda value: (len(domains[value]), value)):
        result = _meet(request, needs, domains[value], dict(quota_left))
        if not isinstance(result, Refusal):
            return result
    if not request.domain_required:
        return _meet(request, needs, ordered, dict(quota_left))
    largest = max((len(offers) for offers in domains.values()), default=0)
    message = (
        f"placement.domain requires one {request.domain} for all accelerators, "
        f"and the largest has {largest} free devices that suit"
    )
    return Refusal(request, "NoDomain", message)


def _domains(device: Device) -> tuple[str, ...]:
    return tuple(value for name, value in sorted(device.attributes.items()) if name.endswith("Domain"))


def _crowding(offers: Iterable[Offer]) -> dict[tuple[str, ...], int]:
    """The number of free devices by domain: taking from the smallest keeps the others whole."""
    count: dict[tuple[str, ...], int] = {}
    for offer in offers:
        key = _domains(offer.device)
        count[key] = count.get(key, 0) + 1
    return count


def _meet(
    request: Waiting, needs: Sequence[Need], candidates: Sequence[Offer], quota_left: dict[PoolKey, int]
) -> list[Chosen] | Refusal:
    taken: set[str] = set()
    chosen: list[Chosen] = []
    for need in needs:
        fitting = [
            offer for offer in candidates if offer.device.id not in taken and _fits(need, offer.device)
        ]
        picked = (
            _first(need.count, fitting, quota_left)
            if need.count
            else _cover(need.size_bytes, fitting, quota_left)
        )
        if picked is None:
            return _shortage(request, need, fitting)
        for offer in picked:
            taken.add(offer.device.id)
            _spend(quota_left, offer)
            chosen.append(Chosen(need.name, offer))
    return chosen


def _fits(need: Need, device: Device) -> bool:
    return device.kind is need.kind and need.selector.matches(device.attributes, device.capacity_bytes)


def _first(count: int, offers: Sequence[Offer], quota_left: Mapping[PoolKey, int]) -> list[Offer] | None:
    """The first `count` offers that the quota allows, or None."""
    budget = dict(quota_left)
    picked: list[Offer] = []
    for offer in offers:
        if len(picked) < count and _affordable(budget, offer):
            _spend(budget, offer)
            picked.append(offer)
    return picked if len(picked) == count else None


def _cover(size_bytes: int, offers: Sequence[Offer], quota_left: Mapping[PoolKey, int]) -> list[Offer] | None:
    """Devices that hold `size_bytes` together: the largest ones until the smallest that covers the rest."""
    by_size = sorted(offers, key=lambda offer: offer.device.capacity_bytes)
    budget = dict(quota_left)
    picked: list[Offer] = []
    missing = size_bytes
    while missing > 0:
        by_size = [offer for offer in by_size if _affordable(budget, offer)]
        if not by_size:
            return None
        enough = (offer for offer in by_size if offer.device.capacity_bytes >= missing)
        largest = by_size[-1].device.capacity_bytes
        offer = next(enough, None) or next(one for one in by_size if one.device.capacity_bytes == largest)
        by_size.remove(offer)
        picked.append(offer)
        missing -= offer.device.capacity_bytes
        _spend(budget, offer)
    return picked


def _affordable(quota_left: Mapping[PoolKey, int], offer: Offer) -> bool:
    return quota_left.get(offer.pool, offer.quota_units) >= offer.quota_units


def _spend(quota_left: dict[PoolKey, int], offer: Offer) -> None:
    if offer.pool in quota_left:
        quota_left[offer.pool] -= offer.quota_units


def _shortage(request: Waiting, need: Need, fitting: Sequence[Offer]) -> Refusal:
    """The need that could not be met: for want of devices, or, where there are enough, because of the quota."""
    wish = "".join(f", {name}={value}" for name, value in sorted(need.selector.match_attributes.items()))
    free_bytes = sum(offer.device.capacity_bytes for offer in fitting)
    if need.count:
        asked, there = f"{need.count} accelerators", f"{len(fitting)} are free"
        enough = len(fitting) >= need.count
    else:
        asked, there = f"{need.size_bytes / 2**30:g} GiB", f"{free_bytes / 2**30:g} GiB are free"
        enough = free_bytes >= need.size_bytes
    if enough:
        message = f"{need.name}: {asked}{wish} asked for, {there}, but a DeviceQuota of the namespace does not allow it"
        return Refusal(request, "QuotaExceeded", message)
    return Refusal(
        request,
        "NotEnoughDevices",
        f"{need.name}: {asked}{wish} asked for, {there} in pools open to this namespace",
    )

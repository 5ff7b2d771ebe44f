"""What there is to place on: devices, hosts, quotas, and who holds what. Plain values."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property, lru_cache

from weft.api.maintenance import Drain
from weft.api.node_shape import HostToleration
from weft.binding.asked import same
from weft.binding.closed import Closed
from weft.binding.membership import POOL_KIND, PoolKey
from weft.fabric.driver import Device, DeviceKind


@dataclass(frozen=True)
class Offer:
    """A device of a pool."""

    fabric: str
    pool: PoolKey
    device: Device
    cost_per_hour: Decimal = Decimal(0)
    jurisdiction: str = ""
    free: bool = True
    """Whether it can be had now. What cannot tells apart a quota that is used up from a lack of devices."""
    held: bool = False
    """Whether a logical node has it, so that its release makes it free. Neither free nor held: out of service."""
    added_watts: int = 0
    """What it draws attached more than idle; 0 where the pool does not say."""

    @property
    def quota_units(self) -> int:
        """What the device takes of a DeviceQuota: one accelerator, or its bytes."""
        return 1 if self.device.kind is DeviceKind.ACCELERATOR else self.device.capacity_bytes

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Its interconnect domains."""
        return domains(self.device)

    @cached_property
    def alike(self) -> object:
        """The same object for devices that no request can tell apart, free or not."""
        device = self.device
        return same(
            "offer",
            self.fabric,
            self.pool,
            self.cost_per_hour,
            self.added_watts,
            self.jurisdiction,
            device.kind,
            frozenset(device.attributes.items()),
            device.capacity_bytes,
            device.reachable_hosts,
        )


@dataclass(frozen=True, order=True)
class Taint:
    """A taint of a Node."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}:{self.effect}"


@dataclass(frozen=True)
class HostOffer:
    """A Node without a logical node, and the host that it runs on, of one fabric or of several."""

    fabric: str
    host: str
    node_name: str
    labels: Mapping[str, str]
    cpu: Decimal
    memory_bytes: int
    closed: str = ""
    """Why nothing may be placed there now (cordoned); empty: it is a place for who tolerates its taints."""
    taints: tuple[Taint, ...] = ()
    """Those that keep pods away, but for Weft's own."""
    also: tuple[tuple[str, str], ...] = ()
    """The same machine at other fabrics: (fabric, host), at most one of each fabric."""
    carries: bool = False
    """Whether it carries a logical node, which alone may have more there."""

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """All that the machine is called: (fabric, host)."""
        return ((self.fabric, self.host), *self.also)

    def why_closed(self, tolerations: Iterable[HostToleration]) -> str:
        """Why nothing may be placed there by who has these tolerations; empty: it may."""
        tolerations = tuple(tolerations)
        left = [
            str(taint)
            for taint in self.taints
            if not any(each.matches(taint.key, taint.value, taint.effect) for each in tolerations)
        ]
        return self.closed or (f"tainted {', '.join(left)}" if left else "")

    @cached_property
    def size(self) -> tuple[object, ...]:
        """Sorts the smallest host first."""
        return self.cpu, self.memory_bytes, self.fabric, natural(self.host)


@dataclass(frozen=True)
class Holder:
    """A bound logical node whose pools let it be preempted, or one that is on its way out."""

    uid: str
    namespace: str
    name: str
    priority: int
    since: str
    """When it was bound."""
    node_name: str
    devices: frozenset[tuple[str, str]]
    """Fabric and device."""
    units: Mapping[PoolKey, int] = field(default_factory=dict)
    """What they take of quotas."""
    drain: Drain | None = None
    """How it is to be freed when it is preempted; None: its pools do not allow that."""
    by_any: bool = False
    """Whether logical nodes of other namespaces may preempt it, too."""
    is_leaving: bool = False
    """Whether its devices are being released whatever is decided."""
    is_told: bool = False
    """Whether it was asked to go for a greater priority."""

    def may_go_for(self, namespace: str) -> bool:
        """Whether it may be preempted for one of this namespace."""
        return self.drain is not None and (self.by_any or namespace == self.namespace)


@dataclass(frozen=True)
class Stock:
    """All that there is to place on."""

    offers: tuple[Offer, ...] = ()
    hosts: tuple[HostOffer, ...] = ()
    quota_left: Mapping[tuple[str, PoolKey], int] = field(default_factory=dict)
    """What a namespace may still take of a pool (accelerators, or bytes); absent: no limit."""
    hosts_left: Mapping[str, int] = field(default_factory=dict)
    """Hosts that a namespace may still take; absent: no limit."""
    observed_only: tuple[str, ...] = ()
    """Fabrics on which Weft may not bind, because their mode is Observe."""
    closed: Mapping[str, Closed] = field(default_factory=dict)
    """Of the fabrics of `observed_only` those that are managed and give nothing now, and why."""
    busy_hosts: tuple[HostOffer, ...] = ()
    """Hosts that carry a logical node and are places again when it is released."""
    used: Mapping[tuple[str, DeviceKind], int] = field(default_factory=dict)
    """What a namespace holds (accelerators, or bytes)."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """Of namespaces whose share is not that of the others; absent: 1."""
    unread: tuple[str, ...] = ()
    """Fabrics that have pools and of whose devices nothing is known."""
    next_release: Mapping[tuple[str, PoolKey], str] = field(default_factory=dict)
    """The logical node of a namespace that is known to release devices of a pool first."""
    hosts_if_managed: tuple[HostOffer, ...] = ()
    """What `hosts` were if all fabrics were managed; empty where they are."""
    holders: tuple[Holder, ...] = ()
    """Who may have to give way; none where no pool allows preemption."""

    def with_free(self, devices: Container[tuple[str, str]]) -> Stock:
        """The same once these (fabric, device) that logical nodes have are released; hosts and quotas as they are."""
        offers = (
            replace(each, free=True, held=False)
            if each.held and (each.fabric, each.device.id) in devices
            else each
            for each in self.offers
        )
        return replace(self, offers=tuple(offers))


@lru_cache(maxsize=100_000)
def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """A sort key that puts gpu-9 before gpu-10."""
    return tuple(
        (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)
    )


def domains(device: Device) -> tuple[str, ...]:
    """The interconnect domains of a device."""
    return tuple(value for name, value in sorted(device.attributes.items()) if name.endswith("Domain"))


def pool_words(pools: Iterable[PoolKey]) -> str:
    """Pools by kind and name, for people."""
    return ", ".join(sorted(f"{POOL_KIND[kind].value} {name}" for kind, name in pools))

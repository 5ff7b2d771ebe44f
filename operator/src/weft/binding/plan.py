"""What placement decides on and what it answers: plain values, that can be handed to another thread and hashed."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property, lru_cache

from weft.api.logical_node import HostToleration, Objective
from weft.api.maintenance import Drain
from weft.api.meta import LabelOperator, LabelRequirement, LabelSelector
from weft.binding.membership import POOL_KIND, PoolKey
from weft.fabric.driver import Device, DeviceKind


@dataclass(frozen=True)
class Selector:
    """What attributes or labels must be; can be compared and hashed, so that what it selects is found once."""

    equal: tuple[tuple[str, str], ...] = ()
    requirements: tuple[LabelRequirement, ...] = ()

    @classmethod
    def of_labels(cls, selector: LabelSelector) -> Selector:
        return cls(tuple(sorted(selector.match_labels.items())), selector.match_expressions)

    def matches(self, attributes: Mapping[str, str]) -> bool:
        """Whether these attributes or labels are selected."""
        return all(attributes.get(name) == value for name, value in self.equal) and all(
            requirement.matches(attributes) for requirement in self.requirements
        )

    def words(self) -> list[str]:
        """What it asks for, for people."""
        return [
            *(f"{name}={value}" for name, value in self.equal),
            *(_requirement_words(requirement) for requirement in self.requirements),
        ]


def _requirement_words(requirement: LabelRequirement) -> str:
    values = f"({', '.join(requirement.values)})"
    return {
        LabelOperator.IN: f"{requirement.key} in {values}",
        LabelOperator.NOT_IN: f"{requirement.key} not in {values}",
        LabelOperator.EXISTS: f"any {requirement.key}",
        LabelOperator.DOES_NOT_EXIST: f"no {requirement.key}",
    }[requirement.operator]


@dataclass(frozen=True)
class Choice:
    """Devices that one need may be met from: all of its devices come from one choice."""

    selector: Selector = field(default_factory=Selector)
    least_bytes: int = 0
    """Capacity that each device must have at least."""
    name: str = ""
    """Of an entry of firstAvailable; empty where the need has no alternatives."""

    def matches(self, device: Device) -> bool:
        """Whether the device will do."""
        return device.capacity_bytes >= self.least_bytes and self.selector.matches(device.attributes)

    def words(self) -> str:
        """What it asks for, for people; empty: anything."""
        least = [f"{self.least_bytes / 2**30:g} GiB each"] if self.least_bytes else []
        return ", ".join([*self.selector.words(), *least])


@dataclass(frozen=True)
class Need:
    """One entry of a request: `count` accelerators, or devices that hold `size_bytes` together."""

    name: str
    kind: DeviceKind
    count: int = 0
    size_bytes: int = 0
    choices: tuple[Choice, ...] = (Choice(),)
    """In the order of preference."""

    def words(self) -> str:
        """What is asked for, for people."""
        asked = f"{self.count} accelerators" if self.count else f"{self.size_bytes / 2**30:g} GiB"
        wishes = [words for choice in self.choices if (words := choice.words())]
        return f"{self.name}: {asked}{' with ' if wishes else ''}{', else '.join(wishes)} asked for"


@dataclass(frozen=True)
class Constraint:
    """That all devices of some needs have one value of an attribute."""

    attribute: str
    needs: frozenset[str]
    required: bool = True


@dataclass(frozen=True)
class Shape:
    """What is asked for and from which pools: requests of one shape get one answer."""

    needs: tuple[Need, ...]
    allowed_pools: frozenset[PoolKey]
    node_selector: Selector = field(default_factory=Selector)
    cpu: Decimal = Decimal(0)
    memory_bytes: int = 0
    constraints: tuple[Constraint, ...] = ()
    jurisdictions: frozenset[str] = frozenset()
    """Empty: any."""
    avoid_hosts: frozenset[str] = frozenset()
    tolerations: tuple[HostToleration, ...] = ()
    """Taints that the host's Node may have."""
    node_name: str = ""
    """The one Node that it can be, which carries the logical node already; empty: one that carries nothing."""
    objective: Objective | None = None

    def __hash__(self) -> int:
        # Looked up in every pass for everybody who waits; it is the same each time.
        try:
            return self.__dict__["_hash"]  # type: ignore[no-any-return]
        except KeyError:
            key = (self.needs, self.allowed_pools, self.node_selector, self.cpu, self.constraints)
            known = hash((*key, self.node_name))
            self.__dict__["_hash"] = known
            return known

    @cached_property
    def asked(self) -> object:
        """The same object for shapes that ask for the same devices, of whatever host."""
        return _same(
            "shape", self.needs, self.allowed_pools, self.constraints, self.jurisdictions, self.objective
        )


@dataclass(frozen=True)
class Waiting:
    """A logical node that has no devices yet, or not all that it asks for now."""

    uid: str
    namespace: str
    name: str
    created: str
    shape: Shape
    adopt: frozenset[tuple[str, str]] = frozenset()
    """Fabric and device of what it takes over as it is; empty: what it gets is free."""
    priority: int = 0
    """Of its PriorityClass: the greater goes first in its namespace."""
    not_accepted: tuple[str, str] | None = None
    """Reason and message why it has no turn, whatever is free; None: it has one."""
    was_head: bool = False
    """Whether its status says that it was the head of the queue: a new leader goes on where the last one was."""
    generation: int = 0
    """Of the object, so that an outcome for another spec is known."""
    extends: str = ""
    """Operation that the node was bound with first, where the shape is what it lacks of devices; empty: it has none."""
    may_preempt: bool = True
    """Whether its PriorityClass lets it take from lower ones where pools allow that."""
    whole: Shape | None = None
    """Where it lacks some: all that it asks for, with what its own devices have to have. None: the shape is all."""

    @property
    def possible(self) -> Shape:
        """What there has to be, in use or not, for the request to be met some day."""
        return self.whole or self.shape


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
    def alike(self) -> object:
        """The same object for devices that no request can tell apart, free or not."""
        device = self.device
        return _same(
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


@lru_cache(maxsize=50_000)
def _same(*facts: Hashable) -> object:
    """One object for equal facts, so that they are compared once and not in every pass."""
    return object()


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


@dataclass(frozen=True)
class Chosen:
    """One device for one need."""

    need: str
    offer: Offer
    alternative: str = ""
    """The entry of firstAvailable that it meets; empty where there are no alternatives."""


@dataclass(frozen=True)
class Assignment:
    """A place for a request."""

    waiting: Waiting
    host: HostOffer
    devices: tuple[Chosen, ...]

    @property
    def fabrics(self) -> frozenset[str]:
        """The fabrics that attach its devices."""
        return frozenset(chosen.offer.fabric for chosen in self.devices)


@dataclass(frozen=True)
class Refusal:
    """Why a request has to wait, and for what."""

    waiting: Waiting
    reason: str
    message: str
    accepted: bool = True
    """Whether it can be met one day, as pools, grants and devices are."""
    place: str = ""
    """Its place in the queue, the coarser the farther; empty: a release of others would not help it."""
    plan: Assignment | None = None
    """What it would get if the fabrics in Observe mode were managed."""


@dataclass(frozen=True)
class Effort:
    """What a pass cost, in things that can be counted."""

    sorts: int = 0
    """Sorts of all devices."""
    matchings: int = 0
    """Selectors that were held against all devices."""
    searches: int = 0
    """Shapes for which a place was looked for."""
    choices: int = 0
    """Times that devices were looked for, for one set of needs on one kind of host."""
    moves: int = 0
    """Times that a place was looked for with somebody moved out of the way."""


@dataclass(frozen=True)
class Why:
    """Why requests of one key have to wait."""

    reason: str
    message: str
    accepted: bool = True
    in_queue: bool = False
    """Whether a release of others would help."""


RefusalKey = tuple[Shape, str, Hashable]
"""A shape, the namespace where a DeviceQuota makes a difference, and what was kept for the head of the queue (None:
the answer is the same if nothing is)."""


@dataclass(frozen=True)
class Remembered:
    """What was refused, and on what stock: on less it is refused again, for the same reason."""

    stock: Stock = Stock()
    """As the pass found it; less what it gave to others, which may come back, and is more than was refused on."""
    taken: frozenset[tuple[str, str]] = frozenset()
    """Devices that the pass gave away, by fabric and name."""
    taken_nodes: frozenset[str] = frozenset()
    """Nodes that it gave away."""
    refused: Mapping[RefusalKey, Why] = field(default_factory=dict)
    hopeless: frozenset[RefusalKey] = frozenset()
    """Those of them that could not be met though every device were free: binds and releases change nothing for them."""
    passed_over: frozenset[str] = frozenset()
    """Uids of requests that lost a place to others that ask for more: they do not lose another."""
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    """By the uid of the request: who is refused again for the same reason has the same object."""
    possible: frozenset[Shape] = frozenset()
    """Shapes that could be met if every device were free."""
    head: str = ""
    """Uid of the head of the queue: what it needs is kept for it."""

    def for_stock(self, stock: Stock) -> Remembered:
        """What need not be looked for again on a later stock."""
        if not self.refused:
            return replace(self, hopeless=frozenset(), possible=frozenset())
        other = _other_offers(self.stock.offers, stock.offers)
        # A device that came is none for whom it could have been hopeless to wait, free or not.
        has_all = self._has_all(stock, other)
        hopeless = self.hopeless if has_all else frozenset()
        is_whole = has_all and len(stock.offers) == len(self.stock.offers)
        possible = self.possible if is_whole else frozenset()
        if self._holds_for(stock, other):
            return replace(self, hopeless=hopeless, possible=possible)
        refused = {key: self.refused[key] for key in hopeless}
        return replace(self, refused=refused, hopeless=hopeless, possible=possible)

    def _has_all(self, stock: Stock, other: Iterable[tuple[Offer | None, Offer]]) -> bool:
        """Whether a later stock has no device that this one had not, free or not."""
        for before, offer in other:
            if before is None or before.device != offer.device or before.pool != offer.pool:
                return False
            if before.jurisdiction != offer.jurisdiction:
                return False
        # What is said of a quota that is used up or was lifted may differ.
        return _limited(stock) == _limited(self.stock) and stock.unread == self.stock.unread

    def _has_hosts(self, stock: Stock) -> bool:
        """Whether a later stock has the same hosts, free or busy: with others another text would be true."""
        if stock.busy_hosts == self.stock.busy_hosts:
            return True
        now, before = (
            {host.node_name: host for host in (*each.busy_hosts, *each.hosts)} for each in (stock, self.stock)
        )
        return now == before

    def _holds_for(self, stock: Stock, other: Iterable[tuple[Offer | None, Offer]]) -> bool:
        """Whether a later stock has nothing that this one had not."""
        hosts = {(host.fabric, host.host): host for host in self.stock.hosts}
        return (
            stock.observed_only == self.stock.observed_only
            and stock.unread == self.stock.unread
            and self._has_hosts(stock)
            and _limited(stock) == _limited(self.stock)
            and all(left <= self.stock.quota_left[key] for key, left in stock.quota_left.items())
            and all(left <= self.stock.hosts_left[key] for key, left in stock.hosts_left.items())
            and all(
                ((before := hosts.get((host.fabric, host.host))) is host or before == host)
                and host.node_name not in self.taken_nodes
                for host in stock.hosts
            )
            and not any(offer.free and offer != before for before, offer in other)
            and not (
                self.taken
                and any(
                    offer.free and (offer.fabric, offer.device.id) in self.taken for offer in stock.offers
                )
            )
        )


def _limited(stock: Stock) -> object:
    """Of what there is a limit for whom."""
    return stock.quota_left.keys(), stock.hosts_left.keys()


def _other_offers(before: tuple[Offer, ...], after: tuple[Offer, ...]) -> list[tuple[Offer | None, Offer]]:
    """The later offers that are not among the earlier ones as they were, each with what it was."""
    if len(before) == len(after):
        pairs = [(old, new) for old, new in zip(before, after, strict=True) if old is not new]
        if all(
            old.device.id == new.device.id and old.fabric == new.fabric and old.pool == new.pool
            for old, new in pairs
        ):
            return list(pairs)
    known = {(offer.fabric, offer.device.id): offer for offer in before}
    pairs_ = ((known.get((offer.fabric, offer.device.id)), offer) for offer in after)
    return [(old, new) for old, new in pairs_ if old is not new]


@dataclass(frozen=True)
class Unused:
    """Free devices of a pool that nobody who waits can use, and those kept for the head of the queue."""

    kept: int = 0
    stranded: tuple[tuple[str, int], ...] = ()
    """Devices by the reason why nobody who waits can use them."""


@dataclass(frozen=True)
class Placement:
    """The result of one pass."""

    assignments: tuple[Assignment, ...]
    refusals: tuple[Refusal, ...]
    effort: Effort = Effort()
    remembered: Remembered = Remembered()
    """For the next pass."""
    unused: Mapping[PoolKey, Unused] = field(default_factory=dict)
    """Empty while nobody waits."""
    victims: tuple[Holder, ...] = ()
    """Who has to give way to the head of the queue."""


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

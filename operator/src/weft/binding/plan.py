"""What placement answers, and what it remembers for its next pass: plain values."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from weft.binding.asked import Shape, Waiting
from weft.binding.groups import GroupKey
from weft.binding.membership import PoolKey
from weft.binding.stock import Holder, HostOffer, Offer, Stock


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


@dataclass(frozen=True)
class Told:
    """What those that wait were told by a pass, and what that stands on."""

    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    """By the uid of the request: who is refused again for the same reason has the same object."""
    whys: Mapping[GroupKey, Why] = field(default_factory=dict)
    """By group."""
    queue: object = None
    """Equal: all have the same places in the queue."""
    firsts: tuple[tuple[Waiting, str], ...] = ()
    """The first of each namespace in the queue, with what it was told of who releases next."""


RefusalKey = tuple[Shape, str, Hashable]
"""A shape, the namespace where a DeviceQuota makes a difference, and what was kept for the head of the queue (None:
the answer is the same if nothing is)."""


@dataclass(frozen=True)
class Remembered:
    """What was refused, and on what stock: on less it is refused again, for the same reason."""

    stock: Stock = field(default_factory=Stock)
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
    told: Told = field(default_factory=Told)
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
            # A device that came, and that somebody has, makes some worth the wait.
            still = {key: why for key, why in self.refused.items() if has_all or key not in self.hopeless}
            return replace(self, refused=still, hopeless=hopeless, possible=possible)
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
            and stock.closed == self.stock.closed
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

"""The placement algorithm: one pass over all that waits. Pure.

Requests are placed in the order in which they were created. For each one the hosts that suit it are tried, the
smallest first; on a host, every need is met from the devices that reach it, or the host is passed over: all or
nothing. Among devices that fit, the cheapest come first, then those from the interconnect domain with the
fewest free devices, so that whole domains stay free for requests that need one. Who finds no place this way gets one if
those that the pass placed before can be moved out of the way and all keep a place (`repack.py`).

All devices are sorted once and each selector is held against them once, however many requests there are. Within a pass
free devices only become fewer, so requests of a shape that was refused are refused without another look. What a
refused request is told has no number that moves by itself: while the reason stays the same, so does the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from weft.binding.choose import Budget, Unmet, asked
from weft.binding.membership import PoolKey
from weft.binding.places import suits
from weft.binding.plan import (
    Assignment,
    Chosen,
    Effort,
    Need,
    Offer,
    Placement,
    Refusal,
    Remembered,
    Shape,
    Stock,
    Waiting,
    pool_words,
)
from weft.binding.repack import Repack
from weft.binding.room import Held, Room

DEVICE_REASONS = ("NotEnoughDevices", "ConstraintUnmet")
MOVABLE_REASONS = (*DEVICE_REASONS, "NoHost")
"""Refusals that may end when others are moved."""


MOST_ROUNDS = 3
"""How often it is tried to exchange those that were placed for those that were not."""


def place(waiting: Iterable[Waiting], stock: Stock, remembered: Remembered | None = None) -> Placement:
    """Place requests, oldest first. `remembered` is what the pass before left."""
    pass_ = _Pass(stock, remembered or Remembered())
    in_order = sorted(waiting, key=lambda item: (item.created, item.namespace, item.name))
    ordered = [(request, pass_.key(request)) for request in in_order]
    for request, key in ordered:
        pass_.place(request, key)
    for _ in range(MOST_ROUNDS):
        if not pass_.exchange(ordered):
            break
    return pass_.placement(ordered)


Key = tuple[Shape, str]
"""A shape, and the namespace where a DeviceQuota makes a difference."""
Ordered = Sequence[tuple[Waiting, Key]]
"""Requests in their turn."""


class _Pass:
    """The state of one pass."""

    def __init__(self, stock: Stock, remembered: Remembered) -> None:
        self._stock = stock
        self._room = Room(stock)
        remembered = remembered.for_stock(stock)
        self._refused = dict(remembered.refused)
        self._refusals = remembered.refusals
        self._remembered_keys = frozenset(self._refused)
        self._hopeless = set(remembered.hopeless)
        self._said: dict[object, tuple[str, str]] = {}
        self._searches = 0
        self._repack = Repack(self._room)
        self._moved = False
        """Whether somebody was moved since the last look at who was refused."""
        self._passed_over = set(remembered.passed_over)
        """Uids of those that lost a place to others that ask for more."""

    # --- what the pass comes to ---

    def placement(self, ordered: Ordered) -> Placement:
        """The devices themselves are handed out last: the oldest request gets the first ones of each bin."""
        handed: dict[int, Iterator[Offer]] = {
            each.number: iter(each.free_offers) for each in self._room.devices.bins
        }
        assignments: list[Assignment] = []
        refusals: list[Refusal] = []
        keys: set[Key] = set()
        for request, key in ordered:
            if (held := self._room.held.get(request.uid)) is None:
                keys.add(key)
                why, before = self._refused[key], self._refusals.get(request.uid)
                if before is None or before.waiting is not request or (before.reason, before.message) != why:
                    before = Refusal(request, *why)
                refusals.append(before)
                continue
            devices = tuple(
                Chosen(part.need, next(handed[part.bin.number]), part.alternative)
                for part in held.parts
                for _ in range(part.count)
            )
            assignments.append(Assignment(request, self._room.hosts.offers[held.place], devices))
        effort = Effort(
            1, self._room.devices.matchings, self._searches, self._room.devices.choices, self._repack.moves
        )
        return Placement(
            tuple(assignments), tuple(refusals), effort, self._remembered(assignments, refusals, keys)
        )

    def _remembered(
        self, assignments: Iterable[Assignment], refusals: Iterable[Refusal], keys: set[Key]
    ) -> Remembered:
        """What was refused, by shape; shapes for which nobody waits any more are forgotten."""
        refused = {key: why for key, why in self._refused.items() if key in keys}
        left = {
            (namespace, pool): units
            for namespace, budget in self._room.quota.items()
            for pool, units in budget.items()
        }
        by_uid = {refusal.waiting.uid: refusal for refusal in refusals}
        taken = ((each.offer.fabric, each.offer.device.id) for item in assignments for each in item.devices)
        return Remembered(
            replace(self._stock, quota_left=left, hosts_left=dict(self._room.hosts_left)),
            frozenset(taken),
            frozenset(item.host.node_name for item in assignments),
            refused,
            frozenset(self._hopeless & keys),
            frozenset(self._passed_over & by_uid.keys()),
            by_uid,
        )

    def key(self, request: Waiting) -> Key:
        """Requests with one key have one answer."""
        # Without a limit of its own a namespace has the answer of all others that ask for the same.
        return request.shape, request.namespace if self._room.is_limited(request.namespace) else ""

    # --- one request ---

    def place(self, request: Waiting, key: Key) -> None:
        """Find a place, or the reason why there is none."""
        if key in self._refused:
            return
        found = self._search(request)
        if isinstance(found, Held):
            self._room.take(found)
            return
        if found[0] in MOVABLE_REASONS:
            if found[0] in DEVICE_REASONS and not self._room.devices.could_be_met(request.shape):
                self._hopeless.add(key)
            elif self._repack.make_room(request):
                self._room.devices.look_again()
                self._moved = True
                return
        self._refused[key] = found

    def exchange(self, ordered: Ordered) -> bool:
        """Give places to refused requests that ask for more accelerators than those that lose theirs; whether somebody
        was moved since the last time.

        Only a tenant's own lose theirs, and who has lost one does not lose another: nobody waits for ever because
        others fit better.
        """
        if self._refused.keys() == self._remembered_keys and not self._moved:
            return False
        may_lose: dict[str, set[str]] = {}
        for each, _ in ordered:
            if each.uid not in self._passed_over:
                may_lose.setdefault(each.namespace, set()).add(each.uid)
        before = frozenset(self._room.held)
        # What was refused on all that this pass began with, is refused whoever is moved.
        useless = self._remembered_keys | self._hopeless
        tried: set[Key] = set()
        for request, key in [each for each in ordered if each[0].uid not in self._room.held]:
            asked = request.shape, request.namespace
            if key in useless or asked in tried or self._refused[key][0] not in MOVABLE_REASONS:
                continue
            if self._repack.make_room(request, may_lose.get(request.namespace)):
                self._moved = True
            else:
                tried.add(asked)
        self._passed_over |= before - self._room.held.keys()
        moved, self._moved = self._moved, False
        if moved:
            self._look_again(ordered)
        return moved

    def _look_again(self, ordered: Ordered) -> None:
        """What was refused on the way may fit now that others were moved, and who lost a place is told why."""
        self._room.devices.look_again()
        left = [each for each in ordered if each[0].uid not in self._room.held]
        for _, key in left:
            if key not in self._remembered_keys and key not in self._hopeless:
                self._refused.pop(key, None)
        for request, key in left:
            if key not in self._refused:
                found = self._search(request)
                if isinstance(found, Held):
                    self._room.take(found)
                else:
                    self._refused[key] = found

    def _search(self, request: Waiting) -> Held | tuple[str, str]:
        self._searches += 1
        shape = request.shape
        budget = self._room.budget(request.namespace)
        # What another's bind does not change is said first, so that it stays said.
        if self._room.hosts_left.get(request.namespace, 1) <= 0:
            return "QuotaExceeded", "a DeviceQuota of the namespace does not allow another host"
        for need in shape.needs:
            if pools := self._used_up(shape, need, budget):
                text = f"a DeviceQuota of the namespace does not allow so much of {pool_words(pools)}"
                return "QuotaExceeded", f"{need.words()}; {text}"
        for need in shape.needs:
            if not self._room.devices.has_enough(shape, need):
                return (
                    "NotEnoughDevices",
                    f"{need.words()}; not enough are free in pools open to this namespace",
                )
        found, failures = self._room.first_place(request)
        if found is not None:
            return found
        if not failures:
            return "NoHost", self._no_host(shape)
        return self._words(shape, budget, *next(iter(failures.items())))

    def _words(self, shape: Shape, budget: Budget, reach: frozenset[int], unmet: Unmet) -> tuple[str, str]:
        """Why the first suitable host could not be used: by leaving out, one by one, what may have been in the way."""
        key = asked(shape, reach, budget)
        if key not in self._said:
            self._said[key] = self._find_words(shape, budget, reach, unmet)
        return self._said[key]

    def _find_words(
        self, shape: Shape, budget: Budget, reach: frozenset[int], unmet: Unmet
    ) -> tuple[str, str]:
        if budget and not isinstance(self._room.devices.choose(shape, reach, {}), Unmet):
            limited = pool_words(pool for pool in budget if pool in shape.allowed_pools)
            return (
                "QuotaExceeded",
                f"a DeviceQuota of the namespace does not allow so much of {limited} together",
            )
        required = [constraint for constraint in shape.constraints if constraint.required]
        if required:
            relaxed = Shape(shape.needs, shape.allowed_pools, jurisdictions=shape.jurisdictions)
            if not isinstance(self._room.devices.choose(relaxed, reach, budget), Unmet):
                asked = " and ".join(
                    f"one {each.attribute} for {', '.join(sorted(each.needs))}" for each in required
                )
                return (
                    "ConstraintUnmet",
                    f"placement.constraints require {asked}, and none has enough free devices",
                )
        text = "not enough are free together, at one host, in pools open to this namespace"
        return unmet.reason, f"{unmet.need.words()}; {text}"

    def _used_up(self, shape: Shape, need: Need, budget: Budget) -> set[PoolKey]:
        """The limited pools, where none of the choices can be met for want of quota, however much is free."""
        if not budget:
            return set()
        limited: set[PoolKey] = set()
        for choice in need.choices:
            pools = self._room.devices.pools_of(need.kind, choice) & shape.allowed_pools
            if not pools or any(pool not in budget for pool in pools):
                return set()
            if sum(max(0, budget[pool]) for pool in pools) >= (need.count or need.size_bytes):
                return set()
            limited |= pools
        return limited

    def _no_host(self, shape: Shape) -> str:
        text = (
            "no host is free that has the node labels, CPU and memory asked for and carries no logical node"
        )
        closed = {
            host.node_name: why
            for host in self._room.hosts.free()
            if suits(shape, host) and (why := host.why_closed(shape.tolerations))
        }
        if closed:
            named = [f"{name} ({why})" for name, why in sorted(closed.items())]
            text += f"; Nodes that would do are closed: {', '.join(named[:3])}"
        if self._stock.observed_only:
            fabrics = ", ".join(f"Fabric {name}" for name in sorted(self._stock.observed_only))
            text += f"; {fabrics} is only observed: set spec.mode to Manage to let Weft bind there"
        return text

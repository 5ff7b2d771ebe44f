"""Why a request has to wait, and the one thing that would change it. Pure.

Told apart: what can never be met as pools are, what is not granted to the namespace, what a quota forbids, what is in
use, and what no host has. No text has a number that moves by itself; while the reason stays the same, so does the
text, whatever others bind and release.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from weft.binding.asked import Need, Shape
from weft.binding.choose import Budget, Unmet, asked
from weft.binding.membership import PoolKey
from weft.binding.places import suits
from weft.binding.plan import Why
from weft.binding.room import Room
from weft.binding.stock import HostOffer, Stock, pool_words

DEVICE_REASONS = ("NotEnoughDevices", "ConstraintUnmet")
MOVABLE_REASONS = (*DEVICE_REASONS, "NoHost")
"""Refusals that may end when others are moved."""
NOT_FOR_HOSTS = (*DEVICE_REASONS, "QuotaExceeded")
"""Refusals of which it is asked whether there are such devices at all: a higher quota would not make any."""
SUSPENDED = Why(
    "Suspended",
    "spec.suspend is set: it takes no devices; take it off (kubectl weft resume lnode/NAME) to go on",
)
AS_GANG = Why("WaitingForDomain", "it has its places in one domain together with others", in_queue=True)
NOT_KEPT = "in pools open to this namespace and not kept for a request whose turn is earlier"


class Words:
    """The reasons of one pass."""

    def __init__(self, stock: Stock, room: Room) -> None:
        self._stock = stock
        self._room = room
        self._said: dict[object, Why] = {}
        self._pools = frozenset(offer.pool for offer in (each.offer for each in room.devices.bins))

    def before_search(self, shape: Shape, namespace: str, budget: Budget) -> Why | None:
        """What can be said without looking for a place; None: it has to be looked for.

        What another's bind does not change is said first, so that it stays said.
        """
        if self._room.hosts_left.get(namespace, 1) <= 0 and not shape.node_name:
            return Why("QuotaExceeded", "a DeviceQuota of the namespace does not allow another host")
        for need in shape.needs:
            if pools := self._used_up(shape, need, budget):
                text = f"a DeviceQuota of the namespace does not allow so much of {pool_words(pools)}"
                return Why("QuotaExceeded", f"{need.words()}; {text}")
        for need in shape.needs:
            if not self._room.devices.has_enough(shape, need):
                return Why(
                    "NotEnoughDevices", f"{need.words()}; not enough are free {NOT_KEPT}", in_queue=True
                )
        return None

    def no_place(self, shape: Shape, budget: Budget, failures: dict[frozenset[int], Unmet]) -> Why:
        """Why the search found none; `failures` is what was unmet at the hosts that suit, by their reach."""
        if not failures:
            return self._no_host(shape)
        reach, unmet = next(iter(failures.items()))
        key = asked(shape, reach, budget)
        if key not in self._said:
            self._said[key] = self._at_a_host(shape, budget, reach, unmet)
        return self._said[key]

    def hopeless(self, shape: Shape, why: Why) -> Why:
        """What is said of what could not be met though every device were free."""
        needs = "; ".join(need.words() for need in shape.needs)
        together = "".join(f", one {each.attribute}" for each in shape.constraints if each.required)
        where = f" under the law of {', '.join(sorted(shape.jurisdictions))}" if shape.jurisdictions else ""
        if self._room.devices.gave_up:
            return replace(why, in_queue=False)
        if self._room.devices.could_be_met(replace(shape, allowed_pools=self._pools)):
            text = "there are such devices, but not so many in pools whose allowedNamespaces select this namespace"
            return Why("NotGranted", f"{needs}{together}; {text}", accepted=False)
        if self._stock.unread:
            fabrics = ", ".join(f"Fabric {name}" for name in sorted(self._stock.unread))
            return replace(why, message=f"{why.message}; nothing is known yet of {fabrics}", in_queue=False)
        text = f"no pool has so many such devices together{where}, in use or not"
        return Why("NoSuchDevices", f"{needs}{together}; {text}", accepted=False)

    def _at_a_host(self, shape: Shape, budget: Budget, reach: frozenset[int], unmet: Unmet) -> Why:
        """Why the first suitable host could not be used: by leaving out, one by one, what may be in the way."""
        if budget and not isinstance(self._room.devices.choose(shape, reach, {}), Unmet):
            limited = pool_words(pool for pool in budget if pool in shape.allowed_pools)
            text = f"a DeviceQuota of the namespace does not allow so much of {limited} together"
            return Why("QuotaExceeded", text)
        required = [constraint for constraint in shape.constraints if constraint.required]
        if required:
            relaxed = Shape(shape.needs, shape.allowed_pools, jurisdictions=shape.jurisdictions)
            if not isinstance(self._room.devices.choose(relaxed, reach, budget), Unmet):
                ties = " and ".join(
                    f"one {each.attribute} for {', '.join(sorted(each.needs))}" for each in required
                )
                text = f"placement.constraints require {ties}, and none has enough that are free {NOT_KEPT}"
                return Why("ConstraintUnmet", text, in_queue=True)
        text = f"not enough are free together, at one host, {NOT_KEPT}"
        return Why(unmet.reason, f"{unmet.need.words()}; {text}", in_queue=True)

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

    def _no_host(self, shape: Shape) -> Why:
        hosts = (*self._room.hosts.offers.values(), *self._stock.busy_hosts)
        suited = [host for host in hosts if suits(shape, host)]
        closed = {host.node_name: why for host in suited if (why := host.why_closed(shape.tolerations))}
        is_busy = len(closed) < len(suited)
        if shape.node_name:
            is_busy, text = False, f"nothing can be added at its Node {shape.node_name} now"
        elif is_busy:
            text = "every host that has the node labels, CPU and memory asked for carries a logical node"
        else:
            text = f"no host is free for it: {_lacking(shape, hosts)}"
        if closed:
            named = [f"{name} ({why})" for name, why in sorted(closed.items())]
            text += f"; Nodes that would do are closed: {', '.join(named[:3])}"
        if observed := set(self._stock.observed_only) - self._stock.closed.keys():
            fabrics = ", ".join(f"Fabric {name}" for name in sorted(observed))
            text += f"; {fabrics} is only observed: set spec.mode to Manage to let Weft bind there"
        text += "".join(f"; {each.words}" for _, each in sorted(self._stock.closed.items()))
        return Why("NoHost", text, in_queue=is_busy)


def _lacking(shape: Shape, hosts: Iterable[HostOffer]) -> str:
    """What of a host is missing, the first that none of those left has."""
    left = list(hosts)
    if not left:
        return "no Node of a host that Weft manages is ready"
    for what, has in (
        ("labels", lambda host: shape.node_selector.matches(host.labels)),
        ("CPU", lambda host: host.cpu >= shape.cpu),
        ("memory", lambda host: host.memory_bytes >= shape.memory_bytes),
    ):
        left = [host for host in left if has(host)]
        if not left:
            others = "" if what == "labels" else " of those with the labels asked for"
            return f"no Node{others} has the {what} asked for"
    return "what would do is closed, or was full a moment ago"

"""What would be attached where, for whom, if the fabrics in Observe mode were managed. Pure, and calls nothing.

The same search that finds places does it, over the same queue, after what can be placed in truth has its place. So a
Fabric that leaves Observe begins with what its plan said, as long as nothing else changed.
"""

from __future__ import annotations

from dataclasses import replace

from weft.binding.closed import Closed
from weft.binding.plan import Assignment, Placement, Refusal, Remembered
from weft.binding.search import place
from weft.binding.stock import Stock


class Rehearsal:
    """Remembers what it refused, like placement itself."""

    def __init__(self) -> None:
        self._remembered = Remembered()
        self._said: dict[str, Refusal] = {}

    def add_plans(self, placement: Placement, stock: Stock) -> tuple[Refusal, ...]:
        """The refusals of a pass, those with the plan of a request that would have a place."""
        said, self._said = self._said, {}
        if not stock.observed_only:
            return placement.refusals
        taken = {
            (each.offer.fabric, each.offer.device.id)
            for item in placement.assignments
            for each in item.devices
        }
        nodes = {item.host.node_name for item in placement.assignments}
        offers = tuple(
            replace(offer, free=False, held=True) if (offer.fabric, offer.device.id) in taken else offer
            for offer in stock.offers
        )
        left = placement.remembered.stock
        rest = replace(
            left,
            offers=offers,
            hosts=tuple(host for host in stock.hosts_if_managed if host.node_name not in nodes),
            observed_only=(),
            closed={},
        )
        rehearsed = place([each.waiting for each in placement.refusals], rest, self._remembered)
        self._remembered = rehearsed.remembered
        plans = {
            item.waiting.uid: item
            for item in rehearsed.assignments
            if not item.fabrics.isdisjoint(stock.observed_only)
        }
        for refusal in placement.refusals:
            uid = refusal.waiting.uid
            plan = plans.get(uid)
            if plan is None:
                self._said[uid] = refusal
                continue
            why = _why(plan, stock)
            now = replace(refusal, reason=why.reason, message=why.words, place="", plan=plan)
            before = said.get(uid)
            self._said[uid] = before if before == now and before.waiting is refusal.waiting else now
        return tuple(self._said.values())


def _why(plan: Assignment, stock: Stock) -> Closed:
    """Why a plan is not carried out now."""
    closed = [each for name, each in sorted(stock.closed.items()) if name in plan.fabrics]
    words = [f"{each.words}: status.plan says what it would get" for each in closed]
    observed = sorted(plan.fabrics & set(stock.observed_only) - stock.closed.keys())
    if observed:
        fabrics = ", ".join(f"Fabric {name}" for name in observed)
        words.append(f"{fabrics} is only observed: set spec.mode to Manage to have status.plan carried out")
    return Closed("OnlyPlanned" if observed else closed[0].reason, "; ".join(words))

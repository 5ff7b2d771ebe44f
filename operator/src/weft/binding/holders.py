"""Who holds devices of pools that allow preemption, and on what terms. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from weft.api.maintenance import AfterTimeout, Drain
from weft.api.pools import Preemption, PreemptionScope
from weft.binding.grants import Grants
from weft.binding.holdings import Holding, Holdings, Owner, owner_of
from weft.binding.membership import Pool, PoolKey, pool_key
from weft.binding.stock import Holder
from weft.cluster import Object


def holders(
    pools: Iterable[Pool],
    holdings: Holdings,
    logical_nodes: Iterable[Object],
    grants: Grants,
    told: Collection[str],
) -> tuple[Holder, ...]:
    """Those that may be preempted, and those on their way out; none where no pool allows preemption. `told`: uids of
    those that were asked to go already."""
    terms = {pool_key(each): each.spec.preemption for each in pools if each.spec.preemption is not None}
    if not terms:
        return ()
    held: dict[Owner, list[Holding]] = {}
    for each in holdings.all():
        if not each.quarantined:
            held.setdefault(each.owner, []).append(each)
    found = (
        _holder(raw, held[owner], terms, grants, told)
        for raw in logical_nodes
        if (owner := owner_of(raw)) in held
    )
    return tuple(each for each in found if each is not None)


def _holder(
    raw: Object,
    held: list[Holding],
    terms: dict[PoolKey, Preemption],
    grants: Grants,
    told: Collection[str],
) -> Holder | None:
    meta = raw["metadata"]
    conditions = {each["type"]: each for each in raw.get("status", {}).get("conditions", ())}
    bound, draining = conditions.get("Bound", {}), conditions.get("Draining", {})
    leaving = "deletionTimestamp" in meta or all(each.is_leaving for each in held)
    if not leaving and (bound.get("status") != "True" or any(each.is_leaving for each in held)):
        # What is on its way in, or in part on its way out, is let arrive first.
        return None
    rules = [terms.get(each.pool) for each in held]
    allowed = [each for each in rules if each is not None]
    units: Counter[PoolKey] = Counter()
    for each in held:
        units[each.pool] += each.units
    return Holder(
        meta["uid"],
        meta["namespace"],
        meta["name"],
        grants.turn(meta["namespace"], raw["spec"].get("priorityClassName")).priority,
        bound.get("lastTransitionTime", ""),
        held[0].node,
        frozenset((each.fabric, each.device) for each in held),
        units,
        _strictest([each.drain for each in allowed]) if len(allowed) == len(rules) else None,
        all(each.scope is PreemptionScope.ANY_NAMESPACE for each in allowed),
        leaving,
        draining.get("status") == "True" or meta["uid"] in told,
    )


def _strictest(drains: Iterable[Drain]) -> Drain:
    """Of several pools' drains the one that leaves pods the most time."""
    return max(drains, key=lambda each: (each.after_timeout is AfterTimeout.WAIT, each.timeout_seconds))

"""What logical nodes ask for, as placement has it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from weft.api import LogicalNode
from weft.api.conditions import find, is_true
from weft.api.devices import DeviceSelector
from weft.api.node_shape import AcceleratorRequest, ByteRequest, ConstraintPolicy
from weft.api.quantity import parse_bytes, parse_decimal
from weft.binding.asked import Choice, Constraint, Need, Selector, Shape, Waiting
from weft.binding.holdings import Owner, owner_of
from weft.binding.membership import PoolKey, key_of
from weft.binding.objects import is_deleting, is_published, parse_node
from weft.binding.resize import At, Claims, family, is_leaving, missing
from weft.cluster import Object
from weft.fabric.driver import Device, DeviceKind

MOST_PREFERRED = 4
"""Needs of a request that is first looked for in the preferred domain of its devices: each doubles what is tried."""


class Turn(NamedTuple):
    """What a PriorityClass makes of a request."""

    priority: int = 0
    refused: tuple[str, str] | None = None
    """Reason and message of what has no turn at all."""
    may_preempt: bool = True


@dataclass(frozen=True)
class Request:
    """What one LogicalNode asks for, whoever it is open to."""

    node: LogicalNode
    uid: str
    owner: Owner
    wanting: bool
    """Whether it wants a place while it has no claims, whatever the time is."""
    shape: Shape
    """Without the pools that are open to its namespace."""
    ends: str | None = None
    """When it gives back the devices of `pools`, for comparison; empty: it is about to. None: not known."""
    pools: frozenset[PoolKey] = frozenset()
    priority_class: str | None = None


def read(raw: Object) -> Request:
    """What a LogicalNode asks for. Raises ValueError where it cannot be read."""
    node = parse_node(raw)
    spec = node.spec
    needs = [_need(item, DeviceKind.ACCELERATOR, count=item.count) for item in spec.accelerators]
    for kind, requests in ((DeviceKind.MEMORY, spec.memory), (DeviceKind.STORAGE, spec.storage)):
        needs += [_need(item, kind, size_bytes=parse_bytes(item.size)) for item in requests]
    accelerators = frozenset(item.name for item in spec.accelerators)
    constraints = tuple(
        Constraint(
            each.attribute,
            frozenset(each.requests) or accelerators,
            each.policy is ConstraintPolicy.REQUIRED,
        )
        for each in spec.placement.constraints
    )
    shape = Shape(
        needs=tuple(needs),
        allowed_pools=frozenset(),
        node_selector=Selector.of_labels(spec.host.node_selector),
        cpu=parse_decimal(spec.host.requests.cpu or 0),
        memory_bytes=parse_bytes(spec.host.requests.memory or 0),
        constraints=constraints,
        tolerations=spec.host.tolerations,
        jurisdictions=frozenset(spec.placement.jurisdictions),
        objective=spec.placement.objective,
    )
    meta, status = node.metadata, node.status
    # Whether the time of one that was bound is up, only the present moment tells.
    lasting = spec.ttl_seconds_after_bound is None and not is_true(status.conditions, "Expired")
    owner, wanting = (meta.namespace, meta.name), lasting and not is_deleting(node)
    pools = frozenset(key_of(device.pool_ref) for device in status.devices)
    return Request(
        node, meta.uid, owner, wanting, shape, _ends(node) if pools else None, pools, spec.priority_class_name
    )


class Glance(NamedTuple):
    """What is told of a LogicalNode without having parsed it."""

    owner: Owner
    may_end: bool
    """Whether it may be known to give its devices back."""
    wants_more: bool
    """Whether it said that it has not what it asks for."""

    @classmethod
    def of(cls, raw: Object) -> Glance:
        ends = "deletionTimestamp" in raw["metadata"] or "ttlSecondsAfterBound" in raw["spec"]
        conditions = raw.get("status", {}).get("conditions", [])
        more = any(each.get("type") == "Resized" and each.get("status") == "False" for each in conditions)
        return cls(owner_of(raw), ends, more)


def _ends(node: LogicalNode) -> str | None:
    if is_deleting(node):
        return ""
    ttl, bound = node.spec.ttl_seconds_after_bound, find(node.status.conditions, "Bound")
    if ttl is None or bound is None or bound.status != "True":
        return None
    return f"{int(bound.last_transition_time.timestamp()) + ttl:020}"


def _need(
    request: AcceleratorRequest | ByteRequest, kind: DeviceKind, *, count: int = 0, size_bytes: int = 0
) -> Need:
    choices = tuple(_choice(each.selector, each.name) for each in request.first_available)
    return Need(request.name, kind, count, size_bytes, choices or (_choice(request.selector),))


def _choice(selector: DeviceSelector, name: str = "") -> Choice:
    equal = tuple(sorted(selector.match_attributes.items()))
    return Choice(Selector(equal, selector.match_expressions), selector.least_bytes, name)


def waiting(request: Request, pools: frozenset[PoolKey], avoid: frozenset[str], turn: Turn) -> Waiting:
    """A logical node that has nothing, as one that waits."""
    meta = request.node.metadata
    shape = replace(request.shape, allowed_pools=pools, avoid_hosts=avoid)
    suspended = bool(request.node.spec.suspend)
    adopt = frozenset((each.fabric, each.device) for each in request.node.spec.adopt if not suspended)
    was_head = request.node.status.queue_place == "1"
    created = str(meta.creation_timestamp)
    known = meta.uid, meta.namespace, meta.name, created, shape, adopt, turn.priority, turn.refused, was_head
    return Waiting(*known, generation=meta.generation, may_preempt=turn.may_preempt, suspended=suspended)


def growing(
    waiting: Waiting, node: LogicalNode, claims: Claims, known: Mapping[At, Device]
) -> Waiting | None:
    """A bound logical node that lacks devices, as one that waits for these at its own Node; None: it lacks none, or
    its claims are changing. `waiting`: as if it had nothing. `known`: devices by fabric and name."""
    stay = tuple(claim for claim in claims if not is_leaving(claim))
    if any(is_deleting(claim) or not is_published(node, claim) for claim in stay):
        return None
    lacks = missing(node, stay)
    if not lacks or not claims:
        return None
    # Counted from the wish, not from the node: one that is years old would be before all others.
    said = find(node.status.conditions, "Resized")
    since = str(said.last_transition_time) if said is not None else "~"
    whole = replace(waiting.shape, needs=tuple(_like_its_own(waiting.shape, stay, known)), node_name="")
    needs = tuple(
        replace(need, count=lacks[need.name]) if need.count else replace(need, size_bytes=lacks[need.name])
        for need in whole.needs
        if need.name in lacks
    )
    own = {claim.spec.request for claim in stay}
    # Those with devices of its own are choices by now; for the others they stand.
    constraints = tuple(
        each for each in waiting.shape.constraints if not each.needs & own and each.needs & lacks.keys()
    )
    shape = replace(whole, needs=needs, constraints=constraints, node_name=claims[0].spec.node_name)
    whole = replace(whole, constraints=tuple(each for each in whole.constraints if not each.needs & own))
    return replace(
        waiting, created=since, shape=shape, adopt=frozenset(), extends=family(claims[0]), whole=whole
    )


def _like_its_own(shape: Shape, own: Claims, known: Mapping[At, Device]) -> Iterator[Need]:
    """The needs, met only by what goes with the devices that are there: of their alternative, and in their domain."""
    for need in shape.needs:
        names = {claim.spec.alternative or "" for claim in own if claim.spec.request == need.name}
        choices = tuple(each for each in need.choices if not names or each.name in names) or need.choices
        for tie in shape.constraints:
            tied = [claim for claim in own if claim.spec.request in tie.needs]
            if need.name not in tie.needs or not tied:
                continue
            found = (known.get((claim.spec.fabric, claim.spec.device)) for claim in tied)
            values = [
                value for each in found if each is not None and (value := each.attributes.get(tie.attribute))
            ]
            # Where it cannot be told, there is none that goes with them.
            value = values[0] if values else ""
            inside = tuple(
                replace(
                    each,
                    selector=replace(each.selector, equal=(*each.selector.equal, (tie.attribute, value))),
                )
                for each in choices
            )
            if tie.required:
                choices = inside
            elif len(shape.needs) <= MOST_PREFERRED:
                choices = (*inside, *choices)
        yield replace(need, choices=choices)

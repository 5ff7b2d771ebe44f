"""What a bound logical node has too little or too much of, by what its spec asks for now. Pure.

What is missing is looked for like any request, at its own Node; what is too much leaves: first what is faulty or in
maintenance, then what is in the domain with the fewest of the node's devices, so that the rest is in few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import find, is_true
from weft.api.quantity import parse_bytes
from weft.binding.membership import DEVICES_OF
from weft.binding.stock import domains, natural
from weft.fabric.driver import Device, DeviceKind

Claims = tuple[DeviceAttachment, ...]
At = tuple[str, str]
"""Fabric and device."""


def family(claim: DeviceAttachment) -> str:
    """The operation that the logical node was bound with first: the same for all that was added later."""
    return claim.spec.extends or claim.spec.operation


def is_leaving(claim: DeviceAttachment) -> bool:
    """Whether its device is to go while its logical node stays bound."""
    return is_true(claim.status.conditions, "Leaving")


def is_failed(claim: DeviceAttachment) -> bool:
    """Whether it goes because it failed, and is to be kept from use."""
    marked = find(claim.status.conditions, "Leaving")
    return marked is not None and marked.status == "True" and marked.reason == "DeviceFailed"


def missing(node: LogicalNode, claims: Iterable[DeviceAttachment]) -> dict[str, int]:
    """What the claims lack of what is asked for, by request: accelerators, or bytes."""
    has = _has(claims)
    lacks = {name: units - has.get(name, 0) for name, units in _asked(node).items() if has.get(name, 0) >= 0}
    return {name: units for name, units in lacks.items() if units > 0}


def surplus(
    node: LogicalNode,
    claims: Iterable[DeviceAttachment],
    known: Mapping[At, Device],
    unwanted: Collection[At] = (),
) -> Claims:
    """The claims without which the node still has all it asks for. `unwanted`: devices in maintenance."""
    left = sorted(claims, key=lambda claim: natural(claim.metadata.name))
    gone: list[DeviceAttachment] = []
    asked = _asked(node)

    def domain(claim: DeviceAttachment) -> tuple[str, ...]:
        device = known.get((claim.spec.fabric, claim.spec.device))
        return domains(device) if device is not None else ()

    def rank(claim: DeviceAttachment, inside: Counter[tuple[str, ...]]) -> tuple[object, ...]:
        at = (claim.spec.fabric, claim.spec.device)
        device = known.get(at)
        serves = device is not None and device.healthy and at not in unwanted
        # Of bytes the largest device that can go frees the most.
        return serves, -_units(claim), inside[domain(claim)]

    while True:
        has = _has(left)
        can_go = [
            claim
            for claim in left
            if 0 <= asked.get(claim.spec.request, 0) <= has[claim.spec.request] - _units(claim)
        ]
        if not can_go:
            return tuple(gone)
        inside = Counter(map(domain, left))
        first = min(can_go[::-1], key=lambda claim: rank(claim, inside))
        left.remove(first)
        gone.append(first)


def _asked(node: LogicalNode) -> dict[str, int]:
    spec = node.spec
    return {
        **{each.name: each.count for each in spec.accelerators},
        **{each.name: parse_bytes(each.size) for each in (*spec.memory, *spec.storage)},
    }


def _units(claim: DeviceAttachment) -> int:
    if DEVICES_OF[claim.spec.pool_ref.kind] is DeviceKind.ACCELERATOR:
        return 1
    return parse_bytes(claim.spec.capacity or 0)


def _has(claims: Iterable[DeviceAttachment]) -> dict[str, int]:
    """What the claims have by request; -1 where a device's size is not known, so that nobody can tell."""
    has: dict[str, int] = {}
    for claim in claims:
        name, units = claim.spec.request, _units(claim)
        has[name] = -1 if not units or has.get(name) == -1 else has.get(name, 0) + units
    return has

"""Free devices that nobody who waits can use, and why: what a pool could do without, or could be used for. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

from weft.binding.asked import Choice, Shape
from weft.binding.bins import Bin
from weft.binding.choose import Parts
from weft.binding.membership import PoolKey
from weft.binding.plan import Unused
from weft.binding.why import AS_GANG
from weft.fabric.driver import DeviceKind

_SAID = {"NoSuchDevices": "NotEnoughDevices", AS_GANG.reason: "ConstraintUnmet"}
"""What is the reason of a device, where a request has another: it asks for more than there is, or for one domain."""


def unused(
    bins: Iterable[Bin], kept: Parts, waiting: Iterable[tuple[Shape, str]]
) -> Mapping[PoolKey, Unused]:
    """By pool, what stays free of a pass; `waiting` are those without a place, in their turn, each with its reason.

    A device's reason is that of the first that could use one like it.
    """
    kept_of: Counter[int] = Counter()
    for part in kept:
        kept_of[part.bin.number] += part.count
    wanted = tuple(dict.fromkeys(_wishes(waiting)))
    known = _known_reasons(wanted)
    found: dict[PoolKey, tuple[int, Counter[str]]] = {}
    for each in bins:
        left = each.free
        in_pool, reasons = found.get(each.offer.pool, (0, Counter()))
        if left and wanted:
            alike = each.offer.alike
            if alike not in known:
                known[alike] = _reason(each, wanted)
            reasons[known[alike]] += left
        found[each.offer.pool] = in_pool + kept_of[each.number], reasons
    return {
        pool: Unused(in_pool, tuple(sorted(reasons.items())))
        for pool, (in_pool, reasons) in found.items()
        if in_pool or reasons
    }


_Wish = tuple[DeviceKind, Choice, frozenset[PoolKey], frozenset[str], str]
"""Kind of device, which ones, of which pools, under which laws, and the reason why there is none."""


def _wishes(waiting: Iterable[tuple[Shape, str]]) -> Iterable[_Wish]:
    for shape, reason in dict.fromkeys(waiting):
        for need in shape.needs:
            for choice in need.choices:
                yield need.kind, choice, shape.allowed_pools, shape.jurisdictions, _SAID.get(reason, reason)


def _reason(each: Bin, wanted: Iterable[_Wish]) -> str:
    offer = each.offer
    why = "NotAskedFor"
    for kind, choice, pools, laws, reason in wanted:
        if kind is not offer.device.kind or (laws and offer.jurisdiction not in laws):
            continue
        if _suits(choice, each.offer.alike, each):
            if offer.pool in pools:
                return reason
            why = "NotGranted"
    return why


def _suits(choice: Choice, alike: object, each: Bin) -> bool:
    """Whether a choice means the devices of a bin; compared once for devices that no request can tell apart."""
    known = _known(choice)
    if alike not in known:
        known[alike] = choice.matches(each.offer.device)
    return known[alike]


@lru_cache(maxsize=1000)
def _known(choice: Choice) -> dict[object, bool]:
    return {}


@lru_cache(maxsize=4)
def _known_reasons(wanted: tuple[_Wish, ...]) -> dict[object, str]:
    """Of devices that no request can tell apart, for the next pass: mostly the same is asked for."""
    return {}

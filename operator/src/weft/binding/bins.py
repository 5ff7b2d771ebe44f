"""Devices in bins: those of one bin no request can tell apart, so that they are counted and not looked at. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weft.binding.stock import Offer, natural


class Bin:
    """Devices that no request can tell apart, and how many of them are free now."""

    __slots__ = (
        "_free_offers",
        "crowding",
        "fabric",
        "free",
        "number",
        "offer",
        "place",
        "size_bytes",
        "total",
        "units",
        "usable",
    )

    def __init__(self, offers: Sequence[Offer]) -> None:
        self.offer = offers[0]
        """One of them: what it says of itself all say."""
        self.fabric = self.offer.fabric
        self.size_bytes = self.offer.device.capacity_bytes
        self.units = self.offer.quota_units
        """What one of them takes of a quota."""
        self._free_offers = [offer for offer in offers if offer.free]
        self.free = len(self._free_offers)
        self.total = len(offers)
        self.usable = self.free + sum(offer.held for offer in offers)
        """Those that are free, or will be when somebody releases them."""
        self.number = 0
        """Its place in the order in which devices are taken."""
        self.place = self.offer.domains
        """Its interconnect domains."""
        self.crowding = 0
        """Devices that were free in these when the pass began."""

    def free_offers(self) -> list[Offer]:
        """Those that were free when the pass began, in the order in which people count."""
        return sorted(self._free_offers, key=lambda offer: natural(offer.device.id))


def bins_of(offers: Iterable[Offer]) -> list[Bin]:
    """All bins, in the order in which devices are taken: the cheapest first, then those from the interconnect domain
    with the fewest free devices."""
    alike: dict[object, list[Offer]] = {}
    for offer in offers:
        known = alike.get(offer.alike)
        if known is None:
            alike[offer.alike] = [offer]
        else:
            known.append(offer)
    bins = [Bin(group) for group in alike.values()]
    crowding: dict[tuple[str, ...], int] = {}
    for each in bins:
        crowding[each.place] = crowding.get(each.place, 0) + each.free
    keys = {
        id(each): (
            each.offer.cost_per_hour,
            crowding[each.place],
            tuple(map(natural, each.place)),
            each.fabric,
            natural(each.offer.device.id),
        )
        for each in bins
    }
    bins.sort(key=lambda each: keys[id(each)])
    for number, each in enumerate(bins):
        each.number, each.crowding = number, crowding[each.place]
    return bins

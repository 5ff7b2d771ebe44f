"""What the claims hold, counted claim by claim: in a pass only those that changed are read. For one thread."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from weft.api import DeviceAttachment
from weft.api.quantity import parse_bytes
from weft.binding.membership import DEVICES_OF, PoolKey, key_of
from weft.binding.objects import is_deleting, is_quarantined, keeps_owner
from weft.binding.resize import is_leaving
from weft.cluster import Object
from weft.fabric.driver import DeviceKind

log = logging.getLogger(__name__)

K = TypeVar("K")

Owner = tuple[str, str]
"""Namespace and name of a logical node."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What matters of one DeviceAttachment."""

    fabric: str
    device: str
    host: str
    node: str
    owner: Owner
    pool: PoolKey
    units: int
    """What it takes of a DeviceQuota: one accelerator, or bytes."""
    quarantined: bool
    keeps_owner: bool
    """Whether its logical node wants no other place while this one exists."""
    is_leaving: bool = False
    """Whether its device is being released."""

    @classmethod
    def of(cls, raw: Object) -> Holding:
        try:
            claim = DeviceAttachment.model_validate(raw)
        except ValueError as error:
            name = raw["metadata"]["name"]
            log.warning(
                "DeviceAttachment %s cannot be read, and withholds its device and host: %s", name, error
            )
            return cls._of_unreadable(raw)
        spec = claim.spec
        pool = key_of(spec.pool_ref)
        return cls(
            spec.fabric,
            spec.device,
            spec.host,
            spec.node_name,
            (spec.claim_ref.namespace, spec.claim_ref.name),
            pool,
            1 if pool[0] is DeviceKind.ACCELERATOR else parse_bytes(spec.capacity or 0),
            is_quarantined(claim),
            keeps_owner(claim),
            is_deleting(claim) or is_leaving(claim),
        )

    @classmethod
    def _of_unreadable(cls, raw: Object) -> Holding:
        """What another version stored holds what its texts name."""
        spec = raw["spec"]
        fabric, device, host, node = (
            str(spec.get(key, "")) for key in ("fabric", "device", "host", "nodeName")
        )
        pool, ref = spec.get("poolRef", {}), spec["claimRef"]
        kind = DEVICES_OF.get(pool.get("kind"), DeviceKind.ACCELERATOR)
        owner = ref["namespace"], ref["name"]
        return cls(fabric, device, host, node, owner, (kind, pool.get("name", "")), 0, False, True)


def owner_of(logical_node: Object) -> Owner:
    """The name by which a logical node's claims know it."""
    metadata = logical_node["metadata"]
    return metadata["namespace"], metadata["name"]


class Holdings:
    """All claims, by what is asked of them."""

    def __init__(self) -> None:
        self._raws: dict[int, Object] = {}
        """By identity: cached objects are never changed in place. Holding them keeps their identities."""
        self._known: dict[int, Holding] = {}
        self._read: tuple[Object, ...] = ()
        """What the last update was given: in one pass it is the same twice."""
        self.owners: Counter[Owner] = Counter()
        """Claims that keep a logical node from wanting a place."""
        self.devices: dict[str, Counter[str]] = {}
        """Claims by fabric and device."""
        self.hosts: dict[str, Counter[str]] = {}
        """By fabric and host; quarantined ones do not count."""
        self.pairs: dict[str, Counter[tuple[str, str]]] = {}
        """By fabric, and device and host."""
        self.quarantined: dict[str, Counter[tuple[str, str]]] = {}
        """The same of quarantined ones."""
        self.used: Counter[tuple[str, PoolKey]] = Counter()
        """What namespaces hold of pools. Quarantined devices are held by nobody."""
        self.nodes: dict[str, Counter[str]] = {}
        """Nodes by namespace. Quarantined devices hold none."""

    def update(self, raws: tuple[Object, ...]) -> Holdings:
        """Bring the counts up to date; itself."""
        if raws is self._read:
            return self
        now = dict(zip(map(id, raws), raws, strict=True))
        fresh = now.keys() - self._raws.keys()
        # In their order: what is decided on holdings is the same in each process.
        new = {each: Holding.of(raw) for each, raw in now.items() if each in fresh} if fresh else {}
        if len(now) - len(new) < len(self._raws):
            for gone in self._raws.keys() - now.keys():
                self._count(self._known.pop(gone), -1)
        for each, holding in new.items():
            self._known[each] = holding
            self._count(holding, 1)
        self._raws, self._read = now, raws
        return self

    def all(self) -> Iterable[Holding]:
        """What each claim holds."""
        return self._known.values()

    def nodes_of(self, namespace: str) -> set[str]:
        """The Nodes that a namespace holds."""
        return set(self.nodes.get(namespace, ()))

    def _count(self, each: Holding, sign: int) -> None:
        _add(self.devices.setdefault(each.fabric, Counter()), each.device, sign)
        _add(self.pairs.setdefault(each.fabric, Counter()), (each.device, each.host), sign)
        if each.keeps_owner:
            _add(self.owners, each.owner, sign)
        if each.quarantined:
            _add(self.quarantined.setdefault(each.fabric, Counter()), (each.device, each.host), sign)
            return
        _add(self.hosts.setdefault(each.fabric, Counter()), each.host, sign)
        _add(self.used, (each.owner[0], each.pool), sign * each.units)
        _add(self.nodes.setdefault(each.owner[0], Counter()), each.node, sign)


def _add(counts: Counter[K], key: K, number: int) -> None:
    counts[key] += number
    if not counts[key]:
        del counts[key]

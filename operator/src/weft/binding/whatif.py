"""What would become of logical nodes if some objects were as somebody is about to write them. Pure, and writes nothing.

The changed objects are laid over a snapshot of what there is, and the same search that finds places looks for theirs,
in the same queue, with what it remembers. So the answer is what a pass would say that began now.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from weft.api import DeviceAttachment, DeviceQuota, Fabric, GPUPool, LogicalNode, MemoryPool, StoragePool
from weft.api.conditions import is_true
from weft.api.meta import Model
from weft.api.resources import (
    DEVICE_QUOTAS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    POOLS,
    STORAGE_POOLS,
    ResourceType,
)
from weft.binding.adoption import adopt
from weft.binding.assignments import Outcome
from weft.binding.membership import POOL_KIND, pool_key
from weft.binding.objects import keeps_owner
from weft.binding.offers import Reader, Snapshot
from weft.binding.plan import Assignment, Remembered
from weft.binding.rehearsal import Rehearsal
from weft.binding.requests import read
from weft.binding.resize import is_leaving, missing, surplus
from weft.binding.search import place
from weft.binding.status import with_facts
from weft.binding.stock import Holder
from weft.cluster import Object

_FIELDS: Mapping[ResourceType, tuple[str, type[Model]]] = {
    LOGICAL_NODES: ("logical_nodes", LogicalNode),
    GPU_POOLS: ("gpu_pools", GPUPool),
    MEMORY_POOLS: ("memory_pools", MemoryPool),
    STORAGE_POOLS: ("storage_pools", StoragePool),
    DEVICE_QUOTAS: ("quotas", DeviceQuota),
    FABRICS: ("fabrics", Fabric),
}
FOR_ALL = frozenset({GPU_POOLS, MEMORY_POOLS, STORAGE_POOLS, DEVICE_QUOTAS, FABRICS})
"""What changes the answer to everybody who waits."""


@dataclass(frozen=True)
class PlannedDevice:
    """One device, as whoever gets it would see it."""

    request: str
    device: str
    model: str
    pool: str
    """Kind and name."""
    fabric: str
    domains: tuple[str, ...]
    cost_per_hour: str
    """A decimal number in the currency of the pools; "0" where the pool says no price."""


@dataclass(frozen=True)
class Forecast:
    """What would become of one logical node."""

    namespace: str
    name: str
    outcome: str
    """binds: it would get a place at once. grows: what it lacks. waits, refused: not now, or never as things are.
    shrinks: devices would go. stays: nothing changes of its devices."""
    reason: str = ""
    message: str = ""
    place: str = ""
    """In the queue, as in status.queuePlace."""
    node_name: str = ""
    host: str = ""
    devices: tuple[PlannedDevice, ...] = ()
    """That it would get; with the reason OnlyPlanned, if the fabrics in Observe mode were managed."""
    cost_per_hour: str = "0"
    """Of these devices together."""
    gives_back: tuple[str, ...] = ()
    preempts: tuple[str, ...] = ()
    """Logical nodes (namespace/name) that would be asked to give way to it."""


@dataclass(frozen=True)
class PoolForecast:
    """What a pool would offer."""

    kind: str
    name: str
    devices: int
    models: tuple[str, ...]
    message: str = ""
    """Why that is not known."""
    refused: bool = False
    """It would not be known as things are: there is no such Fabric."""


@dataclass(frozen=True)
class FabricForecast:
    """What a Fabric names and is not there: it could not be read."""

    name: str
    lacks: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What would be new."""

    own: tuple[Forecast, ...]
    """Of the changed logical nodes."""
    others: tuple[Forecast, ...] = ()
    """Of those that wait: who would be told something else. Looked for where pools, quotas or fabrics change."""
    pools: tuple[PoolForecast, ...] = ()
    fabrics: tuple[FabricForecast, ...] = ()


def what_if(
    reader: Reader,
    snapshot: Snapshot,
    changes: Sequence[tuple[ResourceType, Object]],
    remembered: Remembered,
    now: datetime,
) -> Answer:
    """Lay changed objects over what there is, and look for places. Raises ValueError for one that cannot be read.

    `reader`: none that another thread uses. `remembered`: what the last pass of placement left.
    """
    changed = _laid_over(snapshot, changes, now)
    after = _outcomes(reader, changed, remembered, now)
    asked = [_owner(raw) for kind, raw in changes if kind == LOGICAL_NODES]
    own = tuple(_of(key, reader, changed, after) for key in asked)
    if not any(kind in FOR_ALL for kind, _ in changes):
        return Answer(own)
    before = _outcomes(reader, snapshot, remembered, now).by_owner
    others = (
        _forecast(key, outcome, ())
        for key, outcome in after.by_owner.items()
        if key not in asked and _said(outcome) != _said(before.get(key))
    )
    pools = tuple(_pool(kind, raw, reader, changed) for kind, raw in changes if kind in POOLS)
    return Answer(own, tuple(others), pools)


def _pool(kind: ResourceType, raw: Object, reader: Reader, snapshot: Snapshot) -> PoolForecast:
    name, fabric = raw["metadata"]["name"], raw["spec"]["fabricRef"]["name"]
    if not any(each["metadata"]["name"] == fabric for each in snapshot.fabrics):
        text = f"there is no Fabric {fabric} here, and none in the file: it would offer nothing"
        return PoolForecast(kind.kind, name, 0, (), text, refused=True)
    picture = snapshot.pictures.get(fabric)
    if picture is None:
        return PoolForecast(kind.kind, name, 0, (), f"the devices of Fabric {fabric} are not known (yet)")
    pools = reader.pools(snapshot)
    key = pool_key(next(each for each in pools if (each.kind, each.metadata.name) == (kind.kind, name)))
    devices = reader.members(fabric, pools, picture)[key].devices
    models = {each.attributes["model"] for each in devices if "model" in each.attributes}
    return PoolForecast(kind.kind, name, len(devices), tuple(sorted(models)))


@dataclass(frozen=True)
class _Outcomes:
    """What one pass would say."""

    by_owner: Mapping[tuple[str, str], Outcome]
    victims: tuple[Holder, ...]
    head: str


def _of(key: tuple[str, str], reader: Reader, snapshot: Snapshot, after: _Outcomes) -> Forecast:
    if (outcome := after.by_owner.get(key)) is not None:
        victims = after.victims if outcome.waiting.uid == after.head else ()
        return _forecast(key, outcome, victims)
    node = LogicalNode.model_validate(next(each for each in snapshot.logical_nodes if _owner(each) == key))
    stay = [claim for claim in _claims(snapshot, key) if not is_leaving(claim)]
    gone = surplus(node, stay, reader.devices(snapshot, stay))
    names = tuple(sorted(claim.spec.device for claim in gone))
    return Forecast(*key, "shrinks" if names else "stays", gives_back=names)


def _outcomes(reader: Reader, snapshot: Snapshot, remembered: Remembered, now: datetime) -> _Outcomes:
    waiting = reader.waiting(snapshot, now)
    adopted, stock = adopt(waiting, snapshot, reader.stock(snapshot))
    placement = place([each for each in waiting if not each.adopt], stock, remembered)
    told = Rehearsal().add_plans(placement, stock)
    found: Iterable[Outcome] = (*snapshot.outstanding, *adopted, *placement.assignments, *told)
    by_owner = {(each.waiting.namespace, each.waiting.name): each for each in found if not each.waiting.gang}
    return _Outcomes(by_owner, placement.victims, placement.remembered.head)


def _laid_over(snapshot: Snapshot, changes: Iterable[tuple[ResourceType, Object]], now: datetime) -> Snapshot:
    fields: dict[str, Any] = {}
    dropped: set[str] = set()
    for kind, wanted in changes:
        field, model = _FIELDS[kind]
        objects: dict[tuple[str, str], Object] = {
            _owner(each): each for each in fields.get(field, getattr(snapshot, field))
        }
        key = _owner(wanted)
        made = _as_it_would_be(kind, wanted, objects.get(key), now)
        # Raises where it cannot be read: nothing that is asked about is left out in silence.
        model.model_validate(made)
        if kind == LOGICAL_NODES:
            read(made)
            made = _growing(made, _claims(snapshot, key), now)
            dropped.add(made["metadata"]["uid"])
        objects[key] = made
        fields[field] = tuple(objects.values())
    outcomes = tuple(each for each in snapshot.outcomes if each.waiting.uid not in dropped)
    return replace(snapshot, **fields, outcomes=outcomes)


def _as_it_would_be(kind: ResourceType, wanted: Object, there: Object | None, now: datetime) -> Object:
    """The object with the spec, labels and annotations that are wanted. Of the rest only the cluster's word counts."""
    name, namespace = wanted["metadata"]["name"], wanted["metadata"].get("namespace")
    fresh: Object = {
        "name": name,
        "uid": f"plan:{kind.kind}:{namespace or ''}/{name}",
        "generation": 0,
        "creationTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        **({"namespace": namespace} if namespace else {}),
    }
    metadata = dict(there["metadata"]) if there is not None else fresh
    metadata["generation"] = metadata.get("generation", 0) + 1
    if kind != LOGICAL_NODES:
        # What is remembered of an object goes by its generation: the next question may be about another spec of it.
        spec = json.dumps(wanted.get("spec"), sort_keys=True).encode()
        metadata["generation"] = 2**32 + zlib.crc32(spec)
    for part in ("labels", "annotations"):
        if part in wanted["metadata"]:
            metadata[part] = wanted["metadata"][part]
    kept = {"status": there["status"]} if there is not None and "status" in there else {}
    head = {"apiVersion": kind.api_version, "kind": kind.kind}
    return {**head, "metadata": metadata, "spec": wanted.get("spec", {}), **kept}


def _growing(raw: Object, claims: Sequence[DeviceAttachment], now: datetime) -> Object:
    """A bound logical node that would ask for more says so at once, as the operator would let it say."""
    node = LogicalNode.model_validate(raw)
    if not is_true(node.status.conditions, "Bound") or not missing(node, claims):
        return raw
    fact = ("Resized", False, "NotEnoughDevices", "")
    return {**raw, "status": with_facts(node, node.status.dump(), [fact], now)}


def _claims(snapshot: Snapshot, owner: tuple[str, str]) -> list[DeviceAttachment]:
    refs = ((raw, raw["spec"]["claimRef"]) for raw in snapshot.claims)
    own = [raw for raw, ref in refs if (ref["namespace"], ref["name"]) == owner]
    return [claim for claim in map(DeviceAttachment.model_validate, own) if keeps_owner(claim)]


def _forecast(key: tuple[str, str], outcome: Outcome, victims: Iterable[Holder]) -> Forecast:
    preempts = tuple(sorted(f"{each.namespace}/{each.name}" for each in victims if not each.is_leaving))
    if isinstance(outcome, Assignment):
        return replace(_got(key, "grows" if outcome.waiting.extends else "binds", outcome), preempts=preempts)
    seen = Forecast(*key, "") if outcome.plan is None else _got(key, "", outcome.plan)
    return replace(
        seen,
        outcome="waits" if outcome.accepted else "refused",
        reason=outcome.reason,
        message=outcome.message,
        place=outcome.place,
        preempts=preempts,
    )


def _got(key: tuple[str, str], outcome: str, place: Assignment) -> Forecast:
    devices = tuple(
        PlannedDevice(
            each.need,
            each.offer.device.id,
            each.offer.device.attributes.get("model", ""),
            f"{POOL_KIND[each.offer.pool[0]].value} {each.offer.pool[1]}",
            each.offer.fabric,
            each.offer.domains,
            _money(each.offer.cost_per_hour),
        )
        for each in place.devices
    )
    cost = sum((each.offer.cost_per_hour for each in place.devices), Decimal(0))
    host = ", ".join(host for fabric, host in place.host.places if fabric in place.fabrics)
    return Forecast(
        *key, outcome, node_name=place.host.node_name, host=host, devices=devices, cost_per_hour=_money(cost)
    )


def _money(cost: Decimal) -> str:
    return f"{cost.normalize():f}"


def _said(outcome: Outcome | None) -> object:
    if outcome is None:
        return None
    if isinstance(outcome, Assignment):
        return outcome.host.node_name
    return outcome.reason, outcome.message, outcome.plan and outcome.plan.host.node_name


def _owner(raw: Object) -> tuple[str, str]:
    return raw["metadata"].get("namespace", ""), raw["metadata"]["name"]

"""Which interconnect domain has room for all logical nodes of a group together. Pure, and writes nothing.

As `whatif`: what is asked about is laid over a snapshot of what there is, and the search that finds places looks for
theirs, behind all that wait already. So a domain is chosen for what placement will do in it: hosts, quotas, grants and
the queue count. A group that finds none waits in that queue itself, as a gang, and finds its domain before all others
when it has become the head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from weft.api.resources import LOGICAL_NODES
from weft.binding.asked import Gang, Shape, Waiting, pinned
from weft.binding.membership import PoolKey
from weft.binding.offers import Reader, Snapshot
from weft.binding.plan import Assignment, Placement, Remembered
from weft.binding.requests import read
from weft.binding.search import place
from weft.binding.stock import Stock
from weft.cluster import Object
from weft.domains import DomainAnswer, DomainQuestion
from weft.fabric.driver import Device, DeviceKind

MOST_DOMAINS = 16
"""Domains that are looked at for one question, the fullest that may suffice first: a bound on what a tenant costs."""


Held = Mapping[tuple[str, str], str]
"""Name of the logical node that has a device of a fabric."""


@dataclass(frozen=True)
class Promise:
    """A domain that was chosen for a group whose logical nodes may not be there yet."""

    question: DomainQuestion
    domain: str

    def still_needed(self, settled: DomainQuestion) -> Promise | None:
        """What of it holds for a group that is settled; None: nothing."""
        nodes = {name: spec for name, spec in self.question.nodes.items() if name in settled.nodes}
        if not nodes or self.domain != settled.present:
            return None
        return replace(self, question=replace(self.question, nodes=nodes))


def choose_domain(
    reader: Reader,
    snapshot: Snapshot,
    question: DomainQuestion,
    promises: Iterable[Promise],
    remembered: Remembered,
    now: datetime,
) -> tuple[DomainAnswer, Waiting | None]:
    """The domain that was chosen before, if it has room for what is not in it yet; else the fullest that has room for
    all. And its place in the queue, as long as it needs one.

    `promises`: to other groups; what they are about to ask for is not free. `reader`: none that another thread uses.
    Raises ValueError for a spec that cannot be read.
    """
    held = _held(reader, snapshot, question)
    inside = _where_they_are(held, snapshot, question)
    base = _without_own(snapshot, question)
    stock = reader.stock(base)
    there = {_owner(raw) for raw in base.logical_nodes}
    asked = {
        name: _made(question.namespace, f"{name}/asked", spec, now) for name, spec in question.nodes.items()
    }
    promised = [
        (_made(each.question.namespace, f"{name}/promised", spec, now), each)
        for each in promises
        for name, spec in each.question.nodes.items()
        if (each.question.namespace, name) not in there
    ]
    extra = (*asked.values(), *(raw for raw, _ in promised))
    for raw in extra:
        read(raw)  # raises: nothing that is asked about is left out in silence
    laid = replace(base, logical_nodes=(*base.logical_nodes, *extra))
    waiting = {each.uid: each for each in reader.waiting(laid, now) if not each.adopt}
    own = {name: waiting.pop(raw["metadata"]["uid"]) for name, raw in asked.items()}
    for raw, each in promised:
        uid = raw["metadata"]["uid"]
        waiting[uid] = pinned(waiting[uid], each.question.attribute, each.domain)
    gang = _gang(question, own, now)
    is_head = gang is not None and gang.uid == remembered.head
    before = waiting
    if gang is not None and is_head:
        # As for any head: what it needs is kept from all others, but for a greater priority of its namespace.
        before = {
            uid: each
            for uid, each in waiting.items()
            if uid in {raw["metadata"]["uid"] for raw, _ in promised}
            or (each.namespace == gang.namespace and each.priority > gang.priority)
        }
    free = _free(
        stock, question.attribute, frozenset().union(*(each.shape.allowed_pools for each in own.values()))
    )
    nearest: tuple[int, str, str] | None = None
    for domain in _candidates(free, question.present, own, inside):
        lacking = [
            pinned(each, question.attribute, domain)
            for name, each in own.items()
            if inside.get(name) != domain
        ]
        # What the others have is given back when they are made anew there.
        back = {key for key, name in held.items() if inside.get(name) not in (None, domain)}
        left_over = stock.with_free(back) if back else stock
        placement = place([*before.values(), *lacking], left_over, Remembered() if is_head else remembered)
        placed = _placed(placement, question.attribute, domain)
        left = [each for each in lacking if each.uid not in placed]
        if not left:
            return DomainAnswer(domain), _chosen(gang, domain) if gang is not None and is_head else None
        why = next((each.message for each in placement.refusals if each.waiting.uid == left[0].uid), "")
        if nearest is None or len(left) < nearest[0]:
            nearest = len(left), domain, why
    message = _why_none(question.attribute, nearest, free)
    if gang is not None:
        after = place([*waiting.values(), gang], stock, remembered)
        if after.remembered.head == gang.uid:
            message += (
                "; it is the head of the queue, and what is free where the least is missing is kept for it"
            )
    return DomainAnswer("", message), gang


def still_kept(place: Waiting, question: DomainQuestion) -> Waiting | None:
    """What a settled group needs of its place in the queue: where that is one in its domain, the part of the logical
    nodes that it is still to have. None: nothing."""
    assert place.gang is not None
    if not place.gang.domain or place.gang.domain != question.present:
        return None
    members = tuple(each for each in place.gang.members if each.name in question.nodes)
    return replace(place, gang=replace(place.gang, members=members)) if members else None


def _gang(question: DomainQuestion, own: Mapping[str, Waiting], now: datetime) -> Waiting | None:
    """The group's place in the queue; None: it needs none."""
    if question.waits_since is None:
        return None
    since = str(question.waits_since.replace(microsecond=0))
    members = tuple(replace(each, name=name, created=since) for name, each in own.items())
    needs = tuple(need for each in members for need in each.shape.needs)
    pools = frozenset().union(*(each.shape.allowed_pools for each in members))
    return Waiting(
        f"{question.namespace}/{question.group}/gang",
        question.namespace,
        question.group,
        since,
        Shape(needs, pools),
        priority=min(each.priority for each in members),
        # Which of those that waited under the last leader was the head is not recorded: the oldest of them goes on.
        was_head=question.waits_since < now,
        not_accepted=next((each.not_accepted for each in members if each.not_accepted), None),
        suspended=any(each.suspended for each in members),
        may_preempt=False,
        gang=Gang(question.attribute, members),
    )


def _chosen(waiting: Waiting, domain: str) -> Waiting:
    """A place in the queue of which the logical nodes are about to be made, for this domain."""
    assert waiting.gang is not None
    attribute = waiting.gang.attribute
    members = tuple(pinned(each, attribute, domain) for each in waiting.gang.members)
    return replace(waiting, gang=Gang(attribute, members, domain))


def _why_none(attribute: str, nearest: tuple[int, str, str] | None, free: Mapping[str, int]) -> str:
    if not free:
        return f"no accelerator of a pool open to this namespace has the attribute {attribute}"
    if nearest is None:
        return (
            f"no {attribute} has so many accelerators free for all its replicas together: free some of one, add"
            " devices there, or ask for fewer replicas"
        )
    _, domain, why = nearest
    return f"no {attribute} has room for all its replicas together; {domain} comes nearest: {why}"


def _candidates(
    free: Mapping[str, int], present: str, own: Mapping[str, Waiting], inside: Mapping[str, str]
) -> list[str]:
    """The present domain, then those that have enough free accelerators, the fullest first."""
    wanted = {name: sum(need.count for need in each.shape.needs) for name, each in own.items()}
    has = Counter(free)
    for name, domain in inside.items():
        has[domain] += wanted[name]
    order = sorted(has, key=lambda value: (value != present, free.get(value, 0), value))
    return [value for value in order if has[value] >= sum(wanted.values())][:MOST_DOMAINS]


def _free(stock: Stock, attribute: str, pools: frozenset[PoolKey]) -> dict[str, int]:
    """Free accelerators of these pools by domain, also of domains that have none. A tenant is told of no others."""
    free: Counter[str] = Counter()
    for offer in stock.offers:
        value = offer.device.attributes.get(attribute)
        if value and offer.device.kind is DeviceKind.ACCELERATOR and offer.pool in pools:
            free[value] += offer.free
    return free


def _placed(placement: Placement, attribute: str, domain: str) -> set[str]:
    """Uids of those of which every accelerator would be in the domain."""

    def is_inside(item: Assignment) -> bool:
        devices = (each.offer.device for each in item.devices)
        return all(
            each.attributes.get(attribute) == domain
            for each in devices
            if each.kind is DeviceKind.ACCELERATOR
        )

    return {item.waiting.uid for item in placement.assignments if is_inside(item)}


def _where_they_are(held: Held, snapshot: Snapshot, question: DomainQuestion) -> dict[str, str]:
    """The domain of each logical node of the group whose accelerators are all claimed, or chosen, in one."""
    found: dict[str, set[str]] = {}
    known = {
        (fabric, device.id): device
        for fabric, picture in snapshot.pictures.items()
        for device in picture.inventory.devices
    }

    def note(name: str, device: Device | None) -> None:
        if device is None or device.kind is DeviceKind.ACCELERATOR:
            # Of a device that the fabric does not show nobody knows where it is.
            found.setdefault(name, set()).add(device.attributes.get(question.attribute, "") if device else "")

    for key, name in held.items():
        note(name, known.get(key))
    for item in snapshot.outstanding:
        if item.waiting.namespace == question.namespace and item.waiting.name in question.nodes:
            for chosen in item.devices:
                note(item.waiting.name, chosen.offer.device)
    return {
        name: next(iter(values)) for name, values in found.items() if len(values) == 1 and "" not in values
    }


def _held(reader: Reader, snapshot: Snapshot, question: DomainQuestion) -> Held:
    return {
        (each.fabric, each.device): each.owner[1]
        for each in reader.holdings(snapshot).all()
        if each.keeps_owner and each.owner[0] == question.namespace and each.owner[1] in question.nodes
    }


def _without_own(snapshot: Snapshot, question: DomainQuestion) -> Snapshot:
    """The snapshot without the group's own logical nodes and its place in the queue: they are asked about, and do not
    wait beside themselves."""
    own = {(question.namespace, name) for name in question.nodes}
    return replace(
        snapshot,
        logical_nodes=tuple(raw for raw in snapshot.logical_nodes if _owner(raw) not in own),
        gangs=tuple(
            each
            for each in snapshot.gangs
            if (each.namespace, each.name) != (question.namespace, question.group)
        ),
    )


def _owner(raw: Object) -> tuple[str, str]:
    return raw["metadata"]["namespace"], raw["metadata"]["name"]


def _made(namespace: str, name: str, spec: Object, now: datetime) -> Object:
    """A LogicalNode as it would be created now, under a name that no other can have."""
    return {
        "apiVersion": LOGICAL_NODES.api_version,
        "kind": LOGICAL_NODES.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"{namespace}/{name}",
            "generation": 0,
            "creationTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "spec": spec,
    }

"""`weft why device/NAME`: who holds a device, since when, what that costs, what it waits for, and what happened before.

A device has no object of its own. Its DeviceAttachment says who holds it now; Events, for as long as the API server
keeps them, who did before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from rich.console import Group, RenderableType
from rich.text import Text

from weft.api import DeviceAttachment, GPUPool
from weft.api.attachment import attachment_name
from weft.api.names import DEVICES
from weft.api.quantity import parse_bytes
from weft.binding.offers import cost_per_hour
from weft.cli.look.reading import AskError, Reading, alike
from weft.cli.look.why import Happened, Said, happened, said_of, shown_conditions, shown_events
from weft.cli.look.words import age, indented
from weft.cluster import Object

HOUR = 3600
GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class DeviceWhy:
    """One device of one fabric."""

    name: str
    """Of its DeviceAttachment, there or gone: <fabric>.<device>."""
    holder: str
    """Namespace and name of the LogicalNode; empty where no attachment is there, or may be seen."""
    where: str
    pool: str
    since: datetime | None
    cost_per_hour: str
    cost_so_far: str
    """Both by the pool's present price, in its currency; empty where it has none or may not be seen."""
    conditions: tuple[Said, ...]
    """Of the attachment, and of its holder what is not as hoped."""
    events: tuple[Happened, ...]
    """The first one first."""


def device_of(reading: Reading, name: str, events: Iterable[Object]) -> list[DeviceWhy]:
    """What is known of the devices of this name, of each fabric that has one. Pure.

    `events`: those with the label `weft.dev/devices`, the latest last. Raises AskError where nothing is known.
    """
    history = [(frozenset(_devices(event)), event) for event in events]
    claims = {each.metadata.name: each for each in reading.attachments}
    known = set(claims).union(*(names for names, _ in history))
    # Without the right to list attachments, the owner still sees which devices a logical node has.
    owners = {each.attachment: node for node in reading.nodes for each in node.status.devices}
    known |= owners.keys()
    wanted = {name} | {attachment_name(fabric.metadata.name, name) for fabric in reading.fabrics}
    found = sorted(each for each in known if each in wanted or each.partition(".")[2] == name)
    found += sorted(key for key, each in claims.items() if each.spec.device == name and key not in found)
    if not found:
        meant = alike(name, known | {each.partition(".")[2] for each in known})
        meant = f" (there is {meant})" if meant else ""
        raise AskError(
            f"nothing is known of a device {name}{meant}: none of that name is held, nor was while the API server keeps"
            " events (an hour, unless it is told otherwise). Free devices have no object: `weft status` counts them by"
            " pool; for what was long ago, the operator's audit log (docs/security.md)"
        )
    told = {each: tuple(_told(event) for names, event in history if each in names) for each in found}
    return [_one(reading, each, claims.get(each), told[each]) for each in found]


def _told(event: Object) -> Happened:
    """An event with the object that it is about: whose the device was."""
    about, one = event.get("regarding", {}), happened(event)
    whose = "/".join(filter(None, (about.get("namespace"), about.get("name"))))
    return replace(one, message=f"{about.get('kind', '')} {whose}: {one.message}")


def _one(
    reading: Reading, name: str, claim: DeviceAttachment | None, events: tuple[Happened, ...]
) -> DeviceWhy:
    holder, where, pool, since, per_hour = "", "", "", None, None
    conditions: list[Said] = []
    if claim is not None:
        spec, ref = claim.spec, claim.spec.claim_ref
        holder, since = f"{ref.namespace}/{ref.name}", claim.metadata.creation_timestamp
        where = f"host {spec.host}, Node {spec.node_name}"
        pool = f"{spec.pool_ref.kind.value} {spec.pool_ref.name}"
        per_hour = _price(reading, claim)
        conditions += [said_of(claim.kind, one, claim.metadata.generation) for one in claim.status.conditions]
    for node in reading.nodes:
        has = any(each.attachment == name for each in node.status.devices)
        if holder == f"{node.metadata.namespace}/{node.metadata.name}" or (claim is None and has):
            holder = f"{node.metadata.namespace}/{node.metadata.name}"
            said = [said_of(node.kind, one, node.metadata.generation) for one in node.status.conditions]
            conditions += [one for one in said if not one.as_hoped]
    so_far = None
    if per_hour is not None and since is not None:
        so_far = per_hour * Decimal((reading.now - since).total_seconds()) / HOUR
    return DeviceWhy(
        name, holder, where, pool, since, _money(per_hour), _money(so_far), tuple(conditions), events
    )


def _price(reading: Reading, claim: DeviceAttachment) -> Decimal | None:
    ref = claim.spec.pool_ref
    for pool in reading.pools:
        if (pool.kind, pool.metadata.name) == (ref.kind.value, ref.name) and pool.spec.cost is not None:
            gibibytes = Decimal(parse_bytes(claim.spec.capacity or 0)) / GIBIBYTE
            return cost_per_hour(pool) * (1 if isinstance(pool, GPUPool) else gibibytes)
    return None


def _money(cost: Decimal | None) -> str:
    return "" if cost is None else f"{cost.quantize(Decimal('0.0001')).normalize():f}"


def _devices(event: Object) -> list[str]:
    try:
        names = json.loads(event["metadata"].get("annotations", {}).get(DEVICES, "[]"))
    except ValueError:
        return []
    return [each for each in names if isinstance(each, str)] if isinstance(names, list) else []


def shown(devices: Iterable[DeviceWhy], reading: Reading) -> RenderableType:
    """The answer for a terminal."""
    parts: list[RenderableType] = []
    for one in devices:
        parts += [Text(f"device {one.name}", style="bold")]
        if one.holder:
            since = f", for {age(one.since, reading.now)}" if one.since else ""
            lines = [
                f"held by LogicalNode {one.holder}{since}",
                ", ".join(filter(None, (one.pool, one.where))),
            ]
            if one.cost_per_hour:
                lines.append(f"{one.cost_per_hour} an hour, {one.cost_so_far} so far at that price")
        else:
            lines = ["held by nobody" + (" that you may see" if reading.denied else "")]
        parts += [indented(line, 2) for line in lines if line]
        parts += shown_conditions(one.conditions, reading.now)
        if one.events:
            parts += [Text(), Text("what happened", style="bold"), *shown_events(one.events, reading.now)]
        parts.append(Text())
    if reading.narrowed:
        parts.append(Text(f"looked at {reading.narrowed}"))
    if reading.denied:
        parts.append(Text(f"not looked at, for want of the right: {', '.join(reading.denied)}"))
    return Group(*parts)

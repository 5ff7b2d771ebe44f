"""`weft status`: what there is, what is well, and what waits, on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from weft.api import (
    Condition,
    DeviceAttachment,
    DeviceQuota,
    Fabric,
    GPUPool,
    InferenceGroup,
    InferenceRole,
    LogicalNode,
    MemoryPool,
    StoragePool,
)
from weft.api.conditions import find, is_true
from weft.api.resources import FABRICS, INFERENCE_GROUPS, LOGICAL_NODES
from weft.cli.look.pause import held
from weft.cli.look.reading import Reading, Ref
from weft.cli.look.words import UNREADABLE, age, causes

BAR = 20
"""Characters of a pool's bar."""
WITHHELD = ("reserved", "quarantined", "unavailable")
STYLES = {"bound": "green", "reserved": "cyan", "quarantined": "red", "unavailable": "yellow", "free": "dim"}
MARKS = {"bound": "#", "reserved": "+", "quarantined": "!", "unavailable": "x", "free": "."}
"""What a device's state looks like in a bar, also without colours."""


@dataclass(frozen=True)
class FabricLine:
    name: str
    mode: str
    suspended: bool
    state: str
    devices: int
    hosts: int
    nodes: int
    trouble: tuple[str, ...]
    """A sentence for a pause of `weft pause`, and for each condition that is not as hoped, but for consequences."""


@dataclass(frozen=True)
class PoolLine:
    name: str
    kind: str
    fabric: str
    counts: dict[str, int]
    """Devices by state, and `total`; empty before the first reading."""
    kept: int
    """Of the free ones, those that are kept for the head of the queue."""
    stranded: dict[str, int]
    """Of the free ones, those that nobody who waits can use, by reason."""
    trouble: tuple[str, ...]


@dataclass(frozen=True)
class GroupLine:
    namespace: str
    name: str
    mode: str
    suspended: bool
    split: str
    desired: int
    serving: int
    objectives: str
    """met, missed, or why it is not known."""
    trouble: tuple[str, ...]


@dataclass(frozen=True)
class NodeLine:
    """A logical node that is not bound and ready."""

    namespace: str
    name: str
    age: str
    """Since it was made, or its deletion was asked for."""
    place: str
    """Among all that wait for a release; empty where a release would not help."""
    reason: str
    message: str


@dataclass(frozen=True)
class Status:
    """All of it."""

    fabrics: tuple[FabricLine, ...]
    pools: tuple[PoolLine, ...]
    groups: tuple[GroupLine, ...]
    nodes: int | None
    """Logical nodes in all; None where they may not be listed."""
    waiting: tuple[NodeLine, ...]
    """Those that are not bound and ready, the oldest first."""
    others: tuple[tuple[str, tuple[str, ...]], ...]
    """Quotas, roles and devices of which something has to be looked at, each with what."""
    nobody_leads: str
    """Why no operator leads; empty where one does, or it is not known."""
    denied: tuple[str, ...]
    """What the user has no right to list."""
    narrowed: str
    """What is shown of one namespace alone, since the user may not list it in all; empty where nothing is."""
    unreadable: tuple[str, ...]
    """Objects that this version of the command cannot read, each with what of it."""


def status_of(reading: Reading) -> Status:
    """The status of what was read. Pure."""
    nodes = reading.nodes
    waiting = sorted(
        (node for node in nodes if not is_true(node.status.conditions, "Ready")),
        key=lambda node: (node.metadata.creation_timestamp or reading.now, node.metadata.name),
    )
    return Status(
        fabrics=tuple(_fabric(fabric, reading) for fabric in reading.fabrics),
        pools=tuple(_pool(pool) for pool in reading.pools),
        groups=tuple(_group(group, reading) for group in reading.groups),
        nodes=None if LOGICAL_NODES.plural in reading.denied else len(nodes),
        waiting=tuple(_node(node, reading) for node in waiting),
        others=tuple(_others(reading)),
        nobody_leads=reading.nobody_leads,
        denied=reading.denied,
        narrowed=reading.narrowed,
        unreadable=reading.unreadable,
    )


def waits_for(node: LogicalNode) -> Condition | None:
    """The condition that says what a logical node waits for: once it is bound, what Ready says is what is left."""
    bound = is_true(node.status.conditions, "Bound")
    return find(node.status.conditions, "Ready" if bound else "Bound")


def _trouble(kind: str, conditions: tuple[Condition, ...]) -> tuple[str, ...]:
    return tuple(
        f"{one.type}={one.status} {one.reason}{f': {one.message}' if one.message else ''}"
        for one in causes(kind, conditions)
    )


def _paused(reading: Reading, ref: Ref) -> tuple[str, ...]:
    """What `weft pause` keeps an object from. A mode that its owner chose is in the column of modes alone."""
    found = reading.find(ref)
    return held(ref, found, by_owner=False) if found is not None else ()


def mode_of(line: FabricLine | GroupLine) -> str:
    """The mode as it is shown, with whether the object takes anything new."""
    return f"{line.mode}, suspended" if line.suspended else line.mode


def _others(reading: Reading) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What has no line of its own, and whose conditions nobody else's repeat."""
    listed: list[DeviceQuota | InferenceRole | DeviceAttachment]
    listed = [*reading.quotas, *reading.roles, *reading.attachments]
    for one in listed:
        told = [each for each in one.status.conditions if (one.kind, each.type) != ("InferenceRole", "Ready")]
        if trouble := _trouble(one.kind, tuple(told)):
            name = "/".join(filter(None, (one.metadata.namespace, one.metadata.name)))
            yield f"{one.kind} {name}", trouble


def _fabric(fabric: Fabric, reading: Reading) -> FabricLine:
    connected = find(fabric.status.conditions, "Connected")
    return FabricLine(
        fabric.metadata.name,
        fabric.spec.mode.value,
        bool(fabric.spec.suspend),
        connected.reason if connected else "not read yet",
        fabric.status.devices or 0,
        fabric.status.hosts or 0,
        fabric.status.nodes or 0,
        (
            *_paused(reading, Ref(FABRICS, fabric.metadata.name)),
            *_trouble("Fabric", fabric.status.conditions),
        ),
    )


def _pool(pool: GPUPool | MemoryPool | StoragePool) -> PoolLine:
    counts = pool.status.devices
    return PoolLine(
        pool.metadata.name,
        pool.kind,
        pool.spec.fabric_ref.name,
        {name: getattr(counts, name) for name in ("total", *MARKS)} if counts else {},
        pool.status.kept or 0,
        {one.reason: one.devices for one in pool.status.stranded},
        _trouble(pool.kind, pool.status.conditions),
    )


def _group(group: InferenceGroup, reading: Reading) -> GroupLine:
    ref = Ref(INFERENCE_GROUPS, group.metadata.name, group.metadata.namespace)
    met = find(group.status.conditions, "ObjectivesMet")
    words = {"True": "met", "False": "missed"}
    return GroupLine(
        group.metadata.namespace,
        group.metadata.name,
        group.spec.rebalance.mode.value,
        bool(group.spec.suspend),
        group.status.split,
        group.status.desired_replicas,
        group.status.ready_replicas,
        (words.get(met.status) or met.reason) if met else "not judged yet",
        (*_paused(reading, ref), *_trouble("InferenceGroup", group.status.conditions)),
    )


def _node(node: LogicalNode, reading: Reading) -> NodeLine:
    told = waits_for(node)
    return NodeLine(
        node.metadata.namespace,
        node.metadata.name,
        age(node.metadata.deletion_timestamp or node.metadata.creation_timestamp, reading.now),
        node.status.queue_place or "",
        told.reason if told else "not seen yet",
        told.message if told else "the operator has not written a status: does it run?",
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    return table


def bar(counts: dict[str, int], width: int = BAR) -> Text:
    """A pool's devices as marks, in proportion; a state that has any has at least one mark."""
    total = counts.get("total", 0)
    if not total:
        return Text("no devices" if counts else "not read yet", style="dim")
    text = Text()
    left = width
    for state, mark in MARKS.items():
        if state == "free":
            break
        count = counts.get(state, 0)
        marks = min(left, max(1, round(count / total * width))) if count else 0
        text.append(mark * marks, style=STYLES[state])
        left -= marks
    return text.append(MARKS["free"] * left, style=STYLES["free"])


def shown(status: Status, *, wide: bool = False) -> RenderableType:
    """The status for a terminal; `wide`: also where the devices are that are neither bound nor free to be taken."""
    parts: list[RenderableType] = []
    trouble: list[Text] = []

    def note(kind: str, name: str, lines: tuple[str, ...]) -> None:
        trouble.extend(Text(f"{kind} {name}: {line}") for line in lines)

    if status.nobody_leads:
        parts += [Text(status.nobody_leads, style="bold yellow"), Text()]
    if status.fabrics:
        table = _table("fabric", "mode", "state", "devices", "hosts", "nodes")
        for one in status.fabrics:
            counts = str(one.devices), str(one.hosts), str(one.nodes)
            table.add_row(one.name, mode_of(one), one.state, *counts)
            note("Fabric", one.name, one.trouble)
        parts += [table, Text()]
    if status.pools:
        states = ("bound", *(WITHHELD if wide else ()), "free", "total")
        table = _table("pool", "kind", "fabric", "", *states, *(("kept", "stranded") if wide else ()))
        for pool in status.pools:
            cells = [str(pool.counts.get(name, "")) for name in states]
            if wide:
                stranded = ", ".join(f"{count} {reason}" for reason, count in pool.stranded.items())
                cells += [str(pool.kept), stranded or "0"]
            table.add_row(pool.name, pool.kind, pool.fabric, bar(pool.counts), *cells)
            note(pool.kind, pool.name, pool.trouble)
        legend = ", ".join(f"{mark} {state}" for state, mark in MARKS.items())
        parts += [table, Text(legend, style="dim"), Text()]
    if status.groups:
        table = _table("inference group", "mode", "split", "serving", "objectives")
        for group in status.groups:
            name = f"{group.namespace}/{group.name}"
            style = {"met": "green", "missed": "red"}.get(group.objectives, "")
            serving = f"{group.serving} of {group.desired}"
            table.add_row(name, mode_of(group), group.split, serving, Text(group.objectives, style=style))
            note("InferenceGroup", name, group.trouble)
        parts += [table, Text()]
    if status.nodes is not None:
        bound = status.nodes - len(status.waiting)
        parts.append(Text(f"logical nodes: {bound} of {status.nodes} bound and ready"))
    if status.waiting:
        table = _table("waits", "age", "reason", "what it waits for")
        for node in status.waiting:
            table.add_row(f"{node.namespace}/{node.name}", node.age, node.reason, node.message)
        parts.append(table)
    for what, lines in status.others:
        trouble.extend(Text(f"{what}: {line}") for line in lines)
    if trouble:
        parts += [Text(), Text("to be looked at", style="bold"), *trouble]
    if status.narrowed:
        parts += [Text(), Text(f"shown {status.narrowed}")]
    if status.denied:
        parts += [Text(), Text(f"not shown, for want of the right to list them: {', '.join(status.denied)}")]
    if status.unreadable:
        parts += [Text(), Text(UNREADABLE), *(Text(f"  {one}") for one in status.unreadable)]
    return Group(*parts)

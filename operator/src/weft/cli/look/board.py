"""What the page of `weft ui` shows, as a value: `weft status`, with hosts, decisions and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from weft.api import DeviceAttachment, Fabric, InferenceGroup, LogicalNode, Resource
from weft.api.conditions import Condition, is_true
from weft.api.resources import DEVICE_ATTACHMENTS, LOGICAL_NODES
from weft.cli.look.history import Span
from weft.cli.look.reading import Reading, Ref
from weft.cli.look.recorded import NOT_ASKED, Records
from weft.cli.look.status import FabricLine, GroupLine, NodeLine, PoolLine, status_of, waits_for
from weft.cli.look.unblock import resume_of
from weft.cli.look.why import Chosen, Said, decisions, said_of
from weft.cli.look.words import by_number, causes

Place = tuple[str, str, str, str]
"""Fabric, host, Node and owner (`namespace/name` of a LogicalNode) of a device."""


@dataclass(frozen=True)
class Held:
    """What one logical node has at one host."""

    host: str
    node: str
    """The Kubernetes Node; empty where none is known."""
    owner: str
    """`namespace/name` of the LogicalNode; empty where the host has no devices."""
    state: str
    """Why the logical node is not bound and ready; empty while it is."""
    devices: tuple[tuple[str, tuple[str, ...]], ...]
    """Names of devices by pool (`GPUPool a100`); what is wrong with one stands behind its name."""


@dataclass(frozen=True)
class FabricBoard:
    """One fabric. Without a line, for those who may not list Fabrics, it is known from their logical nodes alone."""

    name: str
    line: FabricLine | None
    said: tuple[Said, ...] | None
    """Its conditions that are not as hoped; None where it has none at all, so that nothing is known. So below, too."""
    held: tuple[Held, ...]
    """By host. Hosts without devices are named where the Fabric's spec lists them and all claims were read."""


@dataclass(frozen=True)
class PoolBoard:
    line: PoolLine
    said: tuple[Said, ...] | None


@dataclass(frozen=True)
class GroupBoard:
    line: GroupLine
    objectives: str
    moves: tuple[str, ...]
    """Replicas on their way from one role to another."""
    decisions: tuple[Chosen, ...]
    said: tuple[Said, ...] | None
    history: tuple[Span, ...]
    """What was read of it before, the oldest first."""


@dataclass(frozen=True)
class WaitBoard:
    line: NodeLine
    do: str
    """What to do about it; empty where nothing is, or nothing is known."""


@dataclass(frozen=True)
class Board:
    """All of it, as of one moment."""

    now: datetime
    fabrics: tuple[FabricBoard, ...]
    pools: tuple[PoolBoard, ...]
    groups: tuple[GroupBoard, ...]
    nodes: int | None
    """Logical nodes in all; None where they may not be listed."""
    waiting: tuple[WaitBoard, ...]
    denied: tuple[str, ...]
    """What the user has no right to list."""
    narrowed: str
    """What is shown of one namespace alone, since the user may not list it in all; empty where nothing is."""
    unreadable: tuple[str, ...]
    """Objects that this version of the command cannot read, each with what of it."""
    nobody_leads: str
    """Why no operator leads; empty where one does, or it is not known."""
    records: Records
    """What a Prometheus has of the groups, or why there is nothing."""


def board_of(
    reading: Reading,
    history: Mapping[str, tuple[Span, ...]] | None = None,
    records: Records = NOT_ASKED,
) -> Board:
    """The page's content; `history` by uid of the group. Pure."""
    spans = history or {}
    status = status_of(reading)
    nodes = {_name(node): node for node in reading.nodes}
    return Board(
        now=reading.now,
        fabrics=_fabrics(reading, nodes, status.fabrics),
        pools=tuple(
            PoolBoard(line, _said(pool, pool.status.conditions))
            for line, pool in zip(status.pools, reading.pools, strict=True)
        ),
        groups=tuple(
            _group(line, group, spans.get(group.metadata.uid, ()))
            for line, group in zip(status.groups, reading.groups, strict=True)
        ),
        nodes=status.nodes,
        waiting=tuple(
            WaitBoard(line, _do(reading, nodes[f"{line.namespace}/{line.name}"])) for line in status.waiting
        ),
        denied=status.denied,
        narrowed=status.narrowed,
        unreadable=status.unreadable,
        nobody_leads=status.nobody_leads,
        records=records,
    )


def _name(one: LogicalNode) -> str:
    return f"{one.metadata.namespace}/{one.metadata.name}"


def _said(one: Resource, conditions: tuple[Condition, ...]) -> tuple[Said, ...] | None:
    if not conditions:
        return None
    kind, leaves = type(one).__name__, one.metadata.deletion_timestamp is not None
    # The API server counts a deletion as a change of the spec.
    generation = one.metadata.generation - leaves
    return tuple(said_of(kind, each, generation) for each in causes(kind, conditions))


def _do(reading: Reading, node: LogicalNode) -> str:
    told = waits_for(node)
    if told is None:
        return ""
    ref = Ref(LOGICAL_NODES, node.metadata.name, node.metadata.namespace)
    return resume_of(reading, ref, told) or said_of("LogicalNode", told, node.metadata.generation).do


def _group(line: GroupLine, group: InferenceGroup, history: tuple[Span, ...]) -> GroupBoard:
    asked = group.spec.objectives
    first, between = asked.time_to_first_token_milliseconds, asked.inter_token_latency_microseconds
    parts = [
        f"first token in {first} ms" if first is not None else "",
        f"tokens {between / 1000:g} ms apart" if between is not None else "",
    ]
    return GroupBoard(
        line,
        f"{', '.join(part for part in parts if part)}; {asked.attainment_permille / 10:g} % of requests",
        tuple(f"{one.replica}: {one.from_} to {one.to}, {one.step.value}" for one in group.status.transfers),
        decisions(group),
        _said(group, group.status.conditions),
        history,
    )


def _fabrics(
    reading: Reading, nodes: dict[str, LogicalNode], lines: tuple[FabricLine, ...]
) -> tuple[FabricBoard, ...]:
    denied = DEVICE_ATTACHMENTS.plural in reading.denied
    held = _held(reading, nodes, denied)
    known = {
        fabric.metadata.name: (line, fabric) for line, fabric in zip(lines, reading.fabrics, strict=True)
    }
    return tuple(
        FabricBoard(
            name,
            known[name][0] if name in known else None,
            _said(known[name][1], known[name][1].status.conditions) if name in known else None,
            _with_the_free(held.get(name, []), known[name][1] if name in known and not denied else None),
        )
        for name in sorted({*known, *held})
    )


def _with_the_free(held: list[Held], fabric: Fabric | None) -> tuple[Held, ...]:
    hosts = {one.host for one in held}
    listed = fabric.spec.hosts if fabric is not None else ()
    free = [Held(one.host, one.node_name, "", "", ()) for one in listed if one.host not in hosts]
    return tuple(sorted([*held, *free], key=lambda one: (by_number(one.host), one.node, one.owner)))


def _held(reading: Reading, nodes: dict[str, LogicalNode], denied: bool) -> dict[str, list[Held]]:
    """By fabric. The attachments are what counts; who may not list them sees what their own nodes' status says."""
    devices = _devices_of_nodes(nodes) if denied else _devices_claimed(reading.attachments)
    together: dict[Place, dict[str, list[str]]] = {}
    for place, pool, device in devices:
        together.setdefault(place, {}).setdefault(pool, []).append(device)
    held: dict[str, list[Held]] = {}
    for (fabric, host, node, owner), pools in together.items():
        by_pool = tuple((pool, tuple(sorted(names))) for pool, names in sorted(pools.items()))
        held.setdefault(fabric, []).append(Held(host, node, owner, _state(owner, nodes), by_pool))
    return held


def _devices_claimed(attachments: Iterable[DeviceAttachment]) -> Iterable[tuple[Place, str, str]]:
    for one in attachments:
        spec, claim = one.spec, one.spec.claim_ref
        marks = [type for type in ("Quarantined", "Leaving") if is_true(one.status.conditions, type)]
        name = f"{spec.device} ({', '.join(marks)})" if marks else spec.device
        place = spec.fabric, spec.host, spec.node_name, f"{claim.namespace}/{claim.name}"
        yield place, f"{spec.pool_ref.kind.value} {spec.pool_ref.name}", name


def _devices_of_nodes(nodes: dict[str, LogicalNode]) -> Iterable[tuple[Place, str, str]]:
    for owner, node in nodes.items():
        for one in node.status.devices:
            fabric = one.attachment.partition(".")[0]
            place = fabric, node.status.host or "", node.status.node_name or "", owner
            yield place, f"{one.pool_ref.kind.value} {one.pool_ref.name}", one.device


def _state(owner: str, nodes: dict[str, LogicalNode]) -> str:
    if owner not in nodes:
        return "not among the logical nodes that were read"
    told = waits_for(nodes[owner])
    if told is None:
        return "no status yet"
    return "" if told.status == "True" else f"{told.reason}: {told.message}"

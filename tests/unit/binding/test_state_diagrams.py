"""The state diagrams of docs/design.md say what `decide` does: no transition is missing, none is invented.

All that can happen to a small logical node (two devices, one host) is walked through: each step that is decided is
carried out in a model, with every outcome that a manager or a cluster may give it; between steps users and
administrators act. What the model passes through has to be what the diagrams draw.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from weft.api import DeviceAttachment, LogicalNode
from weft.binding.asked import Shape, Waiting
from weft.binding.decide import decide
from weft.binding.evidence import Certainty
from weft.binding.inventory import Picture
from weft.binding.keys import LogicalNodeKey
from weft.binding.objects import NodeView
from weft.binding.observe import HostView, LogicalNodePicture
from weft.binding.plan import Assignment
from weft.binding.release import expired_facts
from weft.binding.steps import (
    Attach,
    Claim,
    ClearTaint,
    CloseNode,
    Detach,
    Expire,
    Finish,
    GiveUp,
    Leave,
    LookForPods,
    MarkAttached,
    OpenNode,
    Place,
    Publish,
    Quarantine,
    Reserve,
    Step,
    TurnBack,
    Verify,
    Wait,
    Withdraw,
)
from weft.binding.stock import HostOffer
from weft.controllers import Now
from weft.fabric.driver import Device, DeviceKind, Inventory
from weft.fabric.errors import Busy, CapacityExhausted, DeviceFault, FabricError, OutcomeUnknown

DESIGN = Path(__file__).parents[3] / "docs" / "design.md"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEVICES = ("a", "b")
PLACE = ("rack", "h")
WAITING = Waiting("u", "ns", "n", "", Shape((), frozenset()))
ASSIGNMENT = Assignment(WAITING, HostOffer("rack", "h", "node-h", {}, 0, 0), ())  # type: ignore[arg-type]
MORE = replace(ASSIGNMENT, waiting=replace(WAITING, extends="op"))


@cache
def seen(shown: frozenset[str]) -> Picture:
    devices = tuple(Device(each, DeviceKind.ACCELERATOR, {}, 1, True) for each in DEVICES)
    return Picture(Inventory(devices, (), tuple((each, "h") for each in sorted(shown)), True))


@dataclass(frozen=True)
class Held:
    """One attachment."""

    device: str
    attached: bool = False
    quarantined: bool = False
    deleting: bool = False
    leaving: bool = False
    added: bool = False
    """Whether it was claimed for a node that was bound already."""
    certainty: Certainty = Certainty.NEVER_CALLED


@dataclass(frozen=True)
class World:
    """Everything that the logical node's next step depends on, and what it has said."""

    there: bool = True
    deleting: bool = False
    bound: bool = False
    listed: frozenset[str] = frozenset()
    """Devices in its status."""
    shrunk: bool = False
    """Whether its spec asks for one device instead of two."""
    releasing: bool = False
    expired: bool = False
    time_is_up: bool = False
    assigned: bool = False
    held: tuple[Held, ...] = ()
    shown: frozenset[str] = frozenset()
    tainted: bool = False
    draining: bool = False
    reachable: bool = True
    used: bool = False
    verified: bool = False
    called: bool = False
    reading: frozenset[str] | None = None
    pods_known: bool = False
    problem: str = ""

    def next_pass(self) -> World:
        return replace(self, verified=False, called=False, reading=None, pods_known=False, problem="")

    def change(self, device: str, **what: Any) -> World:
        held = tuple(replace(each, **what) if each.device == device else each for each in self.held)
        return replace(self, held=held)


PROBLEMS: dict[str, FabricError | None] = {
    "": None,
    "full": CapacityExhausted("full"),
    "unknown": OutcomeUnknown("no answer"),
    "busy": Busy("a task runs"),
    "fault": DeviceFault("broken", "a"),
}


def condition(kind: str, reason: str = "Because") -> dict[str, str]:
    since = (NOW - timedelta(seconds=10)).isoformat()
    return {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": since}


@cache
def node(
    deleting: bool, bound: bool, expired: bool, time_is_up: bool, shrunk: bool, listed: frozenset[str]
) -> LogicalNode:
    metadata: dict[str, Any] = {"name": "n", "namespace": "ns", "uid": "u", "finalizers": ["weft.dev/fabric"]}
    metadata["generation"] = 2
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [condition(kind) for kind, holds in (("Bound", bound), ("Expired", expired)) if holds]
    count = 1 if shrunk else 2
    pool = {"kind": "GPUPool", "name": "p"}
    devices = [
        {"request": "main", "poolRef": pool, "device": each, "attachment": f"rack.{each}"}
        for each in sorted(listed)
    ]
    spec = {
        "accelerators": [{"name": "main", "count": count}],
        "ttlSecondsAfterBound": 5 if time_is_up else 50,
    }
    return LogicalNode.model_validate(
        {"metadata": metadata, "spec": spec, "status": {"conditions": conditions, "devices": devices}}
    )


@cache
def attachment(
    device: str, quarantined: bool, deleting: bool, leaving: bool, added: bool
) -> DeviceAttachment:
    metadata: dict[str, Any] = {"name": f"rack.{device}", "uid": device, "finalizers": ["weft.dev/fabric"]}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    spec = {
        "fabric": "rack",
        "device": device,
        "poolRef": {"kind": "GPUPool", "name": "p"},
        "host": "h",
        "nodeName": "node-h",
        "operation": "op",
        "request": "main",
        "claimSize": 2,
        "claimRef": {"namespace": "ns", "name": "n", "uid": "u"},
    }
    if added:
        spec |= {"operation": "more", "extends": "op", "claimSize": 1}
    conditions = [
        condition(kind, reason)
        for kind, reason, holds in (("Quarantined", "Because", quarantined), ("Leaving", "Surplus", leaving))
        if holds
    ]
    return DeviceAttachment.model_validate(
        {"metadata": metadata, "spec": spec, "status": {"conditions": conditions}}
    )


def decided(world: World) -> Step:
    claims = tuple(
        attachment(each.device, each.quarantined, each.deleting, each.leaving, each.added)
        for each in world.held
    )
    view = HostView(
        *PLACE,
        NodeView("node-h", True, True, "ns.n" if world.tainted else "", world.draining),
        "" if world.reachable else "fabric rack cannot be reached",
        seen(world.shown),
        certainty={each.device: each.certainty for each in world.held},
        attached=frozenset(each.device for each in world.held if each.attached),
        reading=world.reading,
        verified=world.verified,
        called=world.called,
        pods_known=world.pods_known,
        problem=PROBLEMS[world.problem],
        users=("job",) if world.used else (),
    )
    picture = LogicalNodePicture(
        LogicalNodeKey("ns", "n"),
        node(world.deleting, world.bound, world.expired, world.time_is_up, world.shrunk, world.listed)
        if world.there
        else None,
        claims,
        {PLACE: view} if claims else {},
        tainted=("node-h",) if world.tainted else (),
        outcome=(MORE if world.bound else ASSIGNMENT) if world.assigned else None,
        unplaceable="" if world.reachable else "fabric rack cannot be reached",
    )
    return decide(picture, Now(NOW, 0.0))


def outcomes(world: World, step: Step) -> Iterator[World]:
    """What the world may be after the step, as far as its promises and a manager's vices go."""
    match step:
        case Place():
            yield replace(world, assigned=False).next_pass()
        case Claim() if world.bound:
            (free,) = (each for each in DEVICES if each not in {held.device for held in world.held})
            yield replace(world, assigned=False, held=(*world.held, Held(free, added=True)))
        case Claim():
            free = [each for each in DEVICES if each not in {held.device for held in world.held}]
            for count in (1, 2):
                held = tuple(Held(device) for device in free[:count])
                for tainted in {world.tainted, True}:
                    yield replace(
                        world, assigned=False, held=world.held + held, releasing=False, tainted=tainted
                    )
        case Reserve():
            yield replace(world, tainted=True, draining=False)
        case CloseNode() | OpenNode():
            yield replace(world, draining=isinstance(step, CloseNode), pods_known=False)
        case Verify():
            yield replace(world, verified=True, reading=world.shown)
            yield replace(world, verified=True, reading=None, problem="busy")
        case Attach():
            called = replace(world, called=True, verified=False)
            devices = frozenset().union(*step.batches)
            opened = called
            for device in devices:
                opened = opened.change(device, certainty=Certainty.OPEN)
            yield replace(opened, shown=world.shown | devices)
            yield opened
            yield replace(opened, shown=world.shown | devices, problem="unknown")
            yield replace(opened, problem="unknown")
            yield replace(opened, problem="fault")
            refused = called
            for device in devices:
                refused = refused.change(device, certainty=Certainty.CLEAR)
            yield replace(refused, problem="full")
        case MarkAttached():
            for claim in step.claims:
                world = world.change(claim.spec.device, attached=True, certainty=Certainty.CLEAR)
            yield world
        case Publish():
            listed = frozenset(claim.spec.device for claim in step.claims)
            assigned = world.assigned and step.ask_after is None
            yield replace(world, bound=True, releasing=False, listed=listed, assigned=assigned).next_pass()
        case Leave():
            for claim in step.claims:
                world = world.change(claim.spec.device, leaving=True)
            yield world
        case Quarantine():
            for claim in step.claims:
                world = world.change(claim.spec.device, quarantined=True)
            yield replace(world, problem="", called=False, verified=False, reading=None, pods_known=False)
        case TurnBack():
            for claim in step.claims:
                world = world.change(claim.spec.device, deleting=True)
            yield replace(world, problem="", called=False, verified=False, reading=None, pods_known=False)
        case Withdraw():
            yield replace(
                world,
                bound=False,
                listed=frozenset(),
                releasing=True,
                expired=world.expired or step.reason == "Expired",
            ).next_pass()
        case LookForPods():
            yield replace(world, pods_known=True)
            yield replace(world, pods_known=True, used=True)
        case Detach():
            assert not world.used or not any(
                each.attached for each in world.held if each.device in step.devices
            )
            # Of a node that stays, nobody new can come for what is leaving.
            assert world.draining or not world.bound or world.deleting or not world.there
            called = replace(world, called=True, verified=False)
            yield replace(called, shown=world.shown - step.devices)
            yield replace(called, problem="unknown")
            yield replace(called, shown=world.shown - step.devices, problem="unknown")
        case GiveUp():
            gone = {claim.spec.device for claim in step.claims}
            # Nothing is given up that the fabric still shows, or that a call may still attach.
            assert not gone & world.shown
            assert all(each.certainty is not Certainty.OPEN for each in world.held if each.device in gone)
            yield replace(world, held=tuple(each for each in world.held if each.device not in gone))
        case ClearTaint():
            yield replace(world, tainted=False, draining=False)
        case Wait():
            says = {(fact[0], fact[2]) for fact in step.facts}
            releasing = world.there and (world.releasing or ("Bound", "Releasing") in says)
            bound, listed = (False, frozenset[str]()) if says else (world.bound, world.listed)
            yield replace(world, bound=bound, listed=listed, releasing=releasing).next_pass()
        case Expire():
            assert expired_facts()
            world = replace(world, listed=frozenset(), draining=False)
            yield replace(world, expired=True, bound=False, releasing=False, tainted=False).next_pass()
        case Finish():
            yield replace(world, there=False, tainted=False, draining=False, releasing=False).next_pass()


def events(world: World) -> Iterator[tuple[str, World]]:
    """What others do between two passes."""
    if world != world.next_pass():
        return
    if world.there:
        yield "(deleted)", replace(world, deleting=True)
        if not world.held and not world.assigned and not world.expired:
            yield "", replace(world, assigned=True)
        if world.bound:
            yield "", replace(world, time_is_up=True)
            yield "", replace(world, used=True)
            yield "", replace(world, shrunk=not world.shrunk, assigned=False)
            if not world.shrunk and len(world.held) == 1 and not world.assigned:
                yield "", replace(world, assigned=True)
    yield "", replace(world, used=False)
    yield "", replace(world, reachable=not world.reachable)
    yield "", replace(world, tainted=False, draining=False)
    for each in world.held:
        yield "(attachment deleted)", world.change(each.device, deleting=True)
        if each.certainty is Certainty.OPEN:
            yield "", world.change(each.device, certainty=Certainty.SETTLED)


def node_state(world: World) -> str:
    held = [each for each in world.held if not each.quarantined]
    if not held:
        if not world.there:
            return "[*]"
        return "Expired" if world.expired and not world.releasing else "Waiting"
    going = any(each.deleting for each in held)
    if world.bound and not (going and world.deleting):
        return "Bound"
    return "Releasing" if world.releasing or going else "Claimed"


def claim_state(world: World, device: str) -> str:
    held = next((each for each in world.held if each.device == device), None)
    if held is None:
        return "[*]"
    if held.deleting:
        return "Releasing"
    if held.quarantined:
        return "Quarantined"
    if held.leaving:
        return "Leaving"
    return "Attached" if held.attached else "Claimed"


Edge = tuple[str, str, str]


@pytest.fixture(scope="module")
def walked() -> tuple[set[Edge], set[Edge], int]:
    """Edges of the logical node's life and of a claim's, and how many worlds were seen."""
    nodes: set[Edge] = set()
    claims: set[Edge] = set()
    start = World()
    seen, todo = {start}, [start]
    while todo:
        world = todo.pop()
        step = decided(world)
        after = [(type(step).__name__, each) for each in outcomes(world, step)]
        for label, changed in (*after, *events(world)):
            before, now = node_state(world), node_state(changed)
            if before != now:
                nodes.add((before, now, label))
            for device in DEVICES:
                was, is_now = claim_state(world, device), claim_state(changed, device)
                if was != is_now:
                    claims.add((was, is_now, label))
            if changed not in seen:
                seen.add(changed)
                todo.append(changed)
    nodes.add(("[*]", "Waiting", "(created)"))
    return nodes, claims, len(seen)


def drawn(title: str) -> set[Edge]:
    text = DESIGN.read_text()
    section = text.split(f"### {title}\n", 1)[1]
    diagram = section.split("```mermaid\n", 1)[1].split("```", 1)[0]
    edges = re.findall(r"^ *(\S+) --> (\S+): (.+)$", diagram, re.MULTILINE)
    return {(start, end, label) for start, end, labels in edges for label in labels.split(", ")}


def test_a_logical_node_lives_as_the_diagram_says(walked: tuple[set[Edge], set[Edge], int]) -> None:
    assert walked[2] > 500
    assert walked[0] == drawn("The life of a logical node")


def test_a_claim_lives_as_the_diagram_says(walked: tuple[set[Edge], set[Edge], int]) -> None:
    assert walked[1] == drawn("The life of a claim")

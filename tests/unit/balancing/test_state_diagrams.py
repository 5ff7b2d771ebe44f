"""The state diagrams of docs/design.md say what `decide` does: no transition is missing, none is invented.

All that can happen to one replica on its way to another role, or on its way out, is walked through: each step that is
decided is carried out in a model or lost to another write; between passes the kubelet, the engine, users and time act.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import LLAMA_70B, T0
from weft.api import InferenceGroup, InferenceRole
from weft.api.names import FINALIZER
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES
from weft.balancing.bodies import with_template
from weft.balancing.decide import GroupDecision, decide
from weft.balancing.observe import GroupPicture
from weft.balancing.presets import Windows
from weft.balancing.removal import stage_of
from weft.balancing.replicas import Replica, kind_of, revision_of, shape_of
from weft.balancing.signals import Reading
from weft.balancing.state import Hold, PodLoad
from weft.balancing.status import group_status
from weft.balancing.steps import (
    CheckTemplate,
    CreatePod,
    DeleteNode,
    DeletePod,
    EnterRouter,
    LeaveRouter,
    ReturnToRouter,
    Step,
    Switch,
)
from weft.controllers import Now

DESIGN = Path(__file__).parents[3] / "docs" / "design.md"
SUBJECT = f"{GROUP}-0"
DRAIN = timedelta(seconds=60)
"""drain.timeoutSeconds of the fleet's roles."""
FLEET = Fleet(2, 2, mode="Paused")
ON_NODES = Fleet(2, 2, nodes=True, mode="Paused")


@dataclass(frozen=True)
class Life:
    """Everything that the next step for one replica depends on."""

    stored: str = ""
    """The step of its transfer in the group's status; empty: none is recorded."""
    over: bool = False
    role: str = "decode"
    pod: bool = True
    node: bool = False
    running: bool = True
    containers_ready: bool = True
    gate: bool | None = True
    gate_reason: str = "Serving"
    deleting: bool = False
    finished: bool = False
    node_deleting: bool = False
    requests: int | None = 0
    """None: no metrics."""
    late: bool = False
    """Its drain takes longer than it may."""
    taker: bool = True
    """The other role is still there."""
    spare: bool = True
    """Its role has another serving replica."""
    drain_first: bool = True
    """It finishes its requests before it changes its role."""
    restarts: bool = False
    """Its pod is replaced instead of relabelled."""


def subject(life: Life) -> Replica:
    since = T0 - (DRAIN * 2 if life.late else DRAIN / 3)
    return Replica(
        SUBJECT,
        role=life.role,
        stage=life.role,
        accelerators=2,
        has_pod=life.pod,
        pod_running=life.running and not life.finished,
        pod_finished=life.finished,
        pod_deleting=life.deleting,
        containers_ready=life.containers_ready,
        ready=life.gate is True and life.containers_ready and life.running and not life.finished,
        ready_changed_at=since,
        gate=life.gate,
        gate_reason=life.gate_reason,
        gate_changed_at=since,
        revision=revision_of(roles(life.restarts)["decode"]),
        created_at=T0,
        has_node=life.node,
        node_bound=life.node,
        node_name="worker",
        shape=shape_of(roles(life.restarts)["decode"]),
        node_role=life.role,
        node_deleting=life.node_deleting,
        pod={"metadata": {}} if life.pod else None,
    )


def other(number: int, role: str) -> Replica:
    return replace(subject(Life(role=role)), name=f"{GROUP}-{number}", gate_changed_at=T0)


@cache
def roles(on_nodes: bool = False) -> dict[str, InferenceRole]:
    fleet = ON_NODES if on_nodes else FLEET
    group = InferenceGroup.model_validate(fleet.group())
    found = {
        name: with_template(
            group, InferenceRole.model_validate(fleet.cluster.get(INFERENCE_ROLES, name, NAMESPACE))
        )
        for name in ("decode", "prefill")
    }
    return {name: role for name, role in found.items() if role is not None}


@cache
def group(stored: str, deleting: bool, drain_first: bool, restarts: bool) -> InferenceGroup:
    raw = FLEET.cluster.objects[(INFERENCE_GROUPS, NAMESPACE, GROUP)]
    metadata = {**raw["metadata"], "finalizers": [FINALIZER]}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status: dict[str, Any] = {
        "allocation": [{"role": "decode", "replicas": 2}, {"role": "prefill", "replicas": 2}]
    }
    if stored:
        transfer = {"name": "t", "from": "decode", "to": "prefill", "replica": SUBJECT, "step": stored}
        status["transfers"] = [{**transfer, "startTime": "2026-01-01T00:00:00Z"}]
    flip = "Restart" if restarts else "Label"
    rebalance = {**raw["spec"]["rebalance"], "drainFirst": drain_first, "flip": flip}
    spec = {**raw["spec"], "rebalance": rebalance}
    return InferenceGroup.model_validate({**raw, "metadata": metadata, "spec": spec, "status": status})


def picture(life: Life, *, deleting: bool) -> GroupPicture:
    found = group(life.stored, deleting, life.drain_first, life.restarts)
    here = {name: role for name, role in roles(life.restarts).items() if life.taker or name != "prefill"}
    replicas = [subject(life)] if life.pod or life.node else []
    if not deleting:
        replicas += [other(1, "prefill"), *(other(n, "decode") for n in ((2, 3) if life.spare else ()))]
    loads = {} if life.requests is None else {SUBJECT: PodLoad(float(life.requests), 0.0, sampled_at=T0)}
    return GroupPicture(
        group=found,
        raw=FLEET.group(),
        roles=here,
        kinds={name: kind_of(role, found.spec.rebalance.flip) for name, role in here.items()},
        all_roles=here,
        raw_roles={},
        too_many={},
        revisions={},
        profiles=dict.fromkeys(here, LLAMA_70B),
        replicas=tuple(replicas),
        taken=frozenset(),
        reading=Reading(None, loads, Hold("Stale", "no scrape")),
        windows=Windows(1.0),
        kv_hold_seconds=300.0,
        kv_use_tells_reads=False,
        refusals={},
    )


def after(life: Life, step: Step | None) -> Life:
    """The replica once the step was taken."""
    match step:
        case LeaveRouter():
            return replace(life, gate=False, gate_reason=step.gate.value, late=False)
        case EnterRouter() | ReturnToRouter():
            return replace(life, gate=True, gate_reason=step.gate.value, late=False)
        case Switch():
            return replace(life, role=step.taker)
        case DeletePod():
            return replace(life, deleting=True)
        case DeleteNode():
            return replace(life, node_deleting=True)
        case CreatePod():
            return replace(life, pod=True, role=step.role, finished=False, requests=0)
        case _:
            return life


def step_of(decision: GroupDecision) -> Step | None:
    found = [
        step
        for step in decision.steps
        if getattr(step, "replica", "") == SUBJECT and not isinstance(step, CheckTemplate)
    ]
    assert len(found) <= 1, f"one step for a replica in one pass: {found}"
    return found[0] if found else None


def others_act(life: Life) -> Iterator[tuple[str, Life]]:
    """What the kubelet, the engine, users and time do."""
    if life.pod:
        yield "(pod gone)", replace(life, pod=False, gate=None, gate_reason="", deleting=False)
        for requests in (None, 0, 1):
            yield "", replace(life, requests=requests)
        if life.gate is False:
            yield "", replace(life, late=True)
        yield "", replace(life, finished=True)
        yield "", replace(life, running=not life.running)
        yield "", replace(life, containers_ready=not life.containers_ready)


Edge = tuple[str, str, str]


@dataclass
class Walk:
    """What was seen on the way."""

    edges: set[Edge]
    says: set[tuple[str, str]]
    """(state, condition that the pass leaves)"""
    seen: int


def walk(
    starts: list[Life],
    deleting: bool,
    state: Callable[[Life], str],
    carried_out: Callable[[Life, GroupDecision], Iterator[tuple[str, Life]]],
    events: Callable[[Life], Iterator[tuple[str, Life]]],
    says: Callable[[GroupPicture, GroupDecision], str],
) -> Walk:
    found: Walk = Walk(set(), set(), 0)
    seen, todo = set(starts), list(starts)
    while todo:
        life = todo.pop()
        if state(life) == "[*]" and life not in starts:
            continue
        seen_now = picture(life, deleting=deleting)
        decision = decide(seen_now, Now(T0, 0.0))
        passed = list(carried_out(life, decision))
        # What the pass says when it leaves the replica in a state.
        found.says |= {(state(one), says(seen_now, decision)) for _, one in passed if state(one) != "[*]"}
        for label, changed in (*passed, *events(life)):
            before, now = state(life), state(changed)
            if before != now:
                found.edges.add((before, now, label))
            if changed not in seen:
                seen.add(changed)
                todo.append(changed)
    found.seen = len(seen)
    return found


@pytest.fixture(scope="module")
def transfers() -> Walk:
    return walk_transfers([Life(), Life(drain_first=False)], Switch | EnterRouter)


@pytest.fixture(scope="module")
def restarts() -> Walk:
    return walk_transfers([Life(node=True, restarts=True)], DeletePod | CreatePod | EnterRouter)


def walk_transfers(starts: list[Life], told: Any) -> Walk:
    """`told`: the steps that an arrow is named after."""

    def carried_out(life: Life, decision: GroupDecision) -> Iterator[tuple[str, Life]]:
        stored = next((one.step.value for one in decision.transfers if one.replica == SUBJECT), "")
        step = step_of(decision)
        notes = [note.reason for note in decision.notes]
        if not life.stored and stored:
            label = "TransferStarted"
        elif notes:
            label = notes[0]
        elif not stored:
            label = "(back in the router)"
        else:
            label = type(step).__name__ if isinstance(step, told) else "(waits)"
        recorded = replace(life, stored=stored, over=bool(life.stored) and not stored)
        yield label, recorded  # the step's write lost to another one
        if not recorded.over:
            yield label, after(recorded, step)

    def events(life: Life) -> Iterator[tuple[str, Life]]:
        if life.stored:
            yield from others_act(life)
            yield "", replace(life, taker=False)
            yield "", replace(life, spare=False)

    def says(_: GroupPicture, decision: GroupDecision) -> str:
        assert decision.balanced is not None
        return f"Balanced={decision.balanced.status} {decision.balanced.reason}"

    def state(life: Life) -> str:
        return "[*]" if life.over or not life.stored else life.stored

    return walk(starts, False, state, carried_out, events, says)


@pytest.fixture(scope="module")
def removals() -> Walk:
    def carried_out(life: Life, decision: GroupDecision) -> Iterator[tuple[str, Life]]:
        step = step_of(decision)
        yield "", life  # the step's write lost to another one
        yield type(step).__name__, after(life, step)

    def events(life: Life) -> Iterator[tuple[str, Life]]:
        yield from others_act(life)
        if life.node_deleting:
            yield "(devices free)", replace(life, node=False, node_deleting=False)

    def says(seen: GroupPicture, decision: GroupDecision) -> str:
        status = group_status(seen, decision, {}, T0)
        assert status is not None
        (ready,) = (one for one in status["conditions"] if one["type"] == "Ready")
        return f"Ready={ready['status']} {ready['reason']}"

    def state(life: Life) -> str:
        return stage_of(subject(life)).value if life.pod or life.node else "[*]"

    return walk([Life(), Life(node=True)], True, state, carried_out, events, says)


def drawn(title: str) -> tuple[set[Edge], dict[str, str]]:
    """The edges of a diagram, and what each state says of itself."""
    text = DESIGN.read_text().split(f"### {title}\n", 1)[1]
    diagram = text.split("```mermaid\n", 1)[1].split("```", 1)[0]
    edges = re.findall(r"^ *(\S+) --> (\S+): (.+)$", diagram, re.MULTILINE)
    states = dict(re.findall(r"^ *(\w+): \w+ \((.+)\)$", diagram, re.MULTILINE))
    return {(start, end, label) for start, end, labels in edges for label in labels.split(", ")}, states


def test_a_transfer_lives_as_the_diagram_says(transfers: Walk) -> None:
    assert transfers.seen > 300
    assert transfers.edges == drawn("The life of a transfer")[0]


def test_a_restart_lives_as_the_diagram_says(restarts: Walk) -> None:
    assert restarts.seen > 300
    assert restarts.edges == drawn("The life of a restart")[0]


def test_a_removal_lives_as_the_diagram_says(removals: Walk) -> None:
    assert removals.seen > 100
    edges = drawn("The life of a removal")[0]
    assert removals.edges == {edge for edge in edges if edge[0] != "[*]"}


@pytest.mark.parametrize(
    "title", ["The life of a transfer", "The life of a restart", "The life of a removal"]
)
def test_each_state_has_the_condition_that_the_diagram_names(
    title: str, transfers: Walk, restarts: Walk, removals: Walk
) -> None:
    edges, states = drawn(title)
    assert set(states) == {end for _, end, _ in edges} - {"[*]"}
    walked = transfers if "transfer" in title else restarts if "restart" in title else removals
    for state, condition in states.items():
        assert {said for where, said in walked.says if where == state} == {condition.split(", ")[0]}, state

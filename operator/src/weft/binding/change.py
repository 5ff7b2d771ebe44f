"""What is changed of a bound logical node while it stays bound: devices come and devices go. Pure, a part of `decide`.

What is added is a claim of its own that extends the first one, all or nothing; what is to go is marked before anything
is done about it. So the direction of each device is stored, and what stays takes part in neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import find, is_true
from weft.binding.attaching import attach, is_attached
from weft.binding.drain import (
    FAILED,
    MAINTENANCE,
    Draining,
    evacuate,
    evict_for,
    is_replica,
    next_look,
    reason_of,
    unwanted,
    words,
)
from weft.binding.objects import by_place, is_deleting, is_published, is_quarantined, taint_value
from weft.binding.observe import LogicalNodePicture
from weft.binding.plan import Assignment, Refusal
from weft.binding.release import RETRY_SECONDS, release
from weft.binding.resize import At, family, is_failed, is_leaving, missing, surplus
from weft.binding.status import Fact
from weft.binding.steps import Claim, Claims, CloseNode, Leave, LookAtNode, OpenNode, Step, Wait
from weft.fabric.driver import Device

NO_CALL = ("Drain", "FabricNotReady")
"""Reasons of waits before which nothing was asked of the manager."""


@dataclass(frozen=True)
class Parts:
    """The claims of one logical node, by what is being done with them."""

    core: Claims
    """What it is bound with, or is to be bound with first."""
    growth: tuple[Claims, ...] = ()
    """What is being added, each set all or nothing."""
    leaving: Claims = ()
    bound: bool = False

    @property
    def listed(self) -> Claims:
        """What its status lists: what is on its way out is not its any more."""
        waits = (claim for claim in self.leaving if not is_deleting(claim) and not is_failed(claim))
        return (*self.core, *waits)


@dataclass(frozen=True)
class Change:
    """What is to be said while nothing more can be done about it now."""

    facts: tuple[Fact, ...] = ()
    again: float | None = None
    failed: bool = False
    queue_place: str = ""
    ask_after: float | None = None
    added: Claims = ()
    """What was seen at its host since the status was written last."""
    drain_timeout_seconds: int | None = None
    """As in the status."""


NO_CHANGE = Change()


def by_operation(claims: Iterable[DeviceAttachment]) -> list[Claims]:
    """The sets that were claimed together."""
    sets: dict[str, list[DeviceAttachment]] = {}
    for claim in claims:
        sets.setdefault(claim.spec.operation, []).append(claim)
    return [tuple(sets[operation]) for operation in sorted(sets)]


def split(node: LogicalNode, held: Claims) -> Parts:
    """The parts of a node's claims; of one that is not bound all are one."""
    # A failed one that leaves is listed no more: without the others of its set it is still no claim that goes forward.
    is_bound = is_true(node.status.conditions, "Bound")
    listed = {
        claim.spec.operation
        for claim in held
        if is_published(node, claim) or (is_bound and is_leaving(claim))
    }
    if not listed:
        return Parts(held)
    stay = tuple(claim for claim in held if not is_leaving(claim))
    return Parts(
        tuple(claim for claim in stay if claim.spec.operation in listed),
        tuple(by_operation(claim for claim in stay if claim.spec.operation not in listed)),
        tuple(claim for claim in held if is_leaving(claim)),
        bound=True,
    )


def why_back(picture: LogicalNodePicture, claims: Claims, every: Claims) -> str:
    """Why a set that was claimed together cannot go forward; empty: it can. `every`: also the quarantined ones."""
    operation = claims[0].spec.operation
    if any(is_deleting(claim) for claim in claims):
        return "TurnedBack"
    # One that failed later was replaced: it says nothing of the others.
    if any(
        is_quarantined(each) and each.spec.operation == operation and not is_failed(each) for each in every
    ):
        return "DeviceFailed"
    if len(claims) >= claims[0].spec.claim_size or any(is_attached(picture, claim) for claim in claims):
        return ""
    return "ClaimIncomplete"


def was_shrunk(picture: LogicalNodePicture, node: LogicalNode, held: Claims) -> bool:
    """Whether a node without a status has all that it asks for at its host: what is not there was given back, and not
    cut short."""

    def is_shown(claim: DeviceAttachment) -> bool:
        view = picture.hosts[claim.spec.fabric, claim.spec.host].picture
        return view is not None and claim.spec.device in view.by_host.get(claim.spec.host, ())

    return not missing(node, held) and all(map(is_shown, held))


def change(picture: LogicalNodePicture, node: LogicalNode, parts: Parts, every: Claims) -> Step | Change:
    """The next step towards what the spec asks for now, or what is waited for."""
    bad = unwanted(picture, node, parts.core)
    wanted_back = bad.get(MAINTENANCE, ())
    out = (*wanted_back, *(each for each in parts.leaving if reason_of(each) == MAINTENANCE))
    # An engine ends with any of its devices: its group moves a replica as one.
    leaves_all = len(wanted_back) == len(parts.core) or (is_replica(node) and bool(wanted_back))
    whole = (*parts.core, *(each for these in parts.growth for each in these), *parts.leaving)
    away = evacuate(picture, node, whole, out if leaves_all else ())
    if isinstance(away, LookAtNode):
        return away
    if (step := _close_or_open(picture, parts, away is not None)) is not None:
        return step
    if isinstance(away, Draining):
        return Change(away.facts, away.again, drain_timeout_seconds=away.timeout_seconds)
    if away is not None:
        return away
    said = _change(picture, node, parts, every, bad)
    if not isinstance(said, Change):
        return said
    later = next_look(picture, node)
    again = min(each for each in (said.again, later, math.inf) if each is not None)
    return replace(said, again=None if again == math.inf else again)


def _close_or_open(picture: LogicalNodePicture, parts: Parts, leaves: bool) -> Step | None:
    """The step that closes the Node to new pods, or opens it again; None: it is as it has to be.

    What was evicted would come back at once, and what comes during a detach would meet a device that goes. Pods that
    end by themselves before a device is given back (Surplus) may go on coming until then.
    """
    claim = (parts.core or parts.leaving)[0]
    at = picture.hosts[claim.spec.fabric, claim.spec.host].node
    going = (*parts.leaving, *(each for claims in parts.growth for each in claims))
    closed = leaves or any(is_deleting(each) or reason_of(each) in (MAINTENANCE, FAILED) for each in going)
    is_its = at.taint == taint_value(picture.key.namespace, picture.key.name)
    if not is_its or closed is at.draining:
        return None
    return CloseNode(at.name) if closed else OpenNode(at.name)


def _change(
    picture: LogicalNodePicture,
    node: LogicalNode,
    parts: Parts,
    every: Claims,
    bad: Mapping[str, Claims],
) -> Step | Change:
    waits: list[tuple[str, Wait]] = []
    wanted, forward = parts.core, []
    for claims in parts.growth:
        is_too_much = len(surplus(node, (*wanted, *claims), {})) > len(surplus(node, wanted, {}))
        if is_too_much or why_back(picture, claims, every):
            step = release(picture, claims, "GrowthFailed")
            if not isinstance(step, Wait):
                return step
            waits.append(("growing", step))
        else:
            wanted = (*wanted, *claims)
            forward.append(claims)
    if parts.leaving:
        step = release(picture, parts.leaving, "Surplus")
        if isinstance(step, Wait) and step.reason == "Drain":
            asked = evict_for(picture, node, parts.leaving)
            views = [picture.hosts[place] for place, _ in by_place(parts.leaving)]
            users = sorted({user for view in views for user in view.users})
            step = asked or replace(step, message=words(views, users))
        if not isinstance(step, Wait):
            return step
        waits.append(("detaching", step))
    added: Claims = ()
    # What was asked of a host for one of them says nothing about the other: one at a time.
    for claims in forward if all(wait.reason in NO_CALL for _, wait in waits) else ():
        forth = _forth(picture, claims)
        if forth is None:
            added = (*added, *claims)
        elif isinstance(forth, Wait):
            waits.append(("growing", forth))
        else:
            return forth
    for why, these in bad.items():
        names = ", ".join(sorted(claim.spec.device for claim in these))
        what = "in maintenance" if why == MAINTENANCE else "faulty or missing"
        return Leave(these, why, f"{what}, to be detached and replaced: {names}")
    known, out = _known(picture, parts.core)
    # Of a spec that was never edited nothing is too much.
    edited = node.metadata.generation > 1
    if edited and (extra := surplus(node, parts.core, known, out)):
        names = ", ".join(sorted(claim.spec.device for claim in extra))
        return Leave(extra, "Surplus", f"no longer asked for, to be detached: {names}")
    said = _waiting(waits, added)
    if parts.growth or not (lacks := missing(node, parts.core)):
        return _told(node, parts, said)
    outcome = picture.outcome
    text = "; ".join(filter(None, (said.facts[0][3] if said.facts else "", "growing: ")))
    if isinstance(outcome, Assignment) and _is_for(outcome, parts, lacks):
        if not picture.unplaceable:
            return Claim(outcome)
        return replace(said, ask_after=RETRY_SECONDS)
    if isinstance(outcome, Refusal):
        fact = ("Resized", False, outcome.reason, f"{text}waits: {outcome.message}")
        return replace(said, facts=(fact,), queue_place=outcome.place)
    return replace(
        said, facts=(("Resized", False, "Growing", f"{text}a place is looked for"),), ask_after=0.0
    )


def _forth(picture: LogicalNodePicture, claims: Claims) -> Step | None:
    places = {(claim.spec.fabric, claim.spec.host) for claim in claims}
    troubles = [trouble for place in sorted(places) if (trouble := picture.hosts[place].trouble)]
    if troubles:
        return Wait("FabricNotReady", "; ".join(troubles), RETRY_SECONDS)
    return attach(picture, claims)


def _is_for(outcome: Assignment, parts: Parts, lacks: Mapping[str, int]) -> bool:
    """Whether a place is one for what this node lacks, at the Node that it has."""
    claims = parts.core or parts.leaving
    return (
        outcome.waiting.extends == family(claims[0])
        and outcome.host.node_name == claims[0].spec.node_name
        and {chosen.need for chosen in outcome.devices} <= lacks.keys()
    )


def _known(picture: LogicalNodePicture, claims: Claims) -> tuple[dict[At, Device], frozenset[At]]:
    """The devices as they were read last, and which of them are in maintenance."""
    known: dict[At, Device] = {}
    for fabric, host in {(claim.spec.fabric, claim.spec.host) for claim in claims}:
        seen = picture.hosts[fabric, host].picture
        for device in seen.inventory.devices if seen is not None else ():
            known[fabric, device.id] = device
    out = {
        (claim.spec.fabric, claim.spec.device)
        for claim in claims
        if claim.spec.device in picture.hosts[claim.spec.fabric, claim.spec.host].withheld
    }
    return known, frozenset(out)


def _waiting(waits: list[tuple[str, Wait]], added: Claims) -> Change:
    if not waits:
        return Change(added=added)
    message = "; ".join(dict.fromkeys(f"{what}: {wait.message}" for what, wait in waits))
    fact = ("Resized", False, waits[0][1].reason, message)
    again = min(wait.again for _, wait in waits)
    return Change((fact,), again, failed=all(wait.failed for _, wait in waits), added=added)


def _told(node: LogicalNode, parts: Parts, said: Change) -> Change:
    """Say that it has what it asks for, where anything else was said before, or is to be."""
    is_same = {each.attachment for each in node.status.devices} == {
        claim.metadata.name for claim in parts.listed
    }
    if said.facts or (is_same and find(node.status.conditions, "Resized") is None):
        return said
    return replace(said, facts=(("Resized", True, "Resized", "it has what spec asks for"),))


def was_resized(node: LogicalNode, facts: Iterable[Fact]) -> bool:
    """Whether these say for the first time that the node has what its spec asks for again."""
    now = any(kind == "Resized" and value for kind, value, _, _ in facts)
    return now and not is_true(node.status.conditions, "Resized")

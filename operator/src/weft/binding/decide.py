"""What a logical node needs next. Pure: a picture and the present moment in, one step out.

The direction is stored, not remembered: an attachment that is being deleted leads the whole claim back, a claim with
fewer attachments than its `claimSize` was cut short and leads back, a complete one leads forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import find, is_true
from weft.api.names import FINALIZER
from weft.binding.attaching import ACCEPTED, attach, is_attached, not_bound
from weft.binding.change import NO_CHANGE, Change, Parts, by_operation, change, split, was_shrunk, why_back
from weft.binding.objects import by_place, is_deleting, is_given_up, is_quarantined, keeps_owner, taint_value
from weft.binding.observe import LogicalNodePicture
from weft.binding.plan import Assignment, Refusal
from weft.binding.readiness import readiness
from weft.binding.release import RETRY_SECONDS, release
from weft.binding.resize import family
from weft.binding.status import Fact
from weft.binding.steps import (
    Claim,
    Claims,
    ClearTaint,
    Expire,
    Finish,
    Place,
    Publish,
    Reserve,
    Step,
    TurnBack,
    Wait,
)
from weft.controllers import Now


def decide(picture: LogicalNodePicture, now: Now) -> Step:
    """The next step of one logical node."""
    claims = tuple(claim for claim in picture.claims if not is_given_up(claim))
    # A quarantined claim no longer belongs to the node, until its deletion asks for the device to be freed.
    held = tuple(claim for claim in claims if not is_quarantined(claim) or is_deleting(claim))
    node = picture.node
    if node is None or is_deleting(node):
        return release(picture, held, "Deleted") if held else Finish("Deleted")
    namesakes = tuple(claim for claim in held if claim.spec.claim_ref.uid != node.metadata.uid)
    held = tuple(claim for claim in held if claim not in namesakes)
    others = _not_of_this_claim(picture, held)
    held = tuple(claim for claim in held if claim not in others)
    again: float | None = None
    for left_over, reason in ((namesakes, "Namesake"), (others, "Superseded")):
        if not left_over:
            continue
        step = release(picture, left_over, reason)
        if not isinstance(step, Wait) or (reason == "Namesake" and not held):
            return step
        # What is left over does not hold up the claim that the node has.
        again = step.again if again is None else min(again, step.again)
    return _sooner(_own(picture, node, claims, held, now), again)


def wants_place(node: LogicalNode, claims: Iterable[DeviceAttachment], wall: datetime) -> bool:
    """Whether placement should look for a place: nothing is claimed, and the node's time is not up."""
    return (
        not is_deleting(node)
        and not _time_is_up(node, wall)
        and not any(keeps_owner(claim) for claim in claims)
    )


def seconds_left(node: LogicalNode, wall: datetime, bound_seconds: float | None = None) -> float | None:
    """How long until `ttlSecondsAfterBound` is over; None for a node that is not bound, or has no such limit.

    `bound_seconds` is how long it has been bound, by a clock that does not jump; None: go by the wall clock.
    """
    ttl = node.spec.ttl_seconds_after_bound
    bound = find(node.status.conditions, "Bound")
    if ttl is None or bound is None or bound.status != "True" or bound.last_transition_time is None:
        return None
    # Whoever may write the status may have made the time up; years ahead, it is no moment that a sum could reach.
    age = (wall - bound.last_transition_time).total_seconds() if bound_seconds is None else bound_seconds
    return ttl - age


def _time_is_up(node: LogicalNode, wall: datetime, bound_seconds: float | None = None) -> bool:
    left = seconds_left(node, wall, bound_seconds)
    return is_true(node.status.conditions, "Expired") or (left is not None and left <= 0)


def _not_of_this_claim(picture: LogicalNodePicture, held: Claims) -> Claims:
    """Claims that are to go while the node's own stays: quarantined ones that were cleared, and superseded ones.

    A claim whose creation had no answer can come to light after the next set was claimed, perhaps at another host.
    """
    families: dict[str, list[DeviceAttachment]] = {}
    for claim in held:
        if not is_quarantined(claim):
            families.setdefault(family(claim), []).append(claim)

    def standing(name: str) -> tuple[bool, bool, str]:
        sets = by_operation(families[name])
        seen = any(all(is_attached(picture, claim) for claim in claims) for claims in sets)
        return seen, any(len(claims) >= claims[0].spec.claim_size for claims in sets), name

    counts = max(families, key=standing, default="")
    return tuple(claim for claim in held if is_quarantined(claim) or family(claim) != counts)


def _own(picture: LogicalNodePicture, node: LogicalNode, claims: Claims, held: Claims, now: Now) -> Step:
    """The next step with the one claim that counts."""
    if _time_is_up(node, now.wall, picture.bound_seconds):
        return release(picture, held, "Expired") if held else Expire()
    if not held:
        return _place(picture)
    parts = split(node, held)
    if any(is_deleting(claim) for claim in parts.core):
        return release(picture, held, "TurnedBack")
    for together in by_operation(held) if not parts.bound else ():
        reason = why_back(picture, together, claims)
        if reason and not (reason == "ClaimIncomplete" and was_shrunk(picture, node, held)):
            return release(picture, held, reason)
    return _bind(picture, node, parts, claims, now)


def _place(picture: LogicalNodePicture) -> Step:
    outcome = picture.outcome
    if outcome is not None and outcome.waiting.extends:
        # What it was for is gone.
        return Place("Lost", ask_after=0.0)
    if isinstance(outcome, Assignment):
        if picture.unplaceable:
            return Place("Lost", ask_after=RETRY_SECONDS)
        return Claim(outcome)
    if picture.tainted:
        # A place that was given up: its Node is free for others, and for another try.
        return ClearTaint(picture.tainted)
    if isinstance(outcome, Refusal):
        return Place(outcome.reason, _refused(outcome), queue_place=outcome.place, plan=outcome.plan)
    return Place("Waiting", ask_after=0.0)


def _refused(refusal: Refusal) -> tuple[Fact, ...]:
    reason, message = refusal.reason, refusal.message
    return (
        ACCEPTED if refusal.accepted else ("Accepted", False, reason, message),
        ("Reserved", False, reason, message),
        ("Bound", False, reason, message),
        ("Ready", False, "NotBound", message),
    )


def _bind(picture: LogicalNodePicture, node: LogicalNode, parts: Parts, every: Claims, now: Now) -> Step:
    """Forward: reserve the Node, attach, verify, mark, publish."""
    claims = parts.core or parts.leaving
    places = by_place(claims)
    # All claims name one Node, also where several fabrics attach to it.
    view = picture.hosts[places[0][0]]
    # What leaves is on its way back, whether it was seen there or not.
    pending = any(not is_attached(picture, claim) for claim in parts.core)
    is_bound = is_true(node.status.conditions, "Bound") and not pending
    if is_bound:
        if view.node.exists and not view.node.taint and not picture.taint_goes:
            # It registered anew, or somebody took the taint off.
            return Reserve(view.node.name, ())
        step = change(picture, node, parts, every)
        if not isinstance(step, Change):
            return step
        return _publish(picture, node, replace(parts, core=(*parts.core, *step.added)), now, step)
    troubles = [trouble for place, _ in places if (trouble := picture.hosts[place].trouble)]
    if troubles:
        return not_bound("FabricNotReady", "; ".join(troubles), RETRY_SECONDS)
    waits_for_machine = not view.node.exists and any(picture.hosts[place].made for place, _ in places)
    if not waits_for_machine and view.node.taint != taint_value(picture.key.namespace, picture.key.name):
        if not view.node.exists:
            return TurnBack(claims, "PlaceLost", f"Node {view.node.name or '(unknown)'} does not exist")
        if view.node.taint:
            return TurnBack(claims, "PlaceLost", f"Node {view.node.name} carries another logical node")
        # An earlier attempt may have reserved another Node.
        return Reserve(view.node.name, tuple(name for name in picture.tainted if name != view.node.name))
    if FINALIZER not in node.metadata.finalizers:
        return Reserve(view.node.name, ())
    return attach(picture, claims) or _publish(picture, node, parts, now)


def _publish(
    picture: LogicalNodePicture, node: LogicalNode, parts: Parts, now: Now, change: Change = NO_CHANGE
) -> Publish:
    """What is true of a node all of whose devices were seen at its host, with what is the matter since."""
    views = [(here, picture.hosts[place]) for place, here in by_place(parts.core or parts.leaving)]
    at = views[0][1].node
    facts: tuple[Fact, ...] = (
        ACCEPTED,
        ("Reserved", True, "Reserved", ""),
        ("Bound", True, "Bound", "every device was seen at the host"),
        readiness(
            node, [(here, view.picture) for here, view in views], at, made=any(v.made for _, v in views)
        ),
        *change.facts,
    )
    if is_true(node.status.conditions, "Draining") and all(kind != "Draining" for kind, *_ in change.facts):
        facts = (*facts, ("Draining", False, "NotDraining", ""))
    again = change.again
    if (ttl := node.spec.ttl_seconds_after_bound) is not None:
        known = seconds_left(node, now.wall, picture.bound_seconds)
        left = float(ttl) if known is None else known
        again = min(max(0.1, left + 0.1), again or math.inf)
    return Publish(
        parts.listed,
        at.name,
        facts,
        again,
        change.failed,
        change.queue_place,
        change.ask_after,
        change.drain_timeout_seconds,
    )


def _sooner(step: Step, again: float | None) -> Step:
    """The step, looked at again at least as soon as that."""
    if again is None or not isinstance(step, Place | Wait | Publish | Expire):
        return step
    match step:
        case Wait():
            return replace(step, again=min(step.again, again))
        case Publish():
            return replace(step, again=again if step.again is None else min(step.again, again))
        case Expire():
            return replace(step, again=again)
        case Place():
            return replace(step, again=again)

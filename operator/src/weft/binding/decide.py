"""What a logical node needs next. Pure: a picture and the present moment in, one step out.

The direction is stored, not remembered: an attachment that is being deleted leads the whole claim back, a claim with
fewer attachments than its `claimSize` was cut short and leads back, a complete one leads forward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import find, is_true
from weft.api.names import FINALIZER
from weft.binding.evidence import Certainty
from weft.binding.objects import by_place, is_deleting, is_given_up, is_quarantined, keeps_owner, taint_value
from weft.binding.observe import HostView, LogicalNodePicture
from weft.binding.plan import Assignment, Refusal
from weft.binding.readiness import readiness
from weft.binding.release import RETRY_SECONDS, delay, release
from weft.binding.status import Fact
from weft.binding.steps import (
    Attach,
    Claim,
    ClearTaint,
    Expire,
    Finish,
    MarkAttached,
    Place,
    Publish,
    Quarantine,
    Reserve,
    Step,
    TurnBack,
    Verify,
    Wait,
)
from weft.binding.words import for_tenants
from weft.controllers import Now
from weft.fabric.errors import (
    AuthFailed,
    Busy,
    CapacityExhausted,
    Conflict,
    DeviceFault,
    FabricError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    PartialFailure,
)

Claims = tuple[DeviceAttachment, ...]
ACCEPTED: Fact = ("Accepted", True, "Accepted", "")


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


def _is_attached(picture: LogicalNodePicture, claim: DeviceAttachment) -> bool:
    return claim.spec.device in picture.hosts[claim.spec.fabric, claim.spec.host].attached


def _not_of_this_claim(picture: LogicalNodePicture, held: Claims) -> Claims:
    """Claims that are to go while the node's own stays: quarantined ones that were cleared, and superseded ones.

    A claim whose creation had no answer can come to light after the next set was claimed, perhaps at another host.
    """
    sets: dict[str, list[DeviceAttachment]] = {}
    for claim in held:
        if not is_quarantined(claim):
            sets.setdefault(claim.spec.operation, []).append(claim)

    def standing(operation: str) -> tuple[bool, bool, str]:
        claims = sets[operation]
        seen = all(_is_attached(picture, claim) for claim in claims)
        return seen, len(claims) >= claims[0].spec.claim_size, operation

    counts = max(sets, key=standing, default="")
    return tuple(claim for claim in held if is_quarantined(claim) or claim.spec.operation != counts)


def _own(picture: LogicalNodePicture, node: LogicalNode, claims: Claims, held: Claims, now: Now) -> Step:
    """The next step with the one claim that counts."""
    if _time_is_up(node, now.wall, picture.bound_seconds):
        return release(picture, held, "Expired") if held else Expire()
    if not held:
        return _place(picture)
    if any(is_deleting(claim) for claim in held):
        return release(picture, held, "TurnedBack")
    if any(is_quarantined(claim) and claim.spec.operation == held[0].spec.operation for claim in claims):
        return release(picture, held, "DeviceFailed")
    if len(held) < held[0].spec.claim_size:
        return release(picture, held, "ClaimIncomplete")
    return _bind(picture, node, held, now)


def _place(picture: LogicalNodePicture) -> Step:
    outcome = picture.outcome
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


def _bind(picture: LogicalNodePicture, node: LogicalNode, claims: Claims, now: Now) -> Step:
    """Forward: reserve the Node, attach, verify, mark, publish."""
    places = by_place(claims)
    # All claims name one Node, also where several fabrics attach to it.
    view = picture.hosts[places[0][0]]
    pending = any(not _is_attached(picture, claim) for claim in claims)
    is_bound = is_true(node.status.conditions, "Bound") and not pending
    if is_bound:
        if view.node.exists and not view.node.taint:
            # It registered anew, or somebody took the taint off.
            return Reserve(view.node.name, ())
        return _publish(picture, node, claims, now)
    troubles = [trouble for place, _ in places if (trouble := picture.hosts[place].trouble)]
    if troubles:
        return _not_bound("FabricNotReady", "; ".join(troubles), RETRY_SECONDS)
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
    waits: list[Wait] = []
    for place, here in places:
        if not (left := tuple(claim for claim in here if not _is_attached(picture, claim))):
            continue
        step = _attach(picture.hosts[place], claims, here, left)
        if not isinstance(step, Wait):
            return step
        # What has to be waited for at one fabric keeps no other from its work.
        waits.append(step)
    return _all_of(waits) if waits else _publish(picture, node, claims, now)


def _all_of(waits: list[Wait]) -> Wait:
    if len(waits) == 1:
        return waits[0]
    message = "; ".join(dict.fromkeys(wait.message for wait in waits))
    first = _not_bound(waits[0].reason, message, min(wait.again for wait in waits))
    first = replace(first, failed=all(wait.failed for wait in waits))
    return replace(first, read_fabric=next((wait.read_fabric for wait in waits if wait.read_fabric), ""))


def _attach(view: HostView, claims: Claims, here: Claims, pending: Claims) -> Step:
    """The next step at one host: `here` are the claims there, `pending` those of them that were not seen attached."""
    problem = view.problem
    if problem is not None and not isinstance(problem, OutcomeUnknown | InvalidRequest):
        return _attach_failed(view, claims, here, problem)
    devices = frozenset(claim.spec.device for claim in here)
    if _is_fresh(view, devices):
        # The attach itself begins with reading the host.
        return _call(view, here, devices)
    if not view.verified:
        return Verify(view.fabric, view.host, devices)
    absent = devices - (view.reading or frozenset())
    if not absent:
        return MarkAttached(pending)
    if view.called or problem is not None:
        at_fault = {device: _blame(view, device, problem) for device in absent & view.at_fault}
        if at_fault:
            return _quarantine(here, at_fault)
        if problem is None:
            left = ", ".join(sorted(absent))
            text = f"the manager of Fabric {view.fabric} does not show {left} at {view.host} yet"
            return _not_bound("Attaching", text, delay(OutcomeUnknown(text)))
        return _failed(view, problem)
    return _call(view, here, absent)


def _is_fresh(view: HostView, devices: frozenset[str]) -> bool:
    """Whether these were claimed just now, and are not at the host already, to be taken over."""
    if view.called or view.picture is None or devices & view.picture.by_host.get(view.host, frozenset()):
        return False
    return all(view.certainty.get(device) is Certainty.NEVER_CALLED for device in devices)


def _call(view: HostView, here: Claims, absent: frozenset[str]) -> Attach:
    if view.try_alone:
        return Attach(here, tuple(frozenset({device}) for device in sorted(absent)))
    return Attach(here, (absent,))


def _blame(view: HostView, device: str, problem: FabricError | None) -> str:
    last = (
        str(problem)
        if problem is not None
        else f"the manager takes the request and does not show it at {view.host}"
    )
    return f"{device} could not be attached for settleSeconds, while the manager attached others; the last try: {last}"


def _attach_failed(view: HostView, claims: Claims, here: Claims, problem: FabricError) -> Step:
    """What becomes of a claim whose attach, or whose reading of the host, the manager answered with an error.

    The whole claim turns back, whatever other fabrics have attached: all or nothing.
    """
    match problem:
        case DeviceFault(device=device):
            return _quarantine(here, {device: str(problem)})
        case PartialFailure(failed=failed):
            return _quarantine(here, failed)
        case CapacityExhausted() | Conflict() | NotFound():
            text = for_tenants(problem, view.fabric)
            return TurnBack(claims, "PlaceLost", text, avoid=view.host, read_fabric=view.fabric)
        case AuthFailed():
            return replace(_failed(view, problem), read_fabric=view.fabric)
        case _:
            return _failed(view, problem)


def _failed(view: HostView, problem: FabricError) -> Wait:
    """A try that failed and may succeed later."""
    reason = "InvalidRequest" if isinstance(problem, InvalidRequest) else "Attaching"
    step = _not_bound(reason, for_tenants(problem, view.fabric), delay(problem))
    return replace(step, failed=not isinstance(problem, Busy))


def _quarantine(claims: Claims, failed: dict[str, str]) -> Quarantine:
    return Quarantine(tuple(claim for claim in claims if claim.spec.device in failed), failed)


def _not_bound(reason: str, message: str, again: float) -> Wait:
    facts: tuple[Fact, ...] = (
        ACCEPTED,
        ("Reserved", True, "Reserved", "all devices are claimed"),
        ("Bound", False, reason, message),
        ("Ready", False, "NotBound", message),
    )
    return Wait(reason, message, again, facts)


def _publish(picture: LogicalNodePicture, node: LogicalNode, claims: Claims, now: Now) -> Publish:
    """What is true of a node all of whose devices were seen at its host, with what is the matter since."""
    views = [(here, picture.hosts[place]) for place, here in by_place(claims)]
    at = views[0][1].node
    facts: tuple[Fact, ...] = (
        ACCEPTED,
        ("Reserved", True, "Reserved", ""),
        ("Bound", True, "Bound", "every device was seen at the host"),
        readiness(
            node, [(here, view.picture) for here, view in views], at, made=any(v.made for _, v in views)
        ),
    )
    again: float | None = None
    if (ttl := node.spec.ttl_seconds_after_bound) is not None:
        known = seconds_left(node, now.wall, picture.bound_seconds)
        left = float(ttl) if known is None else known
        again = max(0.1, left + 0.1)
    return Publish(claims, at.name, facts, again)


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

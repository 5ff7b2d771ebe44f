"""The way forward of a claim: attached, seen at its hosts, or blamed. Pure, a part of `decide`."""

from __future__ import annotations

from dataclasses import replace

from weft.api import DeviceAttachment
from weft.binding.evidence import Certainty
from weft.binding.objects import by_place
from weft.binding.observe import HostView, LogicalNodePicture
from weft.binding.release import delay
from weft.binding.status import Fact
from weft.binding.steps import Attach, Claims, MarkAttached, Quarantine, Step, TurnBack, Verify, Wait
from weft.binding.words import for_tenants
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

ACCEPTED: Fact = ("Accepted", True, "Accepted", "")


def is_attached(picture: LogicalNodePicture, claim: DeviceAttachment) -> bool:
    """Whether the device was seen at its host after it was attached."""
    return claim.spec.device in picture.hosts[claim.spec.fabric, claim.spec.host].attached


def attach(picture: LogicalNodePicture, claims: Claims) -> Step | None:
    """The next step that brings a claim to its hosts; None: all of it was seen there."""
    waits: list[Wait] = []
    for place, here in by_place(claims):
        if not (left := tuple(claim for claim in here if not is_attached(picture, claim))):
            continue
        step = _attach(picture.hosts[place], claims, here, left)
        if not isinstance(step, Wait):
            return step
        # What has to be waited for at one fabric keeps no other from its work.
        waits.append(step)
    return _all_of(waits) if waits else None


def _all_of(waits: list[Wait]) -> Wait:
    if len(waits) == 1:
        return waits[0]
    message = "; ".join(dict.fromkeys(wait.message for wait in waits))
    first = not_bound(waits[0].reason, message, min(wait.again for wait in waits))
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
            return not_bound("Attaching", text, delay(OutcomeUnknown(text)))
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
    step = not_bound(reason, for_tenants(problem, view.fabric), delay(problem))
    return replace(step, failed=not isinstance(problem, Busy))


def _quarantine(claims: Claims, failed: dict[str, str]) -> Quarantine:
    return Quarantine(tuple(claim for claim in claims if claim.spec.device in failed), failed)


def not_bound(reason: str, message: str, again: float) -> Wait:
    """Wait for something with all devices claimed."""
    facts: tuple[Fact, ...] = (
        ACCEPTED,
        ("Reserved", True, "Reserved", "all devices are claimed"),
        ("Bound", False, reason, message),
        ("Ready", False, "NotBound", message),
    )
    return Wait(reason, message, again, facts)

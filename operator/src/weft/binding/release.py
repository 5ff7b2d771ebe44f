"""The way back of a claim: no user left, detached, seen to be detached, given up. Pure, a part of `decide`."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from weft.api import DeviceAttachment
from weft.api.conditions import is_true
from weft.binding.evidence import Certainty
from weft.binding.objects import by_place, is_deleting
from weft.binding.observe import HostView, LogicalNodePicture
from weft.binding.resize import is_failed, is_leaving
from weft.binding.status import Fact
from weft.binding.steps import (
    Claims,
    Detach,
    GiveUp,
    LookForPods,
    Quarantine,
    Step,
    TurnBack,
    Verify,
    Wait,
    Withdraw,
)
from weft.binding.words import for_tenants
from weft.fabric.errors import (
    AuthFailed,
    Busy,
    FabricError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    RateLimited,
)

RETRY_SECONDS = 1.0
STUCK_SECONDS = 30.0
PODS_SECONDS = 5.0


STAYS_BOUND = ("Superseded", "Surplus", "GrowthFailed")
"""Reasons of releases beside which the node keeps what it has."""


def release(picture: LogicalNodePicture, claims: Claims, reason: str) -> Step:
    """Back: no user left, detached, seen to be detached, given up; host by host.

    A host at which something has to be waited for does not hold up another one (an earlier namesake's, say).
    """
    node = picture.node
    tells = node is not None and reason not in STAYS_BOUND
    if (
        node is not None
        and reason not in ("Deleted", "Namesake", *STAYS_BOUND)
        and is_true(node.status.conditions, "Bound")
    ):
        text = "its devices are being released"
        return Withdraw(reason, (*_releasing(text), *(_EXPIRED if reason == "Expired" else ())))
    waits: list[Wait] = []
    # The other way round than they were attached.
    for place, here in reversed(by_place(claims)):
        # A device that is left over beside the node's own was never published: nothing can be using it.
        users = picture.hosts[place].users if reason != "Superseded" else ()
        step = _at_host(picture.hosts[place], here, users)
        if isinstance(step, Detach):
            return replace(step, reason=reason)
        if not isinstance(step, Wait):
            return step
        waits.append(step)
    message = "; ".join(dict.fromkeys(wait.message for wait in waits))
    again = min(wait.again for wait in waits)
    failed = all(wait.failed for wait in waits)
    return Wait(waits[0].reason, message, again, _releasing(message) if tells else (), failed=failed)


def _at_host(view: HostView, claims: Claims, users: tuple[str, ...]) -> Step:
    # One that failed is not given back: it ends quarantined.
    remaining = tuple(claim for claim in claims if not is_deleting(claim) and not is_failed(claim))
    if view.trouble:
        # The direction must be stored even though the fabric cannot be reached.
        if remaining:
            return TurnBack(remaining, "Released", view.trouble)
        return Wait("FabricNotReady", view.trouble, RETRY_SECONDS)
    # What the host shows may be in use, whatever a status says that others may write.
    shown = view.picture.by_host.get(view.host, frozenset()) if view.picture else frozenset()
    # One that left alone was free of users when it was turned back; others may have come for what stays.
    seen = shown if view.picture is not None and all(map(_left_alone, claims)) else view.attached | shown
    if users and any(claim.spec.device in seen for claim in claims):
        return Wait("Drain", f"pods still use the devices: {', '.join(users[:5])}", PODS_SECONDS)
    if remaining:
        return TurnBack(remaining, "Released", "")
    uncalled = tuple(claim for claim in claims if _certainty(view, claim) is Certainty.NEVER_CALLED)
    if uncalled:
        return _free(uncalled)
    if isinstance(view.problem, NotFound):
        # The manager no longer has the host, or says so: only inventories that agree on it free its devices.
        gone = tuple(claim for claim in claims if _certainty(view, claim) is Certainty.SETTLED)
        if gone:
            return _free(gone)
        message = (
            f"{for_tenants(view.problem, view.fabric)}; kept until inventories settleSeconds apart agree"
        )
        return Wait("Settle", message, RETRY_SECONDS)
    if view.problem is not None:
        text = for_tenants(view.problem, view.fabric)
        return Wait("FabricError", text, delay(view.problem), failed=not isinstance(view.problem, Busy))
    if not view.verified:
        return Verify(view.fabric, view.host, operations=_unanswered(view, claims))
    present = frozenset(claim.spec.device for claim in claims) & (view.reading or frozenset())
    free = tuple(
        claim
        for claim in claims
        if claim.spec.device not in present and _certainty(view, claim) is not Certainty.OPEN
    )
    if free:
        return _free(free)
    if present and not view.called:
        if not view.pods_known:
            spec = claims[0].spec
            nodes = frozenset((spec.node_name, view.node.name))
            return LookForPods(view.fabric, view.host, spec.claim_ref.namespace, nodes)
        return Detach(claims, present)
    if present:
        left = ", ".join(sorted(present))
        message = f"fabric {view.fabric}: {left} still shown at {view.host} after the detach"
        return Wait("Settle", message, RETRY_SECONDS)
    left = ", ".join(sorted(claim.spec.device for claim in claims))
    message = (
        f"fabric {view.fabric}: {left}: not attached now, but may be again, by an earlier call or of itself; kept until"
        " inventories settleSeconds apart agree"
    )
    return Wait("Settle", message, RETRY_SECONDS)


def _left_alone(claim: DeviceAttachment) -> bool:
    return is_leaving(claim) and is_deleting(claim)


def _free(claims: Claims) -> Step:
    """What is not attached any more is given up, or kept from use where it failed."""
    failed = tuple(claim for claim in claims if is_failed(claim) and not is_deleting(claim))
    if not failed:
        return GiveUp(claims)
    why = "it was faulty or missing while it was attached"
    return Quarantine(failed, {claim.spec.device: why for claim in failed}, "DeviceFailed")


def _unanswered(view: HostView, claims: Claims) -> tuple[str, ...]:
    """Keys under which the manager may still work on an attach that had no answer."""
    keys = dict.fromkeys(
        operation_key(claim.spec.operation, batch, claim.spec.claim_size)
        for claim in claims
        if claim.spec.device in view.no_answer
        for batch in (frozenset(each.spec.device for each in claims), frozenset({claim.spec.device}))
    )
    return tuple(keys)


def operation_key(operation: str, devices: frozenset[str], claim_size: int) -> str:
    """The key of an attach of these devices out of a claim of so many: the same for each repetition."""
    if len(devices) == claim_size:
        return operation
    names = "-".join(sorted(devices))
    # Cut off, the keys of two devices with long names could be one.
    short = names if len(names) <= 64 else hashlib.sha256(names.encode()).hexdigest()[:32]
    return f"{operation}-{short}"


def _certainty(view: HostView, claim: DeviceAttachment) -> Certainty:
    return view.certainty.get(claim.spec.device, Certainty.OPEN)


_EXPIRED: tuple[Fact, ...] = (
    (
        "Expired",
        True,
        "TimeIsUp",
        "released after ttlSecondsAfterBound; create a new LogicalNode to bind again",
    ),
)


def _releasing(message: str) -> tuple[Fact, ...]:
    return ("Bound", False, "Releasing", message), ("Ready", False, "Releasing", message)


def release_refused(words: str) -> tuple[Fact, ...]:
    """What is true of a deleted node while the API server refuses what its release has to write."""
    return _releasing(f"the API server refuses a write that its release needs: {words}; it is tried again")


def expired_facts() -> tuple[Fact, ...]:
    """What is true of a node whose time is up and whose devices are free again."""
    return (*_EXPIRED, *((kind, False, "Expired", _EXPIRED[0][3]) for kind in ("Reserved", "Bound", "Ready")))


def delay(error: FabricError) -> float:
    """How long to wait before the next try, by what went wrong."""
    if isinstance(error, RateLimited):
        return error.retry_after_seconds
    if isinstance(error, OutcomeUnknown):
        return max(error.retry_after_seconds, RETRY_SECONDS)
    if isinstance(error, InvalidRequest | AuthFailed):
        return STUCK_SECONDS
    return 0.3 if isinstance(error, Busy) else RETRY_SECONDS

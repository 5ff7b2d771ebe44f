"""What a logical node needs next, from its object and its claims alone. Pure.

The direction of the saga is stored: claims that are being deleted lead back, complete claims lead forward.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import find, is_true
from weft.api.names import FINALIZER


class Intent(enum.Enum):
    """The direction a logical node moves in."""

    PLACE = "place"
    """It has no devices: wait for a place."""
    BIND = "bind"
    """All claims are made: attach, verify, publish."""
    RELEASE = "release"
    """Detach, verify, give up the claims."""
    FINISH = "finish"
    """Nothing is claimed and nothing is wanted: clean up what is left (taint, finalizer)."""


@dataclass(frozen=True)
class Decision:
    """The direction, the claims concerned, and why."""

    intent: Intent
    claims: tuple[DeviceAttachment, ...] = ()
    reason: str = ""


def is_quarantined(claim: DeviceAttachment) -> bool:
    """A device that failed: kept out of use until an administrator deletes its attachment."""
    return is_true(claim.status.conditions, "Quarantined")


def is_attached(claim: DeviceAttachment) -> bool:
    return is_true(claim.status.conditions, "Attached")


def is_deleting(claim: DeviceAttachment | LogicalNode) -> bool:
    return claim.metadata.deletion_timestamp is not None


def is_given_up(claim: DeviceAttachment) -> bool:
    """A claim whose device was released, that somebody else's finalizer keeps from going."""
    return is_deleting(claim) and FINALIZER not in claim.metadata.finalizers


def expiry(node: LogicalNode) -> datetime | None:
    """When the node's time is up: `ttlSecondsAfterBound` after it became Bound."""
    ttl = node.spec.ttl_seconds_after_bound
    bound = find(node.status.conditions, "Bound")
    if ttl is None or bound is None or bound.status != "True" or bound.last_transition_time is None:
        return None
    try:
        return bound.last_transition_time + timedelta(seconds=ttl)
    except OverflowError:
        # Whoever may write the status made this up; nothing else is that far ahead.
        return None


def _superseded(held: tuple[DeviceAttachment, ...]) -> tuple[DeviceAttachment, ...]:
    """Claims of other operations than the one that counts.

    A claim whose creation had no answer can come to light after the next set was claimed, perhaps at another host.
    """
    sets: dict[str, list[DeviceAttachment]] = {}
    for claim in held:
        sets.setdefault(claim.spec.operation, []).append(claim)

    def standing(operation: str) -> tuple[bool, bool, str]:
        claims = sets[operation]
        return all(map(is_attached, claims)), len(claims) >= claims[0].spec.claim_size, operation

    counts = max(sets, key=standing, default="")
    return tuple(claim for claim in held if claim.spec.operation != counts)


def decide(node: LogicalNode | None, claims: Iterable[DeviceAttachment], now: datetime) -> Decision:
    """The next direction for a node (None: its object is gone) that has these claims."""
    claims = tuple(claim for claim in claims if not is_given_up(claim))
    # A quarantined claim no longer belongs to the node, until its deletion asks for the device to be freed.
    held = tuple(claim for claim in claims if not is_quarantined(claim) or is_deleting(claim))
    if node is None or is_deleting(node):
        return Decision(Intent.RELEASE, held, "Deleted") if held else Decision(Intent.FINISH, (), "Deleted")
    cleared = tuple(claim for claim in held if is_quarantined(claim))
    if cleared:
        return Decision(Intent.RELEASE, cleared, "Cleared")
    foreign = tuple(claim for claim in held if claim.spec.claim_ref.uid != node.metadata.uid)
    if foreign:
        return Decision(Intent.RELEASE, foreign, "Deleted")
    superseded = _superseded(held)
    if superseded:
        return Decision(Intent.RELEASE, superseded, "Superseded")
    end = expiry(node)
    if is_true(node.status.conditions, "Expired") or (end is not None and now >= end):
        return Decision(Intent.RELEASE, held, "Expired") if held else Decision(Intent.FINISH, (), "Expired")
    if not held:
        return Decision(Intent.PLACE)
    if any(is_deleting(claim) for claim in held):
        return Decision(Intent.RELEASE, held, "TurnedBack")
    if any(is_quarantined(claim) and claim.spec.operation == held[0].spec.operation for claim in claims):
        return Decision(Intent.RELEASE, held, "DeviceFailed")
    if len(held) < held[0].spec.claim_size:
        return Decision(Intent.RELEASE, held, "ClaimIncomplete")
    return Decision(Intent.BIND, held)

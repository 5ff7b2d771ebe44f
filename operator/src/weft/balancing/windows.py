"""What a group's times of the week and its suspension allow, and ask for, at a moment. Pure.

Only what Weft does of its own accord waits: the split, the size, and the rollout of a changed template. What replaces
something that failed, and what somebody drains or asks for by a number, does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from weft.api import RebalanceMode, Transfer
from weft.api.inference import AcceleratorLimits, InferenceGroupSpec, MoveReason
from weft.api.windows import next_opening, opening_words
from weft.balancing.plan import SplitPlan
from weft.balancing.state import Finding, Split

SUSPENDED = Finding(
    False,
    "Suspended",
    "spec.suspend is set: nothing is moved, and no replica is added; take it off (kubectl weft resume infg/NAME)"
    " to go on",
)


@dataclass(frozen=True)
class Permit:
    """What may be done now."""

    held: dict[MoveReason, Finding] = field(default_factory=dict)
    """Why moves wait, by their reason; what is absent may go on."""
    most_transfers: int | None = None
    """That may be under way at one time; None: as many as there are otherwise."""
    suspended: bool = False
    leaving: Finding | None = None
    """Why no replica may leave the router."""


def permit(spec: InferenceGroupSpec, wall: datetime, leaving: Finding | None = None) -> Permit:
    """What a group's spec allows at a moment, where replicas may leave the router or, for the reason in `leaving`, may
    not. A window whose time zone is not known allows nothing."""
    if spec.suspend:
        return Permit(dict.fromkeys(MoveReason, SUSPENDED), suspended=True)
    held: dict[MoveReason, Finding] = {}
    if leaving is not None:
        held = {MoveReason.SPLIT: leaving, MoveReason.ROLLOUT: leaving}
    most: int | None = None
    for reason in MoveReason:
        windows = [each for each in spec.windows if not each.reasons or reason in each.reasons]
        try:
            open_ = [each for each in windows if each.is_open(wall)]
            if windows and not open_:
                opens = opening_words(next_opening(windows, wall))
                text = f"moves for {reason} wait for the window of spec.windows that opens on {opens}"
                held[reason] = Finding(False, "OutsideWindow", text)
        except ValueError as error:
            held[reason] = Finding(False, "OutsideWindow", f"moves for {reason} wait: spec.windows: {error}")
            continue
        limits = [each.max_concurrent for each in open_]
        if reason is MoveReason.SPLIT and limits and None not in limits:
            most = max(each for each in limits if each is not None)
    return Permit(held, most, leaving=leaving)


def minimum_at(limits: AcceleratorLimits, wall: datetime) -> tuple[int | None, Finding | None]:
    """Accelerators that are held at least at a moment, None where the size is fixed; and why that is not sure.

    A schedule that cannot be read counts as in force: hardware that is missing at its time is what it is to prevent.
    """
    try:
        return limits.minimum_at(wall), None
    except ValueError as error:
        text = (
            f"accelerators.schedule counts as in force at any time: {error}: name a zone of the tz database"
        )
        most = max(each.minimum for each in limits.schedule)
        return max(limits.minimum or 0, most), Finding(False, "ScheduleUnreadable", text)


def within(permit: Permit, plan: SplitPlan, before: Split, mode: RebalanceMode) -> SplitPlan:
    """The plan, or the split that held before where what it would change has to wait."""
    after = plan.allocation
    if not before or after == before:
        return plan
    if permit.suspended:
        if all(count <= before[role] for role, count in after.counts):
            return plan
        return replace(plan, allocation=before, decision=None, obstacle=SUSPENDED)
    shrinks = any(after[role] < count for role, count in before.counts)
    # Elsewhere than in Auto it is somebody's number that changed.
    reason = MoveReason.SPLIT if after.total == before.total else MoveReason.SIZE
    why = permit.held.get(reason) or (permit.leaving if shrinks else None)
    if mode is not RebalanceMode.AUTO or why is None:
        return plan
    return replace(plan, allocation=before, decision=None, obstacle=why)


def started(
    permit: Permit, chosen: tuple[Transfer, ...], under_way: int
) -> tuple[tuple[Transfer, ...], Finding | None]:
    """Of the transfers that could start those that may, and why others wait."""
    if chosen and (why := permit.held.get(MoveReason.SPLIT)) is not None:
        return (), why
    if permit.most_transfers is None:
        return chosen, None
    return chosen[: max(0, permit.most_transfers - under_way)], None

"""Replicas whose devices are taken away: which of them leave now, and which serve on meanwhile. Pure.

As long as an administrator gives time, a role has as few of its replicas away at once as in a rollout. Nothing is
recorded: one that has begun to leave does not serve, and the rest is counted anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from weft.balancing import removal
from weft.balancing.observe import GroupPicture
from weft.balancing.replicas import Replica, serving_in
from weft.balancing.state import Finding, Split
from weft.plain import listed

AWAY_PART = 4
"""Of so many replicas of a role one may be away; of fewer one."""
BEFORE_SECONDS = 15.0
"""What leaving takes beyond the drain, and by how much two controllers may count apart."""


@dataclass(frozen=True)
class TakenAway:
    """The replicas whose devices are taken away and whose removal has not begun."""

    leave: frozenset[str] = frozenset()
    """Those that go now."""
    last: tuple[Replica, ...] = ()
    """Those that are the last that serve their role: they go when another one serves."""
    serve_on: tuple[Replica, ...] = ()
    """Those that go when fewer are away, or their time is nearly over."""
    told: Finding | None = None
    """What is said of these."""


def taken_away(picture: GroupPicture, allocation: Split, now: datetime) -> TakenAway:
    """Which of them go now: what does not serve, what has no time left, and others as their role can spare them."""
    taken = [one for one in picture.replicas if one.node_draining and not one.removing]
    left = {one.name: _seconds_left(one, picture, now) for one in taken}
    leave = {one.name for one in taken if not one.serving}
    last: list[Replica] = []
    serve_on: list[Replica] = []
    for role in sorted({one.role for one in taken}):
        serving = [one for one in serving_in(picture.replicas, role) if not one.removing]
        stay = len(serving)
        spare = max(1, allocation[role] // AWAY_PART) - (allocation[role] - stay)
        of_role = (one for one in serving if one.node_draining)
        for one in sorted(of_role, key=lambda one: (left[one.name], one.number, one.name)):
            if stay == 1:
                last.append(one)
            elif spare > 0 or left[one.name] <= 0:
                leave.add(one.name)
                stay, spare = stay - 1, spare - 1
            else:
                serve_on.append(one)
    told = None
    if serve_on:
        least = min(left[one.name] for one in serve_on)
        told = _told(serve_on, now + timedelta(seconds=least))
    return TakenAway(frozenset(leave), tuple(last), tuple(serve_on), told)


def _seconds_left(one: Replica, picture: GroupPicture, now: datetime) -> float:
    """How long it can serve on and still finish its requests before it is evicted."""
    if one.node_drain_seconds is None or one.node_draining_since is None:
        return -math.inf
    since = (now - one.node_draining_since).total_seconds()
    return one.node_drain_seconds - since - removal.drain_seconds(one, picture) - BEFORE_SECONDS


def _told(serve_on: Iterable[Replica], until: datetime) -> Finding:
    # Not to the second: after a clock was set a moment is not quite the same at each look.
    text = (
        f"{listed([one.name for one in serve_on])}: taken out of service, to leave when those that left before have"
        f" successors that serve, at {until:%Y-%m-%d %H:%M} UTC at the latest"
    )
    return Finding(False, "WaitingForTurn", text)

"""How fast each replica was seen to write answers, and which of a role's replicas changes its role for it.

Engines of equal hardware differ. A prompt is read by whichever replica is free, so one that is slow reads fewer. An
answer is written where it began, so a slow replica makes all of its own late. So the slowest of those that write
answers go to prefill, and of prefill the fastest come back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from weft.api import Stage
from weft.balancing.capacity import planned_token_seconds
from weft.balancing.profile import Profile
from weft.balancing.state import Engine

WRITING = (Stage.DECODE, Stage.AGGREGATED)
STEP = 0.05
"""Speeds are told apart in steps of this: within one the least loaded replica goes."""


def writing_speed(engine: Engine, stage: Stage, profile: Profile | None) -> float | None:
    """The speed of a replica over its profile's, where it wrote answers during the whole long window."""
    seconds = engine.load.inter_token_seconds
    if profile is None or stage is not Stage.DECODE or not engine.steady or not seconds:
        return None
    planned = planned_token_seconds(profile, engine.load)
    return planned / seconds if planned is not None else None


class OwnSpeeds:
    """Of one group's replicas, as each last wrote answers. In the leader's memory: a new one knows none."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def with_seen(self, seen: Mapping[str, float], present: Collection[str]) -> Mapping[str, float]:
        """What is known of those that are there."""
        self._known = {name: one for name, one in {**self._known, **seen}.items() if name in present}
        return dict(self._known)


def turn(name: str, giver: Stage, taker: Stage, speeds: Mapping[str, float]) -> int:
    """Where a replica stands among those that could change their role: the least goes. Unknown ones are as the mean of
    those that are known."""
    if not speeds or (giver in WRITING) == (taker in WRITING):
        return 0
    steps = round(speeds.get(name, sum(speeds.values()) / len(speeds)) / STEP)
    return steps if giver in WRITING else -steps

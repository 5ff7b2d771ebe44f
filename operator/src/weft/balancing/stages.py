"""Which parts of a request a role's stage does, and of which of them the planner knows what they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from weft.api import Stage

PLANNED = (Stage.PREFILL, Stage.DECODE)
"""What every request passes through, and what engines tell enough of to say how many replicas it needs."""
_PLANNED = frozenset(PLANNED)
PARTS: Mapping[Stage, frozenset[Stage]] = {
    Stage.ENCODE: frozenset({Stage.ENCODE}),
    Stage.PREFILL: frozenset({Stage.PREFILL}),
    Stage.DECODE: frozenset({Stage.DECODE}),
    Stage.AGGREGATED: _PLANNED,
}
"""An aggregated replica divides its time between two parts."""


def parts_of(stages: Iterable[Stage]) -> set[Stage]:
    """What replicas of these stages do together."""
    return {part for stage in stages for part in PARTS[stage]}


def is_planned(stage: Stage) -> bool:
    """Whether the planner decides how many replicas a role of this stage has. Else it has as many as its spec says."""
    return PARTS[stage] <= _PLANNED


def by_stage(roles: Iterable[tuple[Stage, float]]) -> dict[Stage, float]:
    """Hardware of roles, given with their stages, by the planned part of a request that it is for: of a role that does
    two, half for each."""
    found: dict[Stage, float] = {}
    for stage, hardware in roles:
        for part in PARTS[stage] & _PLANNED:
            found[part] = found.get(part, 0.0) + hardware / len(PARTS[stage])
    return found

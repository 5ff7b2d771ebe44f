"""Every condition type, reason and event that Weft writes: what it means, and what to do about it.

Code writes the words as they are; tests/unit/api/test_reasons.py finds those that are not declared here, and those
that nothing writes. docs/reasons.md is made from this.
"""

from __future__ import annotations

from weft.api.reasons import hardware, inference, logical_node
from weft.api.reasons.declared import ConditionType, Event, Reason

CONDITIONS: tuple[ConditionType, ...] = (
    *hardware.CONDITIONS,
    *logical_node.CONDITIONS,
    *inference.CONDITIONS,
)
EVENTS: tuple[Event, ...] = (*hardware.EVENTS, *logical_node.EVENTS, *inference.EVENTS)

__all__ = ["CONDITIONS", "EVENTS", "ConditionType", "Event", "Reason", "is_condition", "is_event"]


def is_condition(kind: str, type: str, status: str, reason: str) -> bool:
    """Whether objects of this kind may have such a condition."""
    return any(
        kind in each.kinds
        and each.type == type
        and any((one.status, one.word) == (status, reason) for one in each.reasons)
        for each in CONDITIONS
    )


def is_event(kind: str, type: str, reason: str) -> bool:
    """Whether there may be such an event about objects of this kind."""
    return any(
        kind in each.kinds and any((one.event, one.word) == (type, reason) for one in each.reasons)
        for each in CONDITIONS
    ) or any(kind in each.kinds and (each.type, each.reason) == (type, reason) for each in EVENTS)

"""What the declaration of a condition type, of its reasons and of an event consists of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from weft.api.conditions import Status

NOTHING = "Nothing."


@dataclass(frozen=True)
class Reason:
    """One reason of a condition type."""

    status: Status
    """The status that it goes with."""
    word: str
    meaning: str
    """One sentence."""
    action: str = NOTHING
    """What to do about it, one sentence."""
    event: Literal["", "Normal", "Warning"] = ""
    """Type of the event, with the same reason, that tells when it begins; empty: none does."""

    see: str = ""
    """The condition that knows more, as `Type` of the same object or `Kind.Type` of one that it depends on."""

    def told(self, event: Literal["", "Normal", "Warning"]) -> Reason:
        """The same, of a condition that is told with this event, or none."""
        return replace(self, event=event)


@dataclass(frozen=True)
class ConditionType:
    """One condition type of some kinds."""

    kinds: tuple[str, ...]
    type: str
    meaning: str
    """What True says, one sentence."""
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Event:
    """An event that no condition's reason stands for."""

    kinds: tuple[str, ...]
    """The kinds of the objects that it is about."""
    type: Literal["Normal", "Warning"]
    reason: str
    meaning: str
    action: str = NOTHING

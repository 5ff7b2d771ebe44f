"""Habits of real managers that a service may have in any dialect; docs/emulator.md says how each looks."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Quirk(enum.StrEnum):
    """One habit."""

    PERMIT_DUPLICATES = "permit-duplicates"
    DROP_ON_DUPLICATE = "drop-on-duplicate"
    TASKS = "tasks"
    LATE = "late"
    STALE = "stale"
    SYSTEM_ONLY = "system-only"
    BLOCK_ONLY = "block-only"
    WEAK_ETAGS = "weak-etags"
    CHANGING_ETAGS = "changing-etags"
    DONE_500 = "500-although-done"
    NO_LOCATION = "no-location"
    ERROR_IN_200 = "error-in-200"


_TIMED = (Quirk.LATE, Quirk.STALE)
_EXCLUSIVE = (
    (Quirk.PERMIT_DUPLICATES, Quirk.DROP_ON_DUPLICATE),
    (Quirk.SYSTEM_ONLY, Quirk.BLOCK_ONLY),
    (Quirk.WEAK_ETAGS, Quirk.CHANGING_ETAGS),
)


@dataclass(frozen=True)
class Quirks:
    """The habits of one service."""

    chosen: frozenset[Quirk] = frozenset()
    late_seconds: float = 1.0
    """How long after its answer a change is made."""
    stale_seconds: float = 1.0
    """How long after a change its resources are still shown as they were."""

    def __contains__(self, quirk: Quirk) -> bool:
        return quirk in self.chosen

    @classmethod
    def parse(cls, text: str) -> Quirks:
        """Read `late=0.5,weak-etags`. Raises ValueError."""
        chosen: set[Quirk] = set()
        seconds: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = part.partition("=")
            if name not in list(Quirk):
                raise ValueError(f"unknown quirk {name!r}; known: {', '.join(Quirk)}")
            quirk = Quirk(name)
            chosen.add(quirk)
            if equals:
                if quirk not in _TIMED:
                    raise ValueError(f"the quirk {name} takes no value")
                seconds[f"{name}_seconds"] = _seconds(name, value)
        for one, other in _EXCLUSIVE:
            if one in chosen and other in chosen:
                raise ValueError(f"the quirks {one} and {other} exclude each other")
        return cls(frozenset(chosen), **seconds)


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 3600:
        raise ValueError(f"the quirk {name} takes seconds, up to 3600: {name}=0.5")
    return seconds


NO_QUIRKS = Quirks()
"""A service that follows the specification."""

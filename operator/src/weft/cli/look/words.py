"""How moments, conditions and counts are put for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from rich.padding import Padding
from rich.text import Text

from weft import __version__
from weft.api import Condition
from weft.api.reasons import CONDITIONS
from weft.api.reasons.declared import NOTHING, ConditionType, Reason
from weft.cluster import ClusterError, ConflictError, UnknownAddressError

UNAUTHORIZED, FORBIDDEN = 401, 403
UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
HOPED_FALSE = frozenset(
    {"Quarantined", "Leaving", "Draining", "Overlapping", "ReplicasIgnored", "Expired", "UnclaimedOffered"}
)
"""Condition types of which False is the usual: of all others it is True."""

NOT_INSTALLED = "this cluster does not know Weft's kinds: is Weft installed there? See docs/install.md"
UNREADABLE = (
    f"not shown, since weft {__version__} cannot read them (`weft --version`: take the operator's version)"
)


def age(since: datetime | None, now: datetime) -> str:
    """The time since a moment in its two largest units: `3 h 20 min`; empty where it is not known."""
    if since is None:
        return ""
    seconds = max(0, int((now - since).total_seconds()))
    parts: list[str] = []
    for unit, size in UNITS:
        if seconds >= size and len(parts) < 2:
            parts.append(f"{seconds // size} {unit}")
            seconds %= size
        elif parts:
            break
    return " ".join(parts) or "0 s"


def refusal(error: ClusterError) -> str:
    """What the API server said, or that it said nothing, with what to do next."""
    if not error.status:
        return (
            f"the API server does not answer: {error.message}; does the cluster run, and is its address in"
            " `kubectl config view --minify` right?"
        )
    if error.status == UNAUTHORIZED:
        return "the API server does not know who asks: log in again, or take another context (--context) or kubeconfig"
    if error.status == FORBIDDEN:
        return f"no right to do that: {error.message}; `kubectl auth can-i --list` shows yours"
    if isinstance(error, UnknownAddressError):
        return NOT_INSTALLED
    if isinstance(error, ConflictError):
        return "somebody else changed it meanwhile, and nothing was written: try again"
    return f"the API server refuses it: {error.message or error}"


def a(word: str) -> str:
    """The word with its article."""
    return f"{'an' if word[0] in 'AEIO' else 'a'} {word}"


def indented(text: str | Text, columns: int, style: str = "") -> Padding:
    """A line, or a paragraph of it where the terminal is narrow, moved to the right; nothing is put behind it."""
    return Padding(
        Text(text, style=style) if isinstance(text, str) else text, (0, 0, 0, columns), expand=False
    )


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts sled-9 before sled-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split("([0-9]+)", name)]


def as_hoped(kind: str, condition: Condition) -> bool:
    """Whether a condition of an object of this kind says nothing that somebody has to look at.

    Its reason's declaration says so; where Weft does not declare it, what is usual for its type.
    """
    _, reason = declared(kind, condition)
    if reason is not None:
        return reason.action == NOTHING
    return condition.status == ("False" if condition.type in HOPED_FALSE else "True")


def causes(kind: str, conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """The conditions of an object that are not as hoped, without those that another one of these is the reason for."""
    bad = tuple(one for one in conditions if not as_hoped(kind, one))
    types = {one.type for one in bad}
    return tuple(one for one in bad if (reason := declared(kind, one)[1]) is None or reason.see not in types)


def declared(kind: str, condition: Condition) -> tuple[ConditionType | None, Reason | None]:
    """What a condition and its reason mean, where Weft declares them."""
    for each in CONDITIONS:
        if kind in each.kinds and each.type == condition.type:
            reason = next(
                (
                    one
                    for one in each.reasons
                    if (one.status, one.word) == (condition.status, condition.reason)
                ),
                None,
            )
            return each, reason
    return None, None

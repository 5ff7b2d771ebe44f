"""What balancing reconciles."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupKey:
    """One InferenceGroup, with all that belongs to it. The group need not exist: its roles are told so."""

    namespace: str
    name: str

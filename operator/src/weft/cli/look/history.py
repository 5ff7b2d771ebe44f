"""What `weft ui` has read of each group since it runs: it asks nobody anything more, and keeps nothing at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from weft.api import InferenceGroup
from weft.api.conditions import find
from weft.cli.look.reading import Reading

KEPT = timedelta(hours=1)
MOST_SPANS = 60
"""Of one group: one that changes with each reading has a shorter history, and the page stays small."""
LOOKED = timedelta(seconds=20)
"""Between two readings that are further apart nobody looked, and nothing is known."""


@dataclass(frozen=True)
class Span:
    """A time during which every reading of a group said the same."""

    since: datetime
    until: datetime
    serving: tuple[tuple[str, str, int], ...]
    """Role, stage and replicas that serve."""
    objectives: str
    """Status of the condition ObjectivesMet; empty where it has none."""
    decision: str
    """Why the split was what it was."""


class History:
    """One for each run of the command."""

    def __init__(self) -> None:
        self._spans: dict[str, tuple[Span, ...]] = {}

    def add(self, reading: Reading) -> dict[str, tuple[Span, ...]]:
        """Take one more reading; returns what is known by uid of the group. Groups that are gone are forgotten."""
        serving: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
        for role in reading.roles:
            one = role.metadata.name, role.spec.stage.value, role.status.ready_replicas
            serving.setdefault((role.metadata.namespace, role.spec.group_ref.name), []).append(one)
        self._spans = {
            group.metadata.uid: _longer(
                self._spans.get(group.metadata.uid, ()),
                _now(reading.now, group, serving.get((group.metadata.namespace, group.metadata.name), ())),
            )
            for group in reading.groups
        }
        return self._spans


def _now(at: datetime, group: InferenceGroup, serving: Iterable[tuple[str, str, int]]) -> Span:
    met, decision = find(group.status.conditions, "ObjectivesMet"), group.status.decision
    return Span(at, at, tuple(serving), met.status if met else "", decision.reason if decision else "")


def _longer(spans: tuple[Span, ...], now: Span) -> tuple[Span, ...]:
    recent = [one for one in spans if one.until >= now.until - KEPT]
    if recent and now.since - recent[-1].until <= LOOKED:
        last = replace(recent.pop(), until=now.until)
        if (last.serving, last.objectives, last.decision) == (now.serving, now.objectives, now.decision):
            return (*recent, last)
        recent.append(last)
    return (*recent, now)[-MOST_SPANS:]

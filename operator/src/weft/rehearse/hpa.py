"""Kubernetes' HorizontalPodAutoscaler, one per role, as the usual autoscaler of an inference stack.

The algorithm is the controller's (Kubernetes documentation, "Horizontal Pod Autoscaling": algorithm details, support
for configurable scaling behavior). tests/unit/rehearse/test_hpa.py holds it against what the controller's own code
answered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from weft.rehearse.moves import Mover, Ways
from weft.rehearse.opponents import HPA, HpaSettings
from weft.rehearse.play import Case, Target, View
from weft.rehearse.scrapes import RUNNING, WAITING, Scrapes
from weft.rehearse.world import AGGREGATES, DECODES, PREFILLS

TOLERANCE = 0.1
SYNC_SECONDS = 15.0
READY, MISSING, PENDING, LEAVING = "ready", "missing", "pending", "deleting"


@dataclass(frozen=True)
class Limit:
    """A scaling policy: at most so many pods, or per cent of them, in a period."""

    kind: str
    value: int
    seconds: float


@dataclass(frozen=True)
class Rules:
    """One direction of `spec.behavior`."""

    stabilization_seconds: float
    limits: tuple[Limit, ...]
    select: str = "Max"


UP = Rules(0.0, (Limit("Pods", 4, 15.0), Limit("Percent", 100, 15.0)))
DOWN = Rules(300.0, (Limit("Percent", 100, 15.0),))
"""What holds where `spec.behavior` says nothing."""


def calculated(pods: Sequence[tuple[str, int]], target: int, current: int) -> int | None:
    """Replicas for an average value per pod. `pods`: (state, value), values and target in thousandths. None: no pod
    has a value, and nothing is changed."""
    values = [value for state, value in pods if state == READY]
    if not values:
        return None
    pending = sum(state == PENDING for state, _ in pods)
    missing = sum(state == MISSING for state, _ in pods)
    # The controller averages whole numbers.
    ratio = sum(values) // len(values) / target
    waits = pending if ratio > 1 else 0
    if not waits and not missing:
        return current if _within(ratio) else math.ceil(ratio * len(values))
    if missing and ratio != 1:
        values += [target if ratio < 1 else 0] * missing
    values += [0] * waits
    careful = sum(values) // len(values) / target
    wanted = math.ceil(careful * len(values))
    turned = (ratio < 1 < careful) or (careful < 1 < ratio)
    against = (careful < 1 and wanted > current) or (careful > 1 and wanted < current)
    return current if _within(careful) or turned or against else wanted


def _within(ratio: float) -> bool:
    return 1 - TOLERANCE <= ratio <= 1 + TOLERANCE


@dataclass
class Behavior:
    """What one autoscaler remembers: (time, replicas) recommended, (time, replicas) added and removed."""

    up: Rules = UP
    down: Rules = DOWN
    recommended: list[tuple[float, int]] = field(default_factory=list)
    added: list[tuple[float, int]] = field(default_factory=list)
    removed: list[tuple[float, int]] = field(default_factory=list)

    def desired(self, now: float, current: int, wanted: int, least: int, most: int) -> int:
        """What is written, for the replicas that the metric asks for."""
        lowest = min([wanted, *(n for at, n in self.recommended if at > now - self.up.stabilization_seconds)])
        highest = max(
            [wanted, *(n for at, n in self.recommended if at > now - self.down.stabilization_seconds)]
        )
        window = max(self.up.stabilization_seconds, self.down.stabilization_seconds)
        self.recommended = [(at, n) for at, n in self.recommended if at > now - window]
        self.recommended.append((now, wanted))
        steady = min(max(current, lowest), highest)
        if steady > current:
            limit = max(current, self._limit(self.up, 1, now, current))
            return min(steady, most, limit)
        if steady < current:
            limit = min(current, self._limit(self.down, -1, now, current))
            return max(steady, least, limit)
        return steady

    def scaled(self, now: float, before: int, after: int) -> None:
        """Remember a change that was written."""
        if after > before:
            self.added.append((now, after - before))
        elif after < before:
            self.removed.append((now, before - after))

    def _limit(self, rules: Rules, sign: int, now: float, current: int) -> int:
        if rules.select == "Disabled":
            return current
        proposals = []
        for limit in rules.limits:
            began = now - limit.seconds
            start = current - sum(n for at, n in self.added if at > began)
            start += sum(n for at, n in self.removed if at > began)
            if limit.kind == "Pods":
                proposals.append(start + sign * limit.value)
            else:
                share = start * (1 + sign * limit.value / 100)
                proposals.append(math.ceil(share) if sign > 0 else int(share))
        furthest = max if (sign > 0) == (rules.select == "Max") else min
        return furthest(proposals)


class Hpa:
    """One autoscaler per role, each for itself: requests in the engine, waiting or running, per pod."""

    name = "hpa"
    interval_seconds = SYNC_SECONDS

    def __init__(self, case: Case, settings: HpaSettings = HPA) -> None:
        batch = case.planned.largest_batch(case.objectives.itl_seconds)
        self._targets = {
            PREFILLS: max(1, round(1000 * settings.prefill_requests)),
            DECODES: max(1, round(1000 * settings.decode_batch_share * batch)),
            AGGREGATES: max(1, round(1000 * settings.decode_batch_share * batch)),
        }
        down = Rules(settings.stabilization_seconds, DOWN.limits)
        self._behaviors = {role: Behavior(down=down) for role in self._targets}
        self._most = max(1, round(settings.most_share * case.most_replicas))
        first = case.first_counts
        for role, behavior in self._behaviors.items():
            # As the controller does when it first sees an autoscaler.
            behavior.recommended.append((0.0, first.get(role, 0)))

    def ways(self, case: Case) -> Ways:
        return by_replacing(case)

    def look(self, view: View) -> Target | None:
        counts, reasons = dict(view.mover.target), []
        for role, target in self._targets.items():
            current = counts.get(role, 0)
            wanted = calculated(_pods(role, view.mover, view.scrapes), target, current) if current else None
            if wanted is None:
                continue
            behavior = self._behaviors[role]
            counts[role] = behavior.desired(view.now, current, wanted, 1, self._most)
            behavior.scaled(view.now, current, counts[role])
            if counts[role] != current:
                reasons.append(f"{role}: {wanted} wanted at {target / 1000:g} requests per replica")
        return Target(counts, "; ".join(reasons))


def _pods(role: str, mover: Mover, scrapes: Scrapes) -> list[tuple[str, int]]:
    pods = []
    for number, one in mover.world.replicas.items():
        if one.role == role:
            samples = scrapes.engines.get(number)
            state = LEAVING if one.leaving else READY if samples else MISSING
            load = samples.rows[-1][RUNNING] + samples.rows[-1][WAITING] if samples else 0.0
            pods.append((state, round(1000 * load)))
    return pods


def by_replacing(case: Case) -> Ways:
    """Replicas made and removed, as an autoscaler does that cannot change a running one's role."""
    return Ways(
        case.most_replicas,
        flips=False,
        cold_start_seconds=case.cold_start_seconds,
        kv_hold_seconds=0.0,
        confirmed=False,
    )

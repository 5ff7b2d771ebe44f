"""Saturation rules with a ratio that is kept: llm-d's WVA per role, and the bounds of Kthena, AIBrix and RBG.

Supply is a replica each, demand what is used of the KV caches (decode) or of the engines' time (prefill). Saturated is
a KV cache at 0.80 or five waiting requests per replica. The ratio of the roles stays within bounds around the first.
"""

from __future__ import annotations

import math

from weft.rehearse.hpa import by_replacing
from weft.rehearse.moves import Ways
from weft.rehearse.opponents import RATIO, RatioSettings
from weft.rehearse.play import Case, Target, View
from weft.rehearse.scrapes import KV_USAGE, RUNNING, WAITING
from weft.rehearse.world import DECODES, PREFILLS

SATURATED_KV, SATURATED_QUEUE = 0.80, 5.0
INTERVAL_SECONDS = 30.0


class Ratio:
    """Looks at each role, then repairs the ratio by raising the one that has too few."""

    name = "ratio"
    interval_seconds = INTERVAL_SECONDS

    def __init__(self, case: Case, settings: RatioSettings = RATIO) -> None:
        first = case.first_counts
        self._ratio = max(1, first.get(PREFILLS, 0)) / max(1, first.get(DECODES, 0))
        self._settings = settings
        self._most, self._least = case.most_replicas, case.least_replicas

    def ways(self, case: Case) -> Ways:
        return by_replacing(case)

    def look(self, view: View) -> Target | None:
        counts = dict(view.mover.target)
        reasons = []
        for role in (PREFILLS, DECODES):
            wanted, why = self._wanted(role, view)
            if wanted is not None and wanted != counts.get(role):
                counts[role] = wanted
                reasons.append(f"{role}: {why}")
        least, most = self._ratio / self._settings.bound, self._ratio * self._settings.bound
        counts[PREFILLS] = max(counts[PREFILLS], math.ceil(counts[DECODES] * least - 1e-9))
        counts[DECODES] = max(counts[DECODES], math.ceil(counts[PREFILLS] / most - 1e-9))
        while counts[PREFILLS] + counts[DECODES] > self._most:
            role = PREFILLS if counts[PREFILLS] / counts[DECODES] > self._ratio else DECODES
            counts[role] -= 1
        while counts[PREFILLS] + counts[DECODES] < self._least:
            role = DECODES if counts[PREFILLS] / counts[DECODES] > self._ratio else PREFILLS
            counts[role] += 1
        return Target(counts, "; ".join(reasons) or "the ratio is repaired")

    def _wanted(self, role: str, view: View) -> tuple[int | None, str]:
        samples = [
            each
            for number, one in view.mover.world.replicas.items()
            if one.role == role and one.serving and (each := view.scrapes.engines.get(number))
        ]
        if not samples:
            return None, ""
        count, window = len(samples), view.scrapes.windows.long_seconds
        if role == DECODES:
            used = [each.rows[-1][KV_USAGE] for each in samples]
        else:
            used = [each.mean(view.now, window, RUNNING, 1.0) or 0.0 for each in samples]
        queue = sum(each.rows[-1][WAITING] for each in samples) / count
        demand = sum(used)
        if queue >= SATURATED_QUEUE or (role == DECODES and demand / count >= SATURATED_KV):
            grown = max(count + 1, math.ceil(demand / self._settings.up_share))
            return grown, f"saturated, {queue:.1f} waiting per replica"
        if demand / self._settings.up_share > count:
            return math.ceil(demand / self._settings.up_share), f"{demand:.1f} replicas are used"
        if count > 1 and count - demand / self._settings.down_share >= 1:
            return count - 1, f"only {demand:.1f} replicas are used"
        return count, ""

"""NVIDIA Dynamo's planner for objectives, by its documented rules (ai-dynamo 1.4, mode disagg).

Throughput, every interval: replicas of a stage are the requests per second over what one engine does, which is one
prompt after the other for prefill, and for decode the largest batch that meets the objective between tokens over the
time of an answer. Load, every few seconds: one more where every engine's estimate misses the objective, one fewer
where N / (N - 1) times the present load would still meet a part of it; never below what throughput asked for. Beyond
the budget both stages shrink in proportion.
"""

from __future__ import annotations

import math

from weft.balancing.profile import Profile
from weft.rehearse.hpa import by_replacing
from weft.rehearse.moves import Ways
from weft.rehearse.opponents import DYNAMO, DynamoSettings
from weft.rehearse.play import Case, Target, View
from weft.rehearse.scrapes import RUNNING, WAITING
from weft.rehearse.world import DECODES, PREFILLS


class Dynamo:
    """Predicts that the next interval is like the last one."""

    name = "dynamo"

    def __init__(self, case: Case, settings: DynamoSettings = DYNAMO) -> None:
        self._case, self._settings = case, settings
        self.interval_seconds = settings.load_interval_seconds or settings.interval_seconds
        self._sized_at = 0.0
        self._floor = {PREFILLS: 1, DECODES: 1}

    def ways(self, case: Case) -> Ways:
        return by_replacing(case)

    def look(self, view: View) -> Target | None:
        counts, reason = dict(view.mover.target), ""
        if view.now - self._sized_at >= self._settings.interval_seconds:
            self._sized_at = view.now
            if sized := self._by_throughput(view):
                reason = "throughput of the last interval"
                self._floor = sized
                if not self._settings.load_interval_seconds:
                    counts |= sized
        if self._settings.load_interval_seconds and not view.mover.busy:
            changed = self._by_load(view, counts)
            reason = reason or changed
        for stage, least in self._floor.items():
            if self._settings.load_interval_seconds:
                counts[stage] = max(counts.get(stage, 0), least)
        case = self._case
        prefill, decode = clamped(counts[PREFILLS], counts[DECODES], case.least_replicas, case.most_replicas)
        wanted = {**counts, PREFILLS: prefill, DECODES: decode}
        return Target(wanted, reason or "floor of the last interval")

    def _by_throughput(self, view: View) -> dict[str, int] | None:
        """From the front end's rates over the interval."""
        seconds = self._settings.interval_seconds
        rates = view.scrapes.front.rate(view.now, seconds, slice(0, 5))
        if rates is None or not rates[0] or not rates[1] or not rates[3]:
            return None
        requests, prompt, answer = rates[0], rates[2] / rates[1], rates[4] / rates[3]
        prefill = 1 / self._case.planned.prefill_seconds(prompt)
        decode = decode_rate(self._case.planned, prompt, answer, self._case.objectives.itl_seconds)
        return {
            PREFILLS: max(1, math.ceil(requests / prefill)),
            DECODES: max(1, math.ceil(requests / decode)),
        }

    def _by_load(self, view: View, counts: dict[str, int]) -> str:
        reasons = []
        for stage, estimate, objective in (
            (PREFILLS, self._ttft, self._case.objectives.ttft_seconds),
            (DECODES, self._itl, self._case.objectives.itl_seconds),
        ):
            loads = [
                samples.rows[-1]
                for number, one in view.mover.world.replicas.items()
                if one.role == stage and one.serving and (samples := view.scrapes.engines.get(number))
            ]
            count = len(loads)
            if not count:
                continue
            requests = [row[RUNNING] + row[WAITING] for row in loads]
            if all(estimate(view, each) > objective for each in requests):
                counts[stage] = count + 1
                reasons.append(f"every {stage} engine is estimated to miss its objective")
            elif count > 1:
                own = estimate(view, 0.0) if stage == PREFILLS else 0.0
                fewer = [estimate(view, each * count / (count - 1)) - own for each in requests]
                if all(each < (objective - own) * self._settings.sensitivity for each in fewer):
                    counts[stage] = count - 1
                    reasons.append(f"one {stage} engine fewer would do")
        return "; ".join(reasons)

    def _ttft(self, view: View, queued: float) -> float:
        rates = view.scrapes.front.rate(view.now, view.scrapes.windows.long_seconds, slice(0, 5))
        prompt = rates[2] / rates[1] if rates and rates[1] else 1.0
        return (queued + 1) * self._case.planned.prefill_seconds(prompt)

    def _itl(self, _: View, requests: float) -> float:
        profile = self._case.planned
        # What waits for the batch is counted with it, beyond its limit in proportion.
        return profile.inter_token_seconds(max(1.0, requests))


def decode_rate(profile: Profile, prompt: float, answer: float, itl_seconds: float) -> float:
    """Requests per second of one decode engine: the largest batch that meets the objective and fits into the KV
    cache, over the time of an answer at it."""
    contexts = int(profile.kv_capacity_tokens / (prompt + answer / 2))
    batch = max(1, min(int(profile.largest_batch(itl_seconds) + 0.002), contexts))
    return batch / (answer * profile.inter_token_seconds(batch))


def clamped(prefill: int, decode: int, least: int, most: int) -> tuple[int, int]:
    """Both stages within the budget, shrunk or grown in proportion; one below the least is tolerated."""
    total = prefill + decode
    if total > most:
        prefill = max(1, min(most - 1, math.floor(prefill * most / total)))
        return prefill, max(1, most - prefill)
    if total < least - 1:
        grown = max(1, math.ceil(prefill * least / total))
        rest = max(1, least - grown)
        return (grown, rest) if grown + rest <= most else (prefill, decode)
    return prefill, decode

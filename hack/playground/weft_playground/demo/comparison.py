"""The playground's engine model held to engines that run: the same requests on a fixed split, measured and computed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from weft_dev.kube_async import AsyncKube
from weft_playground.case import ACCELERATORS_PER_REPLICA, PAUSED
from weft_playground.demo.facts import DECODE, PREFILL, GroupFacts, stage_of
from weft_playground.demo.rehearsal import Objectives, Outcome, simulate
from weft_playground.demo.report import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_TOO_SLOW,
    Verdict,
    quantile,
    read_results,
    too_slow,
)
from weft_playground.demo.story import Story
from weft_playground.demo.watching import Watching
from weft_playground.lag import Lag, worst
from weft_playground.load import Result
from weft_playground.profile import read_profile, replica_number, speed_error

ALLOWED = 0.15
"""How much a median that is computed may be off the measured one."""


@dataclass(frozen=True)
class Median:
    """Over all requests, in seconds."""

    name: str
    measured: float
    computed: float

    @property
    def off(self) -> float:
        """0.1: what is computed is ten per cent more than what was measured."""
        return self.computed / self.measured - 1 if self.measured else 0.0


class Comparison(Story):
    """One group, which is paused: nothing moves. The status says whether model and engines agree."""

    async def _play(self, api: AsyncKube) -> Verdict:
        budget = self.split.replicas * ACCELERATORS_PER_REPLICA
        watching = Watching(api, self.narrator, {PAUSED: GroupFacts(budget)})
        following = asyncio.create_task(watching.run())
        try:
            await self._bind_logical_node(api, watching)
            await self._start_groups(api, watching)
            await self._load(watching)
            lags = worst(await asyncio.to_thread(self.world.lags))
            results = sorted(read_results(self.world.load.results)[PAUSED], key=lambda each: each.index)
            replicas = [
                replica_number(name)
                for stage in (PREFILL, DECODE)
                for name, pod in sorted(watching.facts[PAUSED].pods.items())
                if stage_of(pod) == stage
            ]
            outcomes = simulate(
                self.requests,
                read_profile(),
                self.split.prefill,
                self.split.decode,
                [speed_error(self.case.seed, number) for number in replicas],
                self.case.step_tokens,
            )
            self.narrator.show(table(self.case.engines, results, outcomes, self.case.shift_seconds))
            return judge(results, outcomes, lags, self.objectives)
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


def medians(results: Iterable[Result], outcomes: Iterable[Outcome]) -> list[Median]:
    """Both in the order of the requests."""
    measured, computed = list(results), list(outcomes)
    return [
        Median(
            "time to first token",
            quantile([each.ttft for each in measured], 0.5),
            quantile([each.time_to_first_token for each in computed], 0.5),
        ),
        Median(
            "time between tokens",
            quantile([each.mean_inter_token for each in measured], 0.5),
            quantile([each.inter_token for each in computed], 0.5),
        ),
    ]


def judge(
    results: Sequence[Result], outcomes: Sequence[Outcome], lags: Iterable[Lag], objectives: Objectives
) -> Verdict:
    """The status of the demo: a request that failed, a machine that is too slow, then the medians."""
    failed = [each for each in results if not each.ok]
    if failed or len(results) != len(outcomes):
        first = f", the first: {failed[0].error}" if failed else ""
        return Verdict(
            EXIT_FAILED, [f"{len(outcomes)} requests, {len(results)} answers, {len(failed)} failed{first}"]
        )
    slow = [text for lag in lags if (text := too_slow(lag, objectives))]
    if slow:
        return Verdict(EXIT_TOO_SLOW, [f"machine too slow: {text}" for text in slow])
    off = [each for each in medians(results, outcomes) if abs(each.off) > ALLOWED]
    return Verdict(
        EXIT_FAILED if off else EXIT_OK,
        [f"the median {each.name} is computed {each.off * 100:+.0f} % off" for each in off],
    )


def table(engines: str, results: Sequence[Result], outcomes: Sequence[Outcome], shift_seconds: float) -> str:
    """By stretch and over all, as in docs/engines.md."""
    pairs = list(zip(results, outcomes, strict=False))
    parts = {
        "first stretch": [each for each in pairs if each[0].scheduled < shift_seconds],
        "second stretch": [each for each in pairs if each[0].scheduled >= shift_seconds],
        "all": pairs,
    }
    lines = [
        f"\n| p50 | requests | {engines}, measured | the playground's model | off |",
        "|---|---|---|---|---|",
    ]
    for name, part in parts.items():
        lines += [
            f"| {each.name}, {name} | {len(part)} | {each.measured * 1000:,.0f} ms |"
            f" {each.computed * 1000:,.0f} ms | {each.off * 100:+.0f} % |"
            for each in medians([one for one, _ in part], [other for _, other in part])
        ]
    return "\n".join(lines)

"""The playground's engine model held to engines that run: the same requests on a fixed split, measured and computed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress

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
"""How much a median that is computed may be off the measured one, in either stretch and over all."""
DRAWS = 5
"""Runs of the model where the front end picks by chance: its medians are of all of them."""


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
            runs = [
                simulate(
                    *(self.requests, read_profile(), self.split.prefill, self.split.decode),
                    [speed_error(self.case.seed, number) for number in replicas],
                    self.case.step_tokens,
                    self.case.chance(draw),
                )
                for draw in range(DRAWS if self.case.chance() else 1)
            ]
            shift = self.case.shift_seconds
            self.narrator.show(table(self.case.engines, results, runs, shift))
            return judge(results, runs, lags, self.objectives, shift)
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


def medians(results: Sequence[Result], runs: Sequence[Sequence[Outcome]]) -> list[Median]:
    """`runs`: what was computed, each in the order of the requests, as `results` are."""
    computed = [each for run in runs for each in run]
    return [
        Median(
            "time to first token",
            quantile([each.ttft for each in results], 0.5),
            quantile([each.time_to_first_token for each in computed], 0.5),
        ),
        Median(
            "time between tokens",
            quantile([each.mean_inter_token for each in results], 0.5),
            quantile([each.inter_token for each in computed], 0.5),
        ),
    ]


def by_stretch(
    results: Sequence[Result], runs: Sequence[Sequence[Outcome]], shift_seconds: float
) -> dict[str, tuple[int, list[Median]]]:
    """How many requests and their medians, of either stretch and of all."""
    parts = {
        "first stretch": [each.scheduled < shift_seconds for each in results],
        "second stretch": [each.scheduled >= shift_seconds for each in results],
        "all": [True] * len(results),
    }
    return {
        name: (
            sum(chosen),
            medians(list(compress(results, chosen)), [list(compress(run, chosen)) for run in runs]),
        )
        for name, chosen in parts.items()
    }


def judge(
    results: Sequence[Result],
    runs: Sequence[Sequence[Outcome]],
    lags: Iterable[Lag],
    objectives: Objectives,
    shift_seconds: float,
) -> Verdict:
    """The status of the demo: a request that failed, a machine that is too slow, then the medians."""
    sent = len(runs[0])
    failed = [each for each in results if not each.ok]
    if failed or len(results) != sent:
        first = f", the first: {failed[0].error}" if failed else ""
        return Verdict(EXIT_FAILED, [f"{sent} requests, {len(results)} answers, {len(failed)} failed{first}"])
    slow = [text for lag in lags if (text := too_slow(lag, objectives))]
    if slow:
        return Verdict(EXIT_TOO_SLOW, [f"machine too slow: {text}" for text in slow])
    off = [
        f"the median {each.name}, {name}, is computed {each.off * 100:+.0f} % off"
        for name, (_, found) in by_stretch(results, runs, shift_seconds).items()
        for each in found
        if abs(each.off) > ALLOWED
    ]
    return Verdict(EXIT_FAILED if off else EXIT_OK, off)


def table(
    engines: str, results: Sequence[Result], runs: Sequence[Sequence[Outcome]], shift_seconds: float
) -> str:
    """By stretch and over all, as in docs/engines.md."""
    lines = [
        f"\n| p50 | requests | {engines}, measured | the playground's model | off |",
        "|---|---|---|---|---|",
    ]
    for name, (count, found) in by_stretch(results, runs, shift_seconds).items():
        lines += [
            f"| {each.name}, {name} | {count} | {each.measured * 1000:,.0f} ms |"
            f" {each.computed * 1000:,.0f} ms | {each.off * 100:+.0f} % |"
            for each in found
        ]
    return "\n".join(lines)

"""From a snapshot of all groups to what one group may believe. Pure.

A group holds, with the reason in words, as soon as one of its series cannot be trusted: a serving replica or
the front end without series, a value that is not a number, negative or infinite, a target that is scraped
twice, a counter that was reset within the long window, or a scrape older than three intervals. Series of pods
that Weft does not know, and of other namespaces, do not exist for it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from weft.balancing.presets import ENGINE_REQUIRED, FRONT_REQUIRED, Windows
from weft.balancing.series import Buckets, EngineSeries, FrontEndSeries, Series, Snapshot
from weft.balancing.state import Hold, PodLoad, Rates, Traffic

SCRAPES_UNTIL_STALE = 3
_AGE_TOLERANCE_SECONDS = 0.5
"""Scrapes are not exactly regular; a target that answers at once and one that needs a while both count."""


@dataclass(frozen=True)
class Reading:
    """What one group may believe."""

    traffic: Traffic | None
    loads: Mapping[str, PodLoad]
    """Per pod of the group whose series can be trusted, serving or not."""
    hold: Hold | None


def read(
    snapshot: Snapshot,
    namespace: str,
    models: Sequence[str],
    pods: Collection[str],
    expected: Collection[str],
    scrape_seconds: float,
) -> Reading:
    """The group's part of a snapshot.

    `pods` are all pods of the group; of the `expected` ones, those that have served for several scrapes, each
    has to have trustworthy series. The traffic of all `models` is added up; a front end has no series for a model
    that nobody has asked for yet, so it is enough that one of them has.
    """
    stale_seconds = SCRAPES_UNTIL_STALE * scrape_seconds + _AGE_TOLERANCE_SECONDS
    engines = {pod: snapshot.engines.get((namespace, pod), EngineSeries()) for pod in sorted(pods)}
    loads: dict[str, PodLoad] = {}
    hold: Hold | None = None
    for pod, engine in engines.items():
        distrust = _distrust_engine(engine, pod, stale_seconds)
        if distrust is None:
            loads[pod] = _load(engine, snapshot.taken_at)
        elif pod in expected and hold is None:
            hold = distrust
    if not expected:
        hold = Hold("NoReplicas", "no replica has served for several scrapes yet")
    front_ends = {
        model: front_end
        for model in models
        if (front_end := snapshot.front_ends.get((namespace, model))) is not None
    }
    for model, front_end in (front_ends or {models[0]: FrontEndSeries()}).items():
        hold = hold or _distrust_front_end(front_end, model, stale_seconds)
    if hold is not None:
        return Reading(None, loads, hold)
    itl = _added([engines[pod].itl_buckets for pod in sorted(expected)])
    return Reading(_traffic(list(front_ends.values()), itl, scrape_seconds), loads, None)


def _distrust_engine(series: EngineSeries, pod: str, stale_seconds: float) -> Hold | None:
    who = f"pod {pod}"
    if missing := _missing(series, ENGINE_REQUIRED):
        text = f"{who} has no series for {missing}: is it scraped, with labels namespace and pod?"
        return Hold("SeriesMissing", text)
    return _distrust(series, who, series.targets, series.age, series.resets, stale_seconds)


def _distrust_front_end(series: FrontEndSeries, model: str, stale_seconds: float) -> Hold | None:
    who = f"the front end of model {model}"
    if missing := _missing(series, FRONT_REQUIRED):
        text = f"{who} has no series for {missing} in this namespace: has it had requests, is it scraped?"
        return Hold("SeriesMissing", text)
    return _distrust(series, who, series.jobs, series.age, series.resets, stale_seconds)


def _missing(series: Series, required: Sequence[str]) -> str:
    """The first required signal without series."""
    values = dict(series.values())
    return next((signal for signal in required if values[signal] is None), "")


def _distrust(
    series: Series,
    who: str,
    sources: float | None,
    age: float | None,
    resets: float | None,
    stale_seconds: float,
) -> Hold | None:
    for signal, buckets in series.histograms():
        if not all(_is_count(count) for _, count in buckets):
            return Hold("NotANumber", f"{who} reports {signal} that is not a number of zero or more")
    for signal, value in series.values():
        # An age below zero is a target whose clock is ahead; what it says now is still the newest.
        if value is not None and not (_is_count(value) or (signal == "age" and math.isfinite(value))):
            return Hold("NotANumber", f"{who} reports {signal} that is not a number of zero or more")
    if series.repeated or (sources or 0) > 1:
        return Hold("ScrapedTwice", f"{who} is scraped more than once: its series would count twice")
    if (age or 0.0) > stale_seconds:
        return Hold("Stale", f"{who} was not scraped for more than {SCRAPES_UNTIL_STALE} scrape intervals")
    if (resets or 0) > 0:
        return Hold("CounterReset", f"{who} restarted its counters: rates are not whole yet")
    return None


def _is_count(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _load(engine: EngineSeries, taken_at: datetime) -> PodLoad:
    intervals = engine.itl_count_per_second or 0.0
    return PodLoad(
        running=engine.running or 0.0,
        waiting=engine.waiting or 0.0,
        sampled_at=taken_at - timedelta(seconds=max(0.0, engine.age or 0.0)),
        prompt_tokens_per_second=engine.prompt_tokens_per_second,
        generated_tokens_per_second=engine.generated_tokens_per_second,
        busy_share=engine.busy_share,
        mean_running=engine.mean_running,
        inter_token_seconds=(engine.itl_seconds_per_second or 0.0) / intervals if intervals > 0 else None,
        tokens_per_second_timed=intervals,
    )


def _added(histograms: Sequence[Buckets]) -> Buckets:
    """Histograms of equal bounds added up. Where engines differ in bounds only the common ones can be used."""
    counted = [dict(one) for one in histograms if one]
    common = set(counted[0]).intersection(*counted[1:]) if counted else set()
    return tuple((bound, sum(one[bound] for one in counted)) for bound in sorted(common))


def _traffic(front_ends: Sequence[FrontEndSeries], itl_buckets: Buckets, scrape_seconds: float) -> Traffic:
    short = [
        Rates(
            requests=one.requests_short or 0.0,
            prompts=one.prompts_short or 0.0,
            prompt_tokens=one.prompt_tokens_short or 0.0,
            answers=one.answers_short or 0.0,
            answer_tokens=one.answer_tokens_short or 0.0,
        )
        for one in front_ends
    ]
    long = [
        Rates(
            requests=one.requests_long or 0.0,
            prompts=one.prompts_long or 0.0,
            prompt_tokens=one.prompt_tokens_long or 0.0,
            answers=one.answers_long or 0.0,
            answer_tokens=one.answer_tokens_long or 0.0,
        )
        for one in front_ends
    ]
    return Traffic(
        short=Rates.added(short),
        long=Rates.added(long),
        short_seconds=Windows(scrape_seconds).short_seconds,
        # Peaks that were not at the same time add up to more than there was: the careful side.
        peak_prompt_tokens_per_second=sum(one.prompt_tokens_peak or 0.0 for one in front_ends),
        peak_answer_tokens_per_second=sum(one.answer_tokens_peak or 0.0 for one in front_ends),
        prompt_buckets=_added([one.prompt_buckets for one in front_ends]),
        answer_buckets=_added([one.answer_buckets for one in front_ends]),
        ttft_buckets=_added([one.ttft_buckets for one in front_ends]),
        itl_buckets=itl_buckets,
    )

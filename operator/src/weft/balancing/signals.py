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
from datetime import timedelta

from weft.balancing.presets import (
    ENGINE_HISTOGRAM,
    ENGINE_REQUIRED,
    ENGINE_SIGNALS,
    FRONT_HISTOGRAMS,
    FRONT_REQUIRED,
    FRONT_SIGNALS,
    Windows,
)
from weft.balancing.prometheus import Snapshot
from weft.balancing.state import Buckets, Hold, PodLoad, Rates, Traffic

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
    loads: dict[str, PodLoad] = {}
    hold: Hold | None = None
    for pod in sorted(pods):
        distrust = _distrust_engine(snapshot, namespace, pod, stale_seconds)
        if distrust is None:
            loads[pod] = _load(snapshot, namespace, pod)
        elif pod in expected and hold is None:
            hold = distrust
    if not expected:
        hold = Hold("NoReplicas", "no replica has served for several scrapes yet")
    asked = [model for model in models if _has_series(snapshot, namespace, model)]
    for model in asked or models[:1]:
        hold = hold or _distrust_front_end(snapshot, namespace, model, stale_seconds)
    if hold is not None:
        return Reading(None, loads, hold)
    timed = [
        snapshot.buckets.get((f"engine:{ENGINE_HISTOGRAM}", namespace, pod), ()) for pod in sorted(expected)
    ]
    return Reading(_traffic(snapshot, namespace, asked, _added(timed), scrape_seconds), loads, None)


def _distrust_engine(snapshot: Snapshot, namespace: str, pod: str, stale_seconds: float) -> Hold | None:
    values = {signal: snapshot.values.get((f"engine:{signal}", namespace, pod)) for signal in ENGINE_SIGNALS}
    who = f"pod {pod}"
    missing = [signal for signal in ENGINE_REQUIRED if values[signal] is None]
    if missing:
        return Hold(
            "Empty", f"{who} has no series for {missing[0]}: is it scraped, with labels namespace and pod?"
        )
    if not _counts_are_numbers(snapshot.buckets.get((f"engine:{ENGINE_HISTOGRAM}", namespace, pod), ())):
        return Hold("NotANumber", f"{who} reports {ENGINE_HISTOGRAM} that is not a number of zero or more")
    names = (*ENGINE_SIGNALS, ENGINE_HISTOGRAM)
    repeated = any((f"engine:{signal}", namespace, pod) in snapshot.repeated for signal in names)
    return _distrust(values, who, "targets", repeated, stale_seconds)


def _has_series(snapshot: Snapshot, namespace: str, model: str) -> bool:
    return any((f"front:{signal}", namespace, model) in snapshot.values for signal in FRONT_SIGNALS)


def _distrust_front_end(snapshot: Snapshot, namespace: str, model: str, stale_seconds: float) -> Hold | None:
    values = {signal: snapshot.values.get((f"front:{signal}", namespace, model)) for signal in FRONT_SIGNALS}
    who = f"the front end of model {model}"
    missing = [signal for signal in FRONT_REQUIRED if values[signal] is None]
    if missing:
        return Hold(
            "Empty",
            f"{who} has no series for {missing[0]} in this namespace: has it had requests, is it scraped?",
        )
    names = (*FRONT_SIGNALS, *FRONT_HISTOGRAMS)
    repeated = any((f"front:{signal}", namespace, model) in snapshot.repeated for signal in names)
    for signal in FRONT_HISTOGRAMS:
        if not _counts_are_numbers(snapshot.buckets.get((f"front:{signal}", namespace, model), ())):
            return Hold("NotANumber", f"{who} reports {signal} that is not a number of zero or more")
    return _distrust(values, who, "jobs", repeated, stale_seconds)


def _distrust(
    values: Mapping[str, float | None], who: str, count: str, repeated: bool, stale_seconds: float
) -> Hold | None:
    for signal, value in values.items():
        # An age below zero is a target whose clock is ahead; what it says now is still the newest.
        if value is not None and (not math.isfinite(value) or (value < 0 and signal != "age")):
            return Hold("NotANumber", f"{who} reports {signal} that is not a number of zero or more")
    if repeated or (values[count] or 0) > 1:
        return Hold("Duplicate", f"{who} is scraped more than once: its series would count twice")
    if (values["age"] or 0.0) > stale_seconds:
        return Hold("Stale", f"{who} was not scraped for more than {SCRAPES_UNTIL_STALE} scrape intervals")
    if (values["resets"] or 0) > 0:
        return Hold("CounterReset", f"{who} restarted its counters: rates are not whole yet")
    return None


def _counts_are_numbers(buckets: Buckets) -> bool:
    return all(math.isfinite(count) and count >= 0 for _, count in buckets)


def _load(snapshot: Snapshot, namespace: str, pod: str) -> PodLoad:
    def value(signal: str) -> float | None:
        return snapshot.values.get((f"engine:{signal}", namespace, pod))

    intervals = value("itl_count_per_second") or 0.0
    return PodLoad(
        running=value("running") or 0.0,
        waiting=value("waiting") or 0.0,
        sampled_at=snapshot.taken_at - timedelta(seconds=max(0.0, value("age") or 0.0)),
        kv_use=value("kv_use"),
        prompt_tokens_per_second=value("prompt_tokens_per_second"),
        generated_tokens_per_second=value("generated_tokens_per_second"),
        busy_share=value("busy_share"),
        mean_running=value("mean_running"),
        inter_token_seconds=(value("itl_seconds_per_second") or 0.0) / intervals if intervals > 0 else None,
        tokens_per_second_timed=intervals,
    )


def _added(histograms: Sequence[Buckets]) -> Buckets:
    """Histograms of equal bounds added up. Where engines differ in bounds only the common ones can be used."""
    counted = [dict(one) for one in histograms if one]
    common = set(counted[0]).intersection(*counted[1:]) if counted else set()
    return tuple((bound, sum(one[bound] for one in counted)) for bound in sorted(common))


def _traffic(
    snapshot: Snapshot, namespace: str, models: Sequence[str], itl_buckets: Buckets, scrape_seconds: float
) -> Traffic:
    def value(signal: str) -> float:
        # Peaks that were not at the same time add up to more than there was: the careful side.
        return sum(snapshot.values.get((f"front:{signal}", namespace, model), 0.0) for model in models)

    def rates(window: str) -> Rates:
        return Rates(
            requests=value(f"requests_{window}"),
            prompts=value(f"prompts_{window}"),
            prompt_tokens=value(f"prompt_tokens_{window}"),
            answers=value(f"answers_{window}"),
            answer_tokens=value(f"answer_tokens_{window}"),
        )

    def buckets(signal: str) -> Buckets:
        return _added([snapshot.buckets.get((f"front:{signal}", namespace, model), ()) for model in models])

    return Traffic(
        short=rates("short"),
        long=rates("long"),
        short_seconds=Windows(scrape_seconds).short_seconds,
        peak_prompt_tokens_per_second=value("prompt_tokens_peak"),
        peak_answer_tokens_per_second=value("answer_tokens_peak"),
        prompt_buckets=buckets("prompt_buckets"),
        answer_buckets=buckets("answer_buckets"),
        ttft_buckets=buckets("ttft_buckets"),
        itl_buckets=itl_buckets,
    )

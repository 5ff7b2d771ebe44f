"""From a snapshot of all groups to what one group may believe. Pure, but for what it is told to remember.

What cannot be trusted is left out and named: a replica without series, with a value that is not a number, scraped
twice, too old, or restarted within the long window, as long as enough others of its stage speak for it; a model that
nobody asks for; a front end whose engines tell what arrives. Only where nothing is left to decide from the group
holds, and says which series it lacks. Missing is not zero. Series of pods that Weft does not know, and of other
namespaces, do not exist for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from weft.balancing.demand import none_ended, only_begun
from weft.balancing.estimate import (
    ENTRY,
    EngineDemand,
    added,
    counts_more,
    enough,
    from_engines,
    misses_requests,
    prompts_read,
    queue_growth,
    reads_part,
)
from weft.balancing.presets import ENGINE_REQUIRED, FRONT_REQUIRED, VLLM, Preset, Windows
from weft.balancing.series import EngineSeries, FrontEndSeries, Series, Snapshot, signal_names
from weft.balancing.state import Finding, Hold, Past, PodLoad, Rates, Traffic
from weft.plain import listed

SCRAPES_UNTIL_STALE = 3
_AGE_TOLERANCE_SECONDS = 0.5
"""Scrapes are not exactly regular; a target that answers at once and one that needs a while both count."""
_MAY_BE_NEGATIVE = (
    "age",
    "waiting_growth_short",
    "waiting_growth_long",
    "queue_growth_short",
    "queue_growth_long",
)
"""An age below zero is a target whose clock is ahead: what it says now is still the newest."""
_SHARES = ("kv_usage", "busy_share")
_SHARE_MOST = 1.1
"""Of a whole, beyond what an engine's rounding explains: a percentage is soon larger, and would be taken for caches."""

Remember = Callable[[str, Hold | None], Hold | None]
"""What is wrong with a subject now to what counts as wrong with it: see memory.Memory."""


@dataclass(frozen=True)
class Reading:
    """What one group may believe."""

    traffic: Traffic | None
    loads: Mapping[str, PodLoad]
    """Per pod of the group whose series can be trusted, serving or not."""
    hold: Hold | None
    left_out: Mapping[str, Hold] = field(default_factory=dict)
    """Serving pods, and models that nobody asks for, whose series cannot be trusted: the others speak for them."""
    demand: Finding | None = None
    """What is to be said of where the offered work is known from; None where the front end tells it."""
    asked: bool | None = None
    """Whether a request waits at the front end, or came to it just now. None: that is not known, or the front end keeps
    no requests while there is no replica."""
    first_token_of_engines: bool = False
    """The front end does not tell the time to first token: it is prefill's own."""


@dataclass(frozen=True)
class Group:
    """Whose series are to be read."""

    namespace: str
    models: Sequence[str]
    pods: Collection[str]
    """All pods of the group."""
    expected: Collection[str]
    """Those that have served for several scrapes."""
    stages: Mapping[str, str] = field(default_factory=dict)
    """By pod, the value of its stage label."""
    steady: Collection[str] = ()
    """Pods that had one role during the whole long window."""
    steady_lately: Collection[str] = ()
    """The same for the short window."""
    alone: bool = False
    """No other group in its namespace: what a front end counts without a model's name is the group's."""


def read(
    snapshot: Snapshot,
    group: Group,
    scrape_seconds: float,
    preset: Preset = VLLM,
    remember: Remember = lambda _, wrong: wrong,
) -> Reading:
    """The group's part of a snapshot.

    The traffic of all models is added up; a front end has no series for a model that nobody has asked for yet, so it is
    enough that one of them has.
    """
    judge = _Judge(preset, SCRAPES_UNTIL_STALE * scrape_seconds + _AGE_TOLERANCE_SECONDS)
    found = _read(snapshot, group, scrape_seconds, preset, remember, judge)
    return replace(found, asked=_asked(snapshot, group, judge))


def _read(
    snapshot: Snapshot,
    group: Group,
    scrape_seconds: float,
    preset: Preset,
    remember: Remember,
    judge: _Judge,
) -> Reading:
    trusted: dict[str, EngineSeries] = {}
    left_out: dict[str, Hold] = {}
    for pod in sorted(group.pods):
        series = snapshot.engines.get((group.namespace, pod), EngineSeries())
        wrong = judge.engine(series, pod)
        if pod in group.expected:
            wrong = remember(pod, wrong)
        if wrong is None:
            trusted[pod] = series
        elif pod in group.expected:
            left_out[pod] = wrong
    loads = {pod: _load(series, snapshot.taken_at) for pod, series in trusted.items()}
    hold: Hold | None = None
    if snapshot.warnings:
        hold = Hold(
            "PartialAnswer", f"Prometheus says that its answer lacks something: {snapshot.warnings[0]}"
        )
    elif not group.expected:
        return Reading(None, loads, Hold("NoReplicas", "no replica has served for several scrapes yet"))
    elif not enough(trusted, group.expected, group.stages):
        hold = left_out[min(left_out)]
    found: Reading | None = None
    if hold is None:
        found = _demand(snapshot, group, scrape_seconds, preset, judge, trusted, left_out, remember)
        hold = found.hold
    hold = remember("", hold)
    if hold is not None or found is None:
        return Reading(None, loads, hold, left_out)
    return replace(found, loads=loads)


def _demand(
    snapshot: Snapshot,
    group: Group,
    scrape_seconds: float,
    preset: Preset,
    judge: _Judge,
    trusted: Mapping[str, EngineSeries],
    left_out: dict[str, Hold],
    remember: Remember,
) -> Reading:
    """The reading without loads: what arrives, from the front end or else from the engines."""
    windows = Windows(scrape_seconds)
    serving = {pod: series for pod, series in trusted.items() if pod in group.expected}
    told = from_engines(serving, group.expected, group.steady, group.stages)
    fronts, wrong = _fronts(snapshot, group, judge, left_out)
    itl = added([series.itl_buckets for series in serving.values()])
    if wrong is not None:
        if told is None or not told.exact:
            return Reading(None, {}, wrong, left_out)
        text = f"{wrong.message}. Taken instead: what the engines ended, and the growth of their queues"
        demand = Finding(True, "FrontEndNotTrusted", text)
        return Reading(_told(told, itl, windows), {}, None, left_out, demand, bool(told.ttft_buckets))
    traffic = _traffic(list(fronts.values()), itl, scrape_seconds)
    traffic = _with_prompts_read(traffic, serving, group, windows)
    passed = traffic.long.requests - sum(one.queue_growth_long or 0.0 for one in fronts.values())
    notes: list[tuple[str, str]] = []
    if any((one.queued or 0.0) > 0 for one in fronts.values()):
        text = "the front end counts requests when they leave its queue: the growth of the queue is added"
        notes.append(("QueueGrowth", text))
    if preset.counts_after_prefill:
        short, long = (queue_growth(serving, group.expected, group.stages, one) for one in ("short", "long"))
        traffic, passed = _grown(traffic, short, long), passed + long
        text = "the front end counts requests when prefill has done them: the growth of prefill's queues is added"
        notes.append(("QueueGrowth", text))
    asked = listed(group.models)
    missed = told is not None and misses_requests(passed, told.least, windows.long_seconds)
    text = (
        f"more requests reach the engines than the front end counts for {asked}{_others(snapshot, group)}. Taken"
        " instead: what the engines ended, and the growth of their queues"
    )
    misses = remember("requests", Hold("FrontEndMissesRequests", text) if missed else None)
    if misses is not None and told is not None:
        demand = Finding(True, misses.reason, misses.message)
        return Reading(_told(told, itl, windows), {}, None, left_out, demand, bool(told.ttft_buckets))
    if told is None and passed == 0 and _busy_without_requests(serving, group):
        text = f"engines read prompts and write answers, but the front end counts no request for {asked}"
        return Reading(None, {}, Hold("Contradiction", text + _others(snapshot, group)), left_out)
    if traffic.long.prompts <= 0 or traffic.long.answers <= 0:
        if told is not None and told.long.prompts > 0 and told.long.answers > 0:
            text = "the lengths of prompts and answers are the engines', known when each has done its part"
            notes.append(("LengthsFromEngines", text))
            traffic = replace(
                traffic,
                short=replace(told.short, requests=traffic.short.requests),
                long=replace(told.long, requests=traffic.long.requests),
                prompt_buckets=told.prompt_buckets,
                answer_buckets=told.answer_buckets,
            )
        elif traffic.long.prompts > 0 and none_ended(traffic) and _writes(serving):
            text = (
                "no answer of this load has ended yet: taken to last twice as long as the oldest have by now"
            )
            if not only_begun(traffic):
                notes.append(("AnswersNotEnded", text))
        elif traffic.long.requests > 0:
            series = {
                "the front end's": preset.series_of("front_end", "prompt_tokens_long"),
                "the engines'": preset.series_of("engine", "ended_long"),
            }
            named = " and ".join(f"{whose} {name}" for whose, name in series.items() if name)
            text = (
                f"requests arrive, but no answer has ended yet, or what tells their lengths has no samples"
                f" ({named or 'a series of the front end'}): lengths are not known"
            )
            return Reading(traffic, {}, None, left_out, Finding(None, "LengthsUnknown", text))
    exceeds = (
        told is not None and told.exact and counts_more(passed, told.long.requests, windows.long_seconds)
    )
    text = (
        f"the front end counts more requests for {asked} than these engines get: does it serve others under these"
        " names, or refuse requests? Its counts are taken"
    )
    more = remember("more requests", Hold("FrontEndCountsMore", text) if exceeds else None)
    if more is not None:
        notes.append((more.reason, more.message))
    of_engines = not traffic.ttft_buckets and told is not None and bool(told.ttft_buckets)
    if of_engines and told is not None:
        traffic = replace(traffic, ttft_buckets=told.ttft_buckets)
    noted = Finding(True, notes[0][0], "; ".join(text for _, text in notes)) if notes else None
    return Reading(traffic, {}, None, left_out, noted, of_engines)


def _asked(snapshot: Snapshot, group: Group, judge: _Judge) -> bool | None:
    """Whether a request waits at the front end or came to it; None where that is not known."""
    fronts, wrong = _fronts(snapshot, group, judge, {})
    untold = wrong is not None or any(one.queued is None for one in fronts.values())
    if untold or snapshot.warnings:
        return None
    return any((one.queued or 0.0) + (one.requests_short or 0.0) > 0 for one in fronts.values())


def _busy_without_requests(serving: Mapping[str, EngineSeries], group: Group) -> bool:
    """Whether prefill works now and answers are written, which no request of long ago explains."""
    entry = [series for pod, series in serving.items() if group.stages.get(pod) in ENTRY]
    reads = any((one.running or 0.0) + (one.waiting or 0.0) > 0 for one in entry)
    return reads and _writes(serving)


def _writes(serving: Mapping[str, EngineSeries]) -> bool:
    return any((one.generated_tokens_per_second or 0.0) > 0 for one in serving.values())


def _fronts(
    snapshot: Snapshot, group: Group, judge: _Judge, left_out: dict[str, Hold]
) -> tuple[dict[str, FrontEndSeries], Hold | None]:
    """The front ends' series by model, and why they cannot be trusted. One that nobody asks for is left out."""
    names = {model: f"the front end of model {model}" for model in group.models}
    if group.alone and not any((group.namespace, model) in snapshot.front_ends for model in names):
        names = {"": "the front end"}
    fronts: dict[str, FrontEndSeries] = {}
    first: Hold | None = None
    for model, who in names.items():
        series = snapshot.front_ends.get((group.namespace, model))
        if series is None:
            continue
        wrong = judge.front_end(series, who)
        if wrong is None:
            fronts[model] = series
        elif series.requests_long:
            return {}, wrong
        else:
            first = first or wrong
            left_out[who] = wrong
    if fronts:
        return fronts, None
    nameless = (group.namespace, "") in snapshot.front_ends
    who = next(iter(names.values()))
    if first is None:
        first = judge.front_end(FrontEndSeries(), who)
        if first is not None and nameless:
            text = (
                f"{first.message} The front end of this namespace does not tell its models apart and serves several"
                " groups: attach the label model_name to its targets"
            )
            first = replace(first, message=text)
    return {}, first


@dataclass(frozen=True)
class _Judge:
    """Whether a target's series can be trusted."""

    preset: Preset
    stale_seconds: float

    def engine(self, series: EngineSeries, pod: str) -> Hold | None:
        who = f"pod {pod}"
        if missing := self._missing("engine", series, ENGINE_REQUIRED):
            text = f"{who} has no series for {missing}: is it scraped, with labels namespace and pod?"
            return Hold("SeriesMissing", text)
        return self._wrong(series, who, series.targets, series.copies, series.age, series.resets)

    def front_end(self, series: FrontEndSeries, who: str) -> Hold | None:
        if missing := self._missing("front_end", series, FRONT_REQUIRED):
            text = f"{who} has no series for {missing} in this namespace: has it had requests, is it scraped?"
            return Hold("SeriesMissing", text)
        return self._wrong(series, who, series.jobs, series.copies, series.age, series.resets)

    def _missing(self, part: str, series: Series, required: Sequence[str]) -> str:
        """The first required signal without series, with the name of the series."""
        signal = next((signal for signal in required if getattr(series, signal) is None), "")
        name = self.preset.series_of(part, signal) if signal else ""
        return f"{signal} ({name})" if name else signal

    def _wrong(
        self,
        series: Series,
        who: str,
        sources: float | None,
        copies: float | None,
        age: float | None,
        resets: float | None,
    ) -> Hold | None:
        for signal, buckets in series.histograms():
            if buckets and not _are_counts([count for _, count in buckets]):
                return Hold("NotANumber", f"{who} reports {signal} that is not a number of zero or more")
        for signal in signal_names(type(series)):
            value = getattr(series, signal)
            if signal in _SHARES and value is not None and _SHARE_MOST < value < math.inf:
                name = self.preset.series_of("engine", signal)
                text = (
                    f"{who} reports {signal}{f' ({name})' if name else ''} above 1, as a percentage would be"
                )
                return Hold("NotAShare", text + ": have the preset divide it by 100")
            if value is None or 0 <= value < math.inf:
                continue
            if not (signal in _MAY_BE_NEGATIVE and math.isfinite(value)):
                return Hold("NotANumber", f"{who} reports {signal} that is not a number of zero or more")
        if (copies or 0) > 1:
            text = (
                f"every series of {who} is there more than once, as from replicas of Prometheus: have the source remove"
                " the duplicates (Thanos: query parameters dedup and replicaLabels[])"
            )
            return Hold("ScrapedTwice", text)
        if series.repeated or (sources or 0) > 1:
            return Hold("ScrapedTwice", f"{who} is scraped more than once: its series would count twice")
        if (age or 0.0) > self.stale_seconds:
            return Hold(
                "Stale", f"{who} was not scraped for more than {SCRAPES_UNTIL_STALE} scrape intervals"
            )
        if (resets or 0) > 0:
            return Hold("CounterReset", f"{who} restarted its counters: rates are not whole yet")
        return None


def _is_count(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _are_counts(values: Sequence[float]) -> bool:
    # Every bucket of every engine at every look: a finite sum of what is nowhere below zero needs no closer one.
    return (math.isfinite(sum(values)) and min(values) >= 0) or all(map(_is_count, values))


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
        kv_usage=engine.kv_usage,
        kv_unread=engine.kv_unread,
        ended=engine.ended,
    )


def _told(told: EngineDemand, itl: tuple[tuple[float, float], ...], windows: Windows) -> Traffic:
    return Traffic(
        short=told.short,
        long=told.long,
        short_seconds=windows.short_seconds,
        prompt_buckets=told.prompt_buckets,
        answer_buckets=told.answer_buckets,
        ttft_buckets=told.ttft_buckets,
        itl_buckets=itl,
    )


def _with_prompts_read(
    traffic: Traffic, serving: Mapping[str, EngineSeries], group: Group, windows: Windows
) -> Traffic:
    """With the prompts that prefill has just read, where it tells, instead of those whose answers have ended; not
    where it reads only a part of all: others read the rest, which may be the shorter ones."""
    short = prompts_read(serving, group.expected, group.steady_lately, group.stages, "short")
    long = prompts_read(serving, group.expected, group.steady, group.stages, "long")
    read, recorded, seconds = (
        (short, traffic.short.prompts, windows.short_seconds)
        if long is None
        else (long, traffic.long.prompts, windows.long_seconds)
    )
    if short is None or read is None or reads_part(read[0], recorded, seconds):
        return traffic
    traffic = replace(
        traffic, short=replace(traffic.short, prompts=short[0], prompt_tokens=short[1]), prompts_read=True
    )
    if long is None:
        return traffic
    return replace(traffic, long=replace(traffic.long, prompts=long[0], prompt_tokens=long[1]))


def _grown(traffic: Traffic, short: float, long: float) -> Traffic:
    """With so many more requests per second that are not counted yet."""
    return replace(
        traffic,
        short=replace(traffic.short, requests=max(0.0, traffic.short.requests + short)),
        long=replace(traffic.long, requests=max(0.0, traffic.long.requests + long)),
    )


def _others(snapshot: Snapshot, group: Group) -> str:
    """Under which other names there are requests in the namespace: adapters that nobody claimed."""
    others = sorted(
        model
        for (namespace, model), series in snapshot.front_ends.items()
        if namespace == group.namespace and model and model not in group.models and series.requests_long
    )
    if not others:
        return ""
    return f"; it counts some for {listed(others)}: if these are adapters, name them in spec.metrics.models"


def _traffic(
    front_ends: Sequence[FrontEndSeries], itl_buckets: tuple[tuple[float, float], ...], scrape_seconds: float
) -> Traffic:
    short = [
        Rates(
            requests=max(0.0, (one.requests_short or 0.0) + (one.queue_growth_short or 0.0)),
            prompts=one.prompts_short or 0.0,
            prompt_tokens=one.prompt_tokens_short or 0.0,
            answers=one.answers_short or 0.0,
            answer_tokens=one.answer_tokens_short or 0.0,
        )
        for one in front_ends
    ]
    long = [
        Rates(
            requests=max(0.0, (one.requests_long or 0.0) + (one.queue_growth_long or 0.0)),
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
        past=_past(front_ends, Windows(scrape_seconds)),
        prompt_buckets=added([one.prompt_buckets for one in front_ends]),
        answer_buckets=added([one.answer_buckets for one in front_ends]),
        ttft_buckets=added([one.ttft_buckets for one in front_ends]),
        itl_buckets=itl_buckets,
    )


def _past(front_ends: Sequence[FrontEndSeries], windows: Windows) -> Past | None:
    """The largest loads of the last minutes; None where a front end, or Prometheus, is younger than that."""
    if max((one.past_windows or 0.0 for one in front_ends), default=0.0) < windows.past_windows:
        return None
    return Past(
        sum(one.requests_past or 0.0 for one in front_ends),
        sum(one.prompt_tokens_past or 0.0 for one in front_ends),
        sum(one.answer_tokens_past or 0.0 for one in front_ends),
        added([one.prompt_buckets_past for one in front_ends]),
        added([one.answer_buckets_past for one in front_ends]),
    )

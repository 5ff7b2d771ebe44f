"""What Prometheus said in one answer: per engine and per front end, one value for each signal.

A signal is a field here; its name is what presets call its expression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime

Buckets = tuple[tuple[float, float], ...]
"""A histogram's rate: (upper bound, observations per second at or below it), bounds rising to infinity."""


@dataclass(frozen=True)
class Series:
    """What one target's series say. None: no series. Not checked: a value may be NaN, infinite or negative."""

    repeated: bool = False
    """Whether any of them came more than once."""

    def histograms(self) -> Iterator[tuple[str, Buckets]]:
        """Name and buckets of each signal that is a histogram; without series they are empty."""
        return ((name, getattr(self, name)) for name in histogram_names(type(self)))


@dataclass(frozen=True)
class EngineSeries(Series):
    """Of one pod's engine."""

    running: float | None = None
    """Requests being worked on."""
    waiting: float | None = None
    age: float | None = None
    """Seconds since the oldest series was scraped."""
    targets: float | None = None
    """Scrape targets that report the pod, or the same rank of it."""
    copies: float | None = None
    """How often one series of one target is there: more than once where replicas of Prometheus are asked together."""
    resets: float | None = None
    """Of its counters, in the long window."""
    ended: float | None = None
    """Requests that ended here since the engine began to count."""
    kv_usage: float | None = None
    """Part of the KV cache that is used, 0 to 1; of several ranks together."""
    kv_unread: float | None = None
    """Prompts whose KV cache was computed and not read before its lease ended, in the last 20 minutes."""
    waiting_growth_short: float | None = None
    """Requests per second by which `waiting` grows; below zero while it shrinks. The next one over the long window."""
    waiting_growth_long: float | None = None
    prompt_tokens_per_second: float | None = None
    generated_tokens_per_second: float | None = None
    busy_share: float | None = None
    """Share of samples with a request running."""
    mean_running: float | None = None
    itl_seconds_per_second: float | None = None
    """Rate of the sum of the times between tokens; the next one of their count."""
    itl_count_per_second: float | None = None
    itl_buckets: Buckets = ()
    """Times between tokens in seconds. Front ends offer only the whole time over the number of tokens."""
    ended_short: float | None = None
    """Requests per second that ended here; with them their prompt and answer tokens. A request that prefill and decode
    serve ends in both: at the first token, and with its answer."""
    ended_long: float | None = None
    ended_prompt_tokens_short: float | None = None
    ended_prompt_tokens_long: float | None = None
    ended_answer_tokens_short: float | None = None
    ended_answer_tokens_long: float | None = None
    prompt_buckets: Buckets = ()
    answer_buckets: Buckets = ()
    ttft_buckets: Buckets = ()
    """Times in seconds from the arrival at this engine to the first token of its own."""


@dataclass(frozen=True)
class FrontEndSeries(Series):
    """Of what stands before the engines, for one model. All but age, jobs, copies, resets and queued are per second."""

    requests_short: float | None = None
    requests_long: float | None = None
    age: float | None = None
    jobs: float | None = None
    """Scrape jobs that report the model."""
    copies: float | None = None
    """As an engine's."""
    resets: float | None = None
    """Of its request counter, in the short window: what it counted just before is lost."""
    queued: float | None = None
    """Most requests that it held back at a time in the long window, where it counts only those it let through."""
    queue_growth_short: float | None = None
    queue_growth_long: float | None = None
    prompts_short: float | None = None
    prompts_long: float | None = None
    prompt_tokens_short: float | None = None
    prompt_tokens_long: float | None = None
    prompt_tokens_peak: float | None = None
    answers_short: float | None = None
    answers_long: float | None = None
    answer_tokens_short: float | None = None
    answer_tokens_long: float | None = None
    answer_tokens_peak: float | None = None
    past_windows: float | None = None
    """Long windows of the past of which the rates are known."""
    requests_past: float | None = None
    prompt_tokens_past: float | None = None
    answer_tokens_past: float | None = None
    prompt_buckets: Buckets = ()
    answer_buckets: Buckets = ()
    ttft_buckets: Buckets = ()
    prompt_buckets_past: Buckets = ()
    """Of the last minutes; and the next."""
    answer_buckets_past: Buckets = ()


@dataclass(frozen=True)
class Snapshot:
    """What one query returned, at one instant."""

    taken_at: datetime
    """By the operator's clock, just before the query."""
    engines: Mapping[tuple[str, str], EngineSeries]
    """By namespace and pod."""
    front_ends: Mapping[tuple[str, str], FrontEndSeries]
    """By namespace and model name; without a name where the front end does not tell its models apart."""
    warnings: tuple[str, ...] = ()
    """Why the answer may lack something, in the server's words."""


_KINDS = (EngineSeries, FrontEndSeries)
# Asked for at every reading of every series.
_NUMBERS: dict[type[Series], tuple[str, ...]] = {
    kind: tuple(one.name for one in fields(kind) if one.default is None) for kind in _KINDS
}
_HISTOGRAMS: dict[type[Series], tuple[str, ...]] = {
    kind: tuple(one.name for one in fields(kind) if one.default == ()) for kind in _KINDS
}


def signal_names(kind: type[Series]) -> tuple[str, ...]:
    """The signals of an engine or a front end that are one number."""
    return _NUMBERS[kind]


def histogram_names(kind: type[Series]) -> tuple[str, ...]:
    """The signals of an engine or a front end that are histograms."""
    return _HISTOGRAMS[kind]

"""The share of requests that will be late at a stage within the next minutes, from where its queue stands now. Pure.

Prefill's unfinished work (replica-seconds) goes up by arrivals and down by at most one second per replica and second:
Brownian motion with drift m = a - c, reflected at zero, of variance s^2 = a S (1 + cv^2) per second. From q now, the
probability that more than x is unfinished after t seconds is

    Phi((q - x + m t) / s sqrt(t)) + alpha exp(2 m x / s^2) Phi((-x - q - m t) / s sqrt(t))

(J. M. Harrison, Brownian Motion and Stochastic Flow Systems, 1985), with alpha Halfin and Whitt's probability that a
request waits at all, since several replicas do not queue as one fast one does. One formula says what a backlog, an
overload that has just begun and a steady queue cost; a request is late when the work before it, over c, takes longer
than it may wait.

Decode's requests are those of an M/G/inf queue that starts from the present ones: mean am + (N - am) exp(-t / T),
Poisson around it. With m places per replica they are late where there are more than cm of them, if the time between
tokens is what limits m. If the engine's batch or its KV cache does, they wait outside, and may for as long as the
first token allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, exp, sqrt
from typing import NamedTuple

from weft.balancing.capacity import Need, wait_probability

SAMPLES = (0.1, 0.3, 0.6, 1.0)
"""Where in a span its mean is taken."""

_ROOT_2 = sqrt(2)
LEAST_ERLANGS = 1e-9
"""Less work than this is none."""


class Span(NamedTuple):
    """So many seconds with so much capacity, in replicas."""

    seconds: float
    capacity: float


def prefill_late(need: Need, spans: Sequence[Span], waiting: float) -> float:
    """Mean share late over the spans, with this many prompts waiting now."""
    erlangs, service = need.saturated, need.service_seconds
    backlog = waiting * service
    late = total = 0.0
    for seconds, capacity in spans:
        if seconds > 0:
            late += seconds * _work_exceeds(need, seconds, capacity, backlog)
            total += seconds
            backlog = max(0.0, backlog + (erlangs - capacity) * seconds)
    return late / total if total > 0 else 0.0


def decode_late(need: Need, spans: Sequence[Span], present: float) -> float:
    """Mean share late over the spans, with this many requests decoding or waiting for it now."""
    late = total = 0.0
    for seconds, capacity in spans:
        if seconds > 0:
            late += seconds * _places_exceeded(need, seconds, capacity, present)
            total += seconds
            present = present_after(need, capacity, present, seconds)
    return late / total if total > 0 else 0.0


def _work_exceeds(need: Need, length: float, capacity: float, backlog: float) -> float:
    """Mean share late over a span."""
    erlangs, service = need.saturated, need.service_seconds
    if erlangs < LEAST_ERLANGS:
        return 0.0
    if capacity <= 0:
        return 1.0
    limit = capacity * need.budget_seconds
    drift = erlangs - capacity
    variance = erlangs * service * need.variance
    total = 0.0
    factor: float | None = None
    for part in SAMPLES:
        seconds = length * part
        spread = sqrt(variance * seconds)
        late = below((backlog - limit + drift * seconds) / spread)
        reflected = below((-limit - backlog - drift * seconds) / spread)
        if reflected > 1e-12:
            if factor is None:
                exponent = 2 * drift * limit / variance
                beta = -drift / sqrt(erlangs * need.variance / 2)
                alpha = wait_probability(beta) if beta > 0 else 1.0
                factor = alpha * exp(min(50.0, exponent))
            late += reflected * factor
        total += min(1.0, late)
    return total / len(SAMPLES)


def _places_exceeded(need: Need, length: float, capacity: float, present: float) -> float:
    """Mean share late over a span."""
    places = capacity * need.places
    if need.saturated < LEAST_ERLANGS and present <= places:
        return 0.0
    if places <= 0:
        return 1.0
    stay = need.service_seconds
    offered = need.saturated * need.places
    drift = (offered - places) / stay
    outside = places / stay * need.budget_seconds
    excess = max(0.0, present - places)
    returns = exp(min(50.0, drift * outside * stay / max(offered, 1.0)))
    variance = 2 * max(offered, 1.0) / stay
    total = 0.0
    for part in SAMPLES:
        seconds = length * part
        mean = offered + (present - offered) * exp(-seconds / stay)
        spread = sqrt(max(mean, 1.0) * need.variance)
        late = full = below((mean - places) / spread)
        if outside > 0 and full > 0:
            late = below((mean - places - outside) / spread)
            step = sqrt(variance * seconds)
            queue = below((excess - outside + drift * seconds) / step)
            queue += returns * below((-outside - excess - drift * seconds) / step)
            late = max(late, min(1.0, full * queue))
        total += late
    return total / len(SAMPLES)


def present_after(need: Need, capacity: float, present: float, seconds: float) -> float:
    places, offered = capacity * need.places, need.saturated * need.places
    relaxed = offered + (present - offered) * exp(-seconds / need.service_seconds)
    if max(relaxed, present) <= places:
        return relaxed
    return max(0.0, present + (offered - places) / need.service_seconds * seconds)


def below(x: float) -> float:
    """The standard normal distribution."""
    return 0.5 * erfc(-x / _ROOT_2)

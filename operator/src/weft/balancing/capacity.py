"""How many replicas a stage needs. Pure.

Both stages are answered by two numbers in replicas, not rounded:

- `saturated`: fewer than this cannot carry the work at all; queues grow without end.
- `required`: with this many, requests meet the objectives. The difference is the headroom.

Prefill is a queue: prompts wait for a replica, which works on one after the other. With work offered at
`rate` prompt tokens per second and a replica that does `speed` of them at the mean prompt length,

    a = rate / speed                            erlangs: replicas busy on average
    required = a + beta * sqrt(a * V)           square-root staffing
    V = (1 + cv^2) / 2                          Allen-Cunneen's factor for Poisson arrivals and service
                                                times with squared coefficient of variation cv^2

`beta` is the smallest with P(wait > budget) <= 1 - attainment, where the budget is the TTFT objective less
the prefill of a prompt one standard deviation above the mean. Halfin and Whitt's limit gives the probability
of waiting at all; the wait of those who do is exponential with a mean scaled by V:

    alpha(beta) = 1 / (1 + beta * Phi(beta) / phi(beta))
    P(wait > t) = alpha(beta) * exp(-beta * sqrt(a / V) * t / S)        S: mean prefill seconds

Sources: S. Halfin and W. Whitt, "Heavy-traffic limits for queues with many exponential servers", Operations
Research 29(3), 1981; A. O. Allen, "Probability, Statistics and Queueing Theory", 2nd ed., 1990 (the
Allen-Cunneen approximation); W. Whitt, "Understanding the efficiency of multi-server service systems",
Management Science 38(5), 1992 (square-root staffing with general service times).

Decode is a shared server: all requests of a replica advance together, slower as there are more. At the largest
batch whose time per token meets the ITL objective, `rate` answer tokens per second keep

    N = rate * time per token                   requests decoding on average (Little's law)

A request gets a place as soon as it arrives, so their number is that of an M/G/inf queue: Poisson around N,
whatever the distribution of lengths. With z the normal quantile of the attainment, and per replica a batch of
at most B requests and a KV cache for K contexts of mean length (whose tokens vary by cv^2 in addition, prompts and
the part of their answers that is there together),

    saturated = N / min(B, K)
    required  = max((N + z * sqrt(N)) / B, (N + z * sqrt(N (1 + cv^2))) / K)

Headroom is taken in requests and not in milliseconds: time per token grows so slowly with the batch (55 to 72 ms
from 1 to 32 on the example's hardware) that a fifth off the objective can halve the batch and double the replicas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from weft.api import Objectives
from weft.balancing.demand import Demand
from weft.balancing.profile import Profile
from weft.balancing.state import Answers, Corrections, EngineLoad

QUANTILE_LEAST = 1.0
"""Standard deviations of the number of decoding requests that are always kept free."""
BETA_LEAST, BETA_MOST = 0.25, 4.0
"""A queue is never planned at saturation; beyond 4 the next replica changes nothing that can be measured."""
PATIENCE_SERVICES = 10.0
"""Without an objective for the first token: a wait of so many service times is no reason to move."""
DECODE_PART = 0.4
"""Part of the first token's objective that a request may wait for a place to decode."""
CORRECTION_LEAST, CORRECTION_MOST = 0.5, 2.0
EVIDENCE_HALF_SECONDS = 30.0
"""Busy seconds of replicas after which half of a deviation from the profile is believed."""
SPEEDS_DEVIATE = 0.2
"""Relative standard deviation of engines around their profile, before anything is seen of them."""


@dataclass(frozen=True)
class Steps:
    """Seconds between two tokens of an answer."""

    alone: float
    """Of one that decodes alone."""
    full: float
    """With a replica's `places` all taken."""
    objective: float
    """What was promised; infinite where nothing was."""


@dataclass(frozen=True)
class Need:
    """What one stage needs, in replicas of one role."""

    saturated: float
    required: float
    replica_tokens_per_second: float
    """What one replica can do at most."""
    service_seconds: float = 1.0
    """How long a request stays in service: a prompt's prefill, the decoding of a whole answer."""
    variance: float = 1.0
    """1 + squared coefficient of variation of what a request takes."""
    budget_seconds: float = 0.0
    """How long a request may wait for this stage without missing an objective."""
    places: float = 1.0
    """Requests that one replica serves at a time."""
    batch: float = 1.0
    """Of decode: requests that one replica writes within the objective."""
    contexts: float = 1.0
    """Of decode: mean contexts that its KV cache has room for."""
    steps: Steps | None = None
    """Of decode: how long its steps take."""
    limit: str = ""
    """Set when the objective cannot be met with any number of replicas: why."""


def prefill_need(profile: Profile, speed: float, demand: Demand, objectives: Objectives) -> Need:
    """Replicas for prefill. `speed` is the observed speed over the profile's."""
    service_seconds = profile.prefill_seconds(demand.prompt_tokens) / speed
    tokens_per_second = demand.prompt_tokens / service_seconds
    erlangs = demand.prompt_tokens_per_second / tokens_per_second
    variance_factor = (1 + demand.prompt_cv2) / 2
    if objectives.time_to_first_token_milliseconds is None:
        # Nobody waits for too long: it only has to keep up.
        required = erlangs + BETA_LEAST * math.sqrt(erlangs * variance_factor)
        patience = PATIENCE_SERVICES * service_seconds
        return Need(erlangs, required, tokens_per_second, service_seconds, 2 * variance_factor, patience)
    objective_seconds = objectives.time_to_first_token_milliseconds / 1000
    budget_seconds = objective_seconds - service_seconds * (1 + math.sqrt(demand.prompt_cv2))
    limit = ""
    if service_seconds >= objective_seconds:
        limit = (
            f"prefill of a mean prompt of {demand.prompt_tokens:,.0f} tokens takes"
            f" {service_seconds * 1000:,.0f} ms alone: more than the TTFT objective"
        )
    beta = staffing_beta(
        erlangs,
        variance_factor,
        max(budget_seconds, 0.1 * objective_seconds) / service_seconds,
        1 - objectives.attainment_permille / 1000,
    )
    required = erlangs + beta * math.sqrt(erlangs * variance_factor)
    return Need(
        saturated=erlangs,
        required=required,
        replica_tokens_per_second=tokens_per_second,
        service_seconds=service_seconds,
        variance=2 * variance_factor,
        budget_seconds=max(budget_seconds, 0.1 * objective_seconds),
        limit=limit,
    )


def decode_need(profile: Profile, speed: float, demand: Demand, objectives: Objectives) -> Need:
    """Replicas for decode. `speed` is the observed speed over the profile's."""
    # Without an objective every batch that the engine takes is fast enough.
    microseconds = objectives.inter_token_latency_microseconds
    objective_seconds = math.inf if microseconds is None else microseconds / 1e6
    limit = ""
    alone_seconds = profile.inter_token_seconds(1) / speed
    if alone_seconds > objective_seconds:
        limit = (
            f"a request that decodes alone takes {alone_seconds * 1000:,.0f} ms per token:"
            " more than the ITL objective"
        )
    batch = profile.largest_batch(objective_seconds * speed)
    # At least a fraction of a request: contexts larger than the cache are the engine's to refuse.
    contexts = max(0.1, profile.kv_capacity_tokens / demand.context_tokens)
    most = min(batch, contexts)
    token_seconds = profile.inter_token_seconds(max(1.0, most)) / speed
    decoding = demand.answer_tokens_per_second * token_seconds
    quantile = _quantile(objectives)
    spread = quantile * math.sqrt(decoding)
    required = max(
        (decoding + spread) / batch, (decoding + spread * math.sqrt(1 + demand.context_cv2)) / contexts
    )
    answer_seconds = demand.answer_tokens * token_seconds
    # A batch that the time between tokens limits takes no more without missing it; one that the engine limits
    # leaves the others waiting for their first token.
    first = objectives.time_to_first_token_milliseconds
    patience = PATIENCE_SERVICES * token_seconds if first is None else DECODE_PART * first / 1000
    return Need(
        saturated=decoding / most,
        required=required,
        replica_tokens_per_second=most / token_seconds,
        service_seconds=answer_seconds,
        budget_seconds=0.0 if batch < min(profile.max_batch, contexts) else patience,
        places=most,
        batch=batch,
        contexts=contexts,
        steps=Steps(alone_seconds, token_seconds, objective_seconds),
        limit=limit,
    )


def writing_need(
    need: Need, answers: Answers, demand: Demand, objectives: Objectives, patience_seconds: float
) -> Need:
    """Decode's need for the answers that are there, instead of those that arrivals and lengths lead one to expect.

    An answer that waits takes a place for as long as it is written: all of one if that is `patience_seconds` or more,
    a part of one where others end sooner.
    """
    waiting = answers.waiting * min(1.0, need.service_seconds / patience_seconds)
    there = answers.running + waiting
    # As much as one of those that run, but no more than a mean context: some that wait for their KV cache from prefill
    # are counted in the caches already, and where few run these would be their factor.
    each = 1 / need.contexts
    if answers.caches is None or not answers.running:
        caches = there * each
    else:
        caches = answers.caches + waiting * min(each, answers.caches / answers.running)
    chance = _quantile(objectives) / math.sqrt(max(1.0, there))
    return replace(
        need,
        saturated=max(there / need.batch, caches),
        required=max(
            there * (1 + chance) / need.batch, caches * (1 + chance * math.sqrt(1 + demand.context_cv2))
        ),
    )


def _quantile(objectives: Objectives) -> float:
    return max(QUANTILE_LEAST, NormalDist().inv_cdf(objectives.attainment_permille / 1000))


def staffing_beta(erlangs: float, variance_factor: float, budget_services: float, late_share: float) -> float:
    """The smallest beta with P(wait > budget) <= late_share; the budget is in mean service times."""

    def late(beta: float) -> float:
        return wait_probability(beta) * math.exp(
            -beta * math.sqrt(erlangs / variance_factor) * budget_services
        )

    if late(BETA_LEAST) <= late_share:
        return BETA_LEAST
    low, high = BETA_LEAST, BETA_MOST
    while high - low > 1e-4:
        middle = (low + high) / 2
        if late(middle) <= late_share:
            high = middle
        else:
            low = middle
    return high


def wait_probability(beta: float) -> float:
    """Halfin and Whitt's limit of the probability that a request waits at all, for beta >= 0."""
    if beta > 30:
        return 0.0
    density = math.exp(-beta * beta / 2) / math.sqrt(2 * math.pi)
    below = (1 + math.erf(beta / math.sqrt(2))) / 2
    return 1 / (1 + beta * below / density)


def prefill_speed(
    profile: Profile,
    prompt_tokens: float,
    loads: Sequence[EngineLoad],
    window_seconds: float,
    scrape_seconds: float,
) -> float:
    """Observed prefill speed over the profile's, from the engines that only prefilled in the window.

    Tokens per busy second: the engines' prompt token rate over the share of samples with a request running. Of few
    samples that share is known badly (binomial), and as much less of a deviation is believed.
    """
    known = [
        load for load in loads if load.prompt_tokens_per_second is not None and load.busy_share is not None
    ]
    tokens = sum(load.prompt_tokens_per_second or 0.0 for load in known)
    busy = sum(load.busy_share or 0.0 for load in known)
    if tokens <= 0 or busy <= 0:
        return 1.0
    ratio, evidence = tokens / busy / profile.prefill_tokens_per_second(prompt_tokens), busy * window_seconds
    chance = (1 - min(1.0, busy / len(known))) * scrape_seconds / evidence
    return believed(ratio, evidence, SPEEDS_DEVIATE**2 / (SPEEDS_DEVIATE**2 + chance))


def decode_speed(profile: Profile, loads: Sequence[EngineLoad], window_seconds: float) -> float:
    """Observed decode speed over the profile's: the profile's time per token at each engine's mean batch over
    the time that was observed, weighted by tokens."""
    expected = observed = busy = 0.0
    for load in loads:
        planned = planned_token_seconds(profile, load)
        if load.inter_token_seconds is None or planned is None:
            continue
        weight = load.tokens_per_second_timed
        expected += weight * planned
        observed += weight * load.inter_token_seconds
        busy += window_seconds * (1.0 if load.busy_share is None else load.busy_share)
    if observed <= 0 or expected <= 0:
        return 1.0
    return believed(expected / observed, busy)


def planned_token_seconds(profile: Profile, load: EngineLoad) -> float | None:
    """The profile's time per token at the batch that an engine had; None where it is not known."""
    if load.mean_running is None or load.mean_running <= 0:
        return None
    # The mean over all time understates the batch of an engine that idles in between.
    return profile.inter_token_seconds(max(1.0, load.mean_running / max(load.busy_share or 1.0, 1e-3)))


def believed(ratio: float, evidence_seconds: float, part: float = 1.0) -> float:
    """How much of an observed deviation to act on: little after few busy seconds, nearly all after minutes, and no more
    than this part.

    ratio ^ (part * e / (e + 30 s)), within [0.5, 2]. It is a function of Prometheus's window alone, so a restart
    forgets nothing.
    """
    trust = evidence_seconds / (evidence_seconds + EVIDENCE_HALF_SECONDS)
    deviation = math.exp(part * trust * math.log(ratio))
    return min(CORRECTION_MOST, max(CORRECTION_LEAST, deviation))


def corrections(
    prefill: tuple[Profile | None, Sequence[EngineLoad]],
    decode: tuple[Profile | None, Sequence[EngineLoad]],
    prompt_tokens: float,
    window_seconds: float,
    scrape_seconds: float,
) -> Corrections:
    """Both stages' observed speed over their profile's; 1 where there is nothing to compare."""
    return Corrections(
        1.0
        if prefill[0] is None
        else prefill_speed(prefill[0], prompt_tokens, prefill[1], window_seconds, scrape_seconds),
        1.0 if decode[0] is None else decode_speed(decode[0], decode[1], window_seconds),
    )

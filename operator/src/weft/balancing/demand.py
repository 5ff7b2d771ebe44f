"""From what the front end counted to the work that is offered. Pure.

Offered work is what arrives, not what is served: a stage that is too small serves less than it is offered,
and sizing by what it serves would keep it small.

- Prompts: arrivals times the mean length of the prompts that were recorded. Tokens per second as recorded are not
  it: the inference extension's endpoint picker records a prompt's length when its answer ends, so that a prefill
  stage that is too small records what it served. Where lengths are recorded at arrival both are the same.
- Answers: arrivals times the mean length of the answers that ended is the offered work, but it hears of longer
  answers late: the first to end after a shift are the short ones.
  Little's law leads it: N requests that decode at one token per ITL make N / ITL tokens per second, and N
  grows as soon as answers stay longer. The engines' own token rate is that quotient, so the larger of both
  is taken.
- Of a short and a long window the larger counts: rises are seen within the short one, and dips are not
  believed. Unless the short one is lower by more than chance explains: of L requests/s with lengths of squared
  variation c, the tokens per second of a window of w seconds have a relative standard deviation of
  sqrt((1 + c) / (L w)) (a compound Poisson process). Below by two of them, the load has fallen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from weft.balancing.series import Buckets
from weft.balancing.state import Rates, Traffic


@dataclass(frozen=True)
class Demand:
    """Offered work per second and the shape of requests."""

    prompt_tokens_per_second: float
    answer_tokens_per_second: float
    prompt_tokens: float
    """Mean prompt length (ISL)."""
    answer_tokens: float
    """Mean answer length (OSL)."""
    prompt_cv2: float = 0.0
    """Squared coefficient of variation of prompt lengths: variance over squared mean."""
    answer_cv2: float = 0.0

    @property
    def context_tokens(self) -> float:
        """Mean KV tokens of a request that decodes, seen at a random instant.

        Long answers are seen more often, so the mean progress is E[O^2] / 2 E[O] = O (1 + cv^2) / 2, with the
        prompt's whole length before it (prompt and answer lengths taken as independent).
        """
        return self.prompt_tokens + self.answer_tokens * (1 + self.answer_cv2) / 2


STARTED = 0.5
"""Part of the short window's arrivals that the long one has to show. Below it the load has begun, or more than
doubled, within the last half of the long window: the answers that ended are only its shortest, and whatever is
concluded about decode is too low."""
FALL_DEVIATIONS = 2.0
"""Standard deviations by which the short window has to be below the long one to be believed."""


def offered(traffic: Traffic, generated_tokens_per_second: float) -> Demand | None:
    """The work offered now; None while nothing arrives, no answer has ended or the load has only begun."""
    short, long = traffic.short, traffic.long
    prompt_cv2, answer_cv2 = (
        squared_variation(each) for each in (traffic.prompt_buckets, traffic.answer_buckets)
    )
    length, prompt_length = _mean_answer(short, long), _mean_prompt(short, long)
    if (
        length is None
        or prompt_length is None
        or max(short.requests, long.requests) <= 0
        or long.requests < STARTED * short.requests
    ):
        return None
    sample = long.requests * traffic.short_seconds
    prompts, prompts_before = _offered_prompt(short, long), _offered_prompt(long, short)
    prompts_count = _counts(prompts, prompts_before, sample, prompt_cv2)
    answers, answers_before = _offered_answer(short, long), _offered_answer(long, short)
    answers_count = _counts(answers, answers_before, sample, answer_cv2)
    return Demand(
        prompt_tokens_per_second=prompts if prompts_count else prompts_before,
        answer_tokens_per_second=max(
            answers if answers_count else answers_before, generated_tokens_per_second
        ),
        prompt_tokens=prompt_length if prompts_count else _mean_prompt(long, short) or prompt_length,
        answer_tokens=length,
        prompt_cv2=prompt_cv2,
        answer_cv2=answer_cv2,
    )


def _counts(short: float, long: float, requests: float, cv2: float) -> bool:
    """Whether the short window's rate counts: it is larger, or lower by more than chance in so many requests."""
    if short >= long or requests <= 0:
        return True
    return short < long * (1 - FALL_DEVIATIONS * math.sqrt((1 + cv2) / requests))


def recent_peak(traffic: Traffic, now: Demand) -> Demand:
    """The same shape of requests at the highest rates of the recent past.

    A stage gives a replica away only if what is left would have carried this: a load that swings faster than
    a move pays back shows both peaks here, and moves nothing.
    """
    return Demand(
        prompt_tokens_per_second=max(traffic.peak_prompt_tokens_per_second, now.prompt_tokens_per_second),
        answer_tokens_per_second=max(traffic.peak_answer_tokens_per_second, now.answer_tokens_per_second),
        prompt_tokens=now.prompt_tokens,
        answer_tokens=now.answer_tokens,
        prompt_cv2=now.prompt_cv2,
        answer_cv2=now.answer_cv2,
    )


def squared_variation(buckets: Buckets) -> float:
    """Variance over squared mean of what a histogram counted; 0 when it counted nothing.

    Within a bucket values are taken as spread evenly, beyond the last finite bound as equal to it.
    """
    total = mean = second = below = 0.0
    lower = 0.0
    for bound, cumulative in buckets:
        share = max(0.0, cumulative - below)
        upper = lower if math.isinf(bound) else bound
        total += share
        mean += share * (lower + upper) / 2
        second += share * (lower * lower + lower * upper + upper * upper) / 3
        below, lower = max(below, cumulative), upper
    if total <= 0 or mean <= 0:
        return 0.0
    mean, second = mean / total, second / total
    return max(0.0, second / (mean * mean) - 1)


def share_within(buckets: Buckets, limit: float) -> tuple[float, float] | None:
    """Least and greatest share of observations that can be within `limit`; None when there were none.

    Both are equal when the limit is a bucket's bound. Decide by the first: it is the stricter one.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    least = max((count for bound, count in buckets if bound <= limit * (1 + 1e-9)), default=0.0)
    greatest = next((count for bound, count in buckets if bound >= limit * (1 - 1e-9)), total)
    return least / total, max(least, greatest) / total


def _mean_prompt(window: Rates, other: Rates) -> float | None:
    mean = _quotient(window.prompt_tokens, window.prompts)
    return mean if mean is not None else _quotient(other.prompt_tokens, other.prompts)


def _offered_prompt(window: Rates, other: Rates) -> float:
    return window.requests * (_mean_prompt(window, other) or 0.0)


def _mean_answer(window: Rates, other: Rates) -> float | None:
    mean = _quotient(window.answer_tokens, window.answers)
    return mean if mean is not None else _quotient(other.answer_tokens, other.answers)


def _offered_answer(window: Rates, other: Rates) -> float:
    return window.requests * (_mean_answer(window, other) or 0.0)


def _quotient(total: float, count: float) -> float | None:
    return total / count if count > 0 and total > 0 else None

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
from dataclasses import dataclass, replace
from functools import lru_cache

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

    @property
    def context_cv2(self) -> float:
        """Squared coefficient of variation of the same. The mean of squares is E[P^2] + E[P] E[O^2] / E[O] +
        E[O^3] / 3 E[O], with the third moment of a gamma distribution: E[O^3] = O^3 (1 + cv^2) (1 + 2 cv^2)."""
        prompt, answer, cv2 = self.prompt_tokens, self.answer_tokens, self.answer_cv2
        squares = prompt * prompt * (1 + self.prompt_cv2) + prompt * answer * (1 + cv2)
        squares += answer * answer * (1 + cv2) * (1 + 2 * cv2) / 3
        return squares / (self.context_tokens * self.context_tokens) - 1


BEGUN_PART = 0.27
"""A load that began, or more than doubled, less than this part of the long window ago is not judged: a little more than
the short window, whose rates are too low before. Each second that it waits is one of a growing queue."""
YOUNG_PART = 0.9
"""A load that began within the long window has counted less than this part of its rate there."""
AGAIN_AS_LONG = 2.0
"""While no answer of a young load has ended, answers are taken to be so many times as long as the oldest are now."""
CHANGE_DEVIATIONS = 1.5
"""Standard deviations by which the short window has to differ from the long one to be believed."""
ENDED_WEIGHT = 30.0
"""Answers as which the mean of those that ended counts beside those that are still running."""


@dataclass(frozen=True)
class Recent:
    """The work offered now and before, and how far both are from each other by chance."""

    now: Demand
    """Of the short window."""
    before: Demand
    """Of the long one."""
    prompts_deviate: float
    """By how many standard deviations the prompt tokens per second of now differ from those before."""
    answers_deviate: float


def only_begun(traffic: Traffic) -> bool:
    """Whether the load began, or more than doubled, too short a while ago to conclude anything."""
    return traffic.long.requests < BEGUN_PART * traffic.short.requests


def none_ended(traffic: Traffic) -> bool:
    """Whether the load is so young that no answer of it need have ended."""
    return traffic.long.answers <= 0 and traffic.long.requests < YOUNG_PART * traffic.short.requests


def recent(traffic: Traffic, generated_tokens_per_second: float) -> Recent | None:
    """The offered work; None while nothing arrives, no answer has ended or the load has only begun."""
    short, long = traffic.short, traffic.long
    prompt_cv2, answer_cv2 = (
        squared_variation(each) for each in (traffic.prompt_buckets, traffic.answer_buckets)
    )
    ended, prompt_length = _mean_answer(short, long), _mean_prompt(short, long)
    if prompt_length is None or max(short.requests, long.requests) <= 0 or only_begun(traffic):
        return None
    if ended is not None:
        length = _present_answer(traffic, ended, generated_tokens_per_second)
    elif none_ended(traffic) and generated_tokens_per_second > 0:
        length = AGAIN_AS_LONG * generated_tokens_per_second / short.requests
    else:
        return None
    now = Demand(short.requests * prompt_length, short.requests * length, prompt_length, length)
    prompt_before, length_before = (
        _mean_prompt(long, short) or prompt_length,
        _mean_answer(long, short) or length,
    )
    before = Demand(
        long.requests * prompt_before, long.requests * length_before, prompt_before, length_before
    )
    now, before = (replace(one, prompt_cv2=prompt_cv2, answer_cv2=answer_cv2) for one in (now, before))
    sample = long.requests * traffic.short_seconds
    return Recent(
        now,
        before,
        _deviations(now.prompt_tokens_per_second, before.prompt_tokens_per_second, sample, prompt_cv2),
        _deviations(now.answer_tokens_per_second, before.answer_tokens_per_second, sample, answer_cv2),
    )


def offered(traffic: Traffic, generated_tokens_per_second: float) -> Demand | None:
    """The work to plan for: of now where it differs from before by more than chance, else that of the long window."""
    seen = recent(traffic, generated_tokens_per_second)
    if seen is None:
        return None
    prompts = seen.now if seen.prompts_deviate > CHANGE_DEVIATIONS else seen.before
    answers = seen.now if seen.answers_deviate > CHANGE_DEVIATIONS else seen.before
    return replace(
        seen.now,
        prompt_tokens_per_second=prompts.prompt_tokens_per_second,
        prompt_tokens=prompts.prompt_tokens,
        answer_tokens_per_second=answers.answer_tokens_per_second,
        answer_tokens=answers.answer_tokens,
    )


def _deviations(short: float, long: float, requests: float, cv2: float) -> float:
    if requests <= 0 or long <= 0:
        return math.inf
    return abs(short / long - 1) / math.sqrt((1 + cv2) / requests)


def _present_answer(traffic: Traffic, ended: float, generated_tokens_per_second: float) -> float:
    """Mean length of the answers of now, from the tokens written and the answers that ended in the short window.

    Where an answer may end at any token, tokens over ends is its mean length, whatever part of the answers is still
    running. `ended`, the mean of those that did, counts as so many more: after a shift few have. Of a load that is
    younger than the long window the one is too long and the other too short: between both, by what part was there.
    """
    if generated_tokens_per_second <= 0:
        return ended
    tokens = generated_tokens_per_second * traffic.short_seconds
    ends = traffic.short.answers * traffic.short_seconds
    running = (tokens + ENDED_WEIGHT * ended) / (ends + ENDED_WEIGHT)
    if traffic.short.requests <= 0:
        return running
    # Answers of a load that began within the long window are younger than they will be: few end, and those are short.
    there = min(1.0, traffic.long.requests / traffic.short.requests)
    return math.exp((1 - there) * math.log(ended) + there * math.log(running))


def squared_variation(buckets: Buckets) -> float:
    """Variance over squared mean of what a histogram counted; 0 when it counted nothing."""
    first, second = _moments(buckets)
    return max(0.0, second / (first * first) - 1) if first > 0 else 0.0


def mean(buckets: Buckets) -> float:
    """Of what a histogram counted; 0 when it counted nothing."""
    return _moments(buckets)[0]


@lru_cache(maxsize=64)  # each histogram is asked for several times at one look
def _moments(buckets: Buckets) -> tuple[float, float]:
    """Means of the values and of their squares.

    Within a bucket values are taken as spread evenly, beyond the last finite bound as equal to it.
    """
    total = first = second = below = 0.0
    lower = 0.0
    for bound, cumulative in buckets:
        share = max(0.0, cumulative - below)
        upper = lower if math.isinf(bound) else bound
        total += share
        first += share * (lower + upper) / 2
        second += share * (lower * lower + lower * upper + upper * upper) / 3
        below, lower = max(below, cumulative), upper
    return (first / total, second / total) if total > 0 else (0.0, 0.0)


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


def share_about(buckets: Buckets, limit: float) -> float | None:
    """Share of observations within `limit`, those of its bucket taken as spread evenly; None when there were none."""
    total, lower, below = buckets[-1][1] if buckets else 0.0, 0.0, 0.0
    if total <= 0:
        return None
    for bound, count in buckets:
        if bound >= limit:
            part = 0.0 if math.isinf(bound) else (limit - lower) / (bound - lower)
            return (below + part * (count - below)) / total
        lower, below = bound, count
    return below / total


def _mean_prompt(window: Rates, other: Rates) -> float | None:
    mean = _quotient(window.prompt_tokens, window.prompts)
    return mean if mean is not None else _quotient(other.prompt_tokens, other.prompts)


def _mean_answer(window: Rates, other: Rates) -> float | None:
    mean = _quotient(window.answer_tokens, window.answers)
    return mean if mean is not None else _quotient(other.answer_tokens, other.answers)


def _quotient(total: float, count: float) -> float | None:
    return total / count if count > 0 and total > 0 else None

"""What the load of the last minutes was made of: how long it stays as it is, and what it may become again. Pure.

Windows of n and m requests differ by chance: their arrivals, mean prompts and mean answers by a relative variance of
(1, cv² of prompts, cv² of answers) * (1/n + 1/m) (Poisson arrivals). The windows of the last minutes that differ by
less than AGAIN_DEVIATIONS are put together, wherever they lie: each such regime is known from all the minutes that it
was there, so a load that comes back is known from its first seconds on, and a steady one is not chased in its chances.

The load of now is that of the newest regime, or that of the short window if that differs by more than chance. A short
window in which the load changed has requests of both loads, and its means are of neither: where it is on the way from
the newest regime to one of before, the load has become that one again, if flips overlap. How long it lasts is told by
how often it changed: one that has not changed is taken to go on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from weft.balancing.demand import Demand, recent
from weft.balancing.state import Rates, Traffic

CHANGE_ODDS = 0.01
"""Odds that the load changed within the short window, before it is looked at: with every look there is another chance
to be wrong. Even at 3 standard deviations."""
AGAIN_DEVIATIONS = 5.0
"""Standard deviations, of arrivals, prompts and answers together, within which two windows are of one load."""
LEAST_CV2 = 0.2
"""Lengths vary by at least so much, where the histograms say less or are missing."""
TOLD_APART, ON_THE_WAY, BESIDE = 3.0, 1.0, 2.0
"""Standard deviations of the short window: what differs by so many between two loads tells them apart, by so many has
it to have gone from the one to the other, and by so many may it lie before the one or beyond the other."""
IDLE_PART = 0.4
"""A window with a smaller part of the present requests asks nothing of any split."""
LASTS_SECONDS = 300.0
"""As if the load had been seen for so long more, and to change once at its end."""


@dataclass(frozen=True)
class Regimes:
    """The load of now, and what it was before."""

    now: tuple[tuple[float, Demand], tuple[float, Demand]]
    """With its probability: changed within the short window, and as before it."""
    others: tuple[tuple[float, Demand], ...] = ()
    """What it was at other times of the last minutes, with its part of them."""
    lasts_seconds: float = math.inf
    """How long a load lasts on average."""

    @property
    def likely(self) -> Demand:
        """The load of now."""
        return max(self.now, key=lambda each: each[0])[1]

    @property
    def unchanged(self) -> bool:
        """Whether the load is what it was before the short window."""
        return self.now[1][0] >= 0.5


@dataclass
class _Group:
    """Windows of one load, added up: requests, and tokens of prompts and answers."""

    requests: float
    prompt: float
    answer: float
    seconds: float
    windows: int = 1

    def add(self, other: _Group) -> None:
        self.requests += other.requests
        self.prompt += other.prompt
        self.answer += other.answer
        self.seconds += other.seconds
        self.windows += other.windows

    def without(self, part: _Group) -> _Group:
        """The rest, where a window of it is a part of this; else all of it."""
        rest = (
            self.requests - part.requests,
            self.prompt - part.prompt,
            self.answer - part.answer,
            self.seconds - part.seconds,
        )
        return _Group(*rest) if min(rest) > 0 else self

    def demand(self, like: Demand) -> Demand:
        return replace(
            like,
            prompt_tokens_per_second=self.prompt / self.seconds,
            answer_tokens_per_second=self.answer / self.seconds,
            prompt_tokens=self.prompt / self.requests,
            answer_tokens=self.answer / self.requests,
        )

    def towards(self, other: _Group, like: Demand) -> tuple[float, float, float]:
        """By how much the other has more requests, longer prompts and longer answers, in what these vary by."""
        arrivals = math.log(other.requests / other.seconds * self.seconds / self.requests)
        prompts = math.log(other.prompt / other.requests * self.requests / self.prompt)
        answers = math.log(other.answer / other.requests * self.requests / self.answer)
        prompts /= math.sqrt(max(LEAST_CV2, like.prompt_cv2))
        answers /= math.sqrt(max(LEAST_CV2, like.answer_cv2))
        return arrivals, prompts, answers

    def deviations(self, other: _Group, like: Demand, answers: bool = True) -> float:
        """By how many standard deviations two loads differ, all that is known of them together; or without answers."""
        if min(self.requests, other.requests) < 1:
            return math.inf
        apart = self.towards(other, like)
        return math.hypot(*(apart if answers else apart[:2])) / math.sqrt(
            1 / self.requests + 1 / other.requests
        )


def regimes(
    traffic: Traffic,
    generated_tokens_per_second: float,
    flips_overlap: bool = False,
) -> Regimes | None:
    """None while nothing arrives, no answer has ended or the load has only begun."""
    seen = recent(traffic, generated_tokens_per_second)
    if seen is None:
        return None
    like = seen.now
    short = _window(traffic.short, traffic.short_seconds, like)
    history = _before(traffic)
    past = [
        one
        for one in _past(traffic, history, like)
        if one.requests * short.seconds > IDLE_PART * short.requests * one.seconds
    ]
    if not past:
        return Regimes(((1.0, like), (0.0, like)))
    groups, order = _grouped(past, like)
    present = groups[0]
    apart = bool(history) and history is not traffic.history
    deviations = short.deviations(present if apart else present.without(short), like)
    odds = CHANGE_ODDS * math.exp(min(50.0, deviations**2 / 2))
    unchanged = 1 / (1 + odds)
    # A single window that is like no other is the one in which the load changed.
    lasting = {place for place, one in enumerate(groups) if place == 0 or one.windows > 1 or not history}
    order = [place for place in order if place in lasting]
    changes = sum(one != following for one, following in pairwise(order))
    others = [groups[place] for place in sorted(lasting - {0})]
    changed = like
    if unchanged >= 0.5 and apart:
        present.add(short)
    elif unchanged < 0.5:
        if present.windows > 1 or not history:
            others.append(present)
            changes += 1
        again = _nearest(others, short, like)
        if again is not None:
            again.add(short)
        elif traffic.prompts_read:
            # Its answers may still be those of the load before; those of a load that comes back are known.
            again = _nearest([one for one in others if one is not present], short, like, answers=False)
            if again is not None:
                ways = [one.deviations(short, like, answers=False) for one in (present, again)]
                # Its prompts may as well be the present load's: what differs are the answers alone.
                again = again if ways[0] > ways[1] + TOLD_APART else None
        if again is None and flips_overlap:
            # Where replicas drain, a move for a load that is not there costs minutes: the window has to be of one load.
            again = _becoming(present, others, short, like)
        if again is not None:
            others = [one for one in others if one is not again]
            changed = again.demand(like)
    total = sum(one.seconds for one in others)
    return Regimes(
        ((1 - unchanged, changed), (unchanged, present.demand(like))),
        tuple((one.seconds / total, one.demand(like)) for one in others),
        (LASTS_SECONDS + len(order) * traffic.history_seconds) / (1 + changes) if history else LASTS_SECONDS,
    )


def _before(traffic: Traffic) -> tuple[Rates, ...]:
    """The windows that the short one is compared with. Where scrapes are rare they are as short, and the newest is the
    short one itself."""
    return traffic.history if traffic.history_seconds > traffic.short_seconds else traffic.history[1:]


def _past(traffic: Traffic, history: Sequence[Rates], like: Demand) -> Iterable[_Group]:
    """The windows before, back from now. Without any: the long one, and the peaks of both stages."""
    if history:
        windows = [_window(one, traffic.history_seconds, like) for one in history]
        if traffic.short_seconds < traffic.history_seconds:
            # What engines write tells of longer answers before the first of them has ended.
            part = traffic.short_seconds / traffic.history_seconds
            windows[0].answer += part * (windows[0].requests * like.answer_tokens - windows[0].answer)
        return windows
    long = _window(traffic.long, traffic.long_seconds, like)
    return (
        long,
        replace(long, prompt=max(long.prompt, traffic.peak_prompt_tokens_per_second * long.seconds)),
        replace(long, answer=max(long.answer, traffic.peak_answer_tokens_per_second * long.seconds)),
    )


def _grouped(windows: Sequence[_Group], like: Demand) -> tuple[list[_Group], list[int]]:
    """Windows that are of one load together, and of which each window is."""
    groups: list[_Group] = []
    order: list[int] = []
    for one in windows:
        nearest = _nearest(groups, one, like)
        if nearest is None:
            nearest = replace(one)
            groups.append(nearest)
        else:
            nearest.add(one)
        order.append(next(place for place, group in enumerate(groups) if group is nearest))
    return groups, order


def _nearest(groups: Sequence[_Group], one: _Group, like: Demand, answers: bool = True) -> _Group | None:
    """Which of the groups a window is of, if any."""
    found = [(group.deviations(one, like, answers), place) for place, group in enumerate(groups)]
    deviations, place = min(found, default=(math.inf, 0))
    return groups[place] if deviations < AGAIN_DEVIATIONS else None


def _becoming(present: _Group, others: Sequence[_Group], short: _Group, like: Demand) -> _Group | None:
    """Which of the others the present load is becoming, if any: the nearest to which all has gone a part of the way
    that tells the two apart. One alone may be chance: of a young load the shortest answers have ended first."""
    if min(short.requests, present.requests) < 1:
        return None
    chance = 1 / math.sqrt(short.requests)

    def on_the_way(other: _Group) -> bool:
        for way, gone in zip(present.towards(other, like), present.towards(short, like), strict=True):
            length, done = abs(way) / chance, math.copysign(gone, way * gone) / chance
            least = ON_THE_WAY if length > TOLD_APART else -BESIDE
            if not least <= done <= length + BESIDE:
                return False
        return True

    found = (one for one in others if one is not present and on_the_way(one))
    return min(found, key=lambda one: one.deviations(short, like), default=None)


def _window(rates: Rates, seconds: float, like: Demand) -> _Group:
    """One window; where it tells no lengths, with those of `like`."""
    prompt = rates.prompt_tokens / rates.prompts if rates.prompts > 0 else 0.0
    answer = rates.answer_tokens / rates.answers if rates.answers > 0 else 0.0
    requests = rates.requests * seconds
    return _Group(
        requests,
        requests * (prompt or like.prompt_tokens),
        requests * (answer or like.answer_tokens),
        seconds,
    )

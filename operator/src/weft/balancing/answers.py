"""What decode replicas had to write in the last minutes, as their engines told: in its reader's memory.

A request stays in an engine for as long as its answer takes. So what is there now says what the next minute needs, with
its bursts and its contexts, and no length has to be known. Arrivals times lengths say as much on average only, and only
once the answers have ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from weft.balancing.presets import PAST_SECONDS, Windows
from weft.balancing.state import Answers, EngineLoad, Traffic

PARTS = 4
"""Readings that are kept of each short window."""


def present(
    loads: Sequence[EngineLoad],
    unknown: int,
    leaving: Iterable[EngineLoad] = (),
    changed: Iterable[EngineLoad] = (),
) -> Answers | None:
    """What there is to write; None where none of those that get answers to write reports.

    `loads`: of the replicas that do. So many more serve and are not to be trusted: they count as the mean of these.
    `leaving`: of those out of the router, which end their answers while the others get all that comes. `changed`: of
    those that read prompts now and end answers of before. Without both a group on its way seems to need less.
    """
    if not loads:
        return None
    others = [*leaving, *(one for load in changed if (one := still_written(load)).running > 0)]

    def total(of: Callable[[EngineLoad], float]) -> float:
        return (1 + unknown / len(loads)) * sum(map(of, loads)) + sum(map(of, others))

    told = all(load.kv_usage is not None for load in (*loads, *others))
    return Answers(
        total(lambda load: load.running),
        total(lambda load: load.waiting),
        total(lambda load: load.kv_usage or 0.0) if told else None,
    )


def still_written(load: EngineLoad) -> EngineLoad:
    """The answers that an engine writes which got another stage: those that its tokens per second and the time between
    two of them make, by Little's law, since prompts run there, too."""
    answers = (load.generated_tokens_per_second or 0.0) * (load.inter_token_seconds or 0.0)
    answers = min(load.running, answers)
    used = load.kv_usage
    if used is not None:
        used = used * answers / load.running if load.running > 0 else 0.0
    return EngineLoad(answers, 0.0, kv_usage=used)


class AnswersSeen:
    """Of one group; times are seconds of one clock. A new leader knows none, and shrinks by the front end's rates."""

    def __init__(self) -> None:
        self._read: deque[tuple[float, Answers]] = deque()
        self._means: deque[tuple[float, Answers]] = deque()

    def with_answers(
        self, traffic: Traffic, seen: Answers | None, at: float, scrape_seconds: float
    ) -> Traffic:
        """The traffic with what decode has now and had before. The same reading twice changes nothing."""
        if seen is None:
            return traffic
        windows = Windows(scrape_seconds)
        window, read, means = windows.short_seconds, self._read, self._means
        if read and not read[-1][0] <= at <= read[-1][0] + windows.long_seconds:
            # A pause, or a clock that was set back: what was between is not known.
            read.clear()
            means.clear()
        if not read or at - read[-1][0] >= window / PARTS:
            read.append((at, seen))
        while read[0][0] < at - window:
            read.popleft()
        now = _mean([one for _, one in read])
        if not means or at - means[-1][0] >= window:
            means.append((at, now))
        # One that is old enough stays, however far apart the looks are.
        while len(means) > 1 and means[1][0] <= at - PAST_SECONDS:
            means.popleft()
        return replace(
            traffic, answers=now, answers_before=tuple((at - then, one) for then, one in reversed(means))
        )


def most(traffic: Traffic, seconds: float) -> Answers | None:
    """The most that decode had in so many seconds until now; None where that is not known from beginning to end."""
    now, before = traffic.answers, traffic.answers_before
    if now is None or not before or before[-1][0] < seconds:
        return None
    every = [now, *(one for age, one in before if age <= seconds)]
    caches = [one.caches for one in every]
    return Answers(
        max(one.running for one in every),
        now.waiting,
        None if None in caches else max(each or 0.0 for each in caches),
    )


def _mean(read: Sequence[Answers]) -> Answers:
    caches = [one.caches for one in read]
    return Answers(
        sum(one.running for one in read) / len(read),
        sum(one.waiting for one in read) / len(read),
        None if None in caches else sum(each or 0.0 for each in caches) / len(read),
    )

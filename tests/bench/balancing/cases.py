"""The cases: requests, replicas, and the split to begin with."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import constants

from weft_playground.profile import read_profile
from weft_playground.trace import Request, read_trace


@dataclass(frozen=True)
class Case:
    """One trace on so many replicas. `stretches`: (from, to) in seconds with one mix each, where it is known."""

    name: str
    requests: tuple[Request, ...]
    replicas: int
    first_prefill: int
    """Prefill replicas at the start; the others decode."""
    stretches: tuple[tuple[float, float], ...] = ()


def lognormal(rng: random.Random, mean: float, sigma: float) -> int:
    return max(1, min(8000, round(rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma))))


def stretch(
    rng: random.Random, begin: float, end: float, rate: float, prompt: float, answer: float
) -> Iterator[Request]:
    at = begin + rng.expovariate(rate)
    while at < end:
        lengths = (
            lognormal(rng, prompt, constants.PROMPT_SPREAD),
            lognormal(rng, answer, constants.ANSWER_SPREAD),
        )
        yield Request(at, *lengths)
        at += rng.expovariate(rate)


def swinging(seed: int, replicas: int, name: str) -> Case:
    """Long prompts and long answers in turn."""
    rng = random.Random(f"swing {seed}")
    requests: list[Request] = []
    stretches: list[tuple[float, float]] = []
    begin = 0.0
    while begin < constants.CASE_SECONDS:
        mix = (constants.LONG_PROMPTS, constants.LONG_ANSWERS)[len(stretches) % 2]
        end = begin + constants.SWING_SECONDS
        requests += stretch(rng, begin, end, *mix)
        stretches.append((begin, end))
        begin = end
    return Case(name, tuple(requests), replicas, replicas // 2, tuple(stretches))


def random_mix(seed: int) -> Case:
    """Stretches of random length, load and mix, from a random first split."""
    rng = random.Random(f"random {seed}")
    profile = read_profile()
    requests: list[Request] = []
    stretches: list[tuple[float, float]] = []
    begin = 0.0
    while begin < constants.CASE_SECONDS:
        end = min(constants.CASE_SECONDS, begin + rng.uniform(*constants.RANDOM_STRETCH_SECONDS))
        busy = rng.uniform(*constants.RANDOM_LOAD) * constants.RANDOM
        prompt, answer = rng.uniform(300, 2500), rng.uniform(60, 450)
        per_request = profile.prefill(prompt) + answer * profile.decode(32) / 32
        requests += stretch(rng, begin, end, busy / per_request, prompt, answer)
        stretches.append((begin, end))
        begin = end
    first = rng.randint(1, constants.RANDOM - 1)
    return Case("random", tuple(requests), constants.RANDOM, first, tuple(stretches))


def stationary(seed: int) -> Case:
    """One mix throughout, from a random first split."""
    rng = random.Random(f"stationary {seed}")
    requests = tuple(stretch(rng, 0.0, constants.CASE_SECONDS, 6.0, 1000.0, 200.0))
    return Case("stationary", requests, constants.RANDOM, rng.randint(1, constants.RANDOM - 1))


def recorded(tuning: bool, seed: int = 0) -> Case:
    """Half of the Azure conversation trace: the first for tuning, the second for the report.

    A second copy, shifted by a length that the seed draws and thinned to a half, brings it to the replicas' size.
    """
    rng = random.Random(f"recorded {seed}")
    whole = read_trace()
    half = whole[-1].at_seconds / 2
    begin = 0.0 if tuning else half
    part = [
        Request(r.at_seconds - begin, r.prompt_tokens, r.answer_tokens)
        for r in whole
        if begin <= r.at_seconds < begin + half
    ]
    shift = rng.uniform(0, half)
    copy = [
        Request((r.at_seconds + shift) % half, r.prompt_tokens, r.answer_tokens)
        for r in part
        if rng.random() < 0.25
    ]
    requests = tuple(sorted([*part, *copy], key=lambda r: r.at_seconds))
    return Case("recorded", requests, constants.RECORDED, constants.RECORDED // 2)


def all_cases(seed: int, tuning: bool) -> list[Case]:
    """The cases of one seed."""
    return [
        swinging(seed, constants.AMPLE, "alternating"),
        swinging(seed, constants.SCARCE, "scarce"),
        random_mix(seed),
        recorded(tuning, seed),
        stationary(seed),
    ]


def static_splits(case: Case) -> list[int]:
    """Prefill replicas of the static splits worth a replay: of the others no stage could carry its work."""
    profile = read_profile()
    seconds = case.requests[-1].at_seconds
    prefill = sum(profile.prefill(r.prompt_tokens) for r in case.requests) / seconds
    decode = sum(r.answer_tokens for r in case.requests) * profile.decode(profile.max_batch)
    decode /= profile.max_batch * seconds
    every = range(1, case.replicas)
    most = constants.STATIC_LOAD
    return [p for p in every if prefill / p < most and decode / (case.replicas - p) < most]

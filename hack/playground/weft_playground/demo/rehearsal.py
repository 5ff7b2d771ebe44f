"""Every fixed split of a group's replicas, tried on the same requests in virtual time.

This finds the split the demo starts with, so that neither group begins with a bad one: engines run at exactly the
profile's speeds (what a planner could know beforehand) and see the first stretch's requests.

`python -m weft_playground.demo.rehearsal` prints all splits for both stretches; `--seed N` takes true speeds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from random import Random

from weft_playground.case import Case
from weft_playground.engine_model import EngineModel, Sequence
from weft_playground.picker import DECODE, PREFILL, Replica, pick_decode, pick_of_two, pick_prefill
from weft_playground.profile import Profile, SpeedError, read_profile, speed_error
from weft_playground.trace import Request, between, play, read_trace


@dataclass(frozen=True)
class Objectives:
    """The group's objectives, as in its spec, in seconds. `attainment`: share of requests that is to meet both."""

    time_to_first_token: float
    inter_token_latency: float
    attainment: float = 0.99


@dataclass(frozen=True)
class Outcome:
    """One request's latencies in seconds. `inter_token` is the mean over the answer; 0 for a single token."""

    time_to_first_token: float
    inter_token: float

    def within(self, objectives: Objectives) -> bool:
        return self.strain(objectives) <= 1.0

    def strain(self, objectives: Objectives) -> float:
        """How much of the tighter objective is used up: above 1 it is missed."""
        return max(
            self.time_to_first_token / objectives.time_to_first_token,
            self.inter_token / objectives.inter_token_latency,
        )


@dataclass(frozen=True)
class Rehearsed:
    """How a split did. `strain_p90`: nine of ten requests used at most this part of their objectives."""

    prefill: int
    decode: int
    share_within: float
    strain_p90: float


def simulate(
    requests: Seq[Request],
    profile: Profile,
    prefill: int,
    decode: int,
    errors: Seq[SpeedError] = (),
    step_tokens: int = 0,
    chance: Random | None = None,
) -> list[Outcome]:
    """Outcomes of all requests (in their order) on a fixed split, run until the last token is out.

    With `chance` both replicas of a request are picked when it arrives, each as the better of two.
    """
    count = prefill + decode
    models = [EngineModel(profile, errors[i] if errors else SpeedError(), step_tokens) for i in range(count)]
    replicas = [Replica(str(i), stage=PREFILL if i < prefill else DECODE, serving=True) for i in range(count)]
    outcomes: list[Outcome | None] = [None] * len(requests)
    picks = itertools.count(1)

    def send(index: int, now: float) -> None:
        request = requests[index]
        replica = pick_of_two(replicas, PREFILL, chance) if chance else pick_prefill(replicas)
        decode = pick_of_two(replicas, DECODE, chance) if chance else None
        assert replica is not None
        replica.last_picked = next(picks)
        model = models[int(replica.name)]
        replica.prompts += 1
        replica.prefill_tokens += request.prompt_tokens

        def prefilled(kept: Sequence, at: float) -> None:
            replica.prompts -= 1
            replica.prefill_tokens -= request.prompt_tokens
            decode_on(index, at, model, kept, decode or pick_decode(replicas))

        model.submit(now, Sequence(request.prompt_tokens, 1, keeps_kv=True, on_token=prefilled))

    def decode_on(
        index: int, now: float, source: EngineModel, kept: Sequence, replica: Replica | None
    ) -> None:
        request = requests[index]
        assert replica is not None
        replica.last_picked = next(picks)
        replica.streams += 1
        replica.stream_tokens += request.prompt_tokens
        firsts: list[float] = []

        def token(sequence: Sequence, at: float) -> None:
            if not firsts:
                firsts.append(at)
            if sequence.finished:
                replica.streams -= 1
                replica.stream_tokens -= request.prompt_tokens
                steps = max(1, request.answer_tokens - 1)
                outcomes[index] = Outcome(firsts[0] - request.at_seconds, (at - firsts[0]) / steps)

        models[int(replica.name)].submit(
            now,
            Sequence(
                request.prompt_tokens,
                request.answer_tokens,
                remote_kv=True,
                on_token=token,
                on_admitted=lambda _: releases.append((source, kept)),
            ),
        )

    releases: list[tuple[EngineModel, Sequence]] = []
    infinite = float("inf")
    index = 0
    due = [infinite] * count
    while True:
        arrival = requests[index].at_seconds if index < len(requests) else infinite
        now = min(due)
        if arrival <= now:
            now = arrival
            if now == infinite:
                break
            send(index, now)
            index += 1
        for i, model in enumerate(models):
            if due[i] <= now:
                model.advance(now)
        while releases:
            source, kept = releases.pop()
            source.release(now, kept)
        for i, model in enumerate(models):
            event = model.next_event()
            due[i] = infinite if event is None else event
    return [outcome for outcome in outcomes if outcome is not None]


def rehearse(
    requests: Seq[Request],
    profile: Profile,
    replicas: int,
    objectives: Objectives,
    errors: Seq[SpeedError] = (),
    step_tokens: int = 0,
    chance: Random | None = None,
) -> list[Rehearsed]:
    """All splits of that many replicas with at least one of each stage, best first.

    Better is a larger share of requests within objectives (to a thousandth); between equals, more room below them.
    """
    results = []
    for prefill in range(1, replicas):
        outcomes = simulate(requests, profile, prefill, replicas - prefill, errors, step_tokens, chance)
        within = sum(outcome.within(objectives) for outcome in outcomes)
        strains = sorted(outcome.strain(objectives) for outcome in outcomes)
        p90 = strains[int(len(strains) * 0.9)] if strains else 0.0
        results.append(Rehearsed(prefill, replicas - prefill, within / max(1, len(outcomes)), p90))
    return sorted(results, key=lambda result: (-round(result.share_within, 3), result.strain_p90))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--replicas", type=int, default=Case().replicas)
    parser.add_argument("--offset", type=float, default=0.0, metavar="MINUTES")
    parser.add_argument("--seed", type=int, help="of the engines' true speeds (default: the profile's)")
    parser.add_argument("--ttft", type=float, default=3.0, metavar="SECONDS")
    parser.add_argument("--itl", type=float, default=0.1, metavar="SECONDS")
    arguments = parser.parse_args()
    case = Case(offset_minutes=arguments.offset)
    requests = play(read_trace(), case.stretches, offset_minutes=case.offset_minutes)
    errors = [speed_error(arguments.seed, i) for i in range(arguments.replicas)] if arguments.seed else []
    objectives = Objectives(arguments.ttft, arguments.itl)
    for name, start, end in (
        ("first stretch", 0.0, case.shift_seconds),
        ("second stretch", case.shift_seconds, case.load_seconds),
    ):
        tried = rehearse(
            between(requests, start, end), read_profile(), arguments.replicas, objectives, errors
        )
        splits = (
            f"{each.prefill}:{each.decode} {each.share_within * 100:.0f} %"
            for each in sorted(tried, key=lambda each: each.prefill)
        )
        print(f"{name}: {', '.join(splits)}; best {tried[0].prefill}:{tried[0].decode}")


if __name__ == "__main__":
    main()

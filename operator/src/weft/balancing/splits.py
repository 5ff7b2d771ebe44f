"""Splits of a group's replicas over its roles: which ones can be reached, and how each would fare. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from weft.api import Objectives, Stage
from weft.balancing.capacity import Need, decode_need, prefill_need
from weft.balancing.demand import Demand
from weft.balancing.outlook import LEAST_ERLANGS, Span, prefill_late, present_after
from weft.balancing.shared import Division, answers_late, divide
from weft.balancing.stages import PARTS, PLANNED
from weft.balancing.state import Corrections, Queues, RoleState, Split

INTERFERENCE = 0.3
"""Part of a replica that its old work takes while it ends beside the new."""
SPLITS_MOST = 150
"""No further ring of neighbours is looked at beyond this many splits; two roles are always looked at whole."""


@dataclass(frozen=True)
class StageNeed:
    """What a stage needs, counted in replicas of its reference role, and what a replica of each role is in these."""

    need: Need
    own: Mapping[str, float]
    """Of each role that serves no other stage."""
    shared: Mapping[str, float]
    """Of each that serves both."""

    def capacity(self, counts: Mapping[str, float]) -> tuple[float, float]:
        """Of so many replicas per role: of those with a stage of their own, and of those with both."""
        own = shared = 0.0
        for name, worth in self.own.items():
            own += counts.get(name, 0.0) * worth
        for name, worth in self.shared.items():
            shared += counts.get(name, 0.0) * worth
        return own, shared


@dataclass(frozen=True)
class Judgement:
    """How a split would fare under the offered work."""

    late: float
    """Expected share of requests that miss an objective within the horizon, the way there included."""
    now: float
    """The same under the present load alone."""
    worst: float
    """Required over given replicas of the worst stage; above 1 some headroom is missing."""
    after: Split | None = None
    """What is to be gone to once the prompts that wait now have been read; None: it is to last."""


@dataclass(frozen=True)
class Terms:
    """What a move is priced by."""

    horizon_seconds: float
    """How long the offered work is taken to last."""
    flip_seconds: float
    """From the end of the drain to the first request in the new role."""
    drain_seconds: Mapping[Stage, float]
    """How long a replica of the stage works on what it has."""
    overlaps: bool
    """The old work ends beside the new instead of before it."""
    queues: Queues | None = None
    starting: tuple[tuple[str, float], ...] = ()
    """(role, seconds until it serves) of each replica that does not serve yet."""


AFTER_PART = 0.2
"""Of a judgement that is about what comes once the backlog of now is gone."""
AWAY_PART = 0.01
"""Share of requests that each replica moved is taken to cost: for the loads that have not been seen yet."""


@dataclass(frozen=True)
class Load:
    """What the stages may need over the horizon."""

    now: Sequence[tuple[float, Mapping[Stage, StageNeed]]]
    """With its probability."""
    others: Sequence[tuple[float, Mapping[Stage, StageNeed]]] = ()
    """What else was needed in the last minutes, with its part of them."""
    others_part: float = 0.0
    """Part of the horizon in which that meets the split as it is now."""
    measured_late: float | None = None
    """Share late of the present load on the present split, where it was measured."""


def stage_needs(
    roles: Sequence[RoleState], demand: Demand, corrections: Corrections, objectives: Objectives
) -> dict[Stage, StageNeed]:
    """What each stage needs. Every role that serves a stage has to have a profile."""
    needs: dict[Stage, StageNeed] = {}
    for stage in PLANNED:
        per_role: dict[str, Need] = {}
        dedicated: list[str] = []
        for role in roles:
            if stage not in PARTS[role.stage] or role.profile is None:
                continue
            if stage is Stage.PREFILL:
                per_role[role.name] = prefill_need(role.profile, corrections.prefill, demand, objectives)
            else:
                per_role[role.name] = decode_need(role.profile, corrections.decode, demand, objectives)
            if role.stage is stage:
                dedicated.append(role.name)
        if not per_role:
            continue
        reference = per_role[(dedicated or sorted(per_role))[0]]
        own: dict[str, float] = {}
        shared: dict[str, float] = {}
        for name, need in per_role.items():
            worth = own if name in dedicated else shared
            worth[name] = need.replica_tokens_per_second / reference.replica_tokens_per_second
        needs[stage] = StageNeed(reference, own, shared)
    return needs


def judge(
    start: Split,
    split: Split,
    roles: Sequence[RoleState],
    needs: Mapping[Stage, StageNeed],
    terms: Terms,
    load: Load,
    after: Split | None = None,
) -> Judgement:
    """How a split would fare that flips lead to from `start`. A stage with work that nobody serves is wholly late.

    `after`: the split that is gone to once the prompts that wait now have been read.
    """
    made = max((role.start_seconds for role in roles if split[role.name] > start[role.name]), default=0.0)
    if made:
        terms = replace(terms, flip_seconds=terms.flip_seconds + made, overlaps=False)
    forth, last = _way(start, split, roles, terms), after or split
    steady = [(terms.horizon_seconds, last.replicas)]
    now = AWAY_PART * (moves_between(start, split) + moves_between(split, last))
    for weight, one in load.now:
        way, behind = forth, 0
        if after is not None and terms.queues is not None:
            until = _read_by(one, forth, terms.queues.prompts_waiting)
            way = _within(forth, until)
            behind = len(way)
            back = _way(split, last, roles, replace(terms, starting=()))
            way += _within(back, terms.horizon_seconds - until)
        # Where a backlog makes everything late for long, what comes after it tells the splits apart.
        then = _late(one, steady, None)
        now += weight * (then + (1 - AFTER_PART) * (_late(one, way, terms.queues, behind) - then))
    if start == split and load.measured_late is not None:
        now = min(now, load.measured_late)
    late = now
    if load.others_part > 0:
        other = sum(weight * _late(one, steady, None) for weight, one in load.others)
        late += load.others_part * (other - now)
    return Judgement(late, now, worst_stage(split, needs), after)


def worst_stage(split: Split, needs: Mapping[Stage, StageNeed]) -> float:
    """Required over given replicas of the stage that stands worst."""
    worst, divided = 0.0, _divided(split.replicas, needs)
    for stage, one in needs.items():
        capacity = divided.prefill if stage is Stage.PREFILL else divided.answering
        worst = max(worst, one.need.required / max(capacity, 1e-9))
    return worst


Phase = tuple[float, Mapping[str, float]]
"""So many seconds with so many replicas per role."""


def _way(start: Split, split: Split, roles: Sequence[RoleState], terms: Terms) -> list[Phase]:
    """Who serves over the horizon: givers leave at once, takers begin when they have flipped."""
    after = split.replicas
    drain = longest_drain(start, split, roles, terms)
    seconds = min(terms.horizon_seconds, terms.flip_seconds + (0.0 if terms.overlaps else drain))
    if start == split:
        phases: list[Phase] = [(terms.horizon_seconds, after)]
    else:
        least = {role.name: min(start[role.name], split[role.name]) for role in roles}
        beside = min(terms.horizon_seconds - seconds, drain) if terms.overlaps else 0.0
        slowed = {name: now - INTERFERENCE * max(0.0, now - start[name]) for name, now in after.items()}
        phases = [(seconds, least), (beside, slowed), (terms.horizon_seconds - seconds - beside, after)]
        phases = [phase for phase in phases if phase[0] > 0]
    for role, lacks in terms.starting:
        phases = _without(phases, role, lacks)
    return phases


def _without(phases: Sequence[Phase], role: str, seconds: float) -> list[Phase]:
    """The same course with a replica less for the first seconds."""
    found: list[Phase] = []
    for length, counts in phases:
        lacking = min(length, max(0.0, seconds))
        parts = (lacking, {**counts, role: max(0.0, counts.get(role, 0.0) - 1)}), (length - lacking, counts)
        # Without those of no length: each replica that starts would double them.
        found += [part for part in parts if part[0] > 0]
        seconds -= lacking
    return found


def _within(phases: Sequence[Phase], seconds: float) -> list[Phase]:
    """The first so many seconds of a course."""
    found: list[Phase] = []
    for length, counts in phases:
        if seconds > 0:
            found.append((min(length, seconds), counts))
        seconds -= length
    return found


def _read_by(needs: Mapping[Stage, StageNeed], phases: Sequence[Phase], waiting: float) -> float:
    """Seconds until the prompts that wait now, and those that come meanwhile, have been read; all where never."""
    need, passed = needs[Stage.PREFILL].need, 0.0
    backlog = waiting * need.service_seconds
    for seconds, counts in phases:
        growth = need.saturated - _divided(counts, needs).prefill
        if growth < 0 and backlog + growth * seconds <= 0:
            return passed + backlog / -growth
        backlog += growth * seconds
        passed += seconds
    return passed


def _late(
    needs: Mapping[Stage, StageNeed], phases: Sequence[Phase], queues: Queues | None, behind: int = 0
) -> float:
    """Mean share late. In the first phases, `behind`, decode gets what prefill reads, then what arrives."""
    divided = [(seconds, _divided(counts, needs)) for seconds, counts in phases]
    on_time = 1.0
    for stage, one in needs.items():
        need = one.need
        if stage is Stage.PREFILL:
            spans = [Span(seconds, each.prefill) for seconds, each in divided]
            late = prefill_late(need, spans, queues.prompts_waiting if queues is not None else 0.0)
        else:
            present = queues.answers_present if queues is not None else need.saturated * need.places
            late = seconds = 0.0
            for length, each in divided[:behind]:
                part = each.prefill / max(needs[Stage.PREFILL].need.saturated, LEAST_ERLANGS)
                faster = replace(need, saturated=need.saturated * part)
                late += length * answers_late(faster, [(length, each)], present)
                present = present_after(faster, each.decode + each.both, present, length)
                seconds += length
            rest = sum(length for length, _ in divided[behind:])
            late += rest * answers_late(need, divided[behind:], present)
            late /= seconds + rest
        on_time *= 1 - late
    return 1 - on_time


def longest_drain(start: Split, split: Split, roles: Sequence[RoleState], terms: Terms) -> float:
    """Seconds until the last of the replicas that change their role has ended its work."""
    giving = [role for role in roles if split[role.name] < start[role.name]]
    return max(
        (max(terms.drain_seconds.get(role.stage, 0.0), role.hold_seconds) for role in giving), default=0.0
    )


def lead_seconds(start: Split, split: Split, roles: Sequence[RoleState], terms: Terms) -> float:
    """From a decision until the first replica that changes its role serves in the new one."""
    made = max((role.start_seconds for role in roles if split[role.name] > start[role.name]), default=0.0)
    waits = made > 0 or not terms.overlaps
    return terms.flip_seconds + made + (longest_drain(start, split, roles, terms) if waits else 0.0)


def round_trip(start: Split, split: Split, roles: Sequence[RoleState], terms: Terms) -> float:
    """What the first replica of a move and its way back may cost, in seconds of all arrivals: as long as it serves
    nobody its role gives up its part."""
    part = max((1 / start[role.name] for role in roles if split[role.name] < start[role.name]), default=0.0)
    return part * (lead_seconds(start, split, roles, terms) + lead_seconds(split, start, roles, terms))


def moves_between(before: Split, after: Split) -> int:
    """Replicas that change their role on the way from one split to the other."""
    return sum(max(0, count - before[role]) for role, count in after.counts)


def accelerators(split: Split, roles: Iterable[RoleState]) -> int:
    """That the replicas hold together."""
    return sum(split[role.name] * role.accelerators_per_replica for role in roles)


def reachable(start: Split, roles: Sequence[RoleState], most_accelerators: int) -> Iterator[Split]:
    """Splits that moves lead to from here, nearest first, without the present one.

    Replicas are exchanged between roles of one kind only, within every role's bounds, and no stage that a replica
    serves is left without. Where both have as many accelerators the total stays. Else as few are given as make room
    for one, and as many taken as have room: within `most_accelerators`, or what `start` holds where that is more.
    """
    names = [role.name for role in roles]
    most = max(most_accelerators, accelerators(start, roles))
    pairs = [
        (giver, taker)
        for giver, taker in permutations(range(len(roles)), 2)
        if roles[giver].kind == roles[taker].kind
    ]
    least = [max(0, role.minimum, role.kept) for role in roles]
    beginning = tuple(start[role.name] for role in roles)
    served = _served(beginning, roles)
    seen = {beginning}
    ring = [beginning]
    while ring and len(seen) <= SPLITS_MOST:
        following: list[tuple[int, ...]] = []
        for counts in ring:
            held = sum(
                count * role.accelerators_per_replica for count, role in zip(counts, roles, strict=True)
            )
            for giver, taker in pairs:
                given, taken = _exchange(roles[giver], roles[taker], most - held)
                left = counts[giver] - given
                if left < least[giver]:
                    continue
                if counts[taker] >= roles[taker].maximum:
                    continue
                changed = list(counts)
                changed[giver] = left
                changed[taker] = min(counts[taker] + taken, roles[taker].maximum)
                neighbour = tuple(changed)
                if neighbour in seen:
                    continue
                seen.add(neighbour)
                following.append(neighbour)
                if all(neighbour) or _served(neighbour, roles) >= served:
                    yield Split.of({**start.replicas, **dict(zip(names, neighbour, strict=True))})
        ring = following


def _served(counts: Sequence[int], roles: Sequence[RoleState]) -> set[Stage]:
    stages = {role.stage for count, role in zip(counts, roles, strict=True) if count > 0}
    # Of two parts at once: what is left where the last such replica goes has to do both.
    return {*stages, *PLANNED} - {Stage.AGGREGATED} if Stage.AGGREGATED in stages else stages


def _exchange(giver: RoleState, taker: RoleState, free_accelerators: int) -> tuple[int, int]:
    """The fewest replicas of one role that make room for one of the other, and how many of those have room then."""
    gives, takes = giver.accelerators_per_replica, taker.accelerators_per_replica
    if gives == takes:
        return 1, 1
    given = max(1, math.ceil((takes - free_accelerators) / gives))
    return given, (free_accelerators + given * gives) // takes


def given(split: Split, needs: Mapping[Stage, StageNeed]) -> dict[Stage, float]:
    """Capacity of each stage for requests that are in time."""
    divided = _divided(split.replicas, needs)
    return {stage: divided.prefill if stage is Stage.PREFILL else divided.answering for stage in needs}


def places(split: Split, needs: Mapping[Stage, StageNeed]) -> dict[Stage, float]:
    """Capacity of each stage for requests at a time, however slow."""
    divided = _divided(split.replicas, needs)
    return {
        stage: divided.prefill if stage is Stage.PREFILL else divided.decode + divided.both for stage in needs
    }


def _divided(counts: Mapping[str, float], needs: Mapping[Stage, StageNeed]) -> Division:
    """How so many replicas per role divide the work."""
    prompts, answers = needs.get(Stage.PREFILL), needs.get(Stage.DECODE)
    prefill, reading = prompts.capacity(counts) if prompts is not None else (0.0, 0.0)
    decode, writing = answers.capacity(counts) if answers is not None else (0.0, 0.0)
    if prompts is None or answers is None or not reading or not writing:
        return Division(prefill, decode)
    return divide((prompts.need, prefill, reading), (answers.need, decode, writing))

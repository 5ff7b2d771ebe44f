"""Decides how a group's replicas are divided between its roles. Pure: no I/O, no clock, no randomness.

The algorithm
-------------
1. *Start.* The last decision holds, a new role starts with its `spec.replicas`; in Paused and Recommend a role
   whose `spec.replicas` was edited since has what they say. Bounds are applied, then the budget: what does not fit is
   left out, and made when it fits. Where the roles' least does not fit nothing changes.
2. *Hold.* Nothing else happens while the metrics are not to be trusted, or while what was promised is kept and no
   queue says that it will not be. Within the cooldown of a decision or of the end of a move it may go further, but back
   only if the stage that gave is measured short; while a move is under way, only further.
3. *Load.* `regimes` tells the offered work of now from chance, and what it was at other times of the last minutes.
4. *Need.* `capacity` turns each into replicas per stage, with profiles corrected by the speed that was observed.
5. *Splits.* Every split that flips can reach with the same total (`splits.reachable`) is judged by the share of
   requests that would be late within the horizon (`outlook`), from the queues of now, with the capacity that the way
   there leaves. What was measured counts more than what is computed; and a load that was there before comes back.
6. *Price.* A split is gone to once as many requests were measured late, or are computed to be before the move can help,
   as the first replica of the move may cost on its way there and back: the dearer a move the longer it is waited for.
7. *Choice.* The best is taken, however far away, if it saves more than a margin over staying; the margin falls with
   the time since the last move. Ties: the better worst stage, fewer moves, the order of names.

8. *Size.* Where `accelerators.minimum` sets it free, `size` is asked first; the above when it lets the size be.

Limits of this version: present load, no forecast.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product

from weft.api import Alternative, Decision, FlipMethod, RebalanceMode, Recommendation, Stage
from weft.balancing.demand import Demand, recent
from weft.balancing.measured import late_seconds, measured_late, met_with_room, overdue
from weft.balancing.regimes import Regimes, regimes
from weft.balancing.size import choose_size, without_load
from weft.balancing.splits import (
    AWAY_PART,
    Judgement,
    Load,
    StageNeed,
    Terms,
    judge,
    lead_seconds,
    moves_between,
    reachable,
    round_trip,
    stage_needs,
    worst_stage,
)
from weft.balancing.stages import PLANNED, is_planned
from weft.balancing.start import Start, starting_decision, starting_split
from weft.balancing.state import Finding, RoleState, Split, SplitInputs
from weft.balancing.words import alternative_reason, price_of, reason_of

MARGIN, MARGIN_LEAST, MARGIN_SECONDS = 0.10, 0.03, 90.0
"""Share of requests that a move has to save: just after a move, at last, and the time in which it falls to a third."""
LEAST_WEIGHT = 0.02
"""What is less probable is not looked at."""
HORIZON_SECONDS = 240.0
"""How long the offered work is taken to last: the time over which a move has to pay back."""
FLIP_SECONDS = 5.0
"""What a flip takes beyond the drain: status writes, scrapes that confirm it, the router's reaction."""
BESIDE_LEAST = 8
"""Of so many replicas one may go, for as long as a backlog of prompts lasts, to where these are read: where flips
overlap, so that it is there and back within seconds."""
JUDGED_MOST = 16
"""Splits that are looked at closely: those whose worst stage stands best."""
ALTERNATIVES = 2
DIGITS = 2
"""Of a share late: those that are equal so far are as good as each other."""


@dataclass(frozen=True)
class Expected:
    """Shares of requests that are late within the horizon, as they are computed when a split is decided."""

    before: float
    """Without the move."""
    after: float


@dataclass(frozen=True)
class SplitPlan:
    """What is to hold from now on."""

    allocation: Split
    decision: Decision | None = None
    """Set when it is to be written: the allocation changed."""
    recommendation: Recommendation | None = None
    """Set when it is to be written: in Recommend another split than before is the best."""
    obstacle: Finding | None = None
    """Why the split cannot be balanced although it should be."""
    expected: Expected | None = None
    """What the decision, or the recommendation, was made by; None where no such share was computed."""
    left_out: int = 0
    """Replicas that the roles ask for and the budget has no room for."""
    held: bool = False
    """The roles' least does not fit into the budget: nothing is changed."""


def plan_split(inputs: SplitInputs) -> SplitPlan:
    """The allocation that is to hold, with the reason where it changes."""
    if inputs.asleep:
        return SplitPlan(inputs.allocation)
    if not all(is_planned(role.stage) for role in inputs.roles):
        inputs = replace(inputs, roles=tuple(map(_held, inputs.roles)))
    found = starting_split(inputs)
    return replace(_from(found, inputs), left_out=found.left_out, held=found.held)


def _from(found: Start, inputs: SplitInputs) -> SplitPlan:
    start, obstacle, mode = found.split, found.finding, inputs.mode
    if start != inputs.allocation:
        return SplitPlan(start, starting_decision(inputs, start), obstacle=obstacle)
    if found.held:
        return SplitPlan(start, obstacle=obstacle)
    if inputs.minimum_accelerators is None or mode is RebalanceMode.PAUSED:
        return _follow_load(inputs, start, obstacle)
    # Recommend goes on from what it recommended.
    here = (inputs.recommended or start) if mode is RebalanceMode.RECOMMEND else start
    sized = _resized(inputs, here, obstacle)
    plan = sized or _follow_load(inputs, here, obstacle)
    return plan if mode is RebalanceMode.AUTO else replace(plan, allocation=start)


def _held(role: RoleState) -> RoleState:
    """A role whose need nobody knows has what it asks for, neither more nor fewer."""
    if is_planned(role.stage):
        return role
    return replace(role, minimum=role.spec_replicas, maximum=role.spec_replicas)


def _follow_load(inputs: SplitInputs, start: Split, obstacle: Finding | None) -> SplitPlan:
    """The split of as many replicas that is to hold."""
    mode = inputs.mode
    if mode is RebalanceMode.PAUSED or inputs.flip is FlipMethod.NONE:
        return SplitPlan(start, obstacle=obstacle)
    if not {role.stage for role in inputs.roles} & set(PLANNED) or len(inputs.roles) < 2:
        return SplitPlan(start, obstacle=obstacle)
    no_flips = _flip_obstacle(inputs)
    obstacle = obstacle or no_flips
    if no_flips is not None or inputs.traffic is None or inputs.hold is not None or not _may_decide(inputs):
        return SplitPlan(start, obstacle=obstacle)
    seen = regimes(inputs.traffic, inputs.generated_tokens_per_second, inputs.flips_overlap)
    if seen is None:
        return SplitPlan(start, obstacle=obstacle)
    return replace(_choose(inputs, start, seen), obstacle=obstacle)


def _resized(inputs: SplitInputs, here: Split, obstacle: Finding | None) -> SplitPlan | None:
    """The size, with its split, that the load asks for; None: as it is."""
    unmeasured = next((role for role in inputs.roles if _unmeasured(role)), None)
    if unmeasured is not None:
        text = f"role {unmeasured.name}: {unmeasured.profile_error}"
        return SplitPlan(here, obstacle=obstacle or Finding(False, "ProfileMissing", text))
    if inputs.hold is not None or inputs.traffic is None:
        return None
    seen = recent(inputs.traffic, inputs.generated_tokens_per_second)
    if seen is not None:
        needs = needs_of(inputs, seen.before)
        sized = choose_size(inputs, here, seen.before, met_with_room(inputs, inputs.serving, needs))
    else:
        sized = without_load(inputs, here)
    if sized is None:
        return None
    alternatives = tuple(
        Alternative(allocation=split.written(), score=f"{score:.3f}", reason=reason)
        for split, score, reason in sized.others[:ALTERNATIVES]
    )
    if inputs.mode is RebalanceMode.RECOMMEND:
        recommendation = Recommendation(
            reason=sized.reason,
            decision_time=inputs.now,
            alternatives=alternatives,
            headroom_percent=_headroom(inputs),
            allocation=sized.split.written(),
        )
        return SplitPlan(here, recommendation=recommendation, obstacle=obstacle)
    decision = Decision(
        reason=sized.reason,
        decision_time=inputs.now,
        previous=here.written(),
        alternatives=alternatives,
        headroom_percent=_headroom(inputs),
    )
    return SplitPlan(sized.split, decision, obstacle=obstacle)


def _headroom(inputs: SplitInputs) -> int | None:
    """What the promise's record adds, in percent, to go on from after a restart; None where the size is fixed."""
    record = inputs.traffic.record if inputs.traffic is not None else None
    if record is None or inputs.minimum_accelerators is None:
        return None
    return round(100 * record.headroom)


def needs_of(inputs: SplitInputs, demand: Demand) -> dict[Stage, StageNeed]:
    """What each stage needs for this demand."""
    return stage_needs(inputs.roles, demand, inputs.corrections, inputs.objectives)


def _choose(inputs: SplitInputs, start: Split, seen: Regimes) -> SplitPlan:
    roles, traffic = inputs.roles, inputs.traffic
    assert traffic is not None
    demand = seen.likely
    needs = needs_of(inputs, demand)
    if met_with_room(inputs, inputs.serving, needs):
        return SplitPlan(start)
    terms = _terms(inputs, demand, needs)
    load = _load(inputs, seen, terms, needs)

    asked = sum(role.spec_replicas * role.accelerators_per_replica for role in roles)
    most = min(inputs.budget_accelerators, asked)
    kept = _ways_kept(inputs, needs, terms)
    others = list(reachable(start, roles, most))
    if kept:
        others = [split for split in others if not _turns(kept, start, split)]
    others = _paid_for(start, others, inputs, needs, terms, load)
    aggregated = [role.name for role in roles if role.stage is Stage.AGGREGATED]
    if aggregated and not seen.others:
        # To a load that stays as it is replicas with one stage each give more: the others are for one that swings.
        had = sum(start[name] for name in aggregated)
        others = [split for split in others if sum(split[name] for name in aggregated) <= had]
    if not others:
        return SplitPlan(start)

    stay = judge(start, start, roles, needs, terms, load)
    if len(others) > JUDGED_MOST and stay.now > MARGIN_LEAST:
        others = sorted(others, key=lambda split: (worst_stage(split, needs), split))[:JUDGED_MOST]
    computed = replace(load, measured_late=None)

    waits = (overdue(inputs, needs) or {}).get(Stage.PREFILL, 0.0) > 0

    def judged_from(here: Split) -> dict[Split, Judgement]:
        found = {here: stay if here == start else judge(here, here, roles, needs, terms, computed)}
        # Else, as in most looks, no split can save as much as a move has to.
        if found[here].now <= MARGIN_LEAST:
            return found
        ahead = [split for split in (start, *others) if split != here]
        if terms.overlaps and waits:
            found |= {split: judge(here, split, roles, needs, terms, computed) for split in ahead}
            return found | passing(here, found)
        enough, ranks = found[here].now - MARGIN_LEAST, [found[here].late]
        for moves, split in sorted((moves_between(here, split), split) for split in ahead):
            # None of those that are left, all further away, comes before the ones that are told of.
            least = (1 - load.others_part) * AWAY_PART * moves
            if len(ranks) > ALTERNATIVES and least > ranks[ALTERNATIVES] + 10**-DIGITS:
                break
            one = found[split] = judge(here, split, roles, needs, terms, computed)
            if one.now < enough:
                insort(ranks, one.late)
        return found

    def passing(here: Split, lasting: Mapping[Split, Judgement]) -> dict[Split, Judgement]:
        """Splits that are better left again once the prompts that wait have been read."""
        best = min(lasting, key=lambda split: lasting[split].late)
        few = max(1, start.total // BESIDE_LEAST)
        # One that is left again has to be better than any that lasts.
        least = {split: min(one.late, lasting[best].late - MARGIN_LEAST) for split, one in lasting.items()}
        found: dict[Split, Judgement] = {}
        for split, after in product(lasting, dict.fromkeys((start, best))):
            if 0 < moves_between(split, after) <= few and not split == here == start:
                one = judge(here, split, roles, needs, terms, computed, after)
                if one.late < least[split]:
                    found[split], least[split] = one, one.late
        return found

    def order(here: Split, found: Mapping[Split, Judgement]) -> list[Split]:
        # What the load may become again keeps from moves; it is no reason for one.
        enough = found[here].now - MARGIN_LEAST
        return sorted(
            (split for split, one in found.items() if split == here or one.now < enough),
            key=lambda split: (
                round(found[split].late, DIGITS),
                round(found[split].worst, 3),
                moves_between(here, split),
                split,
            ),
        )

    found = judged_from(start)
    ranked = order(start, found)
    best = ranked[0]
    if stay.late - found[best].late > MARGIN_LEAST:
        further = _without_stops(best, judged_from, order)
        if further not in found:  # too far from here to be told of, and yet where the plan would end
            found[further] = judge(start, further, roles, needs, terms, computed)
            ranked = order(start, found)
        best = further if further in ranked else best
    if stay.late - found[best].late <= _margin(inputs):
        best = start
    recommends = inputs.mode is RebalanceMode.RECOMMEND
    if best == ((inputs.recommended or start) if recommends else start):
        return SplitPlan(start)
    reason = reason_of(inputs, start, best, stay, found[best], needs, demand) + price_of(
        start, best, roles, terms
    )
    alternatives = tuple(
        Alternative(
            allocation=split.written(),
            score=f"{found[split].late:.3f}",
            reason=alternative_reason(start, split, found[split]),
        )
        for split in [split for split in ranked if split != best][:ALTERNATIVES]
    )
    expected = Expected(stay.late, found[best].late)
    if recommends:
        recommendation = Recommendation(
            reason=reason, decision_time=inputs.now, alternatives=alternatives, allocation=best.written()
        )
        return SplitPlan(start, recommendation=recommendation, expected=expected)
    decision = Decision(
        reason=reason,
        decision_time=inputs.now,
        previous=start.written(),
        alternatives=alternatives,
        headroom_percent=_headroom(inputs),
    )
    return SplitPlan(best, decision, expected=expected)


def _without_stops(
    first: Split,
    judged_from: Callable[[Split], Mapping[Split, Judgement]],
    order: Callable[[Split, Mapping[Split, Judgement]], list[Split]],
) -> Split:
    """Where the plan would stop if it were asked again from each split that it chose: it goes there at once."""
    here, passed = first, {first}
    while True:
        found = judged_from(here)
        following = order(here, found)[0]
        if following in passed or found[here].late - found[following].late <= MARGIN_LEAST:
            return here
        here = following
        passed.add(here)


def _paid_for(
    start: Split,
    others: Sequence[Split],
    inputs: SplitInputs,
    needs: Mapping[Stage, StageNeed],
    terms: Terms,
    load: Load,
) -> list[Split]:
    """Splits for which as many requests are late as the first replica of the move may cost; all, where that is not
    known."""
    lost, roles = late_seconds(inputs, needs), inputs.roles
    if lost is None:
        return list(others)
    # What the first replica costs depends on who gives and who takes, not on how many.
    ways: dict[tuple[int, ...], list[Split]] = {}
    had = [(role.name, start[role.name]) for role in roles]
    for split in others:
        now = split.replicas
        way = tuple([(now[name] > count) - (now[name] < count) for name, count in had])
        ways.setdefault(way, []).append(split)
    leads = {way: lead_seconds(start, splits[0], roles, terms) for way, splits in ways.items()}
    coming = {lead: _late_until(start, inputs, needs, terms, load, lead) for lead in set(leads.values())}
    return [
        split
        for way, splits in ways.items()
        if round_trip(start, splits[0], roles, terms) <= lost + coming[leads[way]]
        for split in splits
    ]


def _late_until(
    start: Split,
    inputs: SplitInputs,
    needs: Mapping[Stage, StageNeed],
    terms: Terms,
    load: Load,
    seconds: float,
) -> float:
    """Requests that would be late before a move that takes so long can help, as seconds in which so many arrive."""
    soon, present = replace(terms, horizon_seconds=seconds), replace(load, others_part=0.0)
    return seconds * judge(start, start, inputs.roles, needs, soon, present).now


def _load(inputs: SplitInputs, seen: Regimes, terms: Terms, needs: Mapping[Stage, StageNeed]) -> Load:
    """What may be needed over the horizon. A load that was there before comes back as often as it did so far, and then
    has the split as it is now until it is seen and answered by a move."""
    traffic = inputs.traffic
    assert traffic is not None
    answered = traffic.short_seconds + terms.flip_seconds
    restarts = max((role.start_seconds for role in inputs.roles), default=0.0)
    if (restarts or not terms.overlaps) and any(role.stage is Stage.AGGREGATED for role in inputs.roles):
        # The way back takes as long as the way; without such a role there is no split that needs none.
        answered += restarts + max(terms.drain_seconds.values(), default=0.0)
    loads = terms.horizon_seconds / seen.lasts_seconds
    away = 1 - (1 - math.exp(-loads)) / loads if loads > 0 else 0.0
    likely = [(weight, one) for weight, one in seen.now if weight > LEAST_WEIGHT]
    total = sum(weight for weight, _ in likely)
    return Load(
        now=[(weight / total, needs_of(inputs, one)) for weight, one in likely],
        others=[(weight, needs_of(inputs, one)) for weight, one in seen.others],
        others_part=min(away, answered / seen.lasts_seconds) if seen.others else 0.0,
        measured_late=measured_late(inputs, needs) if seen.unchanged else None,
    )


def _margin(inputs: SplitInputs) -> float:
    """What a move has to save. It falls with the time since the last one: a small gain is worth a move if it lasts."""
    since = [moment for moment in (inputs.decided_at, inputs.moved_at) if moment is not None]
    if not since:
        return MARGIN
    quiet = (inputs.now - max(since)).total_seconds()
    return max(MARGIN_LEAST, MARGIN * math.exp(-quiet / MARGIN_SECONDS))


def _terms(inputs: SplitInputs, demand: Demand, needs: Mapping[Stage, StageNeed]) -> Terms:
    prefill, decode = needs.get(Stage.PREFILL), needs.get(Stage.DECODE)
    drain: dict[Stage, float] = {}
    if prefill is not None:
        drain[Stage.PREFILL] = 2 * prefill.need.service_seconds
    if decode is not None:
        # The last of a replica's answers to end is a long one.
        drain[Stage.DECODE] = decode.need.service_seconds * (1 + 1.5 * math.sqrt(demand.answer_cv2))
        drain[Stage.AGGREGATED] = drain[Stage.DECODE]
    return Terms(HORIZON_SECONDS, FLIP_SECONDS, drain, inputs.flips_overlap, inputs.queues, inputs.starting)


def _may_decide(inputs: SplitInputs) -> bool:
    """Whether anything may be decided; within the cooldown only more of the same, see _turns."""
    if not inputs.settled:
        return bool(inputs.moving)
    return not _cooling(inputs) or bool(_last_move(inputs))


def _cooling(inputs: SplitInputs) -> bool:
    cooldown = timedelta(seconds=inputs.cooldown_seconds)
    since = [moment for moment in (inputs.decided_at, inputs.moved_at) if moment is not None]
    return any(inputs.now - moment < cooldown for moment in since)


def _last_move(inputs: SplitInputs) -> tuple[tuple[str, str], ...]:
    """(giver, taker) of the last decision, where the allocation before it is known."""
    before, now = inputs.decided_from, inputs.allocation
    if not before or (before.total != now.total and inputs.minimum_accelerators is not None):
        return ()
    givers = [name for name, count in before.counts if now[name] < count]
    takers = [name for name, count in now.counts if count > before[name]]
    return tuple((giver, taker) for giver in givers for taker in takers)


def _ways_kept(
    inputs: SplitInputs, needs: Mapping[Stage, StageNeed], terms: Terms
) -> tuple[tuple[str, str], ...]:
    """(giver, taker) of each move that nothing is taken back of: those under way, and those that the cooldown is of.

    Not where the giver's stage alone leaves requests waiting for too long: more than a replica gets while one flips.
    """
    if not inputs.settled:
        return inputs.moving
    ways, waits = _last_move(inputs) if _cooling(inputs) else (), overdue(inputs, needs)
    if not ways or waits is None or inputs.traffic is None:
        return ways
    flips = terms.flip_seconds * inputs.traffic.short.requests
    stages = {role.name: role.stage for role in inputs.roles}

    def proven_wrong(giver: str, taker: str) -> bool:
        waits_for_giver, waits_for_taker = (waits.get(stages[role], 0.0) for role in (giver, taker))
        return waits_for_taker == 0 and waits_for_giver > flips / max(1, inputs.allocation[giver])

    return tuple(way for way in ways if not proven_wrong(*way))


def _turns(kept: Sequence[tuple[str, str]], start: Split, split: Split) -> bool:
    """Whether a split takes something back of a move that is kept."""
    return any(split[giver] > start[giver] or split[taker] < start[taker] for giver, taker in kept)


def _unmeasured(role: RoleState) -> bool:
    return role.profile is None and is_planned(role.stage)


def _flip_obstacle(inputs: SplitInputs) -> Finding | None:
    without = [role for role in inputs.roles if _unmeasured(role)]
    if without:
        return Finding(False, "ProfileMissing", f"role {without[0].name}: {without[0].profile_error}")
    kinds: dict[str, set[Stage]] = {}
    for role in inputs.roles:
        kinds.setdefault(role.kind, set()).add(role.stage)
    if all(len(stages) == 1 for stages in kinds.values()):
        return Finding(
            False,
            "FlipIncompatible",
            "no two roles of different stages can exchange replicas: their templates have to be equal but for"
            " labels, and their nodes have to be equal; of roles with a scaleTargetRef the acceleratorsPerReplica; flip"
            " HTTP needs a metrics preset with role_switch",
        )
    return None

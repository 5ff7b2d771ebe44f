"""Decides how a group's replicas are divided between its roles. Pure: no I/O, no clock, no randomness.

The algorithm
-------------
1. *Start.* In Paused and Recommend the roles' `spec.replicas` hold. In Auto the last decision holds, a new
   role starts with its `spec.replicas`. Bounds are applied, then the budget: what does not fit is left out.
2. *Hold.* Nothing else happens while the metrics are not to be trusted, or while what was promised is kept and no
   queue says that it will not be. Within the cooldown of a decision or of the end of a move, and while a move is under
   way, it may go further, but not back.
3. *Load.* `regimes` tells the offered work of now from chance, and what it was at other times of the last minutes.
4. *Need.* `capacity` turns each into replicas per stage, with profiles corrected by the speed that was observed.
5. *Splits.* Every split that flips can reach with the same total (`splits.reachable`) is judged by the share of
   requests that would be late within the horizon (`outlook`), from the queues of now, with the capacity that the way
   there leaves. What was measured counts more than what is computed; and a load that was there before comes back.
6. *Choice.* The best is taken, however far away, if it saves more than a margin over staying; the margin falls with
   the time since the last move. Ties: the better worst stage, fewer moves, the order of names.

7. *Size.* Where `accelerators.minimum` sets it free, `size` is asked first; the above when it lets the size be.

Limits of this version: present load, no forecast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from weft.api import Alternative, Decision, FlipMethod, RebalanceMode, Recommendation, Stage
from weft.balancing.demand import Demand, recent, share_within
from weft.balancing.regimes import Regimes, regimes
from weft.balancing.size import at_least, choose_size, without_load
from weft.balancing.splits import (
    STAGES,
    Judgement,
    Load,
    StageNeed,
    Terms,
    accelerators,
    given,
    judge,
    longest_drain,
    moves_between,
    reachable,
    stage_needs,
    worst_stage,
)
from weft.balancing.state import Finding, RoleState, Split, SplitInputs

MARGIN, MARGIN_LEAST, MARGIN_SECONDS = 0.10, 0.03, 90.0
"""Share of requests that a move has to save: just after a move, at last, and the time in which it falls to a third."""
LEAST_WEIGHT = 0.02
"""What is less probable is not looked at."""
WAIT_PART = 0.5
"""Where prompts wait for more than this part of the first token's budget, what was measured before says too little."""
ROOM = 0.2
"""Part of the first token's budget that a prompt may wait while there is no reason to move."""
HORIZON_SECONDS = 240.0
"""How long the offered work is taken to last: the time over which a move has to pay back."""
FLIP_SECONDS = 5.0
"""What a flip takes beyond the drain: status writes, scrapes that confirm it, the router's reaction."""
JUDGED_MOST = 16
"""Splits that are looked at closely: those whose worst stage stands best."""
ALTERNATIVES = 2


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


def plan_split(inputs: SplitInputs) -> SplitPlan:
    """The allocation that is to hold, with the reason where it changes."""
    if inputs.asleep:
        return SplitPlan(inputs.allocation)
    start, obstacle = starting_split(inputs)
    mode = inputs.mode
    if start != inputs.allocation:
        return SplitPlan(start, _starting_decision(inputs, start), obstacle=obstacle)
    if inputs.minimum_accelerators is None or mode is RebalanceMode.PAUSED:
        return _follow_load(inputs, start, obstacle)
    # Recommend goes on from what it recommended.
    here = (inputs.recommended or start) if mode is RebalanceMode.RECOMMEND else start
    sized = _resized(inputs, here, obstacle)
    plan = sized or _follow_load(inputs, here, obstacle)
    return plan if mode is RebalanceMode.AUTO else replace(plan, allocation=start)


def _follow_load(inputs: SplitInputs, start: Split, obstacle: Finding | None) -> SplitPlan:
    """The split of as many replicas that is to hold."""
    mode = inputs.mode
    if mode is RebalanceMode.PAUSED or inputs.flip is FlipMethod.NONE:
        return SplitPlan(start, obstacle=obstacle)
    if not {role.stage for role in inputs.roles} & set(STAGES) or len(inputs.roles) < 2:
        return SplitPlan(start, obstacle=obstacle)
    no_flips = _flip_obstacle(inputs)
    obstacle = obstacle or no_flips
    if no_flips is not None or inputs.traffic is None or inputs.hold is not None or not _may_decide(inputs):
        return SplitPlan(start, obstacle=obstacle)
    seen = regimes(inputs.traffic, inputs.generated_tokens_per_second)
    if seen is None:
        return SplitPlan(start, obstacle=obstacle)
    return replace(_choose(inputs, start, seen), obstacle=obstacle)


def _resized(inputs: SplitInputs, here: Split, obstacle: Finding | None) -> SplitPlan | None:
    """The size, with its split, that the load asks for; None: as it is."""
    unmeasured = next((role for role in inputs.roles if role.profile is None), None)
    if unmeasured is not None:
        text = f"role {unmeasured.name}: {unmeasured.profile_error}"
        return SplitPlan(here, obstacle=obstacle or Finding(False, "ProfileMissing", text))
    if inputs.hold is not None or inputs.traffic is None:
        return None
    seen = recent(inputs.traffic, inputs.generated_tokens_per_second)
    if seen is not None:
        needs = needs_of(inputs, seen.before)
        sized = choose_size(inputs, here, seen.before, _met_with_room(inputs, inputs.serving, needs))
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


def starting_split(inputs: SplitInputs) -> tuple[Split, Finding | None]:
    """What holds before any balancing: the last decision or the roles' own numbers, within bounds and budget.

    Also what does not fit into the budget of what the roles ask for: said for as long as it is so.
    """
    decided = dict(inputs.allocation.counts) if inputs.mode is RebalanceMode.AUTO else {}
    split, left_out = _within_budget(inputs, decided)
    if inputs.minimum_accelerators is not None and inputs.mode is RebalanceMode.AUTO:
        split = at_least(inputs, split)
    how = "raise spec.accelerators.maximum or lower the roles' replicas"
    if decided and not left_out and inputs.minimum_accelerators is None:
        # What was left out at the start is not in the decision any more.
        fitting, left_out = _within_budget(inputs, {})
        if split.total > fitting.total:
            left_out = 0
        how = (
            "lower the roles' replicas; or raise spec.accelerators.maximum, and set rebalance.mode to Paused until"
            " they are made"
        )
    if not left_out:
        return split, _out_of_reach(inputs, split)
    return split, Finding(
        False,
        "BudgetTooSmall",
        f"{left_out} of the replicas asked for do not fit into accelerators.maximum, {inputs.budget_accelerators}:"
        f" {how}",
    )


def _out_of_reach(inputs: SplitInputs, split: Split) -> Finding | None:
    least = inputs.minimum_accelerators
    if least is None or inputs.mode is not RebalanceMode.AUTO or accelerators(split, inputs.roles) >= least:
        return None
    text = (
        "the roles' maxReplicas and accelerators.maximum allow fewer than accelerators.minimum, or its schedule,"
        f" asks for, {least}: raise them, or lower it"
    )
    return Finding(False, "MinimumOutOfReach", text)


def _within_budget(inputs: SplitInputs, decided: Mapping[str, int]) -> tuple[Split, int]:
    """The split as decided, else as the roles ask for it, within bounds and budget; and how many were left out."""
    split = {
        role.name: min(role.maximum, max(role.minimum, decided.get(role.name, role.spec_replicas)))
        for role in inputs.roles
    }
    cost = {role.name: role.accelerators_per_replica for role in inputs.roles}
    least = {role.name: role.minimum for role in inputs.roles}
    left_out = 0
    while sum(split[name] * cost[name] for name in split) > inputs.budget_accelerators:
        # First from roles above their minimum, the largest first; the budget holds even against the minimum.
        name = max(
            (name for name in sorted(split) if split[name] > 0 and cost[name] > 0),
            key=lambda name: (split[name] > least[name], split[name]),
        )
        split[name] -= 1
        left_out += 1
    return Split.of(split), left_out


def needs_of(inputs: SplitInputs, demand: Demand) -> dict[Stage, StageNeed]:
    """What each stage needs for this demand."""
    return stage_needs(inputs.roles, demand, inputs.corrections, inputs.objectives)


def _choose(inputs: SplitInputs, start: Split, seen: Regimes) -> SplitPlan:
    roles, traffic = inputs.roles, inputs.traffic
    assert traffic is not None
    demand = seen.likely
    needs = needs_of(inputs, demand)
    if _met_with_room(inputs, inputs.serving, needs):
        return SplitPlan(start)
    terms = _terms(inputs, demand, needs)
    load = _load(inputs, seen, terms)

    asked = sum(role.spec_replicas * role.accelerators_per_replica for role in roles)
    most = min(inputs.budget_accelerators, asked)
    others = [split for split in reachable(start, roles, most) if not _turns(inputs, start, split)]
    if len(others) > JUDGED_MOST:
        others = sorted(others, key=lambda split: (worst_stage(split, roles, needs), split))[:JUDGED_MOST]

    def judged_from(here: Split) -> dict[Split, Judgement]:
        known = load if here == start else replace(load, measured_late=None)
        return {split: judge(here, split, roles, needs, terms, known) for split in (start, *others)}

    def order(here: Split, found: Mapping[Split, Judgement]) -> list[Split]:
        # What the load may become again keeps from moves; it is no reason for one.
        enough = found[here].now - MARGIN_LEAST
        return sorted(
            (split for split, one in found.items() if split == here or one.now < enough),
            key=lambda split: (
                round(found[split].late, 2),
                round(found[split].worst, 3),
                moves_between(here, split),
                split,
            ),
        )

    found = judged_from(start)
    stay = found[start]
    ranked = order(start, found)
    best = ranked[0]
    if stay.late - found[best].late > MARGIN_LEAST:
        further = _without_stops(best, judged_from, order)
        best = further if further in ranked else best
    if stay.late - found[best].late <= _margin(inputs):
        best = start
    recommends = inputs.mode is RebalanceMode.RECOMMEND
    if best == ((inputs.recommended or start) if recommends else start):
        return SplitPlan(start)
    reason = _reason(inputs, start, best, stay, found[best], needs, demand) + _price(
        start, best, roles, terms
    )
    alternatives = tuple(
        Alternative(
            allocation=split.written(),
            score=f"{found[split].late:.3f}",
            reason=_alternative_reason(start, split, found[split]),
        )
        for split in [split for split in ranked if split != best][:ALTERNATIVES]
    )
    if recommends:
        recommendation = Recommendation(
            reason=reason, decision_time=inputs.now, alternatives=alternatives, allocation=best.written()
        )
        return SplitPlan(start, recommendation=recommendation)
    decision = Decision(
        reason=reason,
        decision_time=inputs.now,
        previous=start.written(),
        alternatives=alternatives,
        headroom_percent=_headroom(inputs),
    )
    return SplitPlan(best, decision)


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


def _met_with_room(inputs: SplitInputs, start: Split, needs: Mapping[Stage, StageNeed]) -> bool:
    """Whether what was promised is being kept and no queue says that it will not be."""
    shares, promised = _measured(inputs), inputs.objectives.attainment_permille / 1000
    if shares is None or min(shares) < promised:
        return False
    return _has_room(inputs, start, needs, wait_part=ROOM, deviations=1.0)


def _has_room(
    inputs: SplitInputs, start: Split, needs: Mapping[Stage, StageNeed], wait_part: float, deviations: float
) -> bool:
    """Whether what waits takes less than this part of the first token's budget, and decode has a place for what is
    there and so many standard deviations more."""
    if inputs.queues is None:
        return False
    capacity = given(start, inputs.roles, needs)
    for stage, stage_need in needs.items():
        need = stage_need.need
        if stage is Stage.PREFILL:
            wait = inputs.queues.prompts_waiting * need.service_seconds / max(capacity[stage], 1e-9)
            if wait > wait_part * need.budget_seconds:
                return False
        else:
            present = inputs.queues.answers_present
            if present + deviations * math.sqrt(present) >= capacity[stage] * need.places:
                return False
    return True


def _measured(inputs: SplitInputs) -> tuple[float, float] | None:
    """Shares within both objectives in the long window; 1 where there is no objective, None where one is not known."""
    traffic = inputs.traffic
    assert traffic is not None
    ttft, itl = (
        inputs.objectives.time_to_first_token_milliseconds,
        inputs.objectives.inter_token_latency_microseconds,
    )
    first = share_within(traffic.ttft_buckets, ttft / 1000) if ttft is not None else (1.0, 1.0)
    between = share_within(traffic.itl_buckets, itl / 1e6) if itl is not None else (1.0, 1.0)
    if first is None or between is None:
        return None
    # An objective within a bucket: what the histogram leaves open, the engines' means tell.
    least, greatest = between
    told = inputs.answers_in_time
    return first[0], least if told is None else min(greatest, max(least, told))


def _load(inputs: SplitInputs, seen: Regimes, terms: Terms) -> Load:
    """What may be needed over the horizon. A load that was there before comes back as often as it did so far, and then
    has the split as it is now until it is seen and answered by a move."""
    traffic = inputs.traffic
    assert traffic is not None
    answered = traffic.short_seconds + terms.flip_seconds
    loads = terms.horizon_seconds / seen.lasts_seconds
    away = 1 - (1 - math.exp(-loads)) / loads if loads > 0 else 0.0
    likely = [(weight, one) for weight, one in seen.now if weight > LEAST_WEIGHT]
    total = sum(weight for weight, _ in likely)
    return Load(
        now=[(weight / total, needs_of(inputs, one)) for weight, one in likely],
        others=[(weight, needs_of(inputs, one)) for weight, one in seen.others],
        others_part=min(away, answered / seen.lasts_seconds) if seen.others else 0.0,
        measured_late=_measured_late(inputs, seen),
    )


def _measured_late(inputs: SplitInputs, seen: Regimes) -> float | None:
    """Share late in the long window, where all of that was this load on this split and no queue says otherwise."""
    traffic, shares = inputs.traffic, _measured(inputs)
    assert traffic is not None
    if shares is None or not (inputs.settled and seen.unchanged):
        return None
    since = [moment for moment in (inputs.decided_at, inputs.moved_at) if moment is not None]
    if since and (inputs.now - max(since)).total_seconds() < 4 * traffic.short_seconds:
        return None
    needs = needs_of(inputs, seen.likely)
    if not _has_room(inputs, inputs.allocation, needs, wait_part=WAIT_PART, deviations=-1.0):
        return None
    return 1 - shares[0] * shares[1]


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


def _turns(inputs: SplitInputs, start: Split, split: Split) -> bool:
    """Whether a split takes something back of the move that is under way, or that the cooldown is of."""
    ways = inputs.moving if not inputs.settled else _last_move(inputs) if _cooling(inputs) else ()
    return any(split[giver] > start[giver] or split[taker] < start[taker] for giver, taker in ways)


def _flip_obstacle(inputs: SplitInputs) -> Finding | None:
    without = [role for role in inputs.roles if role.profile is None]
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


def _starting_decision(inputs: SplitInputs, allocation: Split) -> Decision:
    if inputs.mode is not RebalanceMode.AUTO:
        reason = f"{inputs.mode}: the roles' replicas hold: {allocation}"
    elif inputs.allocation and not inputs.allocation.total:
        reason = (
            f"grows from zero to {allocation}: a request waits at the front end, or nothing tells whether one does, or"
            f" the group may not be without replicas any more; a new replica serves after"
            f" {inputs.cold_start_seconds:,.0f} s"
        )
    elif not inputs.allocation:
        reason = f"start with the roles' replicas: {allocation}"
    elif accelerators(inputs.allocation, inputs.roles) < (inputs.minimum_accelerators or 0):
        least = inputs.minimum_accelerators
        reason = f"accelerators.minimum, or its schedule, asks for {least} accelerators: {allocation}"
    else:
        reason = f"roles, their bounds or accelerators.maximum changed: {allocation}"
    return Decision(reason=reason, decision_time=inputs.now)


def _reason(
    inputs: SplitInputs,
    start: Split,
    best: Split,
    stay: Judgement,
    then: Judgement,
    needs: Mapping[Stage, StageNeed],
    demand: Demand,
) -> str:
    verb = "would be" if inputs.mode is RebalanceMode.RECOMMEND else "is"
    again, better = f"the roles' own split {best} {verb} right again", f"{best} {verb} better than {start}"
    parts = [again if best == start else better]
    rates = {
        Stage.PREFILL: (demand.prompt_tokens_per_second, "prompt"),
        Stage.DECODE: (demand.answer_tokens_per_second, "answer"),
    }
    for stage, stage_need in needs.items():
        need = stage_need.need
        rate, tokens = rates[stage]
        parts.append(
            f"{stage.label} needs {need.required:.1f} replicas ({rate:,.0f} {tokens} tokens/s,"
            f" {need.replica_tokens_per_second:,.0f} per replica)"
        )
        if need.limit:
            parts.append(need.limit)
    parts.append(f"expected violations {stay.late:.2f} -> {then.late:.2f}")
    parts.append(f"mean prompt {demand.prompt_tokens:,.0f}, mean answer {demand.answer_tokens:,.0f} tokens")
    return "; ".join(parts)


def _price(start: Split, best: Split, roles: Sequence[RoleState], terms: Terms) -> str:
    """What a replica costs on its way where it ends and another is made, in words; empty where its engine goes on."""
    takers = [role for role in roles if best[role.name] > start[role.name] and role.start_seconds]
    if not takers:
        return ""
    drain = longest_drain(start, best, roles, terms)
    seconds = drain + terms.flip_seconds + max(role.start_seconds for role in takers)
    moves = sum(
        (best[role.name] - start[role.name]) * role.accelerators_per_replica * seconds for role in takers
    )
    return (
        f"; each replica that moves is away for {seconds:,.0f} s, together {moves:,.0f} accelerator-seconds"
    )


def _alternative_reason(start: Split, split: Split, judged: Judgement) -> str:
    moves = moves_between(start, split)
    how = "stay" if moves == 0 else f"{moves} {'flip' if moves == 1 else 'flips'}"
    return f"{how}; expected violations {judged.late:.2f}; worst stage needs {judged.worst:.2f} times what it has"

"""Decides how a group's replicas are divided between its roles. Pure: no I/O, no clock, no randomness.

The algorithm
-------------
1. *Start.* In Paused and Recommend the roles' `spec.replicas` hold. In Auto the last decision holds, a new
   role starts with its `spec.replicas`. Bounds are applied, then the budget: what does not fit is left out.
2. *Hold.* Nothing else happens while the metrics are not to be trusted, or before the cooldown since the last
   decision and the end of the last move has passed. A move that is under way may be extended (more replicas in
   the same direction: at the beginning of a shift the windows show only a part of it), but not turned.
3. *Work.* `demand` gives the offered prompt and answer tokens per second now, and at the peak of the recent
   past.
4. *Need.* `capacity` turns both into replicas per stage: where the stage saturates, and what it requires to
   meet the objectives, with profiles corrected by the speed that was observed.
5. *Splits.* Every split that flips can reach with the same total (`splits.reachable`) is judged by

       score = expected violations + cost of getting there
       cost  = moves * seconds that a flip takes a replica out / horizon / replicas

   A split qualifies only if its worst stage stands better than the worst stage does now, also when the
   stages that would give replicas away meet their recent peak again. A load that swings faster than the
   window of that peak finds no split that qualifies: it moves nothing.
6. *Choice.* The split with the smallest score is taken if it beats staying by a margin. Ties: the better
   worst stage, fewer moves, the order of names.

Re-running the plan on its own result changes nothing: after a move the worst stage stands better than before,
so every split that would lead back has to beat a higher bar than the one it failed.

Limits of this version: the total number of replicas is fixed where it started; present load, no forecast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from weft.api import Alternative, Decision, FlipMethod, RebalanceMode, Recommendation, Stage
from weft.balancing.demand import Demand, offered, recent_peak
from weft.balancing.splits import (
    STAGES,
    Judgement,
    StageNeed,
    judge,
    moves_between,
    reachable,
    shrinking_stages,
    stage_needs,
)
from weft.balancing.state import Finding, Split, SplitInputs

MARGIN = 0.1
"""Expected violations (share of requests) that a move has to save beyond its cost."""
HORIZON_SECONDS = 300.0
"""How long a split is assumed to serve: the time over which the cost of a move is spread."""
FLIP_SECONDS = 5.0
"""What a flip takes beyond the drain: status writes, scrapes that confirm it, the router's reaction."""
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
    start, obstacle = starting_split(inputs)
    mode = inputs.mode
    if start != inputs.allocation:
        return SplitPlan(start, _starting_decision(inputs, start), obstacle=obstacle)
    if mode is RebalanceMode.PAUSED or inputs.flip is FlipMethod.NONE:
        return SplitPlan(start, obstacle=obstacle)
    if not {role.stage for role in inputs.roles} & set(STAGES) or len(inputs.roles) < 2:
        return SplitPlan(start, obstacle=obstacle)
    no_flips = _flip_obstacle(inputs)
    obstacle = obstacle or no_flips
    if no_flips is not None or inputs.traffic is None or inputs.hold is not None or not _may_decide(inputs):
        return SplitPlan(start, obstacle=obstacle)
    demand = offered(inputs.traffic, inputs.generated_tokens_per_second)
    if demand is None:
        return SplitPlan(start, obstacle=obstacle)
    return replace(_choose(inputs, start, demand), obstacle=obstacle)


def starting_split(inputs: SplitInputs) -> tuple[Split, Finding | None]:
    """What holds before any balancing: the last decision or the roles' own numbers, within bounds and budget.

    Also what does not fit into the budget of what the roles ask for: said for as long as it is so.
    """
    decided = dict(inputs.allocation.counts) if inputs.mode is RebalanceMode.AUTO else {}
    split, left_out = _within_budget(inputs, decided)
    how = "raise spec.accelerators.maximum or lower the roles' replicas"
    if decided and not left_out:
        # What was left out at the start is not in the decision any more.
        fitting, left_out = _within_budget(inputs, {})
        if split.total > fitting.total:
            left_out = 0
        how = (
            "lower the roles' replicas; or raise spec.accelerators.maximum, and set rebalance.mode to Paused until"
            " they are made"
        )
    if not left_out:
        return split, None
    return split, Finding(
        False,
        "BudgetTooSmall",
        f"{left_out} of the replicas asked for do not fit into accelerators.maximum, {inputs.budget_accelerators}:"
        f" {how}",
    )


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


def _choose(inputs: SplitInputs, start: Split, demand: Demand) -> SplitPlan:
    roles, traffic = inputs.roles, inputs.traffic
    assert traffic is not None
    needs = needs_of(inputs, demand)
    peak = needs_of(inputs, recent_peak(traffic, demand))
    flip_seconds = FLIP_SECONDS + _drain_seconds(inputs, demand)
    total = max(1, start.total)

    def score(split: Split) -> float:
        cost = moves_between(start, split) * flip_seconds / HORIZON_SECONDS / total
        return judge(split, roles, needs).late + cost

    stay = judge(start, roles, needs)
    qualified = []
    for split in reachable(start, roles):
        if _turns(inputs, start, split):
            continue
        giving = shrinking_stages(start, split, roles, needs)
        cautious = {stage: peak[stage] if stage in giving else need for stage, need in needs.items()}
        if judge(split, roles, cautious).worst < stay.worst - 1e-9:
            qualified.append(split)
    ranked = sorted(
        [*qualified, start],
        key=lambda split: (
            round(score(split), 6),
            round(judge(split, roles, needs).worst, 6),
            moves_between(start, split),
            split,
        ),
    )
    best = ranked[0] if stay.late - score(ranked[0]) > MARGIN else start
    recommends = inputs.mode is RebalanceMode.RECOMMEND
    if best == ((inputs.recommended or start) if recommends else start):
        return SplitPlan(start)
    reason = _reason(inputs, start, best, stay, judge(best, roles, needs), needs, demand)
    alternatives = tuple(
        Alternative(
            allocation=split.written(),
            score=f"{score(split):.3f}",
            reason=_alternative_reason(start, split, judge(split, roles, needs), flip_seconds),
        )
        for split in [split for split in ranked if split != best][:ALTERNATIVES]
    )
    if recommends:
        recommendation = Recommendation(
            reason=reason, decision_time=inputs.now, alternatives=alternatives, allocation=best.written()
        )
        return SplitPlan(start, recommendation=recommendation)
    return SplitPlan(best, Decision(reason=reason, decision_time=inputs.now, alternatives=alternatives))


def _may_decide(inputs: SplitInputs) -> bool:
    if not inputs.settled:
        return bool(inputs.moving)
    cooldown = timedelta(seconds=inputs.cooldown_seconds)
    since = [moment for moment in (inputs.decided_at, inputs.moved_at) if moment is not None]
    return all(inputs.now - moment >= cooldown for moment in since)


def _turns(inputs: SplitInputs, start: Split, split: Split) -> bool:
    """Whether a split takes something back of the move that is under way."""
    return any(split[giver] > start[giver] or split[taker] < start[taker] for giver, taker in inputs.moving)


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
            " labels, and their nodes have to be equal",
        )
    return None


def _drain_seconds(inputs: SplitInputs, demand: Demand) -> float:
    """How long a draining replica works on what it has: about one mean answer at the ITL objective.

    Without that objective: at the slowest full batch of the profiles.
    """
    microseconds = inputs.objectives.inter_token_latency_microseconds
    if microseconds is not None:
        return demand.answer_tokens * microseconds / 1e6
    profiles = [role.profile for role in inputs.roles if role.profile is not None]
    return demand.answer_tokens * max(one.inter_token_seconds(one.max_batch) for one in profiles)


def _starting_decision(inputs: SplitInputs, allocation: Split) -> Decision:
    if inputs.mode is not RebalanceMode.AUTO:
        reason = f"{inputs.mode}: the roles' replicas hold: {allocation}"
    elif not inputs.allocation:
        reason = f"start with the roles' replicas: {allocation}"
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


def _alternative_reason(start: Split, split: Split, judged: Judgement, flip_seconds: float) -> str:
    moves = moves_between(start, split)
    how = (
        "stay" if moves == 0 else f"{moves} {'flip' if moves == 1 else 'flips'} of about {flip_seconds:.0f} s"
    )
    return f"{how}; expected violations {judged.late:.2f}; worst stage needs {judged.worst:.2f} times what it has"

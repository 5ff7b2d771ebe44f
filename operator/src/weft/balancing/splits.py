"""Splits of a group's replicas over its roles: which ones can be reached, and how each would fare. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from weft.api import Objectives, Stage
from weft.balancing.capacity import Need, decode_need, prefill_need
from weft.balancing.demand import Demand
from weft.balancing.state import Corrections, RoleState, Split

STAGES = (Stage.PREFILL, Stage.DECODE)
"""What every request passes through. An aggregated replica divides its time between the two."""
SPLITS_MOST = 300
"""No further ring of neighbours is looked at beyond this many splits; two roles are always looked at whole."""


@dataclass(frozen=True)
class StageNeed:
    """What a stage needs, counted in replicas of its reference role, and what each role's replica is worth."""

    need: Need
    worth: Mapping[str, float]
    """Per role that can serve the stage: one replica in replicas of the reference role."""


@dataclass(frozen=True)
class Judgement:
    """How a split would fare under the offered work."""

    late: float
    """Expected violations: the share of requests late in prefill plus the share late in decode."""
    worst: float
    """Required over given replicas of the worst stage; above 1 some headroom is missing."""


def stage_needs(
    roles: Sequence[RoleState], demand: Demand, corrections: Corrections, objectives: Objectives
) -> dict[Stage, StageNeed]:
    """What each stage needs. Every role that serves a stage has to have a profile."""
    needs: dict[Stage, StageNeed] = {}
    for stage in STAGES:
        per_role: dict[str, Need] = {}
        for role in roles:
            if role.stage not in (stage, Stage.AGGREGATED) or role.profile is None:
                continue
            if stage is Stage.PREFILL:
                per_role[role.name] = prefill_need(role.profile, corrections.prefill, demand, objectives)
            else:
                per_role[role.name] = decode_need(role.profile, corrections.decode, demand, objectives)
        if not per_role:
            continue
        dedicated = [role.name for role in roles if role.stage is stage and role.name in per_role]
        reference = per_role[(dedicated or sorted(per_role))[0]]
        worth = {
            name: need.replica_tokens_per_second / reference.replica_tokens_per_second
            for name, need in per_role.items()
        }
        needs[stage] = StageNeed(reference, worth)
    return needs


def judge(split: Split, roles: Sequence[RoleState], needs: Mapping[Stage, StageNeed]) -> Judgement:
    """How a split would fare. A stage that nobody can serve and that has work counts as wholly late."""
    given = _given(split, roles, needs)
    late = worst = 0.0
    for stage, stage_need in needs.items():
        need = stage_need.need
        late += late_share(given[stage], need)
        if need.required > 0:
            worst = max(worst, need.required / max(given[stage], 1e-9))
    return Judgement(late, worst)


def late_share(given: float, need: Need) -> float:
    """Expected violations of one stage: 0 with what it requires, 1 where it saturates, in between in
    proportion to the headroom that is missing; beyond saturation 1 plus the share that is never carried.

    A straight line between two points that are known, not a prediction: it orders splits.
    """
    if given >= need.required or need.required <= 0:
        return 0.0
    if given >= need.saturated:
        return (need.required - given) / (need.required - need.saturated)
    return 2.0 - given / need.saturated


def moves_between(before: Split, after: Split) -> int:
    """Replicas that change their role on the way from one split to the other."""
    return sum(max(0, count - before[role]) for role, count in after.counts)


def reachable(start: Split, roles: Sequence[RoleState]) -> Iterator[Split]:
    """Splits that flips lead to from here, nearest first, without the present one.

    Replicas are exchanged between roles of one kind only, within every role's bounds, and no stage that has a
    replica is left without. The total per kind, and with it the number of accelerators, stays.
    """
    bounds = {role.name: role for role in roles}
    staged = {role.stage for role in roles if start[role.name] > 0}
    seen = {start}
    ring = [start]
    while ring and len(seen) <= SPLITS_MOST:
        following: list[Split] = []
        for split in ring:
            for giver in roles:
                for taker in roles:
                    if giver.name == taker.name or giver.kind != taker.kind:
                        continue
                    if split[giver.name] <= max(0, bounds[giver.name].minimum):
                        continue
                    if split[taker.name] >= bounds[taker.name].maximum:
                        continue
                    neighbour = split.moved(giver.name, taker.name)
                    if neighbour in seen:
                        continue
                    seen.add(neighbour)
                    following.append(neighbour)
                    if {role.stage for role in roles if neighbour[role.name] > 0} >= staged:
                        yield neighbour
        ring = following


def shrinking_stages(
    before: Split,
    after: Split,
    roles: Sequence[RoleState],
    needs: Mapping[Stage, StageNeed],
) -> set[Stage]:
    """Stages whose own or shared capacity is smaller after than before."""
    shrinking: set[Stage] = set()
    for stage, need in needs.items():
        for own in (stage, Stage.AGGREGATED):
            change = sum(
                (after[role.name] - before[role.name]) * need.worth.get(role.name, 0.0)
                for role in roles
                if role.stage is own
            )
            if change < -1e-9:
                shrinking.add(stage)
    return shrinking


def _given(split: Split, roles: Sequence[RoleState], needs: Mapping[Stage, StageNeed]) -> dict[Stage, float]:
    """Capacity of each stage, aggregated replicas divided so that both stages stand equally well."""
    own = dict.fromkeys(needs, 0.0)
    shared = dict.fromkeys(needs, 0.0)
    for stage, need in needs.items():
        for role in roles:
            capacity = split[role.name] * need.worth.get(role.name, 0.0)
            if role.stage is stage:
                own[stage] += capacity
            elif role.stage is Stage.AGGREGATED:
                shared[stage] += capacity
    if set(needs) != set(STAGES) or not any(shared.values()):
        return own
    prefill, decode = Stage.PREFILL, Stage.DECODE
    need_p, need_d = needs[prefill].need.required, needs[decode].need.required
    # (own_p + x shared_p) / need_p = (own_d + (1 - x) shared_d) / need_d, solved for x and cut to 0..1
    divisor = need_d * shared[prefill] + need_p * shared[decode]
    wanted = need_p * (own[decode] + shared[decode]) - need_d * own[prefill]
    part = min(1.0, max(0.0, wanted / divisor)) if divisor > 0 else 0.5
    return {
        prefill: own[prefill] + part * shared[prefill],
        decode: own[decode] + (1 - part) * shared[decode],
    }

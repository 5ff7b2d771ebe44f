"""A decision's reason in words and numbers, for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.api import RebalanceMode, Stage
from weft.balancing.demand import Demand
from weft.balancing.splits import Judgement, StageNeed, Terms, lead_seconds, moves_between
from weft.balancing.state import RoleState, Split, SplitInputs


def reason_of(
    inputs: SplitInputs,
    start: Split,
    best: Split,
    stay: Judgement,
    then: Judgement,
    needs: Mapping[Stage, StageNeed],
    demand: Demand,
) -> str:
    """Why the best split is gone to: what each stage needs, and what it saves."""
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
    if then.after is not None:
        parts.append(f"it is to last until the prompts that wait have been read, and then {then.after}")
    parts.append(f"mean prompt {demand.prompt_tokens:,.0f}, mean answer {demand.answer_tokens:,.0f} tokens")
    return "; ".join(parts)


def price_of(start: Split, best: Split, roles: Sequence[RoleState], terms: Terms) -> str:
    """What a replica costs on its way where it ends and another is made, in words; empty where its engine goes on."""
    takers = [role for role in roles if best[role.name] > start[role.name] and role.start_seconds]
    if not takers:
        return ""
    seconds = lead_seconds(start, best, roles, terms)
    moves = sum(
        (best[role.name] - start[role.name]) * role.accelerators_per_replica * seconds for role in takers
    )
    return (
        f"; each replica that moves is away for {seconds:,.0f} s, together {moves:,.0f} accelerator-seconds"
    )


def alternative_reason(start: Split, split: Split, judged: Judgement) -> str:
    """What a split that was not chosen would have cost and brought."""
    moves = moves_between(start, split)
    how = "stay" if moves == 0 else f"{moves} {'flip' if moves == 1 else 'flips'}"
    return f"{how}; expected violations {judged.late:.2f}; worst stage needs {judged.worst:.2f} times what it has"

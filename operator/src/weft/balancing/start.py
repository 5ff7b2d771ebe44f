"""The split before any balancing: what was decided, or what the roles ask for, within bounds and budget. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from weft.api import Decision, RebalanceMode
from weft.balancing.size import at_least
from weft.balancing.splits import accelerators
from weft.balancing.state import Finding, Split, SplitInputs


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


def starting_decision(inputs: SplitInputs, allocation: Split) -> Decision:
    """The record of a split that no load asked for, with who did."""
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

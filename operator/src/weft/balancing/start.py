"""The split before any balancing: what was decided, or what the roles ask for, within bounds and budget. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from weft.api import Decision, RebalanceMode
from weft.balancing.size import at_least
from weft.balancing.splits import accelerators
from weft.balancing.state import Finding, RoleState, Split, SplitInputs


@dataclass(frozen=True)
class Start:
    """What holds before any balancing."""

    split: Split
    finding: Finding | None = None
    """What of it cannot be as the spec asks for: said for as long as it is so."""
    left_out: int = 0
    """Replicas that the roles ask for and the budget has no room for."""
    held: bool = False
    """The roles' least does not fit: nothing is changed, as though the spec had been refused."""


def starting_split(inputs: SplitInputs) -> Start:
    """What holds before any balancing: the last decision, or what a role asks for anew, within bounds and budget."""
    anew = {role.name for role in inputs.roles if role.asks_anew}
    decided = {name: count for name, count in inputs.allocation.counts if name not in anew}
    wanted = _within_bounds(inputs, decided)
    least = Split.of({role.name: _least(role, wanted) for role in inputs.roles})
    if accelerators(least, inputs.roles) > inputs.budget_accelerators:
        return _held(inputs, least)
    split = _within_budget(inputs, wanted)
    asked = _within_bounds(inputs, {})
    if inputs.mode is not RebalanceMode.AUTO:
        split, left_out = _as_edited(inputs, wanted, split, asked)
    elif inputs.minimum_accelerators is not None:
        left_out = wanted.total - split.total
        split = at_least(inputs, split)
    else:
        fitting = _within_budget(inputs, asked)
        # Others may be more and smaller replicas, where those of the roles differ.
        left_out = 0 if split.total > fitting.total else asked.total - fitting.total
        if decided and left_out < inputs.left_out:
            split = _with_those_left_out(inputs, split, fitting)
    if not left_out:
        return Start(split, _out_of_reach(inputs, split))
    text = (
        f"{left_out} of the replicas asked for do not fit into accelerators.maximum, {inputs.budget_accelerators}:"
        " raise spec.accelerators.maximum or lower the roles' replicas"
    )
    return Start(split, Finding(False, "BudgetTooSmall", text), left_out)


def _held(inputs: SplitInputs, least: Split) -> Start:
    """Nothing changes: fewer replicas would leave a role without any, and the others then serve nobody."""
    asked = _within_bounds(inputs, {}).total
    before = inputs.allocation
    split = Split.of({role.name: before[role.name] for role in inputs.roles}) if before else before
    stays = f"{split} stays" if before else "none is made"
    text = (
        f"accelerators.maximum, {inputs.budget_accelerators}, has no room for the fewest replicas that the roles can"
        f" have, {least}, which hold {accelerators(least, inputs.roles)} accelerators: {stays} until"
        " spec.accelerators.maximum is raised or the roles ask for less"
    )
    left_out = max(0, asked - split.total)
    return Start(split, Finding(False, "BudgetTooSmall", text), left_out, held=True)


def _out_of_reach(inputs: SplitInputs, split: Split) -> Finding | None:
    least = inputs.minimum_accelerators
    if least is None or inputs.mode is not RebalanceMode.AUTO or accelerators(split, inputs.roles) >= least:
        return None
    text = (
        "the roles' maxReplicas and accelerators.maximum allow fewer than accelerators.minimum, or its schedule,"
        f" asks for, {least}: raise them, or lower it"
    )
    return Finding(False, "MinimumOutOfReach", text)


def _within_bounds(inputs: SplitInputs, decided: Mapping[str, int]) -> Split:
    """The split as decided, else as the roles ask for it, within the roles' bounds."""
    return Split.of(
        {
            role.name: min(role.maximum, max(role.minimum, decided.get(role.name, role.spec_replicas)))
            for role in inputs.roles
        }
    )


def _least(role: RoleState, wanted: Split) -> int:
    """What the budget leaves the role at least: a role that is to have replicas is not left without any."""
    return max(min(role.minimum, role.maximum), min(1, wanted[role.name]))


def _within_budget(inputs: SplitInputs, wanted: Split) -> Split:
    """The split less what the budget has no room for."""
    split = dict(wanted.counts)
    cost = {role.name: role.accelerators_per_replica for role in inputs.roles}
    least = {role.name: _least(role, wanted) for role in inputs.roles}
    while sum(split[name] * cost[name] for name in split) > inputs.budget_accelerators:
        # The largest first.
        above = [name for name in sorted(split) if split[name] > least[name] and cost[name] > 0]
        if not above:
            break
        split[max(above, key=lambda name: split[name])] -= 1
    return Split.of(split)


def _as_edited(inputs: SplitInputs, wanted: Split, split: Split, asked: Split) -> tuple[Split, int]:
    """In Paused and Recommend: the split, and how many replicas there is no room for.

    What roles asked for before is no reason to make a replica: only edits are, and those that the maximum took.
    """
    fewer = wanted.total - split.total
    if any(role.asks_anew for role in inputs.roles):
        return split, fewer
    left_out = min(inputs.left_out + fewer, max(0, asked.total - split.total))
    fitting = _within_budget(inputs, asked)
    if asked.total - fitting.total >= min(inputs.left_out, left_out):
        return split, left_out
    more = _with_those_left_out(inputs, split, fitting, left_out)
    return more, left_out - (more.total - split.total)


def _with_those_left_out(
    inputs: SplitInputs, split: Split, fitting: Split, most_replicas: int | None = None
) -> Split:
    """The split with the replicas for which there was no room and is some now: to the roles that have the smallest part
    of what they ask for; what the traffic decided meanwhile stays."""
    most = accelerators(fitting, inputs.roles)
    end = math.inf if most_replicas is None else split.total + most_replicas
    while split.total < end:
        free = [
            role
            for role in inputs.roles
            if split[role.name] < role.maximum
            and 0 < role.accelerators_per_replica <= most - accelerators(split, inputs.roles)
        ]
        if not free:
            return split
        taker = min(free, key=lambda role: (split[role.name] / max(1, role.spec_replicas), role.name))
        split = Split.of({**dict(split.counts), taker.name: split[taker.name] + 1})
    return split


def starting_decision(inputs: SplitInputs, allocation: Split) -> Decision:
    """The record of a split that no load asked for, with who did."""
    anew = sorted(
        role.name
        for role in inputs.roles
        if role.asks_anew and allocation[role.name] != inputs.allocation[role.name]
    )
    if anew and inputs.allocation:
        asked = "role" if len(anew) == 1 else "roles"
        reason = f"{inputs.mode}: what {asked} {', '.join(anew)} asked for is followed: {allocation}"
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
    elif new := [role.name for role in inputs.roles if not inputs.allocation.names(role.name)]:
        # The roles of one manifest come one after the other.
        reason = f"new: {', '.join(sorted(new))}, with the replicas asked for: {allocation}"
    else:
        reason = f"roles, their bounds or accelerators.maximum changed: {allocation}"
    return Decision(reason=reason, decision_time=inputs.now)

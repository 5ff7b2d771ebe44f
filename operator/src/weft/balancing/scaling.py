"""Existing workloads brought to the replicas that the allocation gives their roles, through /scale. Pure.

A role's number is recorded in its status (`scaleTarget`) before it is written, and any other number is somebody else's:
Weft then writes nothing there any more, until the group's mode was another than Auto.

    fewer: a victim is chosen, where the workload lets it be -> recorded -> written -> its pods are gone
    more:  the pods of whoever gives are gone -> recorded -> written

So all of a kind together never hold more than the allocation gives them, and the budget holds at any moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from weft.api import RebalanceMode, ScaleTargetStatus
from weft.balancing.observe import GroupPicture
from weft.balancing.replicas import Replica
from weft.balancing.roster import no_spare, waits_for_budget
from weft.balancing.state import Finding, Note, PodLoad, Split
from weft.balancing.steps import MarkVictim, ScaleTarget, Step
from weft.balancing.stuck import failing
from weft.balancing.targets import VICTIM_COST, Target, marked


@dataclass(frozen=True)
class Scaling:
    """What a pass does about existing workloads, and what it records of them."""

    steps: tuple[Step, ...] = ()
    records: Mapping[str, ScaleTargetStatus] = field(default_factory=dict)
    """By role; none for those whose workload cannot be read."""
    obstacle: Finding | None = None
    notes: tuple[Note, ...] = ()
    busy: bool = False

    def written(self, roles: set[str]) -> Mapping[str, ScaleTargetStatus]:
        """The records once the numbers of these roles were written: another one is then somebody else's."""
        return {
            name: record.with_changes(previous=None) if name in roles else record
            for name, record in self.records.items()
        }


def plan_targets(picture: GroupPicture, allocation: Split, creating: bool, now: datetime) -> Scaling:
    """What to do about the workloads of a group's roles, towards the recorded allocation.

    `creating`: the pass makes replicas of Weft's own; workloads then get none, so that both together stay within the
    budget.
    """
    records = {
        name: _seen(picture, name) if allocation else ScaleTargetStatus(replicas=target.replicas)
        for name, target in picture.targets.items()
    }
    if not allocation or not _follows(picture) or picture.target_problems:
        return Scaling(records=records)
    others = [name for name in sorted(records) if records[name].other_replicas is not None]
    if others:
        # A replica that is taken here would be missing where the other decides.
        return Scaling(records=records, obstacle=other_scaler(others[0], picture.targets[others[0]]))
    steps: list[Step] = []
    notes: list[Note] = []
    obstacles: list[Finding] = []
    for name in sorted(picture.targets):
        target, record = picture.targets[name], records[name]
        if record.previous is None:
            change = _wanted(picture, name, allocation, records, creating, now)
            if isinstance(change, Finding):
                obstacles.append(change)
            elif change:
                records[name] = record = ScaleTargetStatus(
                    replicas=target.replicas + change, previous=target.replicas
                )
                text = f"{target} of role {name} goes from {target.replicas} to {record.replicas} replicas"
                notes.append(Note("TargetScaled", text))
            else:
                steps += _unmark(name, target)
        elif not _still_wanted(picture, name, allocation, records):
            records[name] = ScaleTargetStatus(replicas=target.replicas)
        else:
            steps += _carry_out(picture, name, target, record)
    busy = bool(steps) or any(
        record.previous is not None or picture.held_by(name) != allocation[name]
        for name, record in records.items()
    )
    return Scaling(tuple(steps), records, obstacles[0] if obstacles else None, tuple(notes), busy)


def other_scaler(role: str, target: Target) -> Finding:
    """Said of a workload that something else scales, too."""
    return Finding(
        False,
        "OtherScaler",
        f"role {role}: something other than Weft changed the replicas of {target} (a HorizontalPodAutoscaler, KEDA,"
        " Argo CD, a person), and Weft scales none of the group's workloads any more: remove it or let it ignore"
        " spec.replicas, then set rebalance.mode of the group to Recommend and back to Auto",
    )


def able_to_scale(picture: GroupPicture, role: str, record: ScaleTargetStatus | None) -> Finding:
    """AbleToScale of a role with a scaleTargetRef."""
    if (problem := picture.target_problems.get(role)) is not None:
        return problem
    target = picture.targets[role]
    if record is not None and record.other_replicas is not None:
        return other_scaler(role, target)
    if not _follows(picture):
        mode = picture.group.spec.rebalance.mode
        return Finding(True, "ReadOnly", f"{target} is read; the mode {mode} writes nothing there")
    how = (
        "the least loaded of its pods goes first (pod-deletion-cost)"
        if target.takes_victims
        else f"which of its pods goes first is up to {target.resource.kind}"
    )
    return Finding(True, "Followed", f"{target} gets the replicas that the allocation gives the role; {how}")


def _follows(picture: GroupPicture) -> bool:
    return picture.group.spec.rebalance.mode is RebalanceMode.AUTO


def _seen(picture: GroupPicture, name: str) -> ScaleTargetStatus:
    """What is known of a workload's number now that it was read."""
    target, record = picture.targets[name], picture.roles[name].status.scale_target
    now = ScaleTargetStatus(replicas=target.replicas)
    if record is None or not _follows(picture):
        return now
    if record.other_replicas is not None:
        return record
    if target.replicas == record.replicas:
        return now
    if target.replicas == record.previous:
        return record
    return ScaleTargetStatus(replicas=record.replicas, other_replicas=target.replicas)


def _wanted(
    picture: GroupPicture,
    name: str,
    allocation: Split,
    records: Mapping[str, ScaleTargetStatus],
    creating: bool,
    now: datetime,
) -> int | Finding:
    """By how much to change the number now; zero: not at all, or not yet."""
    target, kind = picture.targets[name], picture.kinds[name]
    members = [one for one in picture.targets if picture.kinds[one] == kind]
    total = sum(allocation[one] for one in members)
    if target.replicas > allocation[name]:
        # As many at a time as transfers that drain first: a quarter. What does not serve costs nothing.
        coming = sum(
            max(0, allocation[one] - picture.targets[one].serving) for one in members if one != name
        ) - sum(max(0, picture.targets[one].replicas - allocation[one]) for one in members)
        room = max(0, max(1, total // 4) - max(0, coming))
        fewer = min(target.replicas - allocation[name], max(room, _idle(target)))
        if fewer and not _can_spare(picture, name, fewer):
            return no_spare(name, target.pods)
        return -fewer
    if target.replicas == allocation[name] or creating or _hangs(target, now):
        return 0
    held = sum(max(picture.held_by(one), records[one].replicas) for one in members)
    more = min(allocation[name] - target.replicas, total - held)
    if more <= 0:
        return 0
    cost = picture.roles[name].spec.accelerators_counted
    free = _free_accelerators(picture, records)
    if cost and free < cost:
        return waits_for_budget(picture.group.spec.accelerators.maximum)
    return min(more, free // cost) if cost else more


def _hangs(target: Target, now: datetime) -> bool:
    """Whether a replica that it got before has no pod yet, or one that does not come up: the next would not either."""
    return len(target.pods) < target.replicas or any(failing(one, now) for one in target.pods)


def _free_accelerators(picture: GroupPicture, records: Mapping[str, ScaleTargetStatus]) -> int:
    used = sum(one.accelerators for one in picture.replicas)
    for name, record in records.items():
        cost = picture.roles[name].spec.accelerators_counted
        used += cost * max(picture.held_by(name), record.replicas)
    return picture.group.spec.accelerators.maximum - used


def _still_wanted(
    picture: GroupPicture, name: str, allocation: Split, records: Mapping[str, ScaleTargetStatus]
) -> bool:
    """Whether a number that was recorded and not written yet still leads where the allocation is."""
    record = records[name]
    assert record.previous is not None
    if record.replicas < record.previous:
        return record.replicas >= allocation[name] and _can_spare(
            picture, name, record.previous - record.replicas
        )
    # What is recorded counts as held.
    return record.replicas <= allocation[name] and _free_accelerators(picture, records) >= 0


def _can_spare(picture: GroupPicture, name: str, fewer: int) -> bool:
    """Whether the role keeps its minimum of serving replicas, whichever of its pods go."""
    target, least = picture.targets[name], max(1, picture.roles[name].spec.min_replicas)
    return target.serving - max(0, fewer - _idle(target)) >= least


def _idle(target: Target) -> int:
    """Pods that do not serve and are sure to be the first to go."""
    if not target.takes_victims:
        return 0
    return sum(not one.ready and not one.pod_deleting for one in target.pods)


def _carry_out(picture: GroupPicture, name: str, target: Target, record: ScaleTargetStatus) -> list[Step]:
    assert record.previous is not None
    fewer = record.previous - record.replicas
    if fewer > 0 and target.takes_victims:
        steps = _marks(picture, name, target, fewer - _idle(target))
        if steps:
            return steps
    return [ScaleTarget(name, "the allocation gives the role another number", record.replicas)]


def _marks(picture: GroupPicture, name: str, target: Target, fewer: int) -> list[Step]:
    """What is still to be marked, so that the least loaded pods go."""
    serving = [one for one in target.pods if one.serving]
    lacking = max(0, fewer) - sum(marked(one) for one in serving)
    loads = picture.reading.loads
    rest = sorted(
        (one for one in serving if not marked(one)), key=lambda one: (_work(loads.get(one.name)), one.name)
    )
    reason = "is the least loaded of its role"
    return [MarkVictim(name, reason, one.name, VICTIM_COST) for one in rest[: max(0, lacking)]]


def _unmark(name: str, target: Target) -> list[Step]:
    """Of pods that were to go and do not; while there are more pods than are wanted, one of them may still go."""
    staying: list[Replica] = [one for one in target.pods if not one.pod_deleting]
    if len(staying) > target.replicas:
        return []
    return [MarkVictim(name, "stays", one.name, None) for one in staying if marked(one)]


def _work(load: PodLoad | None) -> float:
    return load.running + load.waiting if load is not None else 0.0

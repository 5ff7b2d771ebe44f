"""Everything that is decided in one pass over a group, as one value. Pure.

What is decided is recorded in the group's status at the end of the pass and carried out by later ones, so that a
restart at any point finds the intention in etcd: replicas follow `status.allocation`, flips `status.transfers`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from weft.api import Decision, RebalanceMode, Transfer, TransferStep
from weft.api.inference import MoveReason
from weft.api.names import FINALIZER
from weft.balancing import conditions, domain, removal
from weft.balancing.inputs import split_inputs
from weft.balancing.load import GroupLoad, group_load
from weft.balancing.observe import GroupPicture
from weft.balancing.plan import SplitPlan, plan_split
from weft.balancing.replicas import Replica
from weft.balancing.roster import Roster, plan_roster
from weft.balancing.scaling import Scaling, plan_targets
from weft.balancing.sent_late import router_keeps_sending
from weft.balancing.stages import is_planned
from weft.balancing.state import Finding, Note, Split
from weft.balancing.steps import (
    AddFinalizer,
    CreateNode,
    DropFinalizer,
    EnterRouter,
    GateReason,
    LeaveRouter,
    Step,
)
from weft.balancing.stuck import short_of_pods, stuck
from weft.balancing.transfers import Carried, called_back, carry_on, choose, hangs
from weft.balancing.windows import SUSPENDED, Permit, permit, started, within
from weft.controllers import Now


@dataclass(frozen=True)
class GroupDecision:
    """What a pass does, and what it records."""

    steps: tuple[Step, ...] = ()
    """In the order in which they are taken; none waits for another's success."""
    refused: tuple[Step, ...] = ()
    """Those that would be taken, but that the API server refused too recently."""
    plan: SplitPlan | None = None
    """The allocation that holds from now on; None where nothing is recorded but what the group waits for."""
    transfers: tuple[Transfer, ...] = ()
    """Those to record: the open ones, then those that start."""
    started: tuple[Transfer, ...] = ()
    balanced: Finding | None = None
    load: GroupLoad | None = None
    scaling: Scaling = field(default_factory=Scaling)
    """What is recorded of existing workloads."""
    notes: tuple[Note, ...] = ()
    """What happened to transfers, and to existing workloads."""
    busy: bool = False
    """Something is being made, moved or removed: look again soon."""


def decide(picture: GroupPicture, now: Now) -> GroupDecision:
    """The next steps of a group, and what its status is to record."""
    group = picture.group
    name = group.metadata.name
    if group.metadata.deletion_timestamp is not None:
        return _after_refusals(_dissolve(picture, now), picture, now)
    if FINALIZER not in group.metadata.finalizers:
        step = AddFinalizer(name, "before its first replica: the group must not vanish while one runs")
        return _after_refusals(GroupDecision(steps=(step,)), picture, now)
    carried = [carry_on(transfer, picture, now.wall) for transfer in group.status.transfers]
    still = tuple(one.transfer for one in carried if not one.over)
    of_transfers = [step for one in carried for step in (one.check, one.step) if step is not None]
    recorded = Split.read(group.status.allocation)
    keeps_sending = router_keeps_sending(picture.sent_late)
    allowed = permit(group.spec, now.wall, keeps_sending)
    roster = Roster()
    steps: list[Step] = [*of_transfers]
    if recorded:
        forward = {one.replica: one.to for one in still if one.step is not TransferStep.ROLLING_BACK}
        roster = plan_roster(picture, recorded, forward, now.wall, allowed.held.get(MoveReason.ROLLOUT))
        if any(isinstance(step, CreateNode) for step in roster.create):
            # The domain is recorded first: a restart in between must not make some of them for another.
            waits = SUSPENDED if allowed.suspended else picture.no_domain
            if waits is not None or picture.domain != group.domain:
                kept = tuple(step for step in roster.create if not isinstance(step, CreateNode))
                roster = replace(roster, create=kept, obstacle=waits)
        # The end of a replica goes before what its transfer would do with it.
        steps = [step for step in of_transfers if step.replica not in roster.ending]
        steps += _follow(picture, roster, still, now)
    scaling = plan_targets(picture, recorded, creating=bool(roster.create), now=now.wall)
    steps += scaling.steps
    plan, load = _split(picture, carried, recorded, bool(roster.remove), allowed, now)
    still, turned = called_back(plan.allocation, picture, still)
    chosen, obstacle = choose(plan.allocation, picture, still, now.wall)
    begun, closed = started(allowed, chosen, len(still))
    transfers = (*still, *begun)
    hardware = conditions.waiting_for_hardware(picture.replicas, domain.words(picture))
    if hardware is not None and roster.turn is not None:
        hardware = replace(hardware, message=f"{hardware.message}; {roster.turn.message}")
    obstacles = (
        keeps_sending,
        plan.obstacle,
        picture.schedule_problem,
        roster.obstacle,
        obstacle,
        closed,
        scaling.obstacle,
        conditions.too_many_roles(picture.too_many),
        picture.no_domain,
        hardware,
        stuck((*picture.running, *picture.between), now.wall),
        short_of_pods(picture.targets, picture.decided_at, now.wall),
        domain.without_node(picture),
        roster.turn,
    )
    said = domain.chosen(picture)
    decision = GroupDecision(
        steps=tuple(steps),
        plan=plan,
        transfers=transfers,
        started=begun,
        balanced=conditions.balanced(
            transfers,
            frozenset(one.replica for one in transfers if hangs(one, picture, now.wall)),
            plan.allocation,
            picture.roles,
            picture.running,
            obstacles,
        ),
        load=load,
        scaling=scaling,
        notes=(
            *(one.note for one in carried if one.note is not None),
            *turned,
            *scaling.notes,
            *((said,) if said is not None else ()),
        ),
        busy=bool(transfers or roster.remove or scaling.busy),
    )
    return _after_refusals(decision, picture, now)


def _dissolve(picture: GroupPicture, now: Now) -> GroupDecision:
    """Take all replicas away, then let the group go."""
    if not picture.replicas:
        return GroupDecision(steps=(DropFinalizer(picture.group.metadata.name, "nothing of it is left"),))
    steps = (removal.next_step(one, picture, now.wall) for one in picture.replicas)
    return GroupDecision(steps=tuple(step for step in steps if step is not None), busy=True)


def _follow(picture: GroupPicture, roster: Roster, transfers: Iterable[Transfer], now: Now) -> list[Step]:
    """Let the replicas follow the recorded allocation."""
    moving = {one.replica for one in transfers}
    steps = list(roster.create)
    steps += [
        EnterRouter(one.name, "takes requests")
        for one in picture.replicas
        if one.name not in moving and one.name not in roster.remove and _belongs_in(one)
    ]
    steps += roster.repair
    for name in roster.remove:
        leaving = picture.replica(name)
        step = removal.next_step(leaving, picture, now.wall) if leaving is not None else None
        if isinstance(step, LeaveRouter):
            step = replace(step, checked_for=roster.rolled.get(name, ""))
        if step is not None:
            steps.append(step)
    return steps


def _belongs_in(replica: Replica) -> bool:
    """Whether a replica is out of the router although nobody wants it out."""
    return (
        replica.has_pod
        and replica.pod_running
        and not replica.pod_deleting
        and replica.gate is not True
        and replica.gate_reason != GateReason.REMOVING
    )


def _split(
    picture: GroupPicture, carried: list[Carried], recorded: Split, removing: bool, allowed: Permit, now: Now
) -> tuple[SplitPlan, GroupLoad | None]:
    """The split that holds from now on, and the load that it was decided for.

    A transfer that was rolled back takes its part of the decision with it.

    What cannot be finished holds no other decision: a replica that has changed its role and does not become ready, or a
    role that has none to spare for what was decided.
    """
    group = picture.group
    allocation = recorded
    decided_at = picture.decided_at
    back: Decision | None = None
    returned = [one.transfer for one in carried if one.returned]
    if returned and group.spec.rebalance.mode is RebalanceMode.AUTO:
        for transfer in returned:
            allocation = allocation.moved(transfer.to, transfer.from_)
        names = ", ".join(transfer.replica for transfer in returned)
        text = f"{names} could not change its role: {allocation} holds"
        back, decided_at = Decision(reason=text, decision_time=now.wall), now.wall
    still = [one.transfer for one in carried if not one.over and not hangs(one.transfer, picture, now.wall)]
    counts = {
        name: sum(one.role == name and one.has_pod for one in picture.replicas)
        for name, role in picture.roles.items()
        if is_planned(role.spec.stage)
    }
    # What a workload was told is done: how long its pods take to end is no reason to decide nothing.
    counts |= {name: target.replicas for name, target in picture.targets.items()}
    under_way = removing and any(counts[name] > allocation[name] for name in counts)
    settled = not still and not under_way
    forward = [one for one in still if one.step is not TransferStep.ROLLING_BACK]
    moving = tuple((one.from_, one.to) for one in forward) if len(forward) == len(still) else ()
    load: GroupLoad | None = None
    without = sorted(picture.all_roles.keys() - picture.roles.keys())
    if without and allocation:
        # Nothing is decided without some of the roles: what the others have would be divided anew.
        missing = conditions.template_missing(without[0])
        plan = SplitPlan(allocation, obstacle=missing, left_out=group.status.left_out_replicas or 0)
    elif picture.target_problems:
        name = min(picture.target_problems)
        problem = picture.target_problems[name]
        text = f"role {name}: {problem.message}"
        told = replace(problem, message=text)
        plan = SplitPlan(allocation, obstacle=told, left_out=group.status.left_out_replicas or 0)
    else:
        inputs = split_inputs(picture, allocation, decided_at, settled, moving, now.wall)
        load = group_load(inputs)
        planned = plan_split(inputs)
        plan = within(allowed, planned, allocation, group.spec.rebalance.mode)
        if plan.allocation != planned.allocation:
            plan = replace(plan, left_out=inputs.left_out)
    plan = replace(plan, decision=back) if plan.decision is None and back is not None else plan
    return plan, load


def _after_refusals(decision: GroupDecision, picture: GroupPicture, now: Now) -> GroupDecision:
    """The decision without the steps that the API server refused too recently."""

    def too_early(step: Step) -> bool:
        known = picture.refusals.get(step.subject)
        return known is not None and known.holds(picture.version(step.subject), now.boot)

    refused = tuple(step for step in decision.steps if too_early(step))
    steps = tuple(step for step in decision.steps if step not in refused)
    return replace(decision, steps=steps, refused=refused, busy=decision.busy or bool(steps))

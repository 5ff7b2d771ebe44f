"""What a pass writes: the group's and the roles' statuses, and the events that go with them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from weft.api import Decision, RebalanceMode, Transfer, TransferStep
from weft.api.conditions import Conditions, find, with_condition
from weft.api.inference import InferenceGroupStatus
from weft.api.inference_role import InferenceRoleStatus
from weft.balancing import conditions
from weft.balancing.bodies import selector
from weft.balancing.observe import Metrics, World, split_inputs
from weft.balancing.plan import SplitPlan, plan_split
from weft.balancing.profile import Unusable
from weft.balancing.replicas import serving_in
from weft.balancing.state import Finding, Split
from weft.balancing.transfers import choose


@dataclass
class Notes:
    """What happened while a pass acted: events to send after the status, templates that were refused."""

    events: list[tuple[bool, str, str]] = field(default_factory=list)
    """(is a warning, reason, message)"""
    invalid: dict[str, Finding] = field(default_factory=dict)
    """By role."""

    def add(self, reason: str, message: str, *, warning: bool = False) -> None:
        self.events.append((warning, reason, message))


@dataclass(frozen=True)
class Carried:
    """The recorded transfers after a pass carried them on."""

    open: tuple[Transfer, ...] = ()
    returned: tuple[Transfer, ...] = ()
    """Those whose rolling back ended in this pass."""


@dataclass(frozen=True)
class Settlement:
    """What is to hold after this pass."""

    plan: SplitPlan
    transfers: tuple[Transfer, ...]
    """Open ones, then those that start."""
    started: tuple[Transfer, ...]
    balanced: Finding


def settle(
    world: World, metrics: Metrics, carried: Carried, roster_obstacle: Finding | None, now: datetime
) -> Settlement:
    """Decide the split and the transfers towards it."""
    group = world.group
    allocation = Split.read(group.status.allocation)
    decision = group.status.decision
    decided_at = decision.decision_time if decision is not None else None
    returned: Decision | None = None
    if carried.returned and group.spec.rebalance.mode is RebalanceMode.AUTO:
        for transfer in carried.returned:
            allocation = allocation.moved(transfer.to, transfer.from_)
        names = ", ".join(transfer.replica for transfer in carried.returned)
        returned = Decision(
            reason=f"{names} could not change its role: {allocation} holds", decision_time=now
        )
        decided_at = now
    counts = {name: sum(one.role == name and one.has_pod for one in world.replicas) for name in world.roles}
    settled = not carried.open and all(counts[name] <= allocation[name] for name in counts)
    forward = [one for one in carried.open if one.step is not TransferStep.ROLLING_BACK]
    moving = tuple((one.from_, one.to) for one in forward) if len(forward) == len(carried.open) else ()
    plan = plan_split(split_inputs(world, metrics, allocation, decided_at, settled, moving, now))
    if plan.decision is None and returned is not None:
        plan = replace(plan, decision=returned)
    wanted = plan.allocation
    started, obstacle = choose(
        wanted,
        world.roles,
        world.kinds,
        world.replicas,
        carried.open,
        metrics.reading.loads,
        group.spec.rebalance.cooldown_seconds,
        now,
    )
    transfers = (*carried.open, *started)
    balanced = conditions.balanced(
        transfers, wanted, world.roles, world.replicas, (plan.obstacle, roster_obstacle, obstacle)
    )
    return Settlement(plan, transfers, started, balanced)


def group_status(world: World, metrics: Metrics, settlement: Settlement, now: datetime) -> dict[str, Any]:
    """The group's whole status."""
    group, plan = world.group, settlement.plan
    found: Conditions = group.status.conditions
    for kind, finding in (
        ("Ready", conditions.ready(world.roles, world.replicas)),
        ("ObjectivesMet", conditions.objectives_met(group, metrics.reading)),
        ("MetricsFresh", conditions.metrics_fresh(metrics.reading)),
        ("Balanced", settlement.balanced),
    ):
        found = _with(found, kind, finding, group.metadata.generation, now)
    return InferenceGroupStatus(
        observed_generation=group.metadata.generation,
        allocation=plan.allocation.written(),
        transfers=settlement.transfers,
        decision=plan.decision or group.status.decision,
        conditions=found,
    ).dump()


def dissolving_status(world: World, metrics: Metrics, now: datetime) -> dict[str, Any]:
    """The status of a group that is being deleted and has replicas left: what it waits for."""
    group = world.group
    finding = conditions.removing(world.replicas, metrics.reading)
    found = _with(group.status.conditions, "Ready", finding, group.metadata.generation, now)
    return group.status.model_copy(
        update={"observed_generation": group.metadata.generation, "conditions": found}
    ).dump()


def role_statuses(
    world: World, settlement: Settlement, invalid: Mapping[str, Finding], now: datetime
) -> dict[str, dict[str, Any]]:
    """The status of each of the group's roles, by name."""
    wanted = settlement.plan.allocation
    statuses: dict[str, dict[str, Any]] = {}
    for name, role in world.all_roles.items():
        generation = role.metadata.generation
        ready = invalid.get(name) or conditions.role_ready(name, name in world.roles, wanted, world.replicas)
        found = _with(role.status.conditions, "Ready", ready, generation, now)
        profile = world.profiles.get(name)
        if isinstance(profile, Unusable):
            finding = Finding(False, "ProfileUnusable", profile.why)
        elif profile is None:
            finding = Finding(None, "NotRead", "the role has no template to run")
        else:
            finding = Finding(True, "Read", "the measured profile is usable")
        found = _with(found, "ProfileValid", finding, generation, now)
        asked = role.spec.replicas_asked
        given = wanted[name] if wanted.names(name) else asked
        if world.group.spec.rebalance.mode is RebalanceMode.AUTO and given != asked:
            text = f"Auto gives this role {given} replicas; spec.replicas ({asked}) was the starting point"
            finding = Finding(True, "Auto", text)
        else:
            finding = Finding(False, "AsAsked", "the role has the replicas that spec.replicas asks for")
        found = _with(found, "ReplicasIgnored", finding, generation, now)
        statuses[name] = InferenceRoleStatus(
            replicas=sum(one.role == name and one.has_pod for one in world.replicas),
            ready_replicas=len(serving_in(world.replicas, name)),
            selector=selector(world.group.metadata.name, name),
            conditions=found,
        ).dump()
    return statuses


def events_of(world: World, settlement: Settlement) -> list[tuple[bool, str, str]]:
    """What is new: (is a warning, reason, message)."""
    events: list[tuple[bool, str, str]] = []
    decision = settlement.plan.decision
    if decision is not None:
        recommends = world.group.spec.rebalance.mode is RebalanceMode.RECOMMEND
        events.append((False, "Recommended" if recommends else "Decided", decision.reason))
    for transfer in settlement.started:
        message = f"{transfer.replica} leaves {transfer.from_} for {transfer.to}: it drains first"
        events.append((False, "TransferStarted", message))
    before = find(world.group.status.conditions, "Balanced")
    obstacle = settlement.balanced
    refused = obstacle.status is False and obstacle.reason not in ("Moving", "Scaling")
    if refused and (before is None or before.reason != obstacle.reason):
        events.append((True, obstacle.reason, obstacle.message))
    return events


def _with(found: Conditions, kind: str, finding: Finding, generation: int, now: datetime) -> Conditions:
    return with_condition(found, kind, finding.status, finding.reason, finding.message, generation, now)

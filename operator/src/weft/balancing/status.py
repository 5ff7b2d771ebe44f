"""What a pass writes: the group's and the roles' statuses, and the events that go with them. Pure.

Each status is one draft, put together once from what was decided and from what the API server refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from weft.api import InferenceRole, RebalanceMode, Recommendation, Stage
from weft.api.conditions import Conditions, find, with_condition
from weft.api.inference_role import InferenceRoleStatus
from weft.balancing import conditions, domain, scaling
from weft.balancing.bodies import selector
from weft.balancing.decide import GroupDecision
from weft.balancing.edits import replicas_asked
from weft.balancing.observe import GroupPicture
from weft.balancing.plan import SplitPlan
from weft.balancing.refusals import Refusal
from weft.balancing.replicas import Replica
from weft.balancing.stages import is_planned
from weft.balancing.state import Finding, Note, Split
from weft.balancing.steps import Subject
from weft.cluster import Object


def group_status(
    picture: GroupPicture, decision: GroupDecision, refusals: Mapping[Subject, Refusal], now: datetime
) -> dict[str, Any] | None:
    """The group's whole status; None where there is nothing to say of it yet."""
    group, plan = picture.group, decision.plan
    findings: dict[str, Finding] = {}
    if plan is None:
        status = group.status
        if group.metadata.deletion_timestamp is not None:
            findings["Ready"] = conditions.removing(picture.replicas, picture.reading, picture.sent_late)
        elif not refusals:
            return None
        for refusal in refusals.values():
            findings["Ready"] = refusal.finding
    else:
        status = group.status.with_changes(
            allocation=plan.allocation.written(),
            left_out_replicas=plan.left_out or None,
            replicas_asked=replicas_asked(group, picture.all_roles, picture.roles, plan.allocation).written(),
            transfers=decision.transfers,
            decision=plan.decision or group.status.decision,
            recommendation=_recommendation(picture, plan),
            last_scale_time=now if _scaled_by(picture, plan) else group.status.last_scale_time,
            last_scale_up_time=now if _scaled_by(picture, plan) > 0 else group.status.last_scale_up_time,
            split=str(plan.allocation),
            domain=domain.record(picture),
        )
        findings = {
            "Ready": conditions.ready(picture, refusals, plan.allocation),
            "ObjectivesMet": conditions.objectives_met(group, picture.reading),
            "MetricsFresh": conditions.metrics_fresh(
                picture.reading, picture.windows, conditions.asleep(picture)
            ),
            "DemandEstimated": conditions.demand_estimated(picture.reading),
            "Balanced": balanced(decision, refusals),
        }
        if (to_zero := conditions.able_to_scale_to_zero(picture)) is not None:
            findings["AbleToScaleToZero"] = to_zero
        if (kv_read := conditions.kv_caches_read(picture.reading)) is not None:
            findings["KVCachesRead"] = kv_read
    found: Conditions = status.conditions
    # While metrics are not fresh nothing says that engines no longer count it.
    untold = {"AbleToScaleToZero"} if picture.reading.hold else {"AbleToScaleToZero", "KVCachesRead"}
    found = tuple(one for one in found if one.type not in untold - findings.keys())
    for kind, finding in findings.items():
        found = _with(found, kind, finding, group.metadata.generation, now)
    return status.with_changes(
        observed_generation=group.metadata.generation,
        desired_replicas=plan.allocation.total if plan is not None else 0,
        conditions=found,
        **_counts(picture, picture.running),
    ).dump()


def _scaled_by(picture: GroupPicture, plan: SplitPlan) -> int:
    """How many more replicas are decided than before; the first decision changes no size, nor one where replicas are
    composed in the place of fewer or more others."""
    before = Split.read(picture.group.status.allocation)
    exchanged = picture.recomposes and picture.group.spec.accelerators.minimum is None
    if not before or exchanged:
        return 0
    # What somebody gave a role that the planner holds says nothing of the load.
    held = [name for name, role in picture.roles.items() if not is_planned(role.spec.stage)]
    return plan.allocation.total - before.total - sum(plan.allocation[name] - before[name] for name in held)


def _recommendation(picture: GroupPicture, plan: SplitPlan) -> Recommendation | None:
    if picture.group.spec.rebalance.mode is not RebalanceMode.RECOMMEND:
        return None
    return plan.recommendation or picture.group.status.recommendation


def _counts(picture: GroupPicture, replicas: Iterable[Replica]) -> dict[str, int]:
    """How many of these replicas have a pod, one of the present template, one that takes requests."""
    with_pod = [one for one in replicas if one.has_pod]
    return {
        "replicas": len(with_pod),
        "updated_replicas": sum(
            one.revision == picture.revisions.get(one.role) and not one.misplaced for one in with_pod
        ),
        "ready_replicas": sum(one.serving for one in with_pod),
    }


def balanced(decision: GroupDecision, refusals: Mapping[Subject, Refusal]) -> Finding:
    """Balanced: what was decided, unless the API server keeps it from coming true."""
    assert decision.balanced is not None
    for subject in sorted(refusals, key=str):
        finding = refusals[subject].finding
        return Finding(False, finding.reason, f"{subject}: {finding.message}")
    return decision.balanced


def role_statuses(
    picture: GroupPicture, decision: GroupDecision, refusals: Mapping[Subject, Refusal], now: datetime
) -> dict[str, dict[str, Any]]:
    """The status of each of the group's roles, by name; none where nothing was decided."""
    if decision.plan is None:
        return {}
    wanted = decision.plan.allocation
    statuses: dict[str, dict[str, Any]] = {}
    for name, role in picture.all_roles.items():
        refusal = refusals.get(Subject("role", name))
        ready = conditions.role_ready(role, name in picture.roles, wanted, picture.running)
        findings = {
            "Ready": ready if refusal is None else refusal.finding,
            "ReplicasIgnored": conditions.replicas_ignored(
                picture.group, role, wanted, decision.plan.left_out
            ),
        }
        if role.spec.profile_ref is not None:
            findings["ProfileValid"] = conditions.profile_valid(picture.profiles.get(name))
        if role.spec.stage is Stage.ENCODE and name in picture.roles:
            findings["KeepsUp"] = conditions.keeps_up(picture, name, now)
        target, record = picture.targets.get(name), decision.scaling.records.get(name)
        if role.spec.scale_target_ref is not None:
            refused = refusals.get(Subject("target of role", name))
            able = scaling.able_to_scale(picture, name, record)
            findings["AbleToScale"] = able if refused is None else refused.finding
            record = record or role.status.scale_target
            del findings["ReplicasIgnored"]  # spec.replicas means nothing there
        found = role.status.conditions
        for kind, finding in findings.items():
            found = _with(found, kind, finding, role.metadata.generation, now)
        statuses[name] = InferenceRoleStatus(
            observed_generation=role.metadata.generation,
            desired_replicas=wanted[name],
            **_counts(picture, (one for one in picture.running if one.role == name)),
            selector=target.selector if target is not None else selector(picture.group.metadata.name, name),
            scale_target=record,
            conditions=found,
        ).dump()
    for name, role in picture.too_many.items():
        if (why := conditions.too_many_roles([name])) is not None:
            statuses[name] = _idle_role_status(role, why, now)
    return statuses


def orphaned_role_status(role: InferenceRole, now: datetime) -> dict[str, Any]:
    """The status of a role whose group does not exist."""
    group_name = role.spec.group_ref.name
    text = f"there is no InferenceGroup {group_name!r} in this namespace: create it, or delete this role"
    return _idle_role_status(role, Finding(False, "GroupNotFound", text), now)


def _idle_role_status(role: InferenceRole, finding: Finding, now: datetime) -> dict[str, Any]:
    """The status of a role that gets no replicas."""
    found = _with(role.status.conditions, "Ready", finding, role.metadata.generation, now)
    return InferenceRoleStatus(
        observed_generation=role.metadata.generation, selector=role.status.selector, conditions=found
    ).dump()


def notes(
    picture: GroupPicture, decision: GroupDecision, refusals: Mapping[Subject, Refusal]
) -> list[tuple[Object, Note]]:
    """What is new, each with the object that its Event is about."""
    group = picture.raw
    found = [(group, note) for note in decision.notes]
    plan = decision.plan
    if plan is not None and plan.decision is not None:
        found.append((group, Note(_word(picture, plan), plan.decision.reason)))
    if plan is not None and plan.recommendation is not None:
        found.append((group, Note("Recommended", plan.recommendation.reason)))
    when = "first" if picture.drains_first else "beside the new"
    for transfer in decision.started:
        text = (
            f"{transfer.replica} leaves {transfer.from_} for {transfer.to}: it ends its old requests {when}"
        )
        found.append((group, Note("TransferStarted", text)))
    for subject, refusal in refusals.items():
        before = picture.refusals.get(subject)
        if before is None or before.finding != refusal.finding:
            finding = refusal.finding
            text = f"{subject}: {finding.message}"
            found.append((group, Note(finding.reason, text, warning=True)))
            role = picture.raw_roles.get(subject.name) if "role" in subject.kind else None
            if role is not None:
                found.append((role, Note(finding.reason, finding.message, warning=True)))
    known, obstacle = find(picture.group.status.conditions, "Balanced"), decision.balanced
    stuck = (
        obstacle is not None and obstacle.status is False and obstacle.reason not in conditions.IN_PROGRESS
    )
    if stuck and obstacle is not None and (known is None or known.reason != obstacle.reason):
        found.append((group, Note(obstacle.reason, obstacle.message, warning=True)))
    unread = conditions.kv_caches_read(picture.reading) if plan is not None else None
    known = find(picture.group.status.conditions, "KVCachesRead")
    if unread is not None and unread.status is False and (known is None or known.status != "False"):
        found.append((group, Note(unread.reason, unread.message, warning=True)))
    return found


def _word(picture: GroupPicture, plan: SplitPlan) -> str:
    by = _scaled_by(picture, plan)
    return "ScaledUp" if by > 0 else "ScaledDown" if by < 0 else "Decided"


def _with(found: Conditions, kind: str, finding: Finding, generation: int, now: datetime) -> Conditions:
    return with_condition(found, kind, finding.status, finding.reason, finding.message, generation, now)

"""The controller of inference groups: observe, decide, apply, write the statuses once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from weft.api import InferenceRole
from weft.api.names import LABEL_GROUP
from weft.api.resources import (
    ENGINE_PROFILES,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    PODS,
    ResourceType,
)
from weft.balancing.apply import Outcome, apply
from weft.balancing.decide import GroupDecision, decide
from weft.balancing.domain import with_domain
from weft.balancing.drain import drains_ended
from weft.balancing.engine_calls import EngineCalls
from weft.balancing.inputs import writing_speeds
from weft.balancing.keys import GroupKey
from weft.balancing.load import GroupLoad
from weft.balancing.moments import Moments
from weft.balancing.observe import GroupPicture, observe
from weft.balancing.pace import LOOK_SECONDS, MOVING_SECONDS
from weft.balancing.plan import Expected
from weft.balancing.presets import Preset
from weft.balancing.prometheus import PrometheusSource
from weft.balancing.refusals import Refusal, refusal
from weft.balancing.replicas import Replica
from weft.balancing.status import group_status, notes, orphaned_role_status, role_statuses
from weft.balancing.steps import AddFinalizer, DropFinalizer, Subject
from weft.balancing.targets import ScaleTargetKind
from weft.cluster import Cluster, ClusterError, ConflictError, Object
from weft.controllers import Now, Watch
from weft.domains import ChooseDomain, DomainAnswer, DomainQuestion

RETRY_SECONDS = 0.2
"""After a write that lost to another one."""


class GroupController:
    """Brings InferenceGroups nearer to what they should be."""

    def __init__(
        self,
        cluster: Cluster,
        sources: Mapping[str, PrometheusSource],
        presets: Mapping[str, Preset],
        scale_kinds: Iterable[ScaleTargetKind] = (),
        engines: EngineCalls | None = None,
        choose_domain: ChooseDomain | None = None,
        drained: Callable[[str, float], None] | None = None,
    ) -> None:
        """`scale_kinds`: those that a role's scaleTargetRef may name. `engines` calls those that change by a call.
        `choose_domain`: how placement is asked for a group's domain. `drained` is told of each drain that ended: what
        it was for, and its seconds."""
        self._cluster = cluster
        self._scale_kinds = {(one.group, one.kind): one.type for one in scale_kinds}
        self._engines = engines or EngineCalls()
        self._choose_domain = choose_domain or _no_domain
        self._drained = drained
        self._sources = sources
        self._presets = presets
        self._refusals: dict[GroupKey, dict[Subject, Refusal]] = {}
        self._moments: dict[GroupKey, Moments] = {}
        self.loads: dict[GroupKey, GroupLoad] = {}
        """Of groups whose metrics were fresh at the last look."""
        self.expected: dict[GroupKey, Expected] = {}
        """Of groups of which this leader decided, or recommended, a split."""

    @property
    def watches(self) -> tuple[Watch[GroupKey], ...]:
        """A group's objects: itself, its roles with their profiles, its replicas."""
        return (
            Watch(INFERENCE_GROUPS, lambda _, group: [_key(group, group["metadata"]["name"])]),
            Watch(INFERENCE_ROLES, lambda _, role: [_key(role, role["spec"]["groupRef"]["name"])]),
            Watch(ENGINE_PROFILES, _groups_with_profile),
            Watch(LOGICAL_NODES, _group_that_owns),
            Watch(PODS, _group_in_label),
        )

    async def reconcile(self, key: GroupKey, now: Now) -> float | None:
        """Bring one group one step nearer to what it should be.

        Returns in how many seconds to look again, or None when the group is gone. Raises ClusterError when the API
        server does not answer: repeat later. What it refuses is said on the group, and tried again by itself.
        """
        raw = self._cluster.get(INFERENCE_GROUPS, key.name, key.namespace)
        if raw is None:
            self._refusals.pop(key, None)
            self._moments.pop(key, None)
            self.loads.pop(key, None)
            self.expected.pop(key, None)
            return await self._disown(key, now.wall)
        known = self._refusals.get(key, {})
        moments = self._moments.setdefault(key, Moments())
        picture = await observe(
            self._cluster,
            self._sources,
            self._presets,
            raw,
            known,
            moments,
            now,
            self._scale_kinds,
            self._engines,
        )
        present = [one.name for one in picture.replicas]
        speeds = moments.speeds.with_seen(writing_speeds(picture, now.wall), present)
        picture = await with_domain(replace(picture, own_speeds=speeds), self._choose_domain, now)
        decision = decide(picture, now)
        if decision.load is not None:
            self.loads[key] = decision.load
        else:
            self.loads.pop(key, None)

        def call(replica: Replica, stage: str) -> None:
            assert picture.role_switch is not None
            self._engines.switch(replica, stage, picture.role_switch, moments.calls)

        outcome = await apply(self._cluster, picture, decision.steps, now.wall, call)
        if self._drained is not None:
            for end, seconds in drains_ended(outcome.taken, picture.replicas, now.wall):
                self._drained(end.value, seconds)
        records = decision.scaling.written(outcome.scaled)
        decision = replace(decision, scaling=replace(decision.scaling, records=records))
        refusals = _refusals(picture, decision, outcome, now)
        self._refusals[key] = refusals
        if any(isinstance(step, DropFinalizer) for step in decision.steps) and not outcome.refused:
            return RETRY_SECONDS if outcome.conflict else None
        if not await self._write(picture, decision, refusals, now):
            return RETRY_SECONDS
        if outcome.conflict or any(isinstance(step, AddFinalizer) for step in decision.steps):
            return RETRY_SECONDS
        return MOVING_SECONDS if decision.busy else LOOK_SECONDS

    async def _write(
        self, picture: GroupPicture, decision: GroupDecision, refusals: dict[Subject, Refusal], now: Now
    ) -> bool:
        """The statuses, each at most once and only where something changed, then the events.

        A status that is refused keeps none of the others from being written. Returns whether no other write came
        between; if one did, nothing is to be said about this pass.
        """
        drafts: list[tuple[Subject, ResourceType, Object, Mapping[str, Any]]] = []
        status = group_status(picture, decision, refusals, now.wall)
        if status is not None:
            subject = Subject("status of group", picture.group.metadata.name)
            drafts.append((subject, INFERENCE_GROUPS, picture.raw, status))
        for name, one in role_statuses(picture, decision, refusals, now.wall).items():
            drafts.append((Subject("status of role", name), INFERENCE_ROLES, picture.raw_roles[name], one))
        for subject, resource, raw, draft in drafts:
            known, version = refusals.pop(subject, None), picture.version(subject)
            if known is not None and known.holds(version, now.boot):
                refusals[subject] = known
                continue
            try:
                await self._cluster.write_status(resource, raw, draft)
            except ConflictError:
                return False
            except ClusterError as error:
                if error.status == 0:
                    raise
                refusals[subject] = refusal(subject, error, known, version, now.boot)
        plan = decision.plan
        if plan is not None and plan.expected is not None and (plan.decision or plan.recommendation):
            self.expected[_key(picture.raw, picture.group.metadata.name)] = plan.expected
        for about, note in notes(picture, decision, refusals):
            kind: Literal["Normal", "Warning"] = "Warning" if note.warning else "Normal"
            self._cluster.event(about, kind, note.reason, note.message)
        return True

    async def _disown(self, key: GroupKey, now: datetime) -> float | None:
        """Tell roles that name a group which does not exist."""
        try:
            for raw in self._cluster.list(INFERENCE_ROLES, key.namespace):
                role = InferenceRole.model_validate(raw)
                if role.spec.group_ref.name == key.name and role.metadata.deletion_timestamp is None:
                    await self._cluster.write_status(INFERENCE_ROLES, raw, orphaned_role_status(role, now))
        except ConflictError:
            return RETRY_SECONDS
        return None


async def _no_domain(question: DomainQuestion, now: Now) -> DomainAnswer:
    return DomainAnswer("", "no placement runs here")


def _refusals(
    picture: GroupPicture, decision: GroupDecision, outcome: Outcome, now: Now
) -> dict[Subject, Refusal]:
    """What is refused after this pass: what was refused in it, and what it was too early to try again."""
    known = picture.refusals
    refusals = {step.subject: known[step.subject] for step in decision.refused}
    # Of statuses: until they are written.
    refusals |= {subject: one for subject, one in known.items() if subject.kind.startswith("status")}
    for subject, (step, error) in outcome.refused.items():
        refusals[subject] = refusal(step, error, known.get(subject), picture.version(subject), now.boot)
    return refusals


def _key(obj: Object, group_name: str) -> GroupKey:
    return GroupKey(obj["metadata"]["namespace"], group_name)


def _groups_with_profile(cluster: Cluster, profile: Object) -> Iterator[GroupKey]:
    name, namespace = profile["metadata"]["name"], profile["metadata"]["namespace"]
    for role in cluster.list(INFERENCE_ROLES, namespace):
        if role["spec"].get("profileRef", {}).get("name") == name:
            yield _key(role, role["spec"]["groupRef"]["name"])


def _group_that_owns(cluster: Cluster, node: Object) -> Iterator[GroupKey]:
    for owner in node["metadata"].get("ownerReferences", ()):
        if owner.get("kind") == INFERENCE_GROUPS.kind:
            yield _key(node, owner["name"])


def _group_in_label(cluster: Cluster, pod: Object) -> Iterator[GroupKey]:
    if name := pod["metadata"].get("labels", {}).get(LABEL_GROUP):
        yield _key(pod, name)

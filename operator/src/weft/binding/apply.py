"""Carries out one step of a logical node. Every step may run again after a crash at any point."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from weft.api import DeviceAttachment
from weft.api.conditions import find, is_true
from weft.api.resources import DEVICE_ATTACHMENTS, LOGICAL_NODES, NODES, PODS
from weft.binding import taints
from weft.binding.assignments import Assignments
from weft.binding.audit import Cause, reference
from weft.binding.change import was_resized
from weft.binding.claims import attachments, claim_refused, write_refused
from weft.binding.fabrics import Fabrics
from weft.binding.keys import FabricKey, LogicalNodeKey, PlacementKey
from weft.binding.objects import (
    is_deleting,
    is_quarantined,
    recent_node,
)
from weft.binding.observe import Attempt
from weft.binding.observe import Place as At
from weft.binding.plan import Assignment
from weft.binding.release import expired_facts, operation_key, release_refused
from weft.binding.session import FabricSession
from weft.binding.status import Fact, Status, bound_status, unbound_status, with_facts
from weft.binding.steps import (
    Attach,
    Claim,
    Claims,
    ClearTaint,
    CloseNode,
    Detach,
    Evict,
    Expire,
    Finish,
    GiveUp,
    Leave,
    LookAtNode,
    LookForPods,
    MarkAttached,
    OpenNode,
    Place,
    Publish,
    Quarantine,
    Reserve,
    Step,
    TurnBack,
    Verify,
    Wait,
    Withdraw,
)
from weft.binding.words import for_administrators
from weft.cluster import (
    AlreadyExistsError,
    Cluster,
    ClusterError,
    ConflictError,
    NotFoundError,
    Object,
    add_finalizer,
    drop_finalizer,
)
from weft.controllers import Enqueue, Now
from weft.fabric.errors import FabricError, InvalidRequest, OutcomeUnknown, PartialFailure

log = logging.getLogger(__name__)


@dataclass
class Pass:
    """One pass over one logical node: what it was given, and what it has done so far."""

    key: LogicalNodeKey
    now: Now
    attempts: dict[At, Attempt] = field(default_factory=dict)
    tainted: tuple[str, ...] | None = None
    """Nodes that carry the logical node, once they were looked for; None after a taint was written."""
    status: Status | None = None
    """The draft that is written at the pass's end."""
    news: list[tuple[Literal["Normal", "Warning"], str, str, Claims]] = field(default_factory=list)
    """Events (kind, reason, message, claims of devices that it is a part of the history of) that are recorded once the
    status is written."""

    def attempt(self, fabric: str, host: str) -> Attempt:
        return self.attempts.setdefault((fabric, host), Attempt())

    def forget_attempts(self, claims: Iterable[DeviceAttachment]) -> None:
        """The way leads back from here: what went wrong on the way forward is dealt with."""
        for claim in claims:
            self.attempts.pop((claim.spec.fabric, claim.spec.host), None)


@dataclass(frozen=True)
class Ended:
    """The pass is over; look again in so many seconds, or when something changes (None)."""

    again: float | None
    failed: bool = False
    """Whether a try failed that is repeated at growing intervals."""


class Actions:
    """What steps are carried out on."""

    def __init__(
        self, cluster: Cluster, fabrics: Fabrics, assignments: Assignments, enqueue: Enqueue
    ) -> None:
        self._cluster = cluster
        self._fabrics = fabrics
        self._assignments = assignments
        self._enqueue = enqueue

    async def apply(self, step: Step, run: Pass) -> Ended | None:
        """Carry out one step; None: the next one can be decided on at once.

        What a fabric manager answers, good or bad, is kept in the pass's attempts. Raises ClusterError.
        """
        match step:
            case Claim():
                await self._claim(step.assignment, run)
            case Reserve():
                await self._telling_why(self._reserve(step, run), run)
            case Verify():
                await self._verify(step, run)
            case Attach():
                await self._attach(step, run)
            case MarkAttached():
                for claim in step.claims:
                    self._session(claim.spec.fabric).evidence.attached(claim.metadata.uid)
            case Leave():
                await self._leave(step, run)
            case Quarantine():
                await self._telling_why(self._quarantine(step, run), run)
            case TurnBack():
                await self._telling_why(self._turn_back_for(step, run), run)
            case LookForPods():
                for node in sorted(step.nodes):
                    await self._cluster.refresh(PODS, step.namespace, field="spec.nodeName", value=node)
                run.attempt(step.fabric, step.host).pods_known = True
            case LookAtNode():
                await self._cluster.refresh(NODES, "", field="metadata.name", value=step.node)
                run.attempt(step.fabric, step.host).node_known = True
            case CloseNode() | OpenNode():
                await self._telling_why(self._set_draining(step, run), run)
            case Evict():
                await self._evict(step, run)
            case Detach():
                await self._detach(step, run)
            case GiveUp():
                await self._telling_why(self._give_up(step), run)
            case ClearTaint():
                run.tainted = None
                clearing = taints.clear(self._cluster, step.nodes, run.key.namespace, run.key.name)
                await self._telling_why(clearing, run)
            case Place():
                return self._place(step, run)
            case Wait():
                if step.facts:
                    self._draft_unbound(run, step.facts)
                if step.read_fabric:
                    self._enqueue(FabricKey(step.read_fabric), 0.0)
                return Ended(step.again, step.failed)
            case Withdraw():
                self._draft_unbound(run, step.facts)
                return Ended(0.0)
            case Publish():
                return self._publish(step, run)
            case Expire():
                await self._clear_own_taints(run.key)
                self._draft_unbound(run, expired_facts())
                self._assignments.withdraw(run.key)
                return Ended(step.again)
            case Finish():
                await self._telling_why(self._finish(run), run)
                return Ended(None)
        return None

    async def write(self, run: Pass) -> None:
        """Write the pass's one draft, if it differs from what is stored."""
        raw = self._raw(run)
        if run.status is None or raw is None:
            return
        await self._cluster.write_status(LOGICAL_NODES, raw, run.status)
        for kind, reason, message, claims in run.news:
            self._cluster.event(raw, kind, reason, message, (claim.metadata.name for claim in claims))

    def _raw(self, run: Pass) -> Object | None:
        return self._cluster.get(LOGICAL_NODES, run.key.name, run.key.namespace)

    def _session(self, fabric: str) -> FabricSession:
        session = self._fabrics.session(fabric)
        assert session is not None, "decided with a session, and nothing was awaited since"
        return session

    def _draft_unbound(self, run: Pass, facts: Iterable[Fact]) -> None:
        if (raw := self._raw(run)) is not None:
            run.status = unbound_status(recent_node(raw), facts, run.now.wall)

    def _event(self, run: Pass, reason: str, message: str) -> None:
        if (raw := self._raw(run)) is not None:
            self._cluster.event(raw, "Warning", reason, message)

    # Forward

    def _place(self, step: Place, run: Pass) -> Ended:
        if step.facts and (raw := self._raw(run)) is not None:
            node = recent_node(raw)
            run.status = unbound_status(node, step.facts, run.now.wall, step.queue_place, step.plan)
        if step.ask_after is not None:
            self._assignments.forget(run.key)
            self._enqueue(PlacementKey(), step.ask_after)
        return Ended(step.again)

    async def _claim(self, assignment: Assignment, run: Pass) -> None:
        """Create one attachment per device; one that is taken makes the others go again."""
        raw = self._raw(run)
        assert raw is not None
        sessions = {fabric: self._session(fabric) for fabric in assignment.fabrics}
        operation = uuid.uuid4().hex[:20]
        try:
            # All at once: no call is made before everything stands, and what is missing then is written by `Reserve`.
            kept, reserved, *created = await asyncio.gather(
                add_finalizer(self._cluster, LOGICAL_NODES, raw),
                self._reserve_early(assignment.host.node_name, run),
                *(
                    self._cluster.create(DEVICE_ATTACHMENTS, body)
                    for body in attachments(assignment, operation)
                ),
                return_exceptions=True,
            )
        finally:
            # Created or lost: what exists is known by its attachments from now on.
            self._assignments.forget(run.key)
        made = [DeviceAttachment.model_validate(item) for item in created if isinstance(item, dict)]
        for claim in made:
            sessions[claim.spec.fabric].evidence.claimed((claim.metadata.uid,))
        failures = [item for item in (*created, reserved) if isinstance(item, BaseException)]
        if any(isinstance(failure, AlreadyExistsError) for failure in failures):
            log.info("claim lost, looking for another place: %s", failures[0])
            await self._turn_back(made)
            return
        refused = [item for item in failures if isinstance(item, ClusterError) and 400 <= item.status < 600]
        if refused:
            self._assignments.refused(assignment.waiting.uid, run.now.boot)
            words = refused[0].message or f"{refused[0].status} {refused[0].reason}"
            facts = claim_refused(words, extends=bool(assignment.waiting.extends))
            if assignment.waiting.extends:
                node = recent_node(raw)
                run.status = with_facts(node, node.status.dump(), facts, run.now.wall)
            else:
                self._draft_unbound(run, facts)
            run.news.append(("Warning", *facts[0][2:], ()))
            await self.write(run)
        if isinstance(kept, BaseException):
            if isinstance(kept, ClusterError) and kept.status >= 400 and not isinstance(kept, ConflictError):
                # A logical node that cannot be held holds no devices.
                await self._turn_back(made)
            raise kept
        for failure in failures:
            # Whatever was created is found incomplete and released.
            raise failure

    async def _reserve_early(self, node: str, run: Pass) -> None:
        """Taint the Node while the attachments are created."""
        if run.tainted:
            return
        run.tainted = None
        try:
            await taints.reserve(self._cluster, node, run.key.namespace, run.key.name)
        except ClusterError as error:
            # The next step finds the Node without it, or with another's.
            log.debug("Node %s is not reserved yet: %s", node, error)

    async def _reserve(self, step: Reserve, run: Pass) -> None:
        run.tainted = None
        if (raw := self._raw(run)) is not None:
            await add_finalizer(self._cluster, LOGICAL_NODES, raw)
        await taints.clear(self._cluster, step.stale, run.key.namespace, run.key.name)
        await taints.reserve(self._cluster, step.node, run.key.namespace, run.key.name)

    async def _set_draining(self, step: CloseNode | OpenNode, run: Pass) -> None:
        key = run.key
        closes = isinstance(step, CloseNode)
        await taints.set_draining(self._cluster, step.node, key.namespace, key.name, closes)
        for attempt in run.attempts.values():
            # What came before the Node was closed may not have been seen yet.
            attempt.pods_known = False

    async def _verify(self, step: Verify, run: Pass) -> None:
        session = self._session(step.fabric)
        attempt = run.attempt(step.fabric, step.host)
        attempt.verified, attempt.reading = True, None
        try:
            attempt.reading = await session.attached(step.host, step.operations)
        except FabricError as error:
            attempt.problem = error
            return
        if attempt.called:
            session.blame.succeeded(step.expected & attempt.reading, run.now.boot)
            session.blame.failed(step.expected - attempt.reading, run.now.boot)

    async def _attach(self, step: Attach, run: Pass) -> None:
        spec = step.claims[0].spec
        session = self._session(spec.fabric)
        attempt = run.attempt(spec.fabric, spec.host)
        attempt.called, attempt.verified = True, False
        uids = {claim.spec.device: claim.metadata.uid for claim in step.claims}
        for batch in step.batches:
            key = operation_key(spec.operation, batch, spec.claim_size)
            try:
                batch_uids = frozenset(uids[device] for device in batch)
                cause = _cause(step.claims, "Claimed")
                operation = await session.attach(key, spec.host, batch, batch_uids, cause)
                if operation.failed:
                    raise PartialFailure("the manager reports failed devices", operation.failed)
            except (OutcomeUnknown, InvalidRequest) as error:
                # Perhaps one device's alone: the other batches tell.
                attempt.problem = error
            except FabricError as error:
                attempt.problem = error
                return

    def _publish(self, step: Publish, run: Pass) -> Ended:
        raw = self._raw(run)
        assert raw is not None
        node = recent_node(raw)
        run.status = bound_status(
            node,
            step.claims,
            step.node,
            step.facts,
            run.now.wall,
            step.queue_place,
            step.drain_timeout_seconds,
        )
        if step.ask_after is not None:
            self._assignments.forget(run.key)
            self._enqueue(PlacementKey(), step.ask_after)
        if was_resized(node, step.facts):
            names = ", ".join(sorted(claim.spec.device for claim in step.claims))
            run.news.append(("Normal", "Resized", f"has what spec asks for: {names}", step.claims))
        if not is_true(node.status.conditions, "Bound"):
            names = ", ".join(sorted(claim.spec.device for claim in step.claims))
            hosts = ", ".join(sorted({claim.spec.host for claim in step.claims}))
            run.news.append(
                ("Normal", "Bound", f"attached to {hosts} (Node {step.node}): {names}", step.claims)
            )
        before = find(node.status.conditions, "Ready")
        for kind, value, reason, message in step.facts:
            if kind == "Ready" and value is False and (before is None or before.reason != reason):
                run.news.append(("Warning", reason, message, ()))
        if step.ask_after is None:
            self._assignments.settled(node.metadata.uid)
        return Ended(step.again, step.failed)

    # Back

    async def _leave(self, step: Leave, run: Pass) -> None:
        """Mark the claims of devices that are to go: from now on their way leads back, also after a restart."""
        facts = [("Leaving", True, step.reason, step.message)]
        for claim in step.claims:
            raw = self._cluster.get(DEVICE_ATTACHMENTS, claim.metadata.name)
            if raw is not None and raw["metadata"]["uid"] == claim.metadata.uid:
                status = with_facts(claim, claim.status.dump(), facts, run.now.wall)
                await self._cluster.write_status(DEVICE_ATTACHMENTS, raw, status)
        if (raw := self._raw(run)) is not None:
            self._cluster.event(raw, "Normal", "Shrinking", step.message)

    async def _quarantine(self, step: Quarantine, run: Pass) -> None:
        """Mark the claims of failed devices: they stay, so that the devices are not offered again."""
        for claim in step.claims:
            raw = self._cluster.get(DEVICE_ATTACHMENTS, claim.metadata.name)
            if raw is None or is_quarantined(claim):
                continue
            session = self._session(claim.spec.fabric)
            why = for_administrators(step.failed[claim.spec.device], session.secrets)
            message = f"{why}; delete this DeviceAttachment when the device may be used again"
            facts = [("Quarantined", True, step.reason, message)]
            status = with_facts(claim, claim.status.dump(), facts, run.now.wall)
            await self._cluster.write_status(DEVICE_ATTACHMENTS, raw, status)
            # Of the manager's words nothing: events of cluster-scoped objects are in a namespace.
            text = (
                "not offered again until this DeviceAttachment is deleted; its condition Quarantined says why"
            )
            self._cluster.event(raw, "Warning", step.reason, text, (claim.metadata.name,))
        run.forget_attempts(step.claims)
        names = ", ".join(sorted(claim.spec.device for claim in step.claims))
        what = "failed to attach" if step.reason == "AttachFailed" else "failed, detached and quarantined"
        text = f"{what}: {names}; trying other devices. The DeviceAttachment says to administrators why"
        self._event(run, "DeviceFailed", text)

    async def _telling_why(self, work: Awaitable[None], run: Pass) -> None:
        """What the API server refuses is said at the logical node: nothing goes on for its owner meanwhile."""
        try:
            await work
        except ClusterError as error:
            raw = self._raw(run)
            is_refused = error.status >= 400 and not isinstance(error, ConflictError | NotFoundError)
            if is_refused and raw is not None:
                words = error.message or f"{error.status} {error.reason}"
                if "deletionTimestamp" in raw["metadata"]:
                    self._draft_unbound(run, release_refused(words))
                else:
                    facts = write_refused(words)
                    if not is_true(recent_node(raw).status.conditions, "Bound"):
                        self._draft_unbound(run, facts)
                    self._event(run, *facts[0][2:])
                await self.write(run)
            raise

    async def _turn_back_for(self, step: TurnBack, run: Pass) -> None:
        if step.reason == "PlaceLost":
            self._event(run, "PlaceLost", f"trying another place: {step.message}")
        if step.avoid:
            self._assignments.avoid(step.claims[0].spec.claim_ref.uid, step.avoid)
        if step.read_fabric:
            self._enqueue(FabricKey(step.read_fabric), 0.0)
        run.forget_attempts(step.claims)
        await self._turn_back(step.claims)

    async def _turn_back(self, claims: Iterable[DeviceAttachment]) -> None:
        await asyncio.gather(
            *(
                self._cluster.delete(DEVICE_ATTACHMENTS, claim.metadata.name, uid=claim.metadata.uid)
                for claim in claims
                if not is_deleting(claim)
            )
        )

    async def _evict(self, step: Evict, run: Pass) -> None:
        """Ask the pods to go; one that its budget keeps is asked again in the next pass."""
        attempt = run.attempt(step.fabric, step.host)
        attempt.evicted = True
        kept: list[str] = []
        for name in step.pods:
            pod = self._cluster.get(PODS, name, step.namespace)
            if pod is None or ("deletionTimestamp" in pod["metadata"]):
                continue
            uid = pod["metadata"]["uid"]
            try:
                if step.force:
                    await self._cluster.delete(PODS, name, step.namespace, uid=uid)
                else:
                    await self._cluster.evict(name, step.namespace, uid=uid)
            except ClusterError as error:
                if error.status != 429:
                    raise
                kept.append(name)
        attempt.kept = tuple(kept)

    async def _detach(self, step: Detach, run: Pass) -> None:
        spec = step.claims[0].spec
        attempt = run.attempt(spec.fabric, spec.host)
        attempt.called, attempt.verified = True, False
        try:
            cause = _cause(step.claims, step.reason)
            key = f"{spec.operation}-release"
            await self._session(spec.fabric).detach(key, spec.host, step.devices, cause)
        except FabricError as error:
            attempt.problem = error

    async def _give_up(self, step: GiveUp) -> None:
        async def one(claim: DeviceAttachment) -> None:
            raw = self._cluster.get(DEVICE_ATTACHMENTS, claim.metadata.name)
            if raw is not None and raw["metadata"]["uid"] == claim.metadata.uid:
                await drop_finalizer(self._cluster, DEVICE_ATTACHMENTS, raw)
                if is_quarantined(claim):
                    text = "its attachment was deleted by an administrator: the device is offered again"
                    self._cluster.event(raw, "Normal", "QuarantineCleared", text, (claim.metadata.name,))
            session = self._fabrics.session(claim.spec.fabric)
            if session is not None:
                session.evidence.released(claim.metadata.uid, claim.spec.device, claim.spec.host)
                session.blame.released(claim.spec.device)
                session.forget(claim.spec.operation)

        await asyncio.gather(*(one(claim) for claim in step.claims))
        # What became free may be what somebody waits for.
        self._enqueue(PlacementKey(), 0.0)

    async def _clear_own_taints(self, key: LogicalNodeKey) -> None:
        nodes = taints.carrying(self._cluster, key.namespace, key.name)
        await taints.clear(self._cluster, nodes, key.namespace, key.name)

    async def _finish(self, run: Pass) -> None:
        self._assignments.withdraw(run.key)
        await self._clear_own_taints(run.key)
        raw = self._raw(run)
        if raw is not None:
            self._assignments.settled(raw["metadata"]["uid"])
            await drop_finalizer(self._cluster, LOGICAL_NODES, raw)


def _cause(claims: Claims, why: str) -> Cause:
    """Who a call is for, as the record has it."""
    spec = claims[0].spec
    return Cause(reference(LOGICAL_NODES, spec.claim_ref.dump()), why, spec.node_name)

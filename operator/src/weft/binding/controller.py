"""Binding's reconcilers: observe, decide, carry out one direction, write the status once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import find, is_true
from weft.api.names import FINALIZER
from weft.api.resources import FABRICS, LOGICAL_NODES, NODES
from weft.binding import apply, objects, offers
from weft.binding.fabrics import Fabrics, ReadObject
from weft.binding.lifecycle import Decision, Intent, decide, expiry, is_attached, is_deleting
from weft.binding.plan import Assignment, place
from weft.binding.pools import reconcile_pools
from weft.binding.readiness import readiness
from weft.binding.session import FabricSession, Leader
from weft.binding.status import Fact, bound_status, unbound_status
from weft.cluster import Cluster, ClusterError, Object, add_finalizer, drop_finalizer
from weft.fabric.errors import (
    AuthFailed,
    Busy,
    CapacityExhausted,
    Conflict,
    FabricError,
    InvalidRequest,
    NotFound,
    RateLimited,
)
from weft.saga.engine import advance

log = logging.getLogger(__name__)

Enqueue = Callable[[str, str, str, float], None]
"""Asks for a key to be worked on: controller, namespace, name, seconds from now."""

EXPIRED: Fact = (
    "Expired",
    True,
    "TimeIsUp",
    "released after ttlSecondsAfterBound; create a new LogicalNode to bind again",
)
APART = ("Cleared", "Superseded")
"""Reasons to release claims that are no part of what the node is bound to."""

RETRY_SECONDS = 1.0
STUCK_SECONDS = 30.0


class Binding:
    """Holds what the leader knows beyond etcd: sessions with managers, and which claims are being made."""

    def __init__(
        self,
        cluster: Cluster,
        read: ReadObject,
        namespace: str,
        inventory_seconds: float,
        leader: Leader,
        enqueue: Enqueue,
    ) -> None:
        self._cluster = cluster
        self._enqueue = enqueue
        self._fabrics = Fabrics(cluster, read, namespace, inventory_seconds, leader)
        self._claiming: set[str] = set()
        self._avoid: dict[str, frozenset[str]] = {}

    async def close(self) -> None:
        await self._fabrics.close()

    async def reconcile_fabric(self, name: str) -> float | None:
        """Read a fabric's inventory, then see to what depends on it."""
        try:
            return await self._fabrics.reconcile(name)
        finally:
            self._enqueue("placement", "", "", 0)
            self._enqueue("pool", "", "", 0)
            self._wake_claimants(name)

    def _wake_claimants(self, fabric: str) -> None:
        """Ask for the nodes whose claims the fabric's picture contradicts, or that wait for it to change."""
        session = self._fabrics.session(fabric)
        if session is None or session.picture is None:
            return
        inventory = session.picture.inventory
        shown = set(inventory.attachments)
        healthy = {device.id for device in inventory.devices if device.healthy}
        for claim in objects.all_claims(self._cluster):
            if claim.spec.fabric != fabric:
                continue
            spec, ref = claim.spec, claim.spec.claim_ref
            fine = ((spec.device, spec.host) in shown) is is_attached(claim) and not is_deleting(claim)
            if fine and is_attached(claim):
                raw = self._cluster.get(LOGICAL_NODES, ref.name, ref.namespace) or {}
                conditions = raw.get("status", {}).get("conditions", [])
                ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
                fine = ready is (spec.device in healthy)
            if not fine:
                self._enqueue("logicalnode", ref.namespace, ref.name, 0)

    async def reconcile_pools(self) -> None:
        """Bring every pool's counts and conditions up to date."""
        await reconcile_pools(self._cluster, self._fabrics)

    async def place_waiting(self) -> float | None:
        """One placement pass over all waiting logical nodes."""
        if not self._fabrics.all_looked_at():
            return RETRY_SECONDS
        now = datetime.now(UTC)
        seen = offers.gather(
            self._cluster, self._fabrics.pictures(), self._avoid, frozenset(self._claiming), now
        )
        if not seen.waiting:
            return None
        placement = place(seen.waiting, seen.offers, seen.hosts, seen.quota_left)
        for assignment in placement.assignments:
            self._claiming.add(assignment.waiting.uid)
        failure: ClusterError | None = None
        try:
            for assignment in placement.assignments:
                try:
                    await self._claim(assignment)
                except ClusterError as error:
                    # One that cannot be claimed must not hold up the others.
                    failure = error
        finally:
            for assignment in placement.assignments:
                self._claiming.discard(assignment.waiting.uid)
                self._enqueue("logicalnode", assignment.waiting.namespace, assignment.waiting.name, 0)
        observed = ", ".join(
            f"Fabric {raw['metadata']['name']}"
            for raw in self._cluster.list(FABRICS)
            if raw["spec"].get("mode", "Observe") == "Observe"
        )
        messages: list[tuple[str, str, str]] = []
        for refusal in placement.refusals:
            # What had no capacity once may have some by now.
            self._avoid.pop(refusal.waiting.uid, None)
            text = refusal.message
            if refusal.reason == "NoHost" and observed:
                text = f"{text}; {observed} is only observed: set spec.mode to Manage to let Weft bind there"
            messages.append((refusal.waiting.uid, refusal.reason, text))
        nodes = {raw["metadata"]["uid"]: raw for raw in self._cluster.list(LOGICAL_NODES)}
        for uid, reason, message in messages:
            try:
                if uid in nodes:
                    await self._say(nodes[uid], reason, message)
            except ClusterError as error:
                failure = error
        if failure is not None:
            raise failure
        # More may be placeable than one pass takes; the rest waits for something to become free.
        return 0.0 if placement.assignments and len(seen.waiting) > len(placement.assignments) else None

    async def _claim(self, assignment: Assignment) -> None:
        session = self._fabrics.session(assignment.host.fabric)
        raw = self._cluster.get(LOGICAL_NODES, assignment.waiting.name, assignment.waiting.namespace)
        if (
            session is None
            or session.epoch == 0
            or raw is None
            or raw["metadata"]["uid"] != assignment.waiting.uid
        ):
            return
        if FINALIZER not in raw["metadata"].get("finalizers", []) and raw["metadata"].get(
            "deletionTimestamp"
        ):
            return
        await add_finalizer(self._cluster, LOGICAL_NODES, raw)
        try:
            await apply.claim(self._cluster, session, assignment)
        except apply.ClaimLost as error:
            log.info("claim lost, looking again: %s", error)

    async def _say(self, raw: Object, reason: str, message: str) -> None:
        """Tell a waiting logical node why."""
        node = objects.parse_node(raw)
        facts: list[Fact] = [
            ("Reserved", False, reason, message),
            ("Bound", False, reason, message),
            ("Ready", False, "NotBound", message),
        ]
        await self._cluster.write_status(LOGICAL_NODES, raw, unbound_status(node, facts, datetime.now(UTC)))

    async def reconcile_node(self, namespace: str, name: str) -> float | None:
        """Bring one logical node a step nearer to where it is going."""
        raw = self._cluster.get(LOGICAL_NODES, name, namespace)
        if raw is not None and raw["metadata"]["uid"] in self._claiming:
            return None
        node = objects.parse_node(raw) if raw is not None else None
        claims = objects.claims_of(self._cluster, namespace, name)
        decision = decide(node, claims, datetime.now(UTC))
        if decision.intent is Intent.PLACE:
            # A place that was given up: its Node is free for others, and for another try.
            await apply.clear_taint(self._cluster, namespace, name)
            self._enqueue("placement", "", "", 0)
            return None
        if decision.intent is Intent.FINISH:
            await self._finish(namespace, name, raw, decision)
            return None
        if decision.intent is Intent.RELEASE:
            return await self._release(namespace, name, raw, decision)
        assert raw is not None
        assert node is not None
        return await self._bind(raw, node, decision.claims)

    async def _finish(self, namespace: str, name: str, raw: Object | None, decision: Decision) -> None:
        await apply.clear_taint(self._cluster, namespace, name)
        raw = self._cluster.get(LOGICAL_NODES, name, namespace)
        if raw is None:
            return
        self._avoid.pop(raw["metadata"]["uid"], None)
        if decision.reason == "Expired":
            node = objects.parse_node(raw)
            facts: list[Fact] = [
                EXPIRED,
                *((kind, False, "Expired", EXPIRED[3]) for kind in ("Reserved", "Bound", "Ready")),
            ]
            status = unbound_status(node, facts, datetime.now(UTC))
            raw = await self._cluster.write_status(LOGICAL_NODES, raw, status)
            if not raw["metadata"].get("deletionTimestamp"):
                return
        await drop_finalizer(self._cluster, LOGICAL_NODES, raw)

    async def _release(
        self, namespace: str, name: str, raw: Object | None, decision: Decision
    ) -> float | None:
        """Lead the claims back, host by host (an earlier namesake's may be on another one)."""
        if raw is not None and decision.reason not in (*APART, "Deleted"):
            await self._leave_bound(raw, decision.reason)
        waits: list[str] = []
        again: float | None = None
        by_host: dict[tuple[str, str], list[DeviceAttachment]] = {}
        for claim in decision.claims:
            by_host.setdefault((claim.spec.fabric, claim.spec.host), []).append(claim)
        for (fabric, _), claims in sorted(by_host.items()):
            session = self._ready_session(fabric)
            if isinstance(session, str):
                # The direction must be stored even though the fabric cannot be reached.
                await apply.turn_back(self._cluster, claims)
                waits.append(session)
                again = RETRY_SECONDS
                continue
            users: list[str] = []
            # Nothing uses devices that were never all seen at the host.
            if decision.reason not in APART and any(is_attached(claim) for claim in claims):
                users = apply.users_of(self._cluster, namespace, name)
            try:
                progress = await advance(apply.back(self._cluster, session, claims, users))
            except FabricError as error:
                waits.append(f"fabric {fabric}: {error}")
                again = _delay(error)
                continue
            if not progress.finished and progress.waiting_for and users:
                waits.append(progress.waiting_for)
        if waits and raw is not None and decision.reason not in APART:
            raw = self._cluster.get(LOGICAL_NODES, name, namespace) or raw
            node = objects.parse_node(raw)
            facts: list[Fact] = [
                ("Bound", False, "Releasing", "; ".join(waits)),
                ("Ready", False, "Releasing", "; ".join(waits)),
            ]
            status = unbound_status(node, facts, datetime.now(UTC))
            await self._cluster.write_status(LOGICAL_NODES, raw, status)
        if not waits:
            self._enqueue("logicalnode", namespace, name, 0)
        return again if again is not None else (5.0 if waits else None)

    async def _leave_bound(self, raw: Object, reason: str) -> None:
        """Say that a node is bound no more before its first device goes; an expired one stays expired."""
        node = objects.parse_node(raw)
        if not is_true(node.status.conditions, "Bound"):
            return
        text = "its devices are being released"
        facts: list[Fact] = [("Bound", False, "Releasing", text), ("Ready", False, "Releasing", text)]
        if reason == "Expired":
            facts.append(EXPIRED)
        await self._cluster.write_status(LOGICAL_NODES, raw, unbound_status(node, facts, datetime.now(UTC)))

    async def _bind(
        self, raw: Object, node: LogicalNode, claims: tuple[DeviceAttachment, ...]
    ) -> float | None:
        fabric, host = claims[0].spec.fabric, claims[0].spec.host
        meta = node.metadata
        node_name = self._node_name(fabric, host, meta.namespace, meta.name)
        session = self._ready_session(fabric)
        if is_true(node.status.conditions, "Bound") and all(is_attached(claim) for claim in claims):
            carrier = self._cluster.get(NODES, node_name)
            if carrier is not None and not objects.logical_node_taint(carrier):
                # It registered anew, or somebody took the taint off.
                await apply.reserve_node(self._cluster, carrier, meta.namespace, meta.name)
            await self._write_bound(raw, claims, node_name)
            end = expiry(node)
            left = (end - datetime.now(UTC)).total_seconds() if end else None
            return max(0.1, left) if left is not None else None
        if isinstance(session, str):
            await self._not_bound(raw, node, "FabricNotReady", session)
            return RETRY_SECONDS
        try:
            # One pass carries out every step that can be done now, so that a bind costs one status write.
            for _ in range(4):
                progress = await advance(apply.forward(self._cluster, session, raw, claims, node_name))
                if progress.finished:
                    break
                claims = tuple(
                    claim
                    for claim in objects.claims_of(self._cluster, meta.namespace, meta.name)
                    if claim.spec.claim_ref.uid == meta.uid
                    and claim.spec.operation == claims[0].spec.operation
                )
        except apply.DevicesFailed as error:
            await apply.quarantine(self._cluster, claims, error.failed)
            text = f"failed to attach, trying other devices: {error}"
            self._cluster.event(raw, "Warning", "DeviceFailed", text)
            await apply.turn_back(
                self._cluster, [claim for claim in claims if claim.spec.device not in error.failed]
            )
            return 0.1
        except (apply.ClaimLost, Conflict, CapacityExhausted, NotFound) as error:
            if isinstance(error, CapacityExhausted):
                self._avoid[meta.uid] = self._avoid.get(meta.uid, frozenset()) | {host}
            self._cluster.event(raw, "Warning", "PlaceLost", f"trying another place: {error}")
            await apply.turn_back(self._cluster, claims)
            self._enqueue("fabric", "", fabric, 0)
            return 0.1
        except FabricError as error:
            reason = "InvalidRequest" if isinstance(error, InvalidRequest) else "Attaching"
            await self._not_bound(raw, node, reason, str(error))
            if isinstance(error, AuthFailed):
                self._enqueue("fabric", "", fabric, 0)
            return _delay(error)
        await self._write_bound(raw, claims, node_name)
        ttl = node.spec.ttl_seconds_after_bound
        return float(ttl) + 0.1 if ttl else None

    async def _write_bound(self, raw: Object, claims: tuple[DeviceAttachment, ...], node_name: str) -> None:
        """The status of a node all of whose devices were seen at its host, with what is the matter since."""
        raw = self._cluster.get(LOGICAL_NODES, raw["metadata"]["name"], raw["metadata"]["namespace"]) or raw
        node = objects.parse_node(raw)
        now = datetime.now(UTC)
        session = self._fabrics.session(claims[0].spec.fabric)
        picture = session.picture if session else None
        carrier = self._cluster.get(NODES, node_name)
        facts: list[Fact] = [
            ("Reserved", True, "Reserved", ""),
            ("Bound", True, "Bound", "every device was seen at the host"),
            readiness(node, claims, picture, node_name, carrier),
        ]
        before = find(node.status.conditions, "Bound")
        await self._cluster.write_status(
            LOGICAL_NODES, raw, bound_status(node, claims, node_name, facts, now)
        )
        if before is None or before.status != "True":
            names = ", ".join(sorted(claim.spec.device for claim in claims))
            self._cluster.event(
                raw,
                "Normal",
                "Bound",
                f"attached to {claims[0].spec.host} (Node {node_name}): {names}",
            )

    async def _not_bound(self, raw: Object, node: LogicalNode, reason: str, message: str) -> None:
        raw = self._cluster.get(LOGICAL_NODES, node.metadata.name, node.metadata.namespace) or raw
        node = objects.parse_node(raw)
        facts: list[Fact] = [
            ("Reserved", True, "Reserved", "all devices are claimed"),
            ("Bound", False, reason, message),
            ("Ready", False, "NotBound", message),
        ]
        await self._cluster.write_status(LOGICAL_NODES, raw, unbound_status(node, facts, datetime.now(UTC)))

    def _node_name(self, fabric: str, host: str, namespace: str, name: str) -> str:
        """The Node of a host; one that was taken out of the Fabric's list is known by the taint that it carries."""
        raw = self._cluster.get(FABRICS, fabric)
        hosts = raw["spec"].get("hosts", []) if raw else []
        named = next((item["nodeName"] for item in hosts if item["host"] == host), "")
        carriers = apply.carriers_of(self._cluster, namespace, name) if not named else []
        return carriers[0]["metadata"]["name"] if carriers else str(named)

    def _ready_session(self, fabric: str) -> FabricSession | str:
        """The session with a fabric, or why there is none to work with."""
        session = self._fabrics.session(fabric)
        raw = self._cluster.get(FABRICS, fabric)
        if raw is None or session is None or session.picture is None:
            return f"fabric {fabric} {'was not read yet' if raw else 'does not exist'}"
        if session.trouble:
            return f"fabric {fabric} cannot be reached: {session.trouble}"
        # The session may be older than the last edit of the Fabric.
        if not session.managed or raw["spec"].get("mode") != "Manage":
            return f"fabric {fabric} is in Observe mode: set spec.mode to Manage"
        if session.epoch == 0:
            return f"fabric {fabric}: the earlier leader is not fenced yet"
        return session


def _delay(error: FabricError) -> float:
    """How long to wait before the next try, by what went wrong."""
    if isinstance(error, RateLimited):
        return error.retry_after_seconds
    if isinstance(error, InvalidRequest | AuthFailed):
        return STUCK_SECONDS
    return 0.3 if isinstance(error, Busy) else RETRY_SECONDS

"""Sessions with the fabric managers: opened, fenced, polled, and the Fabric's status kept true."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from weft.api import Fabric
from weft.api.conditions import find
from weft.api.names import FINALIZER
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, SECRETS, ResourceType
from weft.binding.inventory import Picture, accept
from weft.binding.session import FabricSession, Leader, boottime
from weft.binding.status import Fact, fabric_status
from weft.cluster import Cluster, Object, add_finalizer, drop_finalizer
from weft.fabric.driver import Connection, open_driver
from weft.fabric.errors import AuthFailed, FabricError, RateLimited, Unsupported

log = logging.getLogger(__name__)

ACCEPT_ANNOTATION = "weft.dev/accept-inventory"
RETRY_SECONDS = 5.0

ReadObject = Callable[[ResourceType, str, str], Awaitable[Object | None]]
"""Reads one object (a Secret) from the API server: resource, name, namespace."""


class SecretMissing(Exception):
    """A Secret that the Fabric names is not there or lacks a key."""


class Fabrics:
    """All sessions of this leader."""

    def __init__(
        self, cluster: Cluster, read: ReadObject, namespace: str, poll_seconds: float, leader: Leader
    ) -> None:
        self._cluster = cluster
        self._read = read
        self._namespace = namespace
        self._poll_seconds = poll_seconds
        self._leader = leader
        self._sessions: dict[str, FabricSession] = {}
        self._looked: set[str] = set()

    def all_looked_at(self) -> bool:
        """Whether this leader has tried to read every fabric: before that, nothing can be called missing."""
        return all(raw["metadata"]["name"] in self._looked for raw in self._cluster.list(FABRICS))

    def session(self, name: str) -> FabricSession | None:
        return self._sessions.get(name)

    def pictures(self) -> dict[str, Picture]:
        """The last picture of each fabric whose manager answers: nothing new is placed at the others."""
        return {
            name: item.picture
            for name, item in self._sessions.items()
            if item.picture is not None and not item.trouble
        }

    async def close(self) -> None:
        sessions, self._sessions = list(self._sessions.values()), {}
        await asyncio.gather(*(session.driver.close() for session in sessions), return_exceptions=True)

    async def reconcile(self, name: str) -> float | None:
        """Open, fence, read; returns in how many seconds to read again."""
        raw = self._cluster.get(FABRICS, name)
        if raw is None:
            self._looked.discard(name)
            await self._forget(name)
            return None
        fabric = Fabric.model_validate(raw)
        if fabric.metadata.deletion_timestamp is not None and not self._in_use(name):
            # Without a session no more claims are made; one may have been made until now.
            await self._forget(name)
            if self._in_use(name):
                return 0.0
            await drop_finalizer(self._cluster, FABRICS, raw)
            return None
        if (
            fabric.spec.mode == "Manage"
            and FINALIZER not in fabric.metadata.finalizers
            and fabric.metadata.deletion_timestamp is None
        ):
            raw = await add_finalizer(self._cluster, FABRICS, raw)
            fabric = Fabric.model_validate(raw)
        try:
            facts, again = await self._look(fabric)
        except Exception:
            # Whatever is the matter with this fabric (the API server refuses its Secret, a driver's defect), the
            # others need not wait for it.
            self._looked.add(name)
            raise
        if facts[0][1:3] != (None, "Fencing"):
            self._looked.add(name)
        if fabric.metadata.deletion_timestamp is not None:
            facts.append(
                ("Deletable", False, "InUse", "it goes when the last DeviceAttachment on it is released")
            )
        session = self._sessions.get(name)
        # The status may have been written by nobody else, but the object may have changed while we read.
        raw = self._cluster.get(FABRICS, name) or raw
        fabric = Fabric.model_validate(raw)
        picture = session.picture if session else None
        status = fabric_status(fabric, picture, session.epoch if session else 0, facts, datetime.now(UTC))
        await self._cluster.write_status(FABRICS, raw, status)
        for kind, condition, reason, message in facts:
            before = find(fabric.status.conditions, kind)
            if condition is False and (before is None or before.reason != reason):
                self._cluster.event(raw, "Warning", reason, message)
        return again

    def _claimed(self, name: str) -> frozenset[str]:
        claims = self._cluster.list(DEVICE_ATTACHMENTS)
        return frozenset(c["spec"]["device"] for c in claims if c["spec"]["fabric"] == name)

    def _in_use(self, name: str) -> bool:
        return any(claim["spec"]["fabric"] == name for claim in self._cluster.list(DEVICE_ATTACHMENTS))

    async def _look(self, fabric: Fabric) -> tuple[list[Fact], float]:
        """One reading of the manager, as conditions."""
        name = fabric.metadata.name
        try:
            session = await self._open(fabric)
            if fabric.spec.mode == "Manage" and session.epoch == 0:
                wait = await self._fence(fabric, session)
                if wait > 0:
                    return [
                        ("Connected", None, "Fencing", "waiting until the earlier leader's calls are over")
                    ], wait
            began = await session.read_inventory(self._claimed(name))
        except LookupError as error:
            return [("Connected", False, "DriverNotFound", str(error))], 60.0
        except SecretMissing as error:
            return [("Connected", False, "SecretMissing", str(error))], RETRY_SECONDS
        except AuthFailed as error:
            # The Secret may have been rotated: the next attempt reads it again.
            self._note_trouble(name, str(error))
            await self._forget(name, keep_picture=True)
            return [("Connected", False, "AuthFailed", str(error))], RETRY_SECONDS
        except FabricError as error:
            self._note_trouble(name, str(error))
            message = f"{error}; the last known picture is kept"
            pause = error.retry_after_seconds if isinstance(error, RateLimited) else 0.0
            return [("Connected", False, "Unreachable", message)], max(pause, RETRY_SECONDS)
        known = session.picture.inventory if session.picture else None
        declared = fabric.metadata.annotations.get(ACCEPT_ANNOTATION, "")
        accepted = int(declared) if declared.isdigit() else None
        picture = accept(known, fabric.status.devices or 0, session.reading, accepted)
        session.take(picture, began)
        session.trouble = ""
        facts: list[Fact] = [("Connected", True, "Connected", "the manager answers")]
        if picture.doubt:
            facts.append(("InventoryComplete", False, picture.doubt, picture.message))
        else:
            facts.append(
                ("InventoryComplete", True, "Complete", picture.message or "the last reading was whole")
            )
        facts.append(self._orphans(fabric, picture))
        return facts, self._poll_seconds

    def _note_trouble(self, name: str, message: str) -> None:
        if session := self._sessions.get(name):
            session.trouble = message

    def _orphans(self, fabric: Fabric, picture: Picture) -> Fact:
        claimed = {
            (claim["spec"]["device"], claim["spec"]["host"])
            for claim in self._cluster.list(DEVICE_ATTACHMENTS)
            if claim["spec"]["fabric"] == fabric.metadata.name
        }
        orphans = sorted(set(picture.inventory.attachments) - claimed)
        if not orphans and picture.inventory.unread:
            message = (
                "every attachment that was read is known here; not all could be read, see InventoryComplete"
            )
            return "NoOrphans", True, "NoOrphans", message
        if not orphans:
            return "NoOrphans", True, "NoOrphans", "every attachment on the fabric is known here"
        shown = ", ".join(f"{device} at {host}" for device, host in orphans[:5])
        message = (
            f"{len(orphans)} attachments without a DeviceAttachment; their devices are not offered: {shown}"
        )
        return "NoOrphans", False, "OrphansFound", message

    async def _open(self, fabric: Fabric) -> FabricSession:
        name = fabric.metadata.name
        session = self._sessions.get(name)
        if session is not None and session.uid != fabric.metadata.uid:
            await self._forget(name)
            session = None
        if session is not None and session.generation == fabric.metadata.generation:
            return session
        connection = await self._connection(fabric)
        fresh = FabricSession(
            name=name,
            uid=fabric.metadata.uid,
            generation=fabric.metadata.generation,
            endpoint=fabric.spec.endpoint,
            driver=open_driver(fabric.spec.driver, connection),
            leader=self._leader,
            request_timeout_seconds=connection.request_timeout_seconds,
            settle_seconds=fabric.spec.limits.settle_seconds,
            managed=fabric.spec.mode == "Manage",
        )
        if session is not None:
            # At another address may be another manager: it is fenced and read as if it had never been seen.
            if session.endpoint == fresh.endpoint:
                fresh.adopt(session)
            await session.driver.close()
        self._sessions[name] = fresh
        return fresh

    async def _connection(self, fabric: Fabric) -> Connection:
        spec = fabric.spec
        login: Mapping[str, str] = {}
        if spec.credentials_secret_ref is not None:
            login = await self._secret(spec.credentials_secret_ref.name, ("username", "password"))
        ca_pem = ""
        if spec.tls.ca_secret_ref is not None:
            ca_pem = (await self._secret(spec.tls.ca_secret_ref.name, ("ca.crt",)))["ca.crt"]
        # A call may start only while the lease outlasts it, so it cannot be given more time than a lease has
        # left between two renewals.
        longest = self._leader.lease_seconds * 0.6
        return Connection(
            endpoint=spec.endpoint,
            username=login.get("username", ""),
            password=login.get("password", ""),
            ca_pem=ca_pem,
            max_in_flight=spec.limits.max_in_flight,
            requests_per_second=float(spec.limits.requests_per_second),
            request_timeout_seconds=min(float(spec.limits.request_timeout_seconds), longest),
        )

    async def _secret(self, name: str, keys: tuple[str, ...]) -> dict[str, str]:
        raw = await self._read(SECRETS, name, self._namespace)
        data = (raw or {}).get("data") or {}
        for key in keys:
            if key not in data:
                raise SecretMissing(
                    f"Secret {self._namespace}/{name} with the key {key} is needed and not there"
                )
        try:
            return {key: base64.b64decode(data[key]).decode() for key in keys}
        except ValueError as error:
            raise SecretMissing(f"Secret {self._namespace}/{name} is not readable text: {error}") from error

    async def _fence(self, fabric: Fabric, session: FabricSession) -> float:
        """Make sure that no earlier leader's call can still arrive; returns how long to wait before trying again.

        The old lease is over before ours begins. A call that was under way then ends within one request timeout.
        """
        if self._leader.took_over:
            left = session.request_timeout_seconds - (boottime() - session.opened)
            if left > 0:
                return left
        try:
            await session.driver.revoke_other_sessions()
        except Unsupported:
            log.info(
                "manager cannot revoke sessions; late calls are found by reading",
                extra={"fabric": session.name},
            )
        raw = self._cluster.get(FABRICS, session.name)
        if raw is None:
            return RETRY_SECONDS
        epoch = int(raw.get("status", {}).get("epoch", 0)) + 1
        await self._cluster.write_status(FABRICS, raw, {**raw.get("status", {}), "epoch": epoch})
        session.epoch = epoch
        return 0.0

    async def _forget(self, name: str, *, keep_picture: bool = False) -> None:
        session = self._sessions.get(name)
        if session is None:
            return
        await session.driver.close()
        if keep_picture:
            session.generation = -1
        else:
            del self._sessions[name]

"""Sessions with the fabric managers: opened, fenced, closed."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from weft.api import Fabric
from weft.api.quantity import parse_bytes
from weft.api.resources import FABRICS, NAMESPACES, SECRETS, ResourceType
from weft.binding.audit import Audit
from weft.binding.inventory import Picture
from weft.binding.session import FabricSession, Leader
from weft.cluster import Cluster, ClusterError, Object
from weft.controllers import Now
from weft.fabric.driver import Connection, DeviceKind
from weft.fabric.errors import Unsupported
from weft.fabric.installed import find_driver, open_driver

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
LOGIN, CA = ("username", "password"), ("ca.crt",)
"""Keys of the Secrets that a Fabric names."""

ReadObject = Callable[[ResourceType, str, str], Awaitable[Object | None]]
"""Reads one object (a Secret) from the API server: resource, name, namespace."""


class SecretMissing(Exception):
    """A Secret that the Fabric names is not there or lacks a key."""


class Fabrics:
    """All sessions of this leader."""

    def __init__(
        self,
        cluster: Cluster,
        read: ReadObject,
        namespace: str,
        leader: Leader,
        audit: Audit | None = None,
        called: Callable[[str, str, str, float], None] | None = None,
        requested: Callable[[str, str, int], None] | None = None,
    ) -> None:
        """`called` and `requested` are told of drivers' calls and requests, the fabric's name first."""
        self._cluster = cluster
        self._read = read
        self._namespace = namespace
        self._leader = leader
        self._audit = audit or Audit(cluster.event)
        self._called, self._requested = called, requested
        self._sessions: dict[str, FabricSession] = {}
        self.looked: set[str] = set()
        """Fabrics that this leader has tried to read."""

    @property
    def sessions(self) -> Mapping[str, FabricSession]:
        return self._sessions

    def all_looked_at(self) -> bool:
        """Whether this leader has tried to read every fabric: before that, nothing can be called missing."""
        return all(raw["metadata"]["name"] in self.looked for raw in self._cluster.list(FABRICS))

    def session(self, name: str) -> FabricSession | None:
        return self._sessions.get(name)

    def pictures(self) -> dict[str, Picture]:
        """The last picture of each fabric whose manager answers: nothing new is placed at the others."""
        return {
            name: picture
            for name, item in self._sessions.items()
            if (picture := item.picture) is not None and not item.trouble
        }

    def last_pictures(self) -> dict[str, Picture]:
        """The last picture of each fabric, also of those that cannot be read now."""
        return {
            name: picture for name, item in self._sessions.items() if (picture := item.picture) is not None
        }

    async def close(self) -> None:
        self._audit.close()
        sessions, self._sessions = list(self._sessions.values()), {}
        await asyncio.gather(*(session.driver.close() for session in sessions), return_exceptions=True)

    def is_open(self, fabric: Fabric) -> bool:
        """Whether there is a session as the Fabric asks for, which needs no fencing."""
        session = self._sessions.get(fabric.metadata.name)
        return (
            session is not None
            and (session.uid, session.generation) == (fabric.metadata.uid, fabric.metadata.generation)
            and (session.epoch > 0 or not session.managed)
        )

    async def open(self, fabric: Fabric, now: Now) -> FabricSession:
        """The session as the Fabric asks for. Raises LookupError, SecretMissing, FabricError."""
        name = fabric.metadata.name
        session = self._sessions.get(name)
        if session is not None and session.uid != fabric.metadata.uid:
            await self.forget(name)
            session = None
        if session is not None and session.generation == fabric.metadata.generation:
            return session
        connection = await self._connection(fabric)
        if self._requested is not None:
            connection = replace(connection, requested=partial(self._requested, name))
        fresh = FabricSession(
            name=name,
            uid=fabric.metadata.uid,
            generation=fabric.metadata.generation,
            endpoint=fabric.spec.endpoint,
            driver=open_driver(
                fabric.spec.driver, connection, partial(self._called, name) if self._called else None
            ),
            leader=self._leader,
            request_timeout_seconds=connection.request_timeout_seconds,
            settle_seconds=fabric.spec.limits.settle_seconds,
            opened=now.boot,
            managed=fabric.spec.mode == "Manage",
            audit=self._audit,
            secrets=(connection.password,),
        )
        if session is not None:
            # At another address may be another manager: it is fenced and read as if it had never been seen.
            if session.endpoint == fresh.endpoint:
                fresh.adopt(session)
            await session.driver.close()
        self._sessions[name] = fresh
        return fresh

    async def lacking(self, fabric: Fabric) -> tuple[str, ...]:
        """What a Fabric names and is not there, so that it could not be read. Opens nothing."""
        spec, told = fabric.spec, list[str]()
        try:
            find_driver(spec.driver)
        except LookupError as error:
            told.append(str(error))
        for ref, keys in ((spec.credentials_secret_ref, LOGIN), (spec.tls.ca_secret_ref, CA)):
            try:
                if ref is not None:
                    await self._secret(ref.name, keys)
            except (SecretMissing, ClusterError) as error:
                told.append(str(error))
        return tuple(told)

    async def _connection(self, fabric: Fabric) -> Connection:
        spec = fabric.spec
        login: Mapping[str, str] = {}
        if spec.credentials_secret_ref is not None:
            login = await self._secret(spec.credentials_secret_ref.name, LOGIN)
        ca_pem = ""
        if spec.tls.ca_secret_ref is not None:
            ca_pem = (await self._secret(spec.tls.ca_secret_ref.name, CA))["ca.crt"]
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
            owner=self._owner(),
            part_bytes={
                kind: parse_bytes(size)
                for kind, size in (
                    (DeviceKind.MEMORY, spec.carve.memory),
                    (DeviceKind.STORAGE, spec.carve.storage),
                )
                if size is not None
            },
        )

    def _owner(self) -> str:
        """This cluster's mark: its kube-system namespace lives as long as it does, and no other's has the same UID."""
        raw = self._cluster.get(NAMESPACES, "kube-system")
        return str(raw["metadata"]["uid"]).replace("-", "").lower()[:12] if raw is not None else ""

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

    async def fence(self, session: FabricSession, now: Now) -> float:
        """Make sure that no earlier leader's call can still arrive; returns how long to wait before trying again.

        The old lease is over before ours begins. A call that was under way then ends within one request timeout.
        """
        if self._leader.took_over:
            left = session.request_timeout_seconds - (now.boot - session.opened)
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

    async def forget(self, name: str, *, keep_picture: bool = False) -> None:
        """Close a session; with `keep_picture` it is opened anew the next time and goes on from what is known."""
        session = self._sessions.get(name)
        if session is None:
            return
        await session.driver.close()
        if keep_picture:
            session.generation = -1
        else:
            del self._sessions[name]

"""The cluster as reconcilers see it: reads from the cache, writes through the client and back into the cache."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from weft.api.names import DEVICES
from weft.api.resources import EVENTS, PODS, SCALE, ResourceType
from weft.cluster import AlreadyExistsError, ClusterError, Index, NotFoundError, Object
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient
from weft.runtime.metrics import OperatorMetrics

log = logging.getLogger(__name__)


SERIES_SECONDS = 60.0
MOST_SERIES = 1000


@dataclass
class _Series:
    """An Event that was told more than once."""

    count: int = 1
    last: str = ""
    quiet_until: float = 0.0
    is_due: bool = False
    """Somebody waits until it may be written."""


class LiveCluster:
    """Implements `weft.cluster.Cluster`."""

    def __init__(
        self,
        client: KubeClient,
        cache: ObjectCache,
        reporter: str,
        leads: Callable[[], bool],
        metrics: OperatorMetrics,
    ) -> None:
        self._client = client
        self._leads = leads
        self._cache = cache
        self._reporter = reporter
        self._background: set[asyncio.Task[None]] = set()
        self._metrics = metrics
        self._series: dict[str, _Series] = {}
        """Of Events that were told again, by name."""

    def get(self, resource: ResourceType, name: str, namespace: str = "") -> Object | None:
        return self._cache.get(resource, name, namespace)

    def select(self, resource: ResourceType, index: Index, value: Hashable) -> list[Object]:
        return self._cache.select(resource, index, value)

    def list(self, resource: ResourceType, namespace: str | None = None) -> list[Object]:
        return self._cache.list(resource, namespace)

    def _count_write(self) -> None:
        """Before every write: a leader that was stopped beyond its lease acts no more on what it knew then."""
        if not self._leads():
            raise ClusterError(0, "NotLeader", "the lease ran out: another replica may be at work")
        self._metrics.api_writes.inc()

    async def read(
        self, resource: ResourceType, name: str, namespace: str = "", *, subresource: str = ""
    ) -> Object | None:
        """Read what is not watched (a Secret, a scale) from the API server."""
        try:
            return await self._client.get(resource, name, namespace, subresource)
        except NotFoundError:
            return None

    async def refresh(self, resource: ResourceType, namespace: str, *, field: str, value: str) -> None:
        """Ask for objects that a silent watch may have missed."""
        for found in await self._client.find(resource, namespace, f"{field}={value}"):
            self._cache.put(resource, found)

    async def create(self, resource: ResourceType, body: Object, *, dry_run: bool = False) -> Object:
        self._count_write()
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        try:
            answer = await self._client.create(resource, body, dry_run=dry_run)
        except AlreadyExistsError:
            # Whoever has the name may have been missed by the watch; decided on without it, it is tried again.
            found = await self.read(resource, body["metadata"]["name"], body["metadata"].get("namespace", ""))
            if found is not None:
                self._cache.put(resource, found)
            raise
        if not dry_run:
            self._cache.put(resource, answer)
        return answer

    async def patch(
        self,
        resource: ResourceType,
        name: str,
        namespace: str,
        body: Mapping[str, Any],
        *,
        subresource: str = "",
    ) -> Object:
        self._count_write()
        known = self._cache.get(resource, name, namespace)
        try:
            answer = await self._client.patch(resource, name, namespace, body, subresource=subresource)
        except NotFoundError:
            self._is_gone(resource, known)
            raise
        if subresource != SCALE:
            self._take(resource, answer)
        return answer

    async def write_status(
        self, resource: ResourceType, current: Object, status: Mapping[str, Any]
    ) -> Object:
        if current.get("status", {}) == status:
            return current
        self._count_write()
        answer = await self._client.replace_status(resource, {**current, "status": dict(status)})
        self._take(resource, answer)
        return answer

    async def delete(
        self,
        resource: ResourceType,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        grace_seconds: int | None = None,
    ) -> None:
        self._count_write()
        known = self._cache.get(resource, name, namespace)
        try:
            answer = await self._client.delete(
                resource, name, namespace, uid=uid, grace_seconds=grace_seconds
            )
        except NotFoundError:
            self._is_gone(resource, known)
            return
        if answer.get("kind") == resource.kind:
            self._take(resource, answer)
            return
        # A Status: nothing held the object, it is gone. A later namesake is not what was deleted.
        known = self._cache.get(resource, name, namespace)
        if known is not None and known["metadata"].get("uid") == answer.get("details", {}).get("uid"):
            self._cache.remove(resource, known)

    async def evict(self, name: str, namespace: str, *, uid: str) -> None:
        self._count_write()
        # What became of the pod its watch says.
        with contextlib.suppress(NotFoundError):
            await self._client.evict(PODS, name, namespace, uid)

    def _is_gone(self, resource: ResourceType, known: Object | None) -> None:
        """The API server no longer has what was known before it was asked; a silent watch has not said so."""
        if known is not None:
            self._cache.remove(resource, known)

    def _take(self, resource: ResourceType, answer: Object) -> None:
        """Note what a write left of an object: a pod or a custom object that was held by something may be gone."""
        metadata = answer["metadata"]
        held = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
        if metadata.get("deletionTimestamp") and not held:
            self._cache.remove(resource, answer)
        else:
            self._cache.put(resource, answer)

    def event(
        self,
        about: Object,
        kind: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        devices: Iterable[str] = (),
    ) -> None:
        self._metrics.event(about, kind, reason)
        record = self._record(about, kind, reason, message, sorted(devices))
        task = asyncio.get_running_loop().create_task(record)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _record(
        self, about: Object, kind: str, reason: str, message: str, devices: Sequence[str]
    ) -> None:
        metadata = about["metadata"]
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        # The same words about the same object are one Event: a repeat finds the name taken.
        digest = hashlib.sha256(f"{metadata.get('uid')}{reason}{message}".encode()).hexdigest()[:16]
        namespace = metadata.get("namespace") or "default"
        body: Object = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{metadata['name'][:200].rstrip('-.')}.{digest}", "namespace": namespace},
            "eventTime": now,
            "reportingController": "weft.dev/operator",
            "reportingInstance": self._reporter[:128],
            "action": reason,
            "reason": reason,
            "type": kind,
            "note": message[:1000],
            "regarding": {
                "apiVersion": about.get("apiVersion"),
                "kind": about.get("kind"),
                "name": metadata["name"],
                "namespace": metadata.get("namespace"),
                "uid": metadata.get("uid"),
            },
        }
        if devices:
            body["metadata"] |= {"labels": {DEVICES: ""}, "annotations": {DEVICES: json.dumps(devices)}}
        try:
            await self._client.create(EVENTS, body)
        except AlreadyExistsError:
            await self._repeat(body["metadata"]["name"], namespace, now)
        except ClusterError as error:
            log.warning("event not recorded: %s", error)

    async def _repeat(self, name: str, namespace: str, now: str) -> None:
        """Count an Event that was told before: at most once a minute, and the last one too."""
        if name not in self._series and len(self._series) >= MOST_SERIES:
            self._series.clear()
        series = self._series.setdefault(name, _Series())
        series.count += 1
        series.last = now
        if series.is_due:
            return
        series.is_due = True
        await asyncio.sleep(series.quiet_until - time.monotonic())
        series.is_due = False
        series.quiet_until = time.monotonic() + SERIES_SECONDS
        written = {"count": series.count, "lastObservedTime": series.last}
        try:
            await self._client.patch(EVENTS, name, namespace, {"series": written})
        except ClusterError as error:
            log.warning("event not counted: %s", error)

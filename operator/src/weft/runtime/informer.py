"""Keeps the object cache current: kopf watches, a periodic list corrects.

kopf is used for its watch streams alone (`on.event`, which stores nothing on the objects). It runs in a thread of
its own because it owns its event loop's tasks and signals; every event is handed to the operator's loop.
docs/design.md says, with figures, why its create and update handlers are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Any, cast

import kopf
import uvloop
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory
from kubernetes.aio import client as k8s

from weft.api.resources import ResourceType
from weft.cluster import ClusterError, Object
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient
from weft.runtime.history import History

log = logging.getLogger(__name__)

WORKER_SECONDS = 0.2


class Informer:
    """Watches the given resources in all namespaces."""

    def __init__(
        self,
        client: KubeClient,
        cache: ObjectCache,
        resources: tuple[ResourceType, ...],
        history: History,
    ) -> None:
        self._client = client
        self._history = history
        self._cache = cache
        self._resources = resources
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.ended = asyncio.Event()
        """Set when the watches have ended, by `stop` or because kopf gave up."""

    async def prime(self) -> None:
        """List everything once, however long the API server takes to answer."""
        while True:
            try:
                return await self._list_all()
            except ClusterError as error:
                log.warning("cannot list yet (are the CRDs installed?): %s", error)
                await asyncio.sleep(1.0)

    async def _list_all(self) -> None:
        for resource in self._resources:
            items, version = await self._client.list(resource)
            self._history.note(f"the list of {resource.plural}", version)
            self._cache.replace(resource, items, version)

    async def correct(self, every_seconds: float) -> None:
        """List everything from time to time: a watch may have ended silently or missed a deletion."""
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await self._list_all()
            except ClusterError as error:
                log.warning("periodic list failed, the cache keeps what it knows: %s", error)

    def start_watching(self, configuration: k8s.Configuration) -> None:
        """Start kopf's watches in a thread; `stop` ends it."""
        loop = asyncio.get_running_loop()
        registry = kopf.OperatorRegistry()

        def take(resource: ResourceType, kind: str | None, obj: Object) -> None:
            if kind == "DELETED":
                self._cache.remove(resource, obj)
            else:
                self._cache.put(resource, obj)

        def subscribe(resource: ResourceType) -> None:
            async def on_event(event: Any, **_: Any) -> None:
                obj: Object = dict(event["object"])
                loop.call_soon_threadsafe(take, resource, event.get("type"), obj)

            kopf.on.event(resource.group, resource.version, resource.plural, registry=registry)(on_event)

        for resource in self._resources:
            subscribe(resource)

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return await _connection(configuration)

        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.networking.error_backoffs = (1, 1, 2, 3, 5, *(10,) * 60)
        settings.watching.connect_timeout = 10
        settings.watching.server_timeout = 300
        settings.process.ultimate_exiting_timeout = None
        # Custom resources are named above; scanning the cluster for others would need more permissions.
        settings.scanning.disabled = True
        # A task waits for each object's next event for so long: of those that a list brings all at once there are many.
        settings.queueing.idle_timeout = WORKER_SECONDS
        settings.persistence.diffbase_storage = _NoDifferences()
        settings.persistence.progress_storage = _NoProgress()

        def run() -> None:
            try:
                uvloop.run(watch())
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                    loop.call_soon_threadsafe(self.ended.set)

        async def watch() -> None:
            try:
                await kopf.operator(
                    registry=registry,
                    settings=settings,
                    memories=_NoMemories(),
                    standalone=True,
                    # Or kopf makes one of the user's name, and a pod's user may have none.
                    identity=cast(Any, "weft"),
                    clusterwide=True,
                    stop_flag=self._stop,
                )
            finally:
                # A thread of kopf's waits for it, and the end of the event loop for that thread: where kopf gave up,
                # nobody would ever learn of it.
                self._stop.set()

        self._thread = threading.Thread(target=run, name="kopf", daemon=True)
        self._thread.start()

    def watching(self) -> bool:
        """Whether the watches are running."""
        return self._thread is not None and self._thread.is_alive()

    async def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5.0)


class _NoMemories(ResourceMemories):
    """Nothing is kept of an object: kopf has a record of each that it ever heard of, for handlers that may fail."""

    async def recall(self, raw_body: Any, *, ephemeral: bool = False, **more: Any) -> ResourceMemory:
        return await super().recall(raw_body, ephemeral=True, **more)


class _NoDifferences(kopf.DiffBaseStorage):
    """Nothing of an object is compared with what it was: to find out what changed, kopf copies it whole, twice."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Nothing is kept of the progress of handlers: there are none."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


async def _connection(configuration: k8s.Configuration) -> kopf.ConnectionInfo:
    header = await configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert or None,
        insecure=not configuration.verify_ssl,
        scheme=scheme if token else None,
        token=token or scheme or None,
        certificate_path=configuration.cert_file or None,
        private_key_path=configuration.key_file or None,
    )

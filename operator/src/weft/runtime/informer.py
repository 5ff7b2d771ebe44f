"""Keeps the object cache current: kopf watches, a periodic list corrects.

kopf is used for its watch streams alone: it logs in, connects, repeats what failed, and notices streams that went
silent. A stream begins where a list of Weft's own ended, so kopf lists nothing, and an event goes from the stream to
the cache without kopf's queue, task and record for each object. kopf runs in a thread of its own because it owns its
event loop's tasks and signals. docs/design.md says, with figures, why its handlers are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Any, cast

import kopf
import uvloop
from kopf._cogs.clients.errors import APIClientError, APITooManyRequestsError
from kopf._cogs.clients.watching import watch_objs
from kubernetes.aio import client as k8s

from weft.api.resources import ResourceType
from weft.cluster import ClusterError, Object
from weft.runtime.cache import ObjectCache, version
from weft.runtime.client import KubeClient
from weft.runtime.history import History

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
LISTED_ANEW = (404, 410)
"""What the API server says of a version whose events it no longer has (410), and it, or a gateway, of a resource that
is not served at the moment (404)."""


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
        self._listing = {resource: asyncio.Lock() for resource in resources}
        self._listed: dict[ResourceType, int] = {}
        """The version of each resource's last list."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.ended = asyncio.Event()
        """Set when the watches have ended, by `stop` or because kopf gave up."""

    async def prime(self) -> None:
        """List everything once, however long the API server takes to answer."""
        for resource in self._resources:
            await self._list_until_answered(resource)

    async def _list_until_answered(self, resource: ResourceType) -> int:
        while True:
            try:
                return await self._list(resource)
            except ClusterError as error:
                log.warning("cannot list yet (are the CRDs installed?) %s: %s", resource.plural, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _list(self, resource: ResourceType) -> int:
        """Compare the cache with a full list; returns the list's version."""
        # One after the other: an older answer that came last would look like an earlier state of the cluster.
        async with self._listing[resource]:
            items, at = await self._client.list(resource)
            self._history.note(f"the list of {resource.plural}", at)
            self._cache.replace(resource, items, at)
            self._listed[resource] = at
            return at

    async def correct(self, every_seconds: float) -> None:
        """List everything from time to time: a watch may have ended silently or missed a deletion."""
        while True:
            await asyncio.sleep(every_seconds)
            try:
                for resource in self._resources:
                    await self._list(resource)
            except ClusterError as error:
                log.warning("periodic list failed, the cache keeps what it knows: %s", error)

    def start_watching(self, configuration: k8s.Configuration) -> None:
        """Start kopf's watches, each from the last list on, in a thread; `stop` ends it."""
        loop = asyncio.get_running_loop()
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return await _connection(configuration)

        settings = _settings()

        async def follow_all() -> None:
            async with asyncio.TaskGroup() as following:
                for resource, since in self._listed.items():
                    following.create_task(self._follow(resource, since, settings, loop))

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
                    standalone=True,
                    # Or kopf makes one of the user's name, and a pod's user may have none.
                    identity=cast(Any, "weft"),
                    clusterwide=True,
                    stop_flag=self._stop,
                    # In place of the watches of kopf's own, for which it would list everything once more.
                    _command=follow_all(),
                )
            finally:
                # A thread of kopf's waits for it, and the end of the event loop for that thread: where kopf gave up,
                # nobody would ever learn of it.
                self._stop.set()

        self._thread = threading.Thread(target=run, name="kopf", daemon=True)
        self._thread.start()

    async def _follow(
        self,
        resource: ResourceType,
        since: int,
        settings: kopf.OperatorSettings,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Hand every event of a resource to `loop`, one stream after the other; runs in kopf's thread.

        Raises what kopf raises when it gives up, and _Refused when a stream says that something is wrong.
        """
        named = kopf.Resource(
            resource.group, resource.version, resource.plural, namespaced=resource.namespaced
        )
        never = asyncio.get_running_loop().create_future()
        while True:
            stream = watch_objs(
                settings=settings,
                resource=named,
                namespace=None,
                since=str(since),
                operator_pause_waiter=never,
            )
            try:
                async for event in stream:
                    kind, obj = event["type"], cast(Object, event["object"])
                    if kind == "ERROR":
                        raise _Refused(f"the watch of {resource.plural} says: {obj}", obj.get("code"))
                    since = version(obj)
                    if kind in ("ADDED", "MODIFIED", "DELETED"):
                        loop.call_soon_threadsafe(self._take, resource, kind, obj)
            except APITooManyRequestsError:
                # It said so as often as kopf asks. The stream goes on where it was.
                pass
            except (_Refused, APIClientError) as error:
                if error.status not in LISTED_ANEW:
                    raise
                # What happened since then, deletions too, is in a list alone.
                listing = asyncio.run_coroutine_threadsafe(self._list_until_answered(resource), loop)
                since = await asyncio.wrap_future(listing)
            except ValueError as error:
                # An event that was cut off, a gateway's page, or its Retry-After as a date: kopf reads none of them.
                log.warning("the watch of %s cannot be read, and goes on: %s", resource.plural, error)
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(settings.watching.reconnect_backoff)

    def _take(self, resource: ResourceType, kind: str, obj: Object) -> None:
        if kind == "DELETED":
            self._cache.remove(resource, obj)
        else:
            self._cache.put(resource, obj)

    def watching(self) -> bool:
        """Whether the watches are running."""
        return self._thread is not None and self._thread.is_alive()

    async def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5.0)


class _Refused(Exception):
    """A stream says that something is wrong; `status` is the code that it says."""

    def __init__(self, words: str, status: object) -> None:
        super().__init__(words)
        self.status = status


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.networking.error_backoffs = (1, 1, 2, 3, 5, *(10,) * 60)
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = 300
    settings.process.ultimate_exiting_timeout = None
    # What is watched is known; scanning the cluster for more would need more permissions.
    settings.scanning.disabled = True
    return settings


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

"""Wires the parts into one process: events to keys, keys to reconcilers, all of it only while leading."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from weft.api.names import LABEL_GROUP
from weft.api.resources import (
    CONFIG_MAPS,
    DEVICE_ATTACHMENTS,
    FABRICS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    NAMESPACES,
    NODES,
    PODS,
    POOLS,
    ResourceType,
)
from weft.balancing.controller import GroupController
from weft.balancing.keys import GroupKey
from weft.balancing.presets import with_configured
from weft.balancing.prometheus import PrometheusSource
from weft.binding.controller import Binding
from weft.cluster import ClusterError, ConflictError, Object
from weft.controllers import Now
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient, StartError, load_configuration
from weft.runtime.cluster import LiveCluster
from weft.runtime.health import HealthServer
from weft.runtime.informer import Informer
from weft.runtime.leadership import Leadership
from weft.runtime.metrics import OperatorMetrics
from weft.runtime.queue import Key, WorkQueue
from weft.runtime.settings import Settings

log = logging.getLogger(__name__)

WATCHED = (
    NAMESPACES,
    NODES,
    CONFIG_MAPS,
    FABRICS,
    *POOLS,
    DEVICE_ATTACHMENTS,
    LOGICAL_NODES,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    PODS,
)

Reconciler = Callable[[Key], Awaitable[float | None]]
"""Brings one key nearer to what is wanted; returns in how many seconds to look again, or None."""


class Operator:
    """One replica of the operator. `run` returns when it was told to stop or lost the lease."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue = WorkQueue()
        self._cache = ObjectCache()
        self._metrics = OperatorMetrics()
        self._leading = False
        self._fabrics_seen: dict[str, tuple[Any, ...]] = {}
        self._beat = time.monotonic()

    async def run(self) -> int:
        """Work until SIGTERM or SIGINT (returns 0) or until the lease or the watches are lost (returns 1)."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        settings = self._settings
        configuration = await load_configuration()
        client = KubeClient(configuration, settings.api_timeout_seconds)
        informer = Informer(client, self._cache, WATCHED)
        leadership = Leadership(client, settings.namespace, settings.identity, settings.lease_seconds)
        cluster = LiveCluster(
            client, self._cache, settings.identity, lambda: leadership.remaining_seconds() > 0
        )
        binding = Binding(
            cluster,
            cluster.read,
            settings.namespace,
            settings.inventory_seconds,
            leadership,
            self._queue_binding,
        )
        sources = {name: PrometheusSource(source) for name, source in settings.sources.items()}
        presets = with_configured(settings.presets)
        health = HealthServer(self._metrics.registry, self._live, informer.watching)
        self._metrics.queue_depth.set_function(lambda: len(self._queue))
        self._metrics.api_writes.set_function(lambda: cluster.writes)
        self._metrics.leader.set_function(lambda: float(self._leading))

        groups = GroupController(cluster, sources, presets)

        async def balance(key: Key) -> float | None:
            now = Now(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME))
            return await groups.reconcile(GroupKey(key.namespace, key.name), now)

        reconcilers: dict[str, Reconciler] = {
            "fabric": lambda key: binding.reconcile_fabric(key.name),
            "pool": lambda key: binding.reconcile_pools(),
            "placement": lambda key: binding.place_waiting(),
            "logicalnode": lambda key: binding.reconcile_node(key.namespace, key.name),
            "group": balance,
        }
        try:
            port = await health.start(settings.health_host, settings.health_port)
        except OSError as error:
            await client.close()
            raise StartError(f"health_port (WEFT_HEALTH_PORT) {settings.health_port}: {error}") from error
        log.info("serving health and metrics at %s:%d", settings.health_host, port)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._heartbeat(), name="heartbeat")]
        try:
            await self._until(self._prime(informer), stop)
            if not stop.is_set():
                informer.start_watching(configuration)
                tasks.append(asyncio.create_task(informer.correct(settings.relist_seconds), name="relist"))
                # Without watches it would be of no use as the next leader: a new process makes new ones.
                await self._until(leadership.acquire(), stop, informer.ended)
            if stop.is_set():
                return 0
            if informer.ended.is_set():
                log.error("the watches ended")
                return 1
            # Renewed from now on: the lists of a large cluster may take longer than a lease.
            lease = asyncio.create_task(leadership.keep(), name="lease")
            tasks.append(lease)
            # What another leader did since the first list must be known before the first decision.
            await self._until(self._prime(informer), stop)
            self._leading = True
            self._cache.listen(self._enqueue)
            for resource in WATCHED:
                for obj in self._cache.list(resource):
                    self._enqueue(resource, obj)
            tasks += [
                asyncio.create_task(self._work(reconcilers), name=f"worker-{n}")
                for n in range(settings.workers)
            ]
            endings: list[asyncio.Task[Any]] = [
                lease,
                asyncio.create_task(informer.ended.wait(), name="watches"),
                asyncio.create_task(stop.wait(), name="stop"),
            ]
            tasks += endings
            await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                return 0
            log.error("the watches ended" if informer.ended.is_set() else "the lease is lost")
            return 1
        finally:
            self._leading = False
            for task in tasks:
                task.cancel()
            # Workers end at their next await; what they had begun is taken up by the next leader.
            await asyncio.gather(*tasks, return_exceptions=True)
            await binding.close()
            for source in sources.values():
                await source.close()
            await leadership.release()
            await informer.stop()
            await health.stop()
            await client.close()

    async def _prime(self, informer: Informer) -> None:
        while True:
            try:
                return await informer.prime()
            except ClusterError as error:
                log.warning("cannot list yet (are the CRDs installed?): %s", error)
                await asyncio.sleep(1.0)

    @staticmethod
    async def _until(work: Awaitable[None], *ends: asyncio.Event) -> None:
        """Wait for `work`, or give it up at the first of `ends`."""
        working, ending = asyncio.ensure_future(work), [asyncio.create_task(end.wait()) for end in ends]
        await asyncio.wait((working, *ending), return_when=asyncio.FIRST_COMPLETED)
        for each in ending:
            each.cancel()
        if working.done():
            working.result()
        else:
            working.cancel()

    async def _heartbeat(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(1.0)

    def _live(self) -> bool:
        return time.monotonic() - self._beat < 30.0

    async def _work(self, reconcilers: dict[str, Reconciler]) -> None:
        while True:
            key = await self._queue.take()
            try:
                with self._metrics.reconcile_seconds.labels(key.controller).time():
                    again = await reconcilers[key.controller](key)
                self._queue.succeeded(key)
                if again is not None:
                    self._queue.add_after(key, again)
            except ConflictError:
                # Somebody else changed the object: the cache hears of it, decide again on the new state.
                self._queue.retry(key)
            except Exception as error:
                delay = self._queue.retry(key)
                self._metrics.reconcile_errors.labels(key.controller, type(error).__name__).inc()
                known = isinstance(error, ClusterError)
                log.warning("%s failed, next try in %.1f s: %s", key, delay, error, exc_info=not known)
            finally:
                self._queue.done(key)

    def _queue_binding(self, controller: str, namespace: str, name: str, after_seconds: float) -> None:
        key = Key(controller, namespace, name)
        if after_seconds > 0:
            self._queue.add_after(key, after_seconds)
        else:
            self._queue.add(key)

    def _enqueue(self, resource: ResourceType, obj: Object) -> None:
        """Which keys a change of an object concerns."""
        metadata = obj["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        add = self._queue.add
        if resource == FABRICS:
            if self._means_something_new(obj):
                add(Key("fabric", "", name))
        elif resource in POOLS:
            add(Key("pool", "", ""))
        elif resource == LOGICAL_NODES:
            add(Key("logicalnode", namespace, name))
            self._enqueue_owner(metadata, namespace)
        elif resource == DEVICE_ATTACHMENTS:
            claim = obj["spec"]["claimRef"]
            add(Key("logicalnode", claim["namespace"], claim["name"]))
            self._queue.add_after(Key("pool", "", ""), 0.5)
        elif resource == INFERENCE_GROUPS:
            add(Key("group", namespace, name))
        elif resource == INFERENCE_ROLES:
            add(Key("group", namespace, obj["spec"]["groupRef"]["name"]))
        elif resource == PODS:
            if group := metadata.get("labels", {}).get(LABEL_GROUP):
                add(Key("group", namespace, group))
        elif resource == CONFIG_MAPS:
            for role in self._cache.list(INFERENCE_ROLES, namespace):
                if role["spec"].get("profileRef", {}).get("name") == name:
                    add(Key("group", namespace, role["spec"]["groupRef"]["name"]))
        elif resource in (NODES, NAMESPACES):
            if resource == NODES:
                for node in self._cache.list(LOGICAL_NODES):
                    if node.get("status", {}).get("nodeName") == name:
                        add(Key("logicalnode", node["metadata"]["namespace"], node["metadata"]["name"]))
            self._queue.add_after(Key("placement", "", ""), 1.0)

    def _means_something_new(self, fabric: Object) -> bool:
        """Whether a Fabric changed otherwise than by our own status: a manager is not read again for that."""
        metadata = fabric["metadata"]
        name = metadata["name"]
        if self._cache.get(FABRICS, name) is None:
            self._fabrics_seen.pop(name, None)
            return True
        parts = ("uid", "generation", "annotations", "deletionTimestamp")
        meaning = tuple(metadata.get(part) for part in parts)
        before, self._fabrics_seen[name] = self._fabrics_seen.get(name), meaning
        return before != meaning

    def _enqueue_owner(self, metadata: Object, namespace: str) -> None:
        for owner in metadata.get("ownerReferences", []):
            if owner.get("kind") == INFERENCE_GROUPS.kind:
                self._queue.add(Key("group", namespace, owner["name"]))

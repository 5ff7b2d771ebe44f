"""Wires the parts into one process: changes to keys, keys to controllers, all of it only while leading."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

from weft.balancing.controller import GroupController
from weft.balancing.engine_calls import EngineCalls
from weft.balancing.keys import GroupKey
from weft.balancing.presets import with_configured
from weft.balancing.prometheus import PrometheusSource
from weft.binding import controllers as binding_controllers
from weft.binding.audit import Audit
from weft.binding.fabrics import Fabrics
from weft.binding.keys import PlacementKey, PoolsKey
from weft.binding.placement import PlacementController
from weft.binding.pools import PoolsController
from weft.controllers import Controller
from weft.runtime import clock
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient, StartError, load_configuration
from weft.runtime.cluster import LiveCluster
from weft.runtime.exposed import Exposed
from weft.runtime.health import HealthServer
from weft.runtime.heartbeat import Heartbeat
from weft.runtime.history import History
from weft.runtime.informer import Informer
from weft.runtime.leadership import Leadership
from weft.runtime.metering import Meter
from weft.runtime.metrics import OperatorMetrics
from weft.runtime.queue import WorkQueue
from weft.runtime.settings import Settings
from weft.runtime.waiting import Tasks, finished
from weft.runtime.watches import Watches
from weft.runtime.whatif import WhatIf
from weft.runtime.workers import Workers

log = logging.getLogger(__name__)


async def run(settings: Settings) -> int:
    """One replica of the operator: works until SIGTERM or SIGINT (0), or until lease or watches are lost (1).

    Raises StartError when an administrator has to change something first.
    """
    stop = _stop_signals()
    configuration = await load_configuration()
    async with contextlib.AsyncExitStack() as closing, contextlib.AsyncExitStack() as sessions:
        cache, queue, metrics = ObjectCache(), WorkQueue(settings.workers), OperatorMetrics()
        client = KubeClient(configuration, settings.api_timeout_seconds, metrics.api_requested)
        closing.push_async_callback(client.close)
        history = History()
        leadership = Leadership(
            client, settings.namespace, settings.identity, settings.lease_seconds, history
        )
        meter = Meter(clock.boottime)
        cache.listen(meter.hear)
        cache.listen(metrics.hear)
        cluster = LiveCluster(client, cache, settings.identity, leadership.leads, metrics)
        acts = metrics.hardware_acts
        audit = Audit(cluster.event, lambda fabric, act, outcome: acts.labels(fabric, act, outcome).inc())
        controllers = _controllers(settings, cluster, leadership, queue, sessions, audit, metrics)
        watches = Watches(controllers.values(), cluster, queue)
        rests = binding_controllers.OF_ALL_THERE_IS
        workers = Workers(controllers, queue, metrics, clock.now, rests)
        informer = Informer(client, cache, watches.resources, history)
        heartbeat = Heartbeat()
        placement = controllers[PlacementKey]
        assert isinstance(placement, PlacementController)
        plan = WhatIf(
            client,
            cache,
            settings.namespace,
            leadership.leads,
            clock.boottime,
            lambda: clock.now().wall,
            placement.what_if,
            placement.domain_if_asked,
        )
        health = HealthServer(
            metrics.registry, heartbeat.live, informer.watching, workers.failures, plan.answer
        )
        metrics.follow(leadership.remaining_seconds, queue.__len__)
        groups = controllers[GroupKey]
        pools = controllers[PoolsKey]
        assert isinstance(groups, GroupController)
        assert isinstance(pools, PoolsController)
        exposed = Exposed(
            cache, meter, groups.loads, groups.expected, pools.tallies, leadership.leads, time.time
        )
        metrics.registry.register(exposed)
        closing.push_async_callback(health.stop)
        await _serve(health, settings)
        closing.push_async_callback(informer.stop)
        # The next leader may begin when nothing of this one is under way any more, and not later.
        closing.push_async_callback(leadership.release)
        closing.push_async_exit(sessions.pop_all())
        tasks = await closing.enter_async_context(Tasks())
        tasks.start(heartbeat.run())
        if not await finished(informer.prime(), stop):
            return 0
        ends = (stop, informer.ended, history.went_back)
        informer.start_watching(configuration)
        tasks.start(informer.correct(settings.relist_seconds))
        # Without watches it would be of no use as the next leader: a new process makes new ones.
        if await finished(leadership.acquire(), *ends):
            # Renewed from now on: the lists of a large cluster may take longer than a lease.
            lease = tasks.start(leadership.keep())
            # What another leader did since the first list must be known before the first decision.
            if await finished(informer.prime(), *ends):
                watches.begin(cache)
                for _ in range(settings.workers):
                    tasks.start(workers.work())
                if await finished(lease, *ends):
                    log.error("the lease is lost")
        if informer.ended.is_set() and not stop.is_set():
            log.error("the watches ended")
        return 0 if stop.is_set() else 1


def _controllers(
    settings: Settings,
    cluster: LiveCluster,
    leadership: Leadership,
    queue: WorkQueue,
    sessions: contextlib.AsyncExitStack,
    audit: Audit,
    metrics: OperatorMetrics,
) -> Mapping[type[Hashable], Controller[Any]]:
    """The controller of each type of key; what they hold open is closed by `sessions`."""
    fabrics = Fabrics(
        cluster,
        cluster.read,
        settings.namespace,
        leadership,
        audit,
        metrics.fabric_called,
        metrics.fabric_requested,
    )
    sessions.push_async_callback(fabrics.close)
    sources = {
        name: PrometheusSource(source, queried=partial(metrics.source_queried, name))
        for name, source in settings.sources.items()
    }
    for source in sources.values():
        sessions.push_async_callback(source.close)
    engines = EngineCalls()
    sessions.push_async_callback(engines.close)
    binding = binding_controllers.controllers(cluster, fabrics, settings.inventory_seconds, queue.add)
    placement = binding[PlacementKey]
    assert isinstance(placement, PlacementController)
    groups = GroupController(
        cluster,
        sources,
        with_configured(settings.presets),
        settings.scale_targets,
        engines,
        placement.choose_domain,
        metrics.drained,
    )
    return {**binding, GroupKey: groups}


async def _serve(health: HealthServer, settings: Settings) -> None:
    try:
        port = await health.start(settings.health_host, settings.health_port)
    except OSError as error:
        raise StartError(f"health_port (WEFT_HEALTH_PORT) {settings.health_port}: {error}") from error
    log.info("serving health and metrics at %s:%d", settings.health_host, port)


def _stop_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop

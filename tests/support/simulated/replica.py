"""One replica of the operator: its own controllers, queue, cache and lease, wired as `weft.runtime.operator` does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime

from support.simulated.api import Client, Server, Stream
from support.simulated.process import Process
from weft.balancing.controller import GroupController
from weft.balancing.keys import GroupKey
from weft.balancing.presets import with_configured
from weft.binding.controllers import controllers
from weft.binding.fabrics import Fabrics
from weft.binding.keys import PlacementKey
from weft.binding.placement import PlacementController
from weft.controllers import Now
from weft.runtime.cache import ObjectCache
from weft.runtime.cluster import LiveCluster
from weft.runtime.history import History
from weft.runtime.informer import Informer
from weft.runtime.leadership import Leadership
from weft.runtime.metrics import OperatorMetrics
from weft.runtime.queue import WorkQueue
from weft.runtime.waiting import Tasks, finished
from weft.runtime.watches import Watches
from weft.runtime.workers import Workers

NAMESPACE = "weft-system"
LEASE_SECONDS = 2.0
INVENTORY_SECONDS = 1.0
RELIST_SECONDS = 5.0
WORKERS = 4
METRICS, PRESETS = OperatorMetrics(), with_configured({})


class Replica:
    """A process that works until it is told to stop, loses its lease, or is killed."""

    def __init__(self, server: Server, name: str, wall: Callable[[], datetime]) -> None:
        self.process = Process(server.loop)
        self.name = name
        self.leads = False
        self._server, self._wall = server, wall
        self._stop = asyncio.Event()
        self.main = self.process.start(self._run())

    @property
    def has_ended(self) -> bool:
        return self.process.dead or self.main.done()

    def terminate(self) -> None:
        """SIGTERM."""
        self._stop.set()

    async def _run(self) -> None:
        async with contextlib.AsyncExitStack() as closing, contextlib.AsyncExitStack() as sessions:
            client = Client(self._server, self.process)
            cache, queue, history = ObjectCache(), WorkQueue(WORKERS), History()
            leadership = Leadership(client, NAMESPACE, self.name, LEASE_SECONDS, history)  # type: ignore[arg-type]
            cluster = LiveCluster(client, cache, self.name, leadership.leads, METRICS)  # type: ignore[arg-type]
            fabrics = Fabrics(cluster, cluster.read, NAMESPACE, leadership)
            sessions.push_async_callback(fabrics.close)
            binding = controllers(cluster, fabrics, INVENTORY_SECONDS, queue.add)
            placement = binding[PlacementKey]
            assert isinstance(placement, PlacementController)
            # Also where there are no groups it is this one that has the pods watched.
            groups = GroupController(cluster, {}, PRESETS, choose_domain=placement.choose_domain)
            by_key = {**binding, GroupKey: groups}
            watches = Watches(by_key.values(), cluster, queue)
            workers = Workers(by_key, queue, METRICS, lambda: Now(self._wall(), self._server.loop.now))
            informer = Informer(client, cache, watches.resources, history)  # type: ignore[arg-type]
            closing.push_async_callback(leadership.release)
            closing.push_async_exit(sessions.pop_all())
            tasks = await closing.enter_async_context(Tasks())
            if not await finished(informer.prime(), self._stop):
                return
            ends = (self._stop, history.went_back)
            stream = Stream(self._server, self.process, cache, watches.resources)
            closing.callback(stream.close)
            tasks.start(informer.correct(RELIST_SECONDS))
            if await finished(leadership.acquire(), *ends):
                lease = tasks.start(leadership.keep())
                if await finished(informer.prime(), *ends):
                    self.leads = True
                    watches.begin(cache)
                    for _ in range(WORKERS):
                        tasks.start(workers.work())
                    await finished(lease, *ends)

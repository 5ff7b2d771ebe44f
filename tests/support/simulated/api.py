"""The API server in memory as one replica reaches it: requests and watches that go wrong as a schedule says."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from support.memory_cluster import MemoryCluster
from support.simulated.loop import RESOLUTION, VirtualLoop
from support.simulated.process import Process
from support.wire import PASS, Message, Treatment, WatchWay, Way
from weft.api.resources import EVENTS, ResourceType
from weft.cluster import ClusterError, ConflictError, Object
from weft.runtime.cache import ObjectCache

TIMEOUT_SECONDS = 1.0
"""Of a request that nobody answers."""
HOLD_SECONDS = 0.1
"""How often a watch that is held is looked at."""


class Server:
    """What all replicas share: the stored objects, the schedule's faults, and who watches."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, cluster: MemoryCluster) -> None:
        self.loop, self.rng, self.cluster = loop, rng, cluster
        self.treat: Callable[[Message], Treatment] = lambda _message: PASS
        self.treat_line: Callable[[Message], WatchWay] = lambda _message: WatchWay.PASS
        self.struck: dict[str, int] = {}
        self.tell: Callable[..., None] = lambda *_what: None
        self.streams: list[Stream] = []
        self.listed: dict[str, list[tuple[float, int, list[Object]]]] = {}

    def changed(self, kind: str, resource: ResourceType, obj: Object) -> None:
        """Tell those who watch."""
        for stream in self.streams:
            if resource in stream.resources:
                stream.push(kind, resource, obj)

    def count(self, what: str) -> None:
        self.tell("api", what)
        self.struck[what] = self.struck.get(what, 0) + 1


class Stream:
    """A replica's watches: one line of events per resource, in order, into its cache."""

    def __init__(
        self, server: Server, process: Process, cache: ObjectCache, resources: tuple[ResourceType, ...]
    ) -> None:
        self._server, self._process, self._cache = server, process, cache
        self.resources = frozenset(resources)
        self._lines: dict[ResourceType, deque[tuple[float, str, Object]]] = {
            each: deque() for each in resources
        }
        server.streams.append(self)

    def close(self) -> None:
        if self in self._server.streams:
            self._server.streams.remove(self)

    def push(self, kind: str, resource: ResourceType, obj: Object) -> None:
        server = self._server
        way = server.treat_line(_watch(resource))
        line = self._lines[resource]
        if way is WatchWay.DROP:
            server.count("watch drop")
            return
        if way is WatchWay.GONE:
            # What was under way is lost, and a list replaces it, which tells of no deletion.
            server.count("watch gone")
            line.clear()
            for one in server.cluster.list(resource):
                line.append((server.loop.now + 1.0, "LISTED", one))
        else:
            line.append((server.loop.now + server.rng.uniform(0.001, 0.03), kind, obj))
        if line:
            server.loop.call_at(line[-1][0], self._deliver, resource)

    def _deliver(self, resource: ResourceType) -> None:
        server, line = self._server, self._lines[resource]
        if self._process.dead or not line:
            return
        if self._process.is_stopped:
            server.loop.call_at(self._process.stopped_until, self._deliver, resource)
            return
        if self._process.is_cut_off or server.treat_line(_watch(resource)) is WatchWay.HOLD:
            server.count("watch hold")
            server.loop.call_later(HOLD_SECONDS, self._deliver, resource)
            return
        # A timer may come a moment early.
        while line and line[0][0] <= server.loop.now + 2 * RESOLUTION:
            _, kind, obj = line.popleft()
            if kind == "DELETED":
                self._cache.remove(resource, obj)
            else:
                self._cache.put(resource, obj)


def _watch(resource: ResourceType) -> Message:
    return Message("api", "GET", f"/{resource.plural}", "watch=true", b"")


class Client:
    """Stands for `weft.runtime.client.KubeClient`."""

    def __init__(self, server: Server, process: Process) -> None:
        self._server, self._process = server, process

    async def get(
        self, resource: ResourceType, name: str, namespace: str = "", subresource: str = ""
    ) -> Object:
        assert not subresource, "nobody here reads one"

        async def read() -> Object:
            return self._server.cluster._current(resource, name, namespace, {})

        return await self._ask("GET", resource, read)

    async def list(self, resource: ResourceType) -> tuple[list[Object], int]:
        server = self._server

        async def read() -> tuple[list[Object], int]:
            return server.cluster.list(resource), server.cluster.version

        answers = server.listed.setdefault(resource.plural, [])
        treatment = server.treat(Message("api", "GET", f"/{resource.plural}", "", b""))
        if treatment.way is Way.STALE and not self._process.is_cut_off:
            for at, version, items in answers:
                if server.loop.now - at <= treatment.seconds:
                    server.count("api stale")
                    self._process.sends()
                    await self._process.back()
                    return items, version
        items, version = await self._ask("GET", resource, read, treatment)
        answers.append((server.loop.now, version, items))
        del answers[:-4]
        return items, version

    async def find(self, resource: ResourceType, namespace: str, field_selector: str) -> tuple[Object, ...]:
        field, _, value = field_selector.partition("=")
        part, _, name = field.partition(".")

        async def read() -> tuple[Object, ...]:
            items = self._server.cluster.list(resource, namespace if resource.namespaced else None)
            return tuple(item for item in items if item[part].get(name) == value)

        return await self._ask("GET", resource, read)

    async def create(self, resource: ResourceType, body: Object, *, dry_run: bool = False) -> Object:
        if resource == EVENTS:
            return body
        return await self._ask(
            "POST", resource, lambda: self._server.cluster.create(resource, body, dry_run=dry_run)
        )

    async def patch(
        self,
        resource: ResourceType,
        name: str,
        namespace: str,
        body: Mapping[str, Any],
        *,
        subresource: str = "",
    ) -> Object:
        cluster = self._server.cluster
        return await self._ask(
            "PATCH", resource, lambda: cluster.patch(resource, name, namespace, body, subresource=subresource)
        )

    async def replace_status(self, resource: ResourceType, body: Object) -> Object:
        current = {key: value for key, value in body.items() if key != "status"}
        return await self._ask(
            "PUT", resource, lambda: self._server.cluster.write_status(resource, current, body["status"])
        )

    async def replace(self, resource: ResourceType, body: Object) -> Object:
        return await self._ask("PUT", resource, lambda: self._server.cluster.replace(resource, body))

    async def delete(
        self,
        resource: ResourceType,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        grace_seconds: int | None = None,
    ) -> Object:
        cluster = self._server.cluster

        async def delete() -> Object:
            before = cluster._current(resource, name, namespace, {})
            await cluster.delete(resource, name, namespace, uid=uid, grace_seconds=grace_seconds)
            left = cluster.get(resource, name, namespace)
            return left or {"kind": "Status", "details": {"uid": before["metadata"]["uid"]}}

        return await self._ask("DELETE", resource, delete)

    async def evict(self, resource: ResourceType, name: str, namespace: str, uid: str) -> Object:
        cluster = self._server.cluster

        async def evict() -> Object:
            cluster._current(resource, name, namespace, {})
            await cluster.evict(name, namespace, uid=uid)
            return {"kind": "Status"}

        return await self._ask("POST", resource, evict)

    async def _ask(
        self,
        method: str,
        resource: ResourceType,
        do: Callable[[], Awaitable[Any]],
        treatment: Treatment | None = None,
    ) -> Any:
        """One request and its answer, with what the schedule makes of it."""
        server, process = self._server, self._process
        await process.back()
        dies = process.sends()
        if treatment is None:
            treatment = server.treat(Message("api", method, f"/{resource.plural}", "", b""))
        way, before = treatment.way, server.rng.random() < 0.5
        if treatment != PASS:
            server.count(f"api {way.value if way is not Way.PASS else 'delay'}")
        pause = server.rng.uniform(0.001, 0.01)
        if before or treatment.delay:
            await asyncio.sleep(treatment.delay + pause)
        if process.is_cut_off:
            await asyncio.sleep(TIMEOUT_SECONDS)
        if way is Way.DROP or process.is_cut_off:
            await process.back()
            raise ClusterError(0, "NoAnswer", f"{method} {resource.plural}: reset")
        if way is Way.REFUSE:
            await process.back()
            raise _refused(treatment.status)
        try:
            if way is Way.TWICE and method != "GET":
                await do()
            answer = await do()
        except ClusterError:
            if dies:
                process.die()
            await process.back()
            raise
        if dies:
            process.die()
        if not before:
            await asyncio.sleep(pause)
        await process.back()
        if way is Way.LOSE:
            raise ClusterError(0, "NoAnswer", f"{method} {resource.plural}: reset")
        if way is Way.DENY:
            raise _refused(treatment.status)
        return answer


def _refused(status: int) -> ClusterError:
    kind = ConflictError if status == 409 else ClusterError
    return kind(status, "Refused", f"refused with {status}", 1.0 if status == 429 else 0.0)

"""kopf's watches before an API server that ends them, cuts them off, or says that something is wrong."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client as k8s

from weft.api.resources import GPU_POOLS
from weft.cluster import Object
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient
from weft.runtime.history import History
from weft.runtime.informer import Informer
from weft.runtime.nesting import read_deep_json

GROUP_VERSION = f"{GPU_POOLS.group}/{GPU_POOLS.version}"
SECONDS = 15.0


class Served:
    """An API server with GPU pools: what is stored, its history, and the watches that are open."""

    def __init__(self) -> None:
        self.history: list[tuple[str, Object]] = []
        self.lists = 0
        self.since: list[str] = []
        """The version that each watch was asked for from."""
        self.refuses = 0
        """The status that every watch is answered with instead."""
        self.instead: dict[str, Any] | None = None
        """What a gateway before the API server answers every watch with."""
        self.token: str | None = None
        """The only one that is taken, if one is needed."""
        self.lines: list[asyncio.Queue[bytes | None]] = []
        """Of each open watch; None ends it."""
        self.url = ""

    @property
    def version(self) -> int:
        return len(self.history)

    def store(self, kind: str, name: str, **metadata: Any) -> None:
        version = str(self.version + 1)
        obj = {"metadata": {"name": name, "uid": name, "resourceVersion": version, **metadata}, "spec": {}}
        self.history.append((kind, obj))
        for queue in self.lines:
            queue.put_nowait(event(kind, obj))

    def say(self, line: bytes | None) -> None:
        """Put a line into every open watch; None ends them."""
        for queue in self.lines:
            queue.put_nowait(line)

    def stored(self) -> list[Object]:
        found: dict[str, Object] = {}
        for kind, obj in self.history:
            found.pop(obj["metadata"]["name"], None)
            if kind != "DELETED":
                found[obj["metadata"]["name"]] = obj
        return list(found.values())

    async def pools(self, request: web.Request) -> web.StreamResponse:
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        if "watch" not in request.query:
            self.lists += 1
            metadata = {"resourceVersion": str(self.version)}
            return web.json_response({"kind": "GPUPoolList", "metadata": metadata, "items": self.stored()})
        self.since.append(request.query["resourceVersion"])
        if self.instead is not None:
            return web.Response(**self.instead)
        if self.refuses:
            # As an API server does whose watch cache begins later.
            return web.json_response({"kind": "Status", "code": self.refuses}, status=self.refuses)
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for kind, obj in self.history[int(request.query.get("resourceVersion", "0")) :]:
            queue.put_nowait(event(kind, obj))
        self.lines.append(queue)
        try:
            while (line := await queue.get()) is not None:
                await response.write(line)
        finally:
            self.lines.remove(queue)
        return response


def event(kind: str, obj: Object) -> bytes:
    whole = {"apiVersion": GROUP_VERSION, "kind": GPU_POOLS.kind, **obj}
    return json.dumps({"type": kind, "object": whole}).encode() + b"\n"


def failure(code: int) -> bytes:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "Expired"}
    return json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"


GROUPS = {
    "v1": ("namespaces", "Namespace"),
    "apiextensions.k8s.io/v1": ("customresourcedefinitions", "CustomResourceDefinition"),
    GROUP_VERSION: (GPU_POOLS.plural, GPU_POOLS.kind),
}
"""What kopf looks for before it watches anything, and what it is to watch."""


def discovery(version: str) -> Object:
    plural, kind = GROUPS[version]
    verbs = ["get", "list", "watch", "patch", "create", "delete"]
    resource = {
        "name": plural,
        "singularName": kind.lower(),
        "namespaced": False,
        "kind": kind,
        "verbs": verbs,
    }
    return {"groupVersion": version, "resources": [resource]}


def group(version: str) -> Object:
    named = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [named], "preferredVersion": named}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()

    def answers(body: Any) -> Callable[[web.Request], Any]:
        async def handle(_request: web.Request) -> web.Response:
            return web.json_response(body)

        return handle

    app = web.Application()
    app.router.add_get("/api", answers({"versions": ["v1"]}))
    app.router.add_get("/apis", answers({"groups": [group(each) for each in GROUPS if "/" in each]}))
    for each in GROUPS:
        app.router.add_get(f"/{'apis' if '/' in each else 'api'}/{each}", answers(discovery(each)))
    app.router.add_get(GPU_POOLS.path(), served.pools)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    served.say(None)
    await runner.cleanup()


@pytest.fixture
def deep_json() -> Iterator[None]:
    """This process reads what `weft run` reads."""
    levels, stack = sys.getrecursionlimit(), threading.stack_size()
    read_deep_json()
    yield
    sys.setrecursionlimit(levels)
    threading.stack_size(stack)


@pytest.fixture
def cache() -> ObjectCache:
    return ObjectCache()


@asynccontextmanager
async def watching(
    served: Served, cache: ObjectCache, configuration: k8s.Configuration
) -> AsyncIterator[Informer]:
    configuration.host = served.url
    client = KubeClient(configuration)
    informer = Informer(client, cache, (GPU_POOLS,), History())
    served.store("ADDED", "rack")
    await informer.prime()
    informer.start_watching(configuration)
    await until(lambda: bool(served.lines))
    yield informer
    await informer.stop()
    await client.close()


@pytest.fixture
async def informer(served: Served, cache: ObjectCache) -> AsyncIterator[Informer]:
    """One that watches."""
    async with watching(served, cache, k8s.Configuration()) as informer:
        yield informer


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not look():  # noqa: ASYNC110  # kopf is in another thread
            await asyncio.sleep(0.02)


def names(cache: ObjectCache) -> dict[str, bool]:
    """Whether it is being deleted, by pool."""
    return {o["metadata"]["name"]: "deletionTimestamp" in o["metadata"] for o in cache.list(GPU_POOLS)}


@pytest.mark.usefixtures("informer")
async def test_what_happens_while_a_watch_that_ended_is_away_is_heard_of(
    served: Served, cache: ObjectCache
) -> None:
    served.say(None)
    served.store("MODIFIED", "rack", deletionTimestamp="2026-01-01T00:00:00Z")
    served.store("ADDED", "other")
    await until(lambda: names(cache) == {"rack": True, "other": False})


@pytest.mark.usefixtures("informer")
async def test_a_watch_goes_on_from_the_first_list_without_another(
    served: Served, cache: ObjectCache
) -> None:
    served.store("ADDED", "other")
    await until(lambda: "other" in names(cache))
    assert (served.lists, served.since) == (1, ["1"])


@pytest.mark.usefixtures("informer")
async def test_a_watch_goes_on_from_the_last_bookmark(served: Served, cache: ObjectCache) -> None:
    metadata = {"name": "", "resourceVersion": "41"}
    served.say(json.dumps({"type": "BOOKMARK", "object": {"metadata": metadata}}).encode() + b"\n")
    served.say(None)
    await until(lambda: len(served.since) == 2)
    assert (served.since, set(names(cache))) == (["1", "41"], {"rack"})


@pytest.mark.usefixtures("informer")
@pytest.mark.parametrize("at_once", [False, True], ids=["in the stream", "instead of one"])
async def test_what_was_changed_and_deleted_before_a_watch_expired_is_listed(
    served: Served, cache: ObjectCache, at_once: bool
) -> None:
    served.store("ADDED", "other")
    await until(lambda: "other" in names(cache))
    served.refuses = 410 if at_once else 0
    served.say(None if at_once else failure(410))
    served.store("MODIFIED", "rack", deletionTimestamp="2026-01-01T00:00:00Z")
    served.store("DELETED", "other")
    await until(lambda: names(cache) == {"rack": True})
    assert served.lists > 1
    served.refuses = 0
    served.store("ADDED", "new")
    await until(lambda: "new" in names(cache))


@pytest.mark.usefixtures("deep_json", "informer")
async def test_an_object_as_deep_as_a_tenant_can_make_it_ends_no_watch_and_no_list(
    served: Served, cache: ObjectCache
) -> None:
    deep: Object = {}
    for _ in range(9_900):
        deep = {"nested": deep}
    served.store("ADDED", "odd", deep=deep)
    await until(lambda: "odd" in names(cache))
    lists = served.lists
    served.say(failure(410))
    served.store("ADDED", "other")
    await until(lambda: "other" in names(cache))
    assert served.lists > lists


@pytest.mark.usefixtures("informer")
async def test_a_watch_that_ends_in_the_middle_of_an_event_goes_on_where_it_was(
    served: Served, cache: ObjectCache
) -> None:
    served.say(b'{"type": "MODIFIED", "object": {"metada')
    served.say(None)
    await until(lambda: len(served.since) == 2)
    served.store("ADDED", "other")
    await until(lambda: "other" in names(cache))
    assert set(served.since) == {"1"}


@pytest.mark.usefixtures("informer")
@pytest.mark.parametrize(
    "instead",
    [
        {"text": "<html>Back in a minute</html>", "content_type": "text/html"},
        {"status": 404, "text": "404 page not found"},
        {"status": 429, "headers": {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "text": "slow down"},
    ],
    ids=["a page", "no page", "a pause until a date"],
)
async def test_a_gateway_that_answers_in_place_of_the_api_server_ends_no_watch_for_good(
    served: Served, cache: ObjectCache, instead: dict[str, Any]
) -> None:
    served.instead = instead
    served.say(None)
    await until(lambda: len(served.since) > 2)
    served.instead = None
    served.store("ADDED", "other")
    await until(lambda: "other" in names(cache))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_watch_that_says_that_something_is_wrong_is_known_to_have_ended(
    served: Served, informer: Informer
) -> None:
    served.say(failure(500))
    async with asyncio.timeout(SECONDS):
        await informer.ended.wait()


async def test_a_watch_whose_token_has_expired_goes_on_with_the_one_that_replaced_it(
    served: Served, cache: ObjectCache
) -> None:
    configuration, served.token = k8s.Configuration(), "first"
    configuration.api_key["BearerToken"] = "Bearer first"

    async def renewed(config: k8s.Configuration) -> None:
        config.api_key["BearerToken"] = f"Bearer {served.token}"

    configuration.refresh_api_key_hook = renewed
    async with watching(served, cache, configuration):
        for served.token in ("second", "third"):
            served.say(None)
            served.store("ADDED", served.token)
            await until(lambda: served.token in names(cache))

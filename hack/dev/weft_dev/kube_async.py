"""The operator's own client with what it does without: watches of one kind that survive, and server-side apply."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config
from kubernetes.aio.watch import Watch

from weft.api.resources import ResourceType
from weft.cluster import ClusterError, Object
from weft.runtime.client import KubeClient

# The server ends a watch after this long; a watch that says nothing for longer is dead.
WATCH_SECONDS = 240


class AsyncKube(KubeClient):
    """One API server, one identity, one pool of connections."""

    async def apply(self, resource: ResourceType, body: Object) -> Object:
        """As `kubectl apply --server-side --force-conflicts`. Raises ClusterError with the API server's message."""
        path = resource.path(body["metadata"].get("namespace", ""), body["metadata"]["name"])
        query = {"fieldManager": "weft-dev", "force": "true"}
        return await self._request("PATCH", path, query, body, "application/apply-patch+yaml")

    async def follow(
        self, resource: ResourceType, namespace: str = "", *, fields: str = "", labels: str = ""
    ) -> AsyncIterator[Mapping[str, Object]]:
        """All objects by uid, as they are now and after every change, for ever.

        A watch that ends goes on where it was; one that cannot (410, a lost connection) begins again with a list.
        """
        path = resource.path(namespace)
        selectors = {"fieldSelector": fields, "labelSelector": labels}
        query = {name: value for name, value in selectors.items() if value}
        pause = 0.0
        while True:
            try:
                listed = await self._request("GET", path, query)
                pause = 0.0
                found: dict[str, Object] = {each["metadata"]["uid"]: each for each in listed["items"]}
                yield found
                opened = functools.partial(self._open_watch, path, query)
                version = listed["metadata"]["resourceVersion"]
                async for event in Watch().stream(opened, resource_version=version):
                    changed = event["object"]
                    if event["type"] == "BOOKMARK":
                        continue
                    if event["type"] == "DELETED":
                        found.pop(changed["metadata"]["uid"], None)
                    else:
                        found[changed["metadata"]["uid"]] = changed
                    yield found
            except (ClusterError, k8s.ApiException, aiohttp.ClientError, OSError, TimeoutError):
                pause = min(5.0, pause * 2 or 0.1)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _open_watch(
        self, path: str, query: dict[str, str], *, resource_version: str, **_options: object
    ) -> aiohttp.ClientResponse:
        more = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        more["resourceVersion"] = resource_version
        _, url, headers, _, _ = await self._api.param_serialize(
            "GET", path, query_params=list((query | more).items()), auth_settings=["BearerToken"]
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_SECONDS + 30)
        answer = await self._api.call_api("GET", url, headers, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        response.raise_for_status()
        return response


@contextlib.asynccontextmanager
async def connected(kubeconfig: Path | None) -> AsyncIterator[AsyncKube]:
    """A client for the current context of a kubeconfig; without one, as the service account of this pod."""
    configuration = k8s.Configuration()
    if kubeconfig is None:
        k8s_config.load_incluster_config(client_configuration=configuration)
    else:
        await k8s_config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        # Such a cluster is this machine's: a proxy of the environment must not get these requests.
        configuration.proxy = None
        configuration.client_session_kwargs = {"trust_env": False}
    configuration.retries = None
    api = AsyncKube(configuration, timeout_seconds=30.0)
    try:
        yield api
    finally:
        await api.close()

"""An asynchronous client of the Kubernetes API for developers' programs: requests, and watches that survive.

As small as `weft_dev.kube` (the blocking one) and with its errors and paths.
"""

from __future__ import annotations

import asyncio
import json
import random
import urllib.parse
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from weft_dev.kube import MERGE_PATCH, KubeError, KubeNotFoundError, Object, Resource, object_path
from weft_dev.kube_address import ApiAddress

# The server ends a watch after this long; a watch that says nothing for longer is dead.
WATCH_SECONDS = 240
LINE_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True)
class Listed:
    """First event of a watch and after every break: all objects there are."""

    objects: list[Object]


@dataclass(frozen=True)
class Changed:
    """An object was added or modified (`deleted`: removed, as it was last)."""

    object: Object
    deleted: bool = False


class AsyncKube:
    """One API server, one identity, one pool of connections."""

    def __init__(self, address: ApiAddress) -> None:
        self.address = address
        self._tls = address.tls()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=64),
            timeout=aiohttp.ClientTimeout(total=30),
            read_bufsize=LINE_LIMIT_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Object:
        """Send a request and return the JSON that answers it. Raises KubeError, or aiohttp.ClientError."""
        assert self._session is not None
        payload = None if body is None else json.dumps(body)
        headers = self.address.headers | ({} if body is None else {"Content-Type": content_type})
        async with self._session.request(
            method, self.address.url + path, data=payload, headers=headers
        ) as answer:
            if answer.status >= 400:
                raise _refusal(answer.status, await answer.text())
            result: Object = await answer.json(content_type=None)
            return result

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        try:
            return await self.request("GET", object_path(resource, namespace, name))
        except KubeNotFoundError:
            return None

    async def list(self, resource: Resource, namespace: str = "", *, fields: str = "") -> list[Object]:
        query = "?" + urllib.parse.urlencode({"fieldSelector": fields}) if fields else ""
        items: list[Object] = (await self.request("GET", object_path(resource, namespace) + query))["items"]
        return items

    async def create(self, resource: Resource, body: Object, namespace: str = "") -> Object:
        return await self.request("POST", object_path(resource, namespace), body)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Object,
        namespace: str = "",
        *,
        subresource: str = "",
        content_type: str = MERGE_PATCH,
    ) -> Object:
        path = object_path(resource, namespace, name) + (f"/{subresource}" if subresource else "")
        return await self.request("PATCH", path, body, content_type)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        grace_seconds: int | None = None,
        uid: str = "",
    ) -> None:
        """Ask for the deletion (of the object with this uid only, where given); gone already is success."""
        options: Object = {}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self.request("DELETE", object_path(resource, namespace, name), options)
        except KubeNotFoundError:
            return
        except KubeError as error:
            if not (uid and error.status == 409):
                raise

    async def follow(
        self, resource: Resource, namespace: str = "", *, fields: str = "", labels: str = ""
    ) -> AsyncIterator[Listed | Changed]:
        """All objects, then every change, for ever.

        A watch that ends goes on where it was; one that cannot (410, a lost connection) begins again with a list.
        """
        query: dict[str, str] = {}
        if fields:
            query["fieldSelector"] = fields
        if labels:
            query["labelSelector"] = labels
        path = object_path(resource, namespace)
        pause = 0.0
        while True:
            try:
                listed = await self.request("GET", f"{path}?{urllib.parse.urlencode(query)}")
                pause = 0.0
                yield Listed(listed["items"])
                version = listed["metadata"]["resourceVersion"]
                async for event in self._watch(path, query, version):
                    yield event
            except (aiohttp.ClientError, OSError, TimeoutError, KubeError):
                pause = min(5.0, pause * 2 or 0.1)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _watch(self, path: str, query: dict[str, str], version: str) -> AsyncIterator[Changed]:
        assert self._session is not None
        while True:
            more = {
                "watch": "1",
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(WATCH_SECONDS),
                "resourceVersion": version,
            }
            url = f"{self.address.url}{path}?{urllib.parse.urlencode(query | more)}"
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_SECONDS + 30)
            async with self._session.get(url, headers=self.address.headers, timeout=timeout) as answer:
                if answer.status >= 400:
                    raise _refusal(answer.status, await answer.text())
                async for line in answer.content:
                    event = json.loads(line)
                    kind, item = event["type"], event["object"]
                    if kind == "ERROR":
                        raise KubeError(
                            item.get("code", 500), item.get("reason", ""), item.get("message", "")
                        )
                    version = item["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        yield Changed(item, deleted=kind == "DELETED")


def _refusal(status: int, text: str) -> KubeError:
    try:
        refusal = json.loads(text)
    except json.JSONDecodeError:
        refusal = {"message": text}
    error = KubeNotFoundError if status == 404 else KubeError
    return error(status, refusal.get("reason", ""), refusal.get("message", ""))

"""A small blocking client of the Kubernetes API, for tests and developers' programs.

Not for the operator, and not the operator's own client: tests look at the cluster through other eyes.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import select
import threading
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from weft_dev.kube_address import ApiAddress

Object = dict[str, Any]
T = TypeVar("T")

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class Resource(Protocol):
    """What addresses a resource; weft.api.resources.ResourceType is one."""

    @property
    def group(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def plural(self) -> str: ...


class KubeError(Exception):
    """The API server refused; `status` is HTTP's, `message` is the server's own."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Kube:
    """One API server, one identity. Thread-safe: every thread has a connection of its own."""

    def __init__(self, address: ApiAddress, *, timeout_seconds: float = 30.0) -> None:
        parts = urllib.parse.urlsplit(address.url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._address = address
        self._tls = address.tls()
        self._timeout_seconds = timeout_seconds
        self._local = threading.local()

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """The object, or None when there is none."""
        try:
            return self.request("GET", object_path(resource, namespace, name))
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def list(self, resource: Resource, namespace: str = "", *, selector: str = "") -> list[Object]:
        """The objects of a namespace, or of all (""), that have the labels."""
        query = "?" + urllib.parse.urlencode({"labelSelector": selector}) if selector else ""
        items: list[Object] = self.request("GET", object_path(resource, namespace) + query)["items"]
        return items

    def create(
        self, resource: Resource, body: Object, namespace: str = "", *, dry_run: bool = False
    ) -> Object:
        """Create an object; `namespace` defaults to the one in its metadata."""
        namespace = namespace or body["metadata"].get("namespace", "")
        query = "?dryRun=All" if dry_run else ""
        return self.request("POST", object_path(resource, namespace) + query, body)

    def apply(
        self, resource: Resource, body: Object, namespace: str = "", *, manager: str = "weft-dev"
    ) -> Object:
        """Create or change an object by server-side apply, taking over fields that others own."""
        namespace = namespace or body["metadata"].get("namespace", "")
        path = object_path(resource, namespace, body["metadata"]["name"])
        return self.request("PATCH", f"{path}?fieldManager={manager}&force=true", body, APPLY_PATCH)

    def patch(
        self,
        resource: Resource,
        name: str,
        body: Mapping[str, Any],
        namespace: str = "",
        *,
        subresource: str = "",
        content_type: str = MERGE_PATCH,
    ) -> Object:
        """Change an object, or its `subresource`, by a patch."""
        path = object_path(resource, namespace, name) + (f"/{subresource}" if subresource else "")
        return self.request("PATCH", path, dict(body), content_type)

    def replace(
        self, resource: Resource, body: Object, namespace: str = "", *, subresource: str = ""
    ) -> Object:
        """Replace an object, guarded by the resourceVersion in `body`."""
        namespace = namespace or body["metadata"].get("namespace", "")
        path = object_path(resource, namespace, body["metadata"]["name"])
        return self.request("PUT", path + (f"/{subresource}" if subresource else ""), body)

    def delete(
        self, resource: Resource, name: str, namespace: str = "", *, grace_seconds: int | None = None
    ) -> None:
        """Ask for the deletion of an object; one that is gone already is success."""
        query = f"?gracePeriodSeconds={grace_seconds}" if grace_seconds is not None else ""
        with contextlib.suppress(KubeNotFoundError):
            self.request("DELETE", object_path(resource, namespace, name) + query)

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Object:
        """Send a request and return the JSON that answers it. Raises KubeError, or OSError without an answer."""
        status, payload = self.raw(method, path, body, content_type)
        if status < 400:
            answer: Object = json.loads(payload)
            return answer
        try:
            refusal = json.loads(payload)
            reason, message = refusal.get("reason", ""), refusal.get("message", "")
        except json.JSONDecodeError:
            reason, message = "", payload.decode(errors="replace")
        raise (KubeNotFoundError if status == 404 else KubeError)(status, reason, message)

    def raw(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """Send a request and return status and body as they came."""
        headers = self._address.headers
        payload = None
        if body is not None:
            payload, headers["Content-Type"] = json.dumps(body).encode(), content_type
        connection = self._kept() or http.client.HTTPSConnection(
            self._host, self._port, context=self._tls, timeout=self._timeout_seconds
        )
        self._local.connection = connection
        try:
            return _exchange(connection, method, path, payload, headers)
        except BaseException:
            connection.close()
            self._local.connection = None
            raise

    def _kept(self) -> http.client.HTTPSConnection | None:
        """This thread's connection, unless the server has closed it: when it was idle, or when it restarted."""
        kept: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if kept is None or kept.sock is None or select.select([kept.sock], [], [], 0)[0]:
            return None
        return kept


class KubeNotFoundError(KubeError):
    """404: no such object, or no such kind."""


def object_path(resource: Resource, namespace: str = "", name: str = "") -> str:
    """The URL path of a collection, or of one object of it."""
    prefix = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{prefix}{scope}/{resource.plural}" + (f"/{name}" if name else "")


def _exchange(
    connection: http.client.HTTPSConnection,
    method: str,
    path: str,
    payload: bytes | None,
    headers: dict[str, str],
) -> tuple[int, bytes]:
    connection.request(method, path, payload, headers)
    response = connection.getresponse()
    return response.status, response.read()


async def eventually(
    check: Callable[[], T | None] | Callable[[], Awaitable[T | None]],
    *,
    what: str = "",
    timeout_seconds: float = 30.0,
    every_seconds: float = 0.1,
) -> T:
    """Call `check` until what it returns is true, and return that.

    Raises AssertionError, with `what` and the last answer, when `timeout_seconds` pass first.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        answer: Any = check()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            found: T = answer
            return found
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{what or 'the condition'} did not hold in {timeout_seconds:g} s: {answer!r}"
            )
        await asyncio.sleep(every_seconds)

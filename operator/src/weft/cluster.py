"""What a reconciler may read of the cluster and do to it.

`binding` and `balancing` are written against this; `runtime` implements it over the informer's cache and
the API client. Objects travel as the plain dictionaries of the API; callers parse the ones they need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal, Protocol

from weft.api.names import FINALIZER
from weft.api.resources import ResourceType

Object = dict[str, Any]
"""One Kubernetes object as JSON. Objects read from the cache are shared: never change one in place."""

Index = Callable[[Object], Hashable]
"""What objects are looked up by: a pure function of a module, None for objects that nobody looks for."""


class ClusterError(Exception):
    """The API server refused or did not answer."""

    def __init__(self, status: int, reason: str, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        """The HTTP status, or 0 when there was no answer (the outcome of a write is then unknown)."""
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        """How long the API server asks to be left alone (with 429, sometimes with 500 and 503), or 0."""


class NotFoundError(ClusterError):
    """404 NotFound: the API server says that the object does not exist (any more)."""


class UnknownAddressError(ClusterError):
    """404 without that reason: of a gateway, or of an API server without the definition. Objects may be there."""


class AlreadyExistsError(ClusterError):
    """409 AlreadyExists: a create lost to an object of that name."""


class ConflictError(ClusterError):
    """409 Conflict: the object changed since it was read. Read again and decide again."""


class InvalidError(ClusterError):
    """400 or 422: the object is not valid; `message` says which field."""


class Cluster(Protocol):
    """Reads are answered by the cache, without I/O. The answer to a write is in the cache when it returns."""

    def get(self, resource: ResourceType, name: str, namespace: str = "") -> Object | None:
        """The cached object, or None."""

    def select(self, resource: ResourceType, index: Index, value: Hashable) -> list[Object]:
        """The cached objects for which `index` gives this value; costs what it finds, not what there is."""

    def list(self, resource: ResourceType, namespace: str | None = None) -> list[Object]:
        """All cached objects, of one namespace or of all (None)."""

    async def refresh(self, resource: ResourceType, namespace: str, *, field: str, value: str) -> None:
        """Ask the API server for a namespace's objects with this field, for what the cache may not have heard of.

        Afterwards the cache has them. Raises ClusterError.
        """

    async def read(
        self, resource: ResourceType, name: str, namespace: str = "", *, subresource: str = ""
    ) -> Object | None:
        """Ask the API server for an object that is not watched, or its `subresource`; None where there is none."""

    async def create(self, resource: ResourceType, body: Object, *, dry_run: bool = False) -> Object:
        """Create `body` (name and namespace are in its metadata).

        Raises AlreadyExistsError or InvalidError.
        """

    async def patch(
        self,
        resource: ResourceType,
        name: str,
        namespace: str,
        body: Mapping[str, Any],
        *,
        subresource: str = "",
    ) -> Object:
        """Patch an object: JSON merge patch for Weft's own kinds, strategic merge patch for Kubernetes' own.

        (Strategic merge joins a pod's conditions by type; a Node's taints it replaces as a whole.) A
        `metadata.resourceVersion` in the patch guards the write (ConflictError). `subresource="status"` writes
        a pod's status, for its conditions, `"scale"` a workload's number of replicas (always as a merge patch).
        """

    async def write_status(
        self, resource: ResourceType, current: Object, status: Mapping[str, Any]
    ) -> Object:
        """Replace the status of `current`, guarded by its resourceVersion; no write when nothing changed."""

    async def delete(
        self,
        resource: ResourceType,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        grace_seconds: int | None = None,
    ) -> None:
        """Ask for the deletion; an object that is gone already is success. `uid` guards against a namesake."""

    async def evict(self, name: str, namespace: str, *, uid: str) -> None:
        """Ask for the eviction of a pod, as its PodDisruptionBudgets allow; one that is gone already is success.

        Raises ClusterError, with status 429 where a budget does not allow it now.
        """

    def event(
        self,
        about: Object,
        kind: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        devices: Iterable[str] = (),
    ) -> None:
        """Record an Event about an object, in the background; repeats are folded by the caller's wording.

        `devices`: names of the DeviceAttachments, there or gone, whose history it belongs to.
        """


async def add_finalizer(cluster: Cluster, resource: ResourceType, raw: Object) -> Object:
    """Put Weft's finalizer on an object, guarded by its resourceVersion; no write where it is there.

    Returns the object as it is then. Raises ConflictError, NotFoundError.
    """
    finalizers = raw["metadata"].get("finalizers", [])
    if FINALIZER in finalizers:
        return raw
    return await _write_finalizers(cluster, resource, raw, [*finalizers, FINALIZER])


async def drop_finalizer(cluster: Cluster, resource: ResourceType, raw: Object) -> None:
    """Take Weft's finalizer off an object; one that is gone, or has none, is as wanted. Raises ConflictError."""
    finalizers = raw["metadata"].get("finalizers", [])
    if FINALIZER not in finalizers:
        return
    with contextlib.suppress(NotFoundError):
        await _write_finalizers(cluster, resource, raw, [one for one in finalizers if one != FINALIZER])


async def _write_finalizers(
    cluster: Cluster, resource: ResourceType, raw: Object, finalizers: list[str]
) -> Object:
    metadata = raw["metadata"]
    body = {"metadata": {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"]}}
    return await cluster.patch(resource, metadata["name"], metadata.get("namespace", ""), body)

"""Changes of objects become keys, as the controllers' declared watches say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from weft.api.resources import GROUP, ResourceType
from weft.cluster import Cluster, Object
from weft.controllers import Controller, Watch
from weft.runtime.cache import ObjectCache
from weft.runtime.queue import WorkQueue


class Watches:
    """What all controllers watch. Hears of nothing before `begin`."""

    def __init__(self, controllers: Iterable[Controller[Any]], cluster: Cluster, queue: WorkQueue) -> None:
        self._cluster = cluster
        self._queue = queue
        self._by_resource: dict[ResourceType, list[Watch[Any]]] = {}
        for controller in controllers:
            for watch in controller.watches:
                self._by_resource.setdefault(watch.resource, []).append(watch)

    @property
    def resources(self) -> tuple[ResourceType, ...]:
        """Every resource that somebody watches."""
        return tuple(self._by_resource)

    def begin(self, cache: ObjectCache) -> None:
        """Ask for the keys of every object there is, and from now on of every object that changes."""
        cache.listen(self.heard)
        for resource in self._by_resource:
            for obj in cache.list(resource):
                self.heard(resource, None, obj)

    def heard(self, resource: ResourceType, before: Object | None, after: Object | None) -> None:
        """Ask for the keys that a change concerns; `before` None: it is new, `after` None: it is gone."""
        changed = before is None or after is None or _by_others(resource, before, after)
        last = after or before
        assert last is not None
        for watch in self._by_resource[resource]:
            for key in watch.keys(self._cluster, last):
                self._queue.add(key, watch.after_seconds, changed=changed)


def _by_others(resource: ResourceType, before: Object, after: Object) -> bool:
    """Whether an object changed otherwise than by the status that Weft itself writes on its own kinds.

    A controller that fails after it has said so in a status must not take its own words for a reason to try again.
    """
    if resource.group != GROUP:
        return True
    parts = ("uid", "generation", "labels", "annotations", "deletionTimestamp")
    return any(before["metadata"].get(part) != after["metadata"].get(part) for part in parts)

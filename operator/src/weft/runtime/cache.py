"""The last known state of every watched object.

Three writers feed it: watch events, periodic lists, and the answers to our own writes (so that a worker sees
what it has just done). A resourceVersion is an ordered number, so the newest picture wins whatever the order
of arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from weft.api.resources import ResourceType
from weft.cluster import Index, Object
from weft.runtime.lean import Texts, lean

Key = tuple[str, str]
"""Namespace (empty for cluster-scoped objects) and name."""

Listener = Callable[[ResourceType, Object | None, Object | None], None]
"""Resource, the object as it was (None: new), the object as it is (None: gone)."""


def version(obj: Object) -> int:
    """The object's resourceVersion as a number."""
    return int(obj["metadata"]["resourceVersion"])


def key_of(obj: Object) -> Key:
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class ObjectCache:
    """Objects by resource, namespace and name. Listeners hear of every change."""

    def __init__(self) -> None:
        self._objects: dict[ResourceType, dict[Key, Object]] = {}
        self._deleted: dict[ResourceType, dict[Key, int]] = {}
        """The versions at which objects were deleted: an older event of one must not bring it back."""
        self._listeners: list[Listener] = []
        self._texts = Texts()
        self._indexes: dict[ResourceType, dict[Index, dict[Hashable, dict[Key, Object]]]] = {}

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def get(self, resource: ResourceType, name: str, namespace: str = "") -> Object | None:
        return self._objects.get(resource, {}).get((namespace, name))

    def select(self, resource: ResourceType, index: Index, value: Hashable) -> list[Object]:
        """The objects for which `index` gives this value; the first call for an index looks at all."""
        indexes = self._indexes.setdefault(resource, {})
        if index not in indexes:
            found = indexes[index] = {}
            for key, obj in self._objects.get(resource, {}).items():
                if (here := index(obj)) is not None:
                    found.setdefault(here, {})[key] = obj
        return list(indexes[index].get(value, {}).values())

    def list(self, resource: ResourceType, namespace: str | None = None) -> list[Object]:
        if namespace is None:
            return list(self._objects.get(resource, {}).values())
        return self.select(resource, _namespace, namespace)

    def put(self, resource: ResourceType, obj: Object) -> None:
        """Take a newer picture of an object; an older one, or one from before its deletion, is ignored."""
        key, new = key_of(obj), version(obj)
        if new <= self._deleted.get(resource, {}).get(key, 0):
            return
        known = self._objects.setdefault(resource, {}).get(key)
        if known is not None and version(known) >= new:
            return
        kept = self._objects[resource][key] = self._texts.share(lean(resource, obj), known)
        self._index(resource, key, known, kept)
        self._tell(resource, known, kept)

    def remove(self, resource: ResourceType, obj: Object) -> None:
        """Take note of a deletion; `obj` is the last state, whose resourceVersion is that of the deletion."""
        self._remove(resource, key_of(obj), version(obj))

    def replace(self, resource: ResourceType, objects: Iterable[Object], list_version: int) -> None:
        """Compare with a full list: what it lacks, and is not newer than it, was deleted while we did not see."""
        listed = {key_of(obj): obj for obj in objects}
        for obj in listed.values():
            self.put(resource, obj)
        for key in [key for key in self._objects.get(resource, {}) if key not in listed]:
            self._remove(resource, key, list_version)
        # They only have to outlive watch events that were sent before this list.
        deleted = self._deleted.get(resource, {})
        self._deleted[resource] = {key: at for key, at in deleted.items() if at >= list_version}

    def _remove(self, resource: ResourceType, key: Key, at: int) -> None:
        known = self._objects.get(resource, {}).get(key)
        if known is not None and version(known) > at:
            return
        deleted = self._deleted.setdefault(resource, {})
        deleted[key] = max(at, deleted.get(key, 0))
        if known is not None:
            del self._objects[resource][key]
            self._index(resource, key, known, None)
            self._tell(resource, known, None)

    def _index(self, resource: ResourceType, key: Key, before: Object | None, after: Object | None) -> None:
        for index, found in self._indexes.get(resource, {}).items():
            value = None if after is None else index(after)
            if before is not None and (old := index(before)) is not None and old != value:
                del found[old][key]
                if not found[old]:
                    del found[old]
            if after is not None and value is not None:
                found.setdefault(value, {})[key] = after

    def _tell(self, resource: ResourceType, before: Object | None, after: Object | None) -> None:
        for listener in self._listeners:
            listener(resource, before, after)


def _namespace(obj: Object) -> Hashable:
    return str(obj["metadata"].get("namespace", ""))

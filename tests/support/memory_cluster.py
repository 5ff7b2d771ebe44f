"""The Cluster protocol in memory, as strict as the API server where reconcilers could cheat.

resourceVersions grow with every write and guard patches and statuses; a status is changed through its
subresource only, a spec never through it; names are unique; deletion waits for finalizers, a pod's for the
kubelet. Not here: schemas, admission, watch delays.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from support.refusals import AnswerLost, Rule, Write
from weft.api.resources import PODS, ResourceType
from weft.cluster import AlreadyExistsError, ConflictError, InvalidError, NotFoundError, Object

Key = tuple[ResourceType, str, str]


def merged(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class MemoryCluster:
    """Implements `weft.cluster.Cluster`; `after_write` and `before_write` let a test look or crash."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.objects: dict[Key, Object] = {}
        self.events: list[tuple[str, str, str]] = []
        """(kind, reason, message)"""
        self.writes: list[tuple[str, str, str]] = []
        """(verb, plural, name)"""
        self.refuse: Callable[[ResourceType, Object], str | None] = lambda resource, body: None
        """Says why a body is not valid."""
        self.rules: list[Rule] = []
        """What refuses writes, see `support.refusals`; changed by a test while it runs."""
        self.before_write: Callable[[], None] = lambda: None
        self.after_write: Callable[[], None] = lambda: None
        self._clock = clock
        self._versions = itertools.count(1)

    def get(self, resource: ResourceType, name: str, namespace: str = "") -> Object | None:
        return self.objects.get((resource, namespace, name))

    def list(self, resource: ResourceType, namespace: str | None = None) -> list[Object]:
        return [
            obj
            for (kind, space, _), obj in sorted(self.objects.items(), key=lambda item: item[0][1:])
            if kind == resource and namespace in (None, space)
        ]

    async def create(self, resource: ResourceType, body: Object, *, dry_run: bool = False) -> Object:
        metadata = body["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        if why := self.refuse(resource, body):
            raise InvalidError(422, "Invalid", why)
        write = Write("create", resource, key[1], key[2], body, dry_run)
        lost = self._admit(write)
        if key in self.objects:
            raise AlreadyExistsError(409, "AlreadyExists", f"{metadata['name']} already exists")
        if dry_run:
            return copy.deepcopy(body)
        self._before("create", resource, metadata["name"])
        created = copy.deepcopy(body)
        created.pop("status", None)
        created["metadata"] |= {
            "uid": f"uid-{next(self._versions)}",
            "generation": 1,
            "creationTimestamp": self._now(),
        }
        return _answer(self._store(key, created), lost)

    async def patch(
        self,
        resource: ResourceType,
        name: str,
        namespace: str,
        body: Mapping[str, Any],
        *,
        subresource: str = "",
    ) -> Object:
        current = self._current(resource, name, namespace, body)
        verb = f"patch {subresource}".strip()
        lost = self._admit(Write(verb, resource, namespace, name, body))
        self._before(verb, resource, name)
        changed = merged(current, body)
        if subresource == "status":
            changed = {**current, "status": changed.get("status", {})}
        else:
            changed = {**changed, "status": current["status"]} if "status" in current else changed
            changed.pop("status", None) if "status" not in current else None
            if changed.get("spec") != current.get("spec"):
                changed["metadata"] = {
                    **changed["metadata"],
                    "generation": current["metadata"]["generation"] + 1,
                }
        return _answer(self._store((resource, namespace, name), changed), lost)

    async def write_status(
        self, resource: ResourceType, current: Object, status: Mapping[str, Any]
    ) -> Object:
        if current.get("status", {}) == status:
            return current
        metadata = current["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        stored = self._current(resource, metadata["name"], metadata.get("namespace", ""), current)
        lost = self._admit(Write("status", *key, status))
        self._before("status", resource, metadata["name"])
        return _answer(self._store(key, {**stored, "status": copy.deepcopy(dict(status))}), lost)

    async def delete(
        self,
        resource: ResourceType,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        grace_seconds: int | None = None,
    ) -> None:
        key = (resource, namespace, name)
        current = self.objects.get(key)
        if current is None:
            return
        if uid and current["metadata"]["uid"] != uid:
            raise ConflictError(409, "Conflict", f"{name} is another object now")
        lost = self._admit(Write("delete", resource, namespace, name, {}))
        self._before("delete", resource, name)
        if current["metadata"].get("finalizers") or (resource == PODS and grace_seconds != 0):
            stamp = current["metadata"].get("deletionTimestamp") or self._now()
            self._store(key, {**current, "metadata": {**current["metadata"], "deletionTimestamp": stamp}})
        else:
            del self.objects[key]
            self.after_write()
        if lost is not None:
            raise lost

    def event(self, about: Object, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self.events.append((kind, reason, message))

    def _admit(self, write: Write) -> AnswerLost | None:
        """Ask every rule; raises the first refusal, and returns what is to be raised after the write."""
        lost = None
        for rule in list(self.rules):
            error = rule(write)
            if isinstance(error, AnswerLost):
                lost = error
            elif error is not None:
                raise error
        return lost

    def _before(self, verb: str, resource: ResourceType, name: str) -> None:
        self.before_write()
        self.writes.append((verb, resource.plural, name))

    def _current(self, resource: ResourceType, name: str, namespace: str, body: Mapping[str, Any]) -> Object:
        current = self.objects.get((resource, namespace, name))
        if current is None:
            raise NotFoundError(404, "NotFound", name)
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version and version != current["metadata"]["resourceVersion"]:
            raise ConflictError(409, "Conflict", f"{name} changed")
        return current

    def _store(self, key: Key, obj: Object) -> Object:
        metadata = {**obj["metadata"], "resourceVersion": str(next(self._versions))}
        stored = {**obj, "metadata": metadata}
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and key[0] != PODS:
            self.objects.pop(key, None)
        else:
            self.objects[key] = stored
        self.after_write()
        return stored

    def _now(self) -> str:
        return self._clock().strftime("%Y-%m-%dT%H:%M:%SZ")


def _answer(stored: Object, lost: AnswerLost | None) -> Object:
    if lost is not None:
        raise lost
    return stored

"""The Cluster protocol in memory, as strict as the API server where reconcilers could cheat.

resourceVersions grow with every write that changes something, and guard patches and statuses; a status is changed
through its subresource only, a spec never through it; names are unique; deletion waits for finalizers, a scheduled
pod's for the kubelet, and counts as a version of its own; bodies are decoded, defaulted and checked (`support.kinds`),
patches applied as the API server applies them (`support.patches`), and `support.refusals` makes it say no. Conditions
and events that `weft.api.reasons` does not declare fail the test.
tests/integration/test_stand_in_agrees.py holds it against a real API server. Not here: rules (CEL), controllers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from support import kinds
from support.patches import merged, strategic
from support.reasons import undeclared
from support.refusals import AnswerLost, Rule, Write
from weft.api.reasons import is_event
from weft.api.resources import GROUP, NODES, PODS, SCALE, ResourceType
from weft.cluster import AlreadyExistsError, ClusterError, ConflictError, Index, NotFoundError, Object
from weft.runtime.lean import USED, lean

Key = tuple[ResourceType, str, str]


class MemoryCluster:
    """Implements `weft.cluster.Cluster`; `after_write` and `before_write` let a test look or crash."""

    def __init__(
        self,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        schemas: bool = True,
        declared: bool = True,
    ) -> None:
        """Without `schemas` nothing is decoded, defaulted or checked: for runs of thousands of other tests' writes.

        Without `declared` a status may have conditions that Weft never writes: for statuses made at random.
        """
        self._schemas = schemas
        self._declared = declared
        self.objects: dict[Key, Object] = {}
        self._lean: dict[Key, tuple[Object, Object]] = {}
        self.events: list[tuple[str, str, str]] = []
        """(kind, reason, message)"""
        self.writes: list[tuple[str, str, str]] = []
        """(verb, plural, name)"""
        self.rules: list[Rule] = []
        """What refuses writes, see `support.refusals`; changed by a test while it runs."""
        self.before_write: Callable[[], None] = lambda: None
        self.after_write: Callable[[], None] = lambda: None
        self.unheard_of: set[Key] = set()
        """Objects that the watch has not told of: nobody sees them in the cache before they are asked for."""
        self.heard: Callable[[str, ResourceType, Object], None] = lambda kind, resource, obj: None
        """Told of every change as a watch would tell it: ADDED, MODIFIED or DELETED, and the object as it is then."""
        self.version = 0
        """That of the last write."""
        self._clock = clock
        self.kept_by_budgets: set[str] = set()
        """Pods that no PodDisruptionBudget lets go."""

    def get(self, resource: ResourceType, name: str, namespace: str = "") -> Object | None:
        key = (resource, namespace, name)
        return self._cached(key) if key in self.objects else None

    def whole(self, resource: ResourceType, namespace: str) -> list[Object]:
        """A namespace's objects as the API server has them: for what stands for kubelets, schedulers and users."""
        found = [key for key in self.objects if key[:2] == (resource, namespace)]
        return [self.objects[key] for key in sorted(found, key=lambda key: key[1:])]

    def _cached(self, key: Key) -> Object:
        """An object as the operator's cache has it: of pods and Nodes the fields that are used. Whole in `objects`."""
        whole = self.objects[key]
        if key[0] not in USED:
            return whole
        known = self._lean.get(key)
        if known is None or known[0] is not whole:
            known = self._lean[key] = whole, lean(key[0], whole)
        return known[1]

    def select(self, resource: ResourceType, index: Index, value: Hashable) -> list[Object]:
        return [obj for obj in self.list(resource) if index(obj) == value]

    def list(self, resource: ResourceType, namespace: str | None = None) -> list[Object]:
        found = [
            key
            for key in self.objects
            if (key[0] is resource or key[0] == resource)
            and namespace in (None, key[1])
            and key not in self.unheard_of
        ]
        return [self._cached(key) for key in sorted(found, key=lambda key: key[1:])]

    async def refresh(self, resource: ResourceType, namespace: str, *, field: str, value: str) -> None:
        if field == "metadata.name":
            return  # of every resource; nothing of them is unheard of here
        assert field == "spec.nodeName", "of pods this field can be selected by"
        for key in [key for key in self.unheard_of if key[0] == resource and namespace in ("", key[1])]:
            if self.objects[key]["spec"].get("nodeName") == value:
                self.unheard_of.discard(key)

    async def read(
        self, resource: ResourceType, name: str, namespace: str = "", *, subresource: str = ""
    ) -> Object | None:
        found = self.objects.get((resource, namespace, name))
        if found is None or subresource != SCALE:
            return found
        status = found.get("status") or {}
        return {
            "metadata": found["metadata"],
            "spec": {"replicas": found["spec"]["replicas"]},
            "status": {"replicas": status.get("replicas", 0), "selector": status.get("selector", "")},
        }

    async def create(self, resource: ResourceType, body: Object, *, dry_run: bool = False) -> Object:
        name, namespace = body["metadata"]["name"], body["metadata"].get("namespace", "")
        key = (resource, namespace, name)
        identity = {"apiVersion": resource.api_version, "kind": resource.kind}
        made = self._taken_in(resource, copy.deepcopy({**identity, **body}), strict=True)
        if resource != NODES:
            made.pop("status", None)
        if resource == PODS:
            made["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        made["metadata"] = {
            **_without_nothing(made["metadata"]),
            "uid": f"uid-{self._next()}",
            "creationTimestamp": self._stamp(),
            **({} if resource == NODES else {"generation": 1}),
        }
        made = kinds.admitted(resource, made)
        self._check(resource, made, None)
        lost = self._admit(Write("create", resource, namespace, name, body, dry_run))
        if key in self.objects:
            text = f'{resource.plural} "{name}" already exists'
            raise AlreadyExistsError(409, "AlreadyExists", text)
        if dry_run:
            return made
        self._before("create", resource, name)
        return _answer(self._store(key, made), lost)

    async def patch(
        self,
        resource: ResourceType,
        name: str,
        namespace: str,
        body: Mapping[str, Any],
        *,
        subresource: str = "",
    ) -> Object:
        current = self._current(resource, name, namespace, body.get("metadata") or {})
        if subresource == SCALE:
            body = {"spec": {"replicas": body["spec"]["replicas"]}}
        apply = merged if resource.group == GROUP or subresource == SCALE else strategic
        patched = self._taken_in(resource, apply(current, body), strict=False)
        patched["metadata"] = _without_nothing({**patched["metadata"], **_kept(current)})
        uid = (body.get("metadata") or {}).get("uid", current["metadata"]["uid"])
        patched["metadata"]["uid"] = uid
        changed = self._updated(resource, current, patched, subresource)
        verb = f"patch {subresource}".strip()
        lost = self._admit(Write(verb, resource, namespace, name, body))
        self._before(verb, resource, name)
        return _answer(self._store((resource, namespace, name), changed), lost)

    async def write_status(
        self, resource: ResourceType, current: Object, status: Mapping[str, Any]
    ) -> Object:
        if current.get("status", {}) == status:
            return current
        metadata = current["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        stored = self._current(resource, name, namespace, metadata)
        sent = self._taken_in(resource, {**current, "status": copy.deepcopy(dict(status))}, strict=False)
        changed = self._updated(resource, stored, sent, "status")
        lost = self._admit(Write("status", resource, namespace, name, status))
        self._before("status", resource, name)
        return _answer(self._store((resource, namespace, name), changed), lost)

    async def replace(self, resource: ResourceType, body: Object) -> Object:
        """Replace an object that has no schema here (a Lease), guarded by its resourceVersion."""
        metadata = body["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        current = self._current(resource, name, namespace, metadata)
        return self._store((resource, namespace, name), {**body, "metadata": current["metadata"]})

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
        metadata = current["metadata"]
        if uid and metadata["uid"] != uid:
            text = f'Operation cannot be fulfilled on {resource.kind} "{name}": the UID in the precondition'
            raise ConflictError(409, "Conflict", f"{text} ({uid}) does not match")
        lost = self._admit(Write("delete", resource, namespace, name, {}))
        self._before("delete", resource, name)
        grace = self._grace(resource, current, grace_seconds)
        earlier = metadata.get("deletionGracePeriodSeconds")
        if grace or metadata.get("finalizers"):
            if earlier is None or grace < earlier:
                generation = metadata.get("generation")
                bump = {"generation": generation + 1} if generation and earlier is None else {}
                stamp = self._stamp(grace)
                going = {"deletionTimestamp": stamp, "deletionGracePeriodSeconds": grace, **bump}
                self._store(key, {**current, "metadata": {**metadata, **going}})
        else:
            self._gone(key, {**current, "metadata": {**metadata, "resourceVersion": self._next()}})
            self.after_write()
        if lost is not None:
            raise lost

    async def evict(self, name: str, namespace: str, *, uid: str) -> None:
        if name in self.kept_by_budgets:
            text = "Cannot evict pod as it would violate the pod's disruption budget."
            raise ClusterError(429, "TooManyRequests", text)
        await self.delete(PODS, name, namespace, uid=uid)

    def event(
        self,
        about: Object,
        kind: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        devices: Iterable[str] = (),
    ) -> None:
        assert is_event(about["kind"], kind, reason), f"not declared in weft.api.reasons: {kind} {reason}"
        self.events.append((kind, reason, message))

    def _grace(self, resource: ResourceType, current: Object, wanted: int | None) -> int:
        """Seconds that the kubelet is given to end a pod; nobody else is given any."""
        if resource != PODS or not current["spec"].get("nodeName"):
            return 0
        if (current.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return 0
        earlier = current["metadata"].get("deletionGracePeriodSeconds")
        asked = wanted if wanted is not None else current["spec"].get("terminationGracePeriodSeconds", 30)
        return int(asked if earlier is None else min(asked, earlier))

    def _updated(self, resource: ResourceType, current: Object, sent: Object, subresource: str) -> Object:
        """What becomes of the stored object, by what may be changed where. Raises InvalidError."""
        if subresource == "status":
            # The status of a Pod or a Node brings its metadata along; of a custom object nothing else is taken.
            metadata = current["metadata"] if resource.group == GROUP else sent["metadata"]
            changed = {**current, "metadata": metadata}
            changed.pop("status", None)
            if "status" in sent:
                changed["status"] = sent["status"]
        else:
            changed = {key: value for key, value in sent.items() if key != "status"}
            if "status" in current:
                changed["status"] = current["status"]
            if kinds.bumps_generation(resource, current, changed):
                generation = current["metadata"]["generation"] + 1
                changed["metadata"] = {**changed["metadata"], "generation": generation}
        self._check(resource, changed, current)
        if self._declared and subresource == "status" and resource.group == GROUP:
            said = undeclared(resource.kind, changed.get("status") or {}, current.get("status"))
            assert not said, f"not declared in weft.api.reasons: {'; '.join(said)}"
        return changed

    def _taken_in(self, resource: ResourceType, obj: Object, *, strict: bool) -> Object:
        return kinds.taken_in(resource, obj, strict=strict) if self._schemas else obj

    def _check(self, resource: ResourceType, obj: Object, before: Object | None) -> None:
        if self._schemas:
            kinds.check(resource, obj, before)

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

    def _current(
        self, resource: ResourceType, name: str, namespace: str, metadata: Mapping[str, Any]
    ) -> Object:
        current = self.objects.get((resource, namespace, name))
        if current is None:
            raise NotFoundError(404, "NotFound", f'{resource.plural} "{name}" not found')
        version = metadata.get("resourceVersion")
        if version and version != current["metadata"]["resourceVersion"]:
            text = (
                f'Operation cannot be fulfilled on {resource.plural} "{name}": the object has been modified'
            )
            raise ConflictError(409, "Conflict", text)
        return current

    def _store(self, key: Key, obj: Object) -> Object:
        """Put an object in place as it is; one that is being deleted and held by nothing goes."""
        before = self.objects.get(key)
        if before is not None and _same(before, obj):
            self.after_write()
            return before
        metadata = {**obj["metadata"], "resourceVersion": self._next()}
        stored = {**obj, "metadata": metadata}
        held = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
        if metadata.get("deletionTimestamp") and not held:
            self._gone(key, stored)
        else:
            self.objects[key] = stored
            self.heard("ADDED" if before is None else "MODIFIED", key[0], stored)
        self.after_write()
        return stored

    def _gone(self, key: Key, last: Object) -> None:
        if self.objects.pop(key, None) is not None:
            self.heard("DELETED", key[0], last)

    def _next(self) -> str:
        self.version += 1
        return str(self.version)

    def _stamp(self, in_seconds: int = 0) -> str:
        return (self._clock() + timedelta(seconds=in_seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _kept(current: Object) -> Object:
    """Metadata that no patch changes."""
    fixed = ("name", "namespace", "creationTimestamp", "deletionTimestamp", "generation", "resourceVersion")
    return {key: current["metadata"][key] for key in fixed if key in current["metadata"]}


def _without_nothing(metadata: Object) -> Object:
    """Empty maps and lists of metadata are not stored."""
    return {key: value for key, value in metadata.items() if value not in (None, {}, [])}


def _same(left: Object, right: Object) -> bool:
    without = ({**each["metadata"], "resourceVersion": ""} for each in (left, right))
    return {**left, "metadata": next(without)} == {**right, "metadata": next(without)}


def _answer(stored: Object, lost: AnswerLost | None) -> Object:
    if lost is not None:
        raise lost
    return stored

"""What a user's rights let them read of Weft's objects, at one moment."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from weft.api import (
    DeviceAttachment,
    DeviceQuota,
    EngineProfile,
    Fabric,
    GPUPool,
    InferenceGroup,
    InferenceRole,
    LogicalNode,
    MemoryPool,
    Resource,
    StoragePool,
)
from weft.api.names import DEVICES, LABEL_GROUP
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    DEVICE_QUOTAS,
    ENGINE_PROFILES,
    EVENTS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    MEMORY_POOLS,
    NAMESPACES,
    PODS,
    STORAGE_POOLS,
    ResourceType,
)
from weft.cli.look.leader import leases, nobody_leads
from weft.cli.look.words import FORBIDDEN, NOT_INSTALLED, refusal
from weft.cluster import ClusterError, NotFoundError, Object, UnknownAddressError
from weft.runtime.client import KubeClient

R = TypeVar("R", bound=Resource)

KINDS: tuple[tuple[ResourceType, str], ...] = (
    (FABRICS, "fab"),
    (GPU_POOLS, "gpup"),
    (MEMORY_POOLS, "memp"),
    (STORAGE_POOLS, "stop"),
    (DEVICE_ATTACHMENTS, "devatt"),
    (DEVICE_QUOTAS, "devq"),
    (LOGICAL_NODES, "lnode"),
    (INFERENCE_GROUPS, "infg"),
    (INFERENCE_ROLES, "infr"),
    (ENGINE_PROFILES, "engp"),
)
"""All kinds with their short names, in the order in which they depend on each other."""
MODELS: dict[ResourceType, type[Resource]] = {
    FABRICS: Fabric,
    GPU_POOLS: GPUPool,
    MEMORY_POOLS: MemoryPool,
    STORAGE_POOLS: StoragePool,
    DEVICE_ATTACHMENTS: DeviceAttachment,
    DEVICE_QUOTAS: DeviceQuota,
    LOGICAL_NODES: LogicalNode,
    INFERENCE_GROUPS: InferenceGroup,
    INFERENCE_ROLES: InferenceRole,
    ENGINE_PROFILES: EngineProfile,
}
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
"""What the API server takes for the name of an object or namespace: anything else could be another path of it."""
CLUSTER_EVENTS = "default"
"""Namespace of the events about objects that are in none."""


class AskError(Exception):
    """What was asked cannot be answered; the message says what to do next."""


@dataclass(frozen=True)
class Ref:
    """One object as a person names it."""

    resource: ResourceType
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.resource.kind} {f'{self.namespace}/' if self.namespace else ''}{self.name}"


@dataclass(frozen=True)
class Reading:
    """Objects by resource, read one after the other and so not of one instant."""

    now: datetime
    objects: Mapping[ResourceType, tuple[Object, ...]]
    denied: tuple[str, ...] = ()
    """Plural names of what whoever asks has no right to list."""
    nobody_leads: str = ""
    """Why no operator leads; empty where one does, or whoever asks may not see its Lease."""
    narrowed: str = ""
    """Of what only one namespace was read, since whoever asks may not list it in all; empty where nothing was."""

    def of(self, resource: ResourceType, model: type[R]) -> list[R]:
        """The objects as models, by namespace and name; those of `unreadable` are not among them."""
        return [one for one in self._models[0].get(resource, ()) if isinstance(one, model)]

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Objects that this version cannot read, each with what of it: they were written by another one."""
        return self._models[1]

    @functools.cached_property
    def _models(self) -> tuple[dict[ResourceType, list[Resource]], tuple[str, ...]]:
        read: dict[ResourceType, list[Resource]] = {}
        unreadable = []
        for resource, model in MODELS.items():
            for each in self.objects.get(resource, ()):
                try:
                    read.setdefault(resource, []).append(model.model_validate(each))
                except ValidationError as error:
                    first = error.errors(include_url=False, include_input=False)[0]
                    where = ".".join(map(str, first["loc"]))
                    metadata = each["metadata"]
                    ref = Ref(resource, metadata["name"], metadata.get("namespace", ""))
                    unreadable.append(f"{ref} ({where}: {first['msg']})")
        for models in read.values():
            models.sort(key=lambda one: (one.metadata.namespace, one.metadata.name))
        return read, tuple(unreadable)

    @property
    def fabrics(self) -> list[Fabric]:
        return self.of(FABRICS, Fabric)

    @property
    def pools(self) -> list[GPUPool | MemoryPool | StoragePool]:
        return [
            *self.of(GPU_POOLS, GPUPool),
            *self.of(MEMORY_POOLS, MemoryPool),
            *self.of(STORAGE_POOLS, StoragePool),
        ]

    @property
    def nodes(self) -> list[LogicalNode]:
        return self.of(LOGICAL_NODES, LogicalNode)

    @property
    def attachments(self) -> list[DeviceAttachment]:
        return self.of(DEVICE_ATTACHMENTS, DeviceAttachment)

    @property
    def quotas(self) -> list[DeviceQuota]:
        return self.of(DEVICE_QUOTAS, DeviceQuota)

    @property
    def groups(self) -> list[InferenceGroup]:
        return self.of(INFERENCE_GROUPS, InferenceGroup)

    @property
    def roles(self) -> list[InferenceRole]:
        return self.of(INFERENCE_ROLES, InferenceRole)

    @property
    def pods(self) -> tuple[Object, ...]:
        """Pods of replicas."""
        return self.objects.get(PODS, ())

    def find(self, ref: Ref) -> Object | None:
        """The object of that name, or None."""
        return next(
            (
                each
                for each in self.objects.get(ref.resource, ())
                if (each["metadata"].get("namespace", ""), each["metadata"]["name"])
                == (ref.namespace, ref.name)
            ),
            None,
        )


@dataclass
class Asker:
    """Reads with the rights of the current user of one cluster."""

    client: KubeClient
    namespace: str
    """The namespace that is meant where none is named."""
    everywhere: bool = False
    _denied: set[str] = field(default_factory=set)
    _narrowed: set[str] = field(default_factory=set)
    """Plural names of what was asked of all namespaces and may be listed in `namespace` alone."""
    _unknown: set[str] = field(default_factory=set)
    """Kinds that the cluster does not know."""

    async def read(self, resources: Iterable[ResourceType] | None = None, *, pods: bool = False) -> Reading:
        """All objects of these resources (all of Weft's by default). Raises AskError when none can be read."""
        wanted = [resource for resource, _ in KINDS] if resources is None else list(resources)
        lists = await asyncio.gather(*(self._list(resource) for resource in wanted))
        objects = dict(zip(wanted, lists, strict=True))
        if self._unknown:
            raise AskError(_does_not_know(self._unknown, wanted))
        if pods:
            objects[PODS] = await self._list(PODS, LABEL_GROUP)
        if len(self._denied) == len(objects):
            raise AskError(
                f"no right to list {', '.join(sorted(self._denied))}, namespaced ones in namespace {self.namespace}"
                " (-n names another): Kubernetes' role view of the namespace has it, where Weft's chart is installed"
            )
        now = datetime.now(UTC)
        return Reading(
            now,
            objects,
            tuple(sorted(self._denied)),
            await self.nobody_leads(now),
            self._words_for_narrowed(),
        )

    def _words_for_narrowed(self) -> str:
        found = sorted(self._narrowed - self._denied)
        return (
            f"of namespace {self.namespace} alone (-n names another), for want of the right to list them in all:"
            f" {', '.join(found)}"
            if found
            else ""
        )

    async def nobody_leads(self, now: datetime) -> str:
        """Why no operator leads; empty where one does, or it is not known."""
        return nobody_leads(await leases(self.client), now)

    async def _list(self, resource: ResourceType, labels: str = "") -> tuple[Object, ...]:
        everywhere = self.everywhere or not resource.namespaced
        try:
            try:
                items, _ = await self.client.list(resource, "" if everywhere else self.namespace, labels)
            except ClusterError as error:
                if error.status != FORBIDDEN or not resource.namespaced or not everywhere:
                    raise
                # A tenant's rights end at their namespace: so does the answer.
                self._narrowed.add(resource.plural)
                items, _ = await self.client.list(resource, self.namespace, labels)
        except ClusterError as error:
            if error.status == FORBIDDEN:
                self._denied.add(resource.plural)
                return ()
            if isinstance(error, UnknownAddressError):
                self._unknown.add(resource.kind)
                return ()
            raise AskError(refusal(error)) from error
        return tuple(items)

    async def events(self, ref: Ref) -> list[Object]:
        """The events about an object, the latest last; empty where they may not be read."""
        selector = f"regarding.kind={ref.resource.kind},regarding.name={ref.name}"
        try:
            found = await self.client.find(EVENTS, ref.namespace or CLUSTER_EVENTS, selector)
        except ClusterError as error:
            if error.status == FORBIDDEN:
                self._denied.add(EVENTS.plural)
                return []
            raise AskError(refusal(error)) from error
        return sorted(found, key=moment_of)

    async def missing(self, ref: Ref) -> str:
        """Words for an object that is not there, with the namespaces that have one of its name."""
        text = f"there is no {ref}, or no right to see it"
        try:
            everywhere, _ = await self.client.list(ref.resource)
        except ClusterError:
            everywhere = list(await self._list(ref.resource))
        found = sorted(
            each["metadata"]["namespace"]
            for each in everywhere
            if ref.resource.namespaced and each["metadata"]["name"] == ref.name
        )
        if found:
            return f"{text}; {' and '.join(found[:2])} has one: -n {found[0]}"
        here = [one for one in everywhere if one["metadata"].get("namespace", "") == ref.namespace]
        if meant := alike(ref.name, (one["metadata"]["name"] for one in here)):
            return f"{text}; there is {meant}"
        return f"{text} (-n says in which namespace)" if ref.resource.namespaced else text

    async def no_namespace(self) -> str:
        """Words for a namespace that is not there; empty where it is, or that is not to be seen."""
        try:
            await self.client.get(NAMESPACES, self.namespace)
        except NotFoundError:
            names: Iterable[str] = ()
            with contextlib.suppress(ClusterError):
                names = [one["metadata"]["name"] for one in (await self.client.list(NAMESPACES))[0]]
            meant = alike(self.namespace, names)
            return f"there is no namespace {self.namespace}{f'; there is {meant}' if meant else ''}"
        except ClusterError:
            pass
        return ""

    async def device_events(self) -> list[Object]:
        """The events that name devices, the latest last; those of one namespace where rights end there."""
        return sorted(await self._list(EVENTS, DEVICES), key=moment_of)

    async def all_events(self) -> list[Object]:
        """The events about objects of Weft's kinds, the latest last."""
        kinds = {resource.kind for resource, _ in KINDS}
        found = await self._list(EVENTS)
        if not self.everywhere or EVENTS.plural in self._narrowed:
            with contextlib.suppress(ClusterError):
                found += tuple((await self.client.list(EVENTS, CLUSTER_EVENTS))[0])
        return sorted((one for one in found if one.get("regarding", {}).get("kind") in kinds), key=moment_of)


def alike(name: str, names: Iterable[str]) -> str:
    """Names that may be meant by a misspelt one, the most alike first; empty for none."""
    return " and ".join(difflib.get_close_matches(name, sorted(set(names)), n=2))


def _does_not_know(unknown: set[str], wanted: list[ResourceType]) -> str:
    if len(unknown) == len(wanted):
        return NOT_INSTALLED
    return (
        f"this cluster does not know {' and '.join(sorted(unknown))}, but {len(wanted) - len(unknown)} of Weft's"
        " kinds: another version's definitions, or their removal hangs, since objects were left: see"
        " docs/install.md#and-back"
    )


def moment_of(event: Object) -> str:
    """When an event was last seen, as the API writes moments: they sort as text."""
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(
        series
        or event.get("eventTime")
        or event.get("deprecatedLastTimestamp")
        or event["metadata"].get("creationTimestamp", "")
    )


def ref_of(words: list[str], namespace: str) -> Ref:
    """`KIND/NAME` or `KIND NAME`, kinds by singular, plural or short name. Raises AskError."""
    text = "/".join(words)
    whole, slash, name = text.partition("/")
    kind, _, group = whole.lower().partition(".")
    for resource, short in KINDS:
        # As `kubectl get -o name` prints them, too.
        of_it = group in ("", resource.group, f"{resource.version}.{resource.group}")
        if of_it and kind in (resource.kind.lower(), resource.plural, short):
            if not NAME.fullmatch(name):
                raise AskError(f"name one {resource.kind}: {resource.kind.lower()}/NAME")
            return Ref(resource, name, namespace if resource.namespaced else "")
    known = ", ".join(f"{resource.kind.lower()} ({short})" for resource, short in KINDS)
    if not slash:
        raise AskError(f"{text!r} has no kind: KIND/NAME, for example lnode/{text}. There are: {known}")
    raise AskError(f"{whole!r} is no kind of Weft's. There are: {known}")

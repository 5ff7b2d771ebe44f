"""GPUPool, MemoryPool, StoragePool: which devices are offered, to whom, at what cost."""

from __future__ import annotations

import enum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from weft.api.cel import Rule, immutable
from weft.api.conditions import CONDITION_LIST, Conditions
from weft.api.devices import DeviceSelector
from weft.api.meta import LabelSelector, Model, NameRef, Resource
from weft.api.values import ByteQuantity, Counter, DnsLabel, Identifier, Jurisdiction, Message, Money

_BY_NAMESPACE: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["namespace"]}
_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}


class Tier(enum.StrEnum):
    """Where the devices stand."""

    CORE = "Core"
    EDGE = "Edge"


class Maintenance(Model):
    """What is taken out of service."""

    devices: Annotated[tuple[Identifier, ...], Field(max_length=256)] = Field(
        default=(), description="Devices that are not offered.", json_schema_extra=_SET
    )
    hosts: Annotated[tuple[Identifier, ...], Field(max_length=256)] = Field(
        default=(),
        description="Hosts to which none of this pool's devices is attached. No effect in this version.",
        json_schema_extra=_SET,
    )
    reason: Message = Field(default="", description="Why, for people.")


class Power(Model):
    """What one device draws."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule("self.idleWatts <= self.busyWatts", "idleWatts must not exceed busyWatts", ".idleWatts"),
    )

    idle_watts: int = Field(ge=0, le=100_000, description="Draw of an idle device in watts.")
    busy_watts: int = Field(ge=0, le=100_000, description="Draw of a busy device in watts.")


class DeviceQuotaOverride(Model):
    """Another limit for one namespace."""

    namespace: DnsLabel = Field(description="The namespace.")
    limit: int = Field(ge=0, le=100_000, description="Devices it may hold at one time.")


class DeviceQuota(Model):
    """How many devices a namespace may hold."""

    per_namespace: int | None = Field(
        default=None,
        ge=0,
        le=100_000,
        description="Devices that each namespace may hold at one time; absent: any.",
    )
    overrides: Annotated[tuple[DeviceQuotaOverride, ...], Field(max_length=256)] = Field(
        default=(), description="Other limits for some namespaces.", json_schema_extra=_BY_NAMESPACE
    )

    def limit(self, namespace: str) -> int | None:
        """Devices that this namespace may hold, or None for any number."""
        own = (override.limit for override in self.overrides if override.namespace == namespace)
        return next(own, self.per_namespace)


class ByteQuotaOverride(Model):
    """Another limit for one namespace."""

    namespace: DnsLabel = Field(description="The namespace.")
    limit: ByteQuantity = Field(description="Bytes it may hold at one time, for example 8Ti.")


class ByteQuota(Model):
    """How many bytes a namespace may hold."""

    per_namespace: ByteQuantity | None = Field(
        default=None,
        description="Bytes that each namespace may hold at one time, for example 2Ti; absent: any.",
    )
    overrides: Annotated[tuple[ByteQuotaOverride, ...], Field(max_length=256)] = Field(
        default=(), description="Other limits for some namespaces.", json_schema_extra=_BY_NAMESPACE
    )

    def limit(self, namespace: str) -> str | None:
        """Bytes that this namespace may hold, as a quantity, or None for any number."""
        own = (override.limit for override in self.overrides if override.namespace == namespace)
        return next(own, self.per_namespace)


class DeviceCost(Model):
    """What an attached device costs."""

    per_device_hour: Money = Field(description="Cost of one device for one hour, in the settings' currency.")


class ByteCost(Model):
    """What attached bytes cost."""

    per_gibibyte_hour: Money = Field(
        description="Cost of one gibibyte for one hour, in the settings' currency."
    )


class PoolSpec(Model):
    """What all pools say about their devices."""

    fabric_ref: NameRef = Field(
        description="Fabric whose devices this pool offers. Cannot be changed.",
        json_schema_extra=immutable("delete the pool and create one with another fabricRef"),
    )
    selector: DeviceSelector = Field(
        default=DeviceSelector(),
        description="Which of the fabric's devices. A device that two pools select belongs to the older"
        " pool.",
    )
    allowed_namespaces: LabelSelector | None = Field(
        default=None,
        description="Namespaces that may use the devices, by their labels. Absent: none. Empty ({}): all.",
    )
    maintenance: Maintenance = Field(default=Maintenance(), description="What is taken out of service.")
    tier: Tier = Field(
        default=Tier.CORE, description="Core or Edge. Region and zone come from the Node's topology labels."
    )
    jurisdiction: Jurisdiction | None = Field(
        default=None, description="Law that the devices stand under, for example EU; requests can ask for it."
    )
    power: Power | None = Field(default=None, description="What one device draws.")


class GPUPoolSpec(PoolSpec):
    """Accelerators that are offered."""

    quota: DeviceQuota = Field(default=DeviceQuota(), description="How many devices a namespace may hold.")
    cost: DeviceCost | None = Field(default=None, description="What an attached device costs.")


class BytePoolSpec(PoolSpec):
    """Devices that are offered and asked for by size."""

    quota: ByteQuota = Field(default=ByteQuota(), description="How many bytes a namespace may hold.")
    cost: ByteCost | None = Field(default=None, description="What attached bytes cost.")


class DeviceCounts(Model):
    """The pool's devices by what is being done with them."""

    total: Counter = Field(default=0, description="Devices of the pool.")
    free: Counter = Field(default=0, description="Devices that a request could get now.")
    bound: Counter = Field(default=0, description="Devices attached for a request.")
    reserved: Counter = Field(default=0, description="Devices claimed and not yet, or no longer, attached.")
    quarantined: Counter = Field(
        default=0, description="Devices withheld after a fault or an unknown outcome."
    )
    unavailable: Counter = Field(
        default=0,
        description="Devices that are faulty, in maintenance, or attached by somebody else.",
    )


class PoolStatus(Model):
    """What became of the pool's devices."""

    devices: DeviceCounts | None = Field(default=None, description="Devices by what is being done with them.")
    conditions: Conditions = Field(
        default=(),
        description="Ready: the counts follow the fabric; while it is unreachable they stay as last known."
        " Overlapping: an older pool selects some of the same devices and keeps them.",
        json_schema_extra=CONDITION_LIST,
    )


class GPUPool(Resource):
    """Accelerators that are offered: which, to whom, at what cost."""

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["GPUPool"] = Field(default="GPUPool", description="Kind of the object.")
    spec: GPUPoolSpec = Field(description="Which accelerators are offered, to whom, at what cost.")
    status: PoolStatus = Field(default=PoolStatus(), description="What became of them.")


class MemoryPool(Resource):
    """Memory devices that are offered: which, to whom, at what cost."""

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["MemoryPool"] = Field(default="MemoryPool", description="Kind of the object.")
    spec: BytePoolSpec = Field(description="Which memory devices are offered, to whom, at what cost.")
    status: PoolStatus = Field(default=PoolStatus(), description="What became of them.")


class StoragePool(Resource):
    """Storage devices that are offered: which, to whom, at what cost."""

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["StoragePool"] = Field(default="StoragePool", description="Kind of the object.")
    spec: BytePoolSpec = Field(description="Which storage devices are offered, to whom, at what cost.")
    status: PoolStatus = Field(default=PoolStatus(), description="What became of them.")


AnyPool = GPUPool | MemoryPool | StoragePool

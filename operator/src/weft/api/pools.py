"""GPUPool, MemoryPool, StoragePool: which devices are offered, to whom, at what cost."""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from weft.api.cel import Rule, immutable
from weft.api.conditions import CONDITION_LIST, Conditions
from weft.api.devices import AcceleratorSelector, ByteDeviceSelector
from weft.api.maintenance import Drain
from weft.api.meta import LabelSelector, Model, NameRef, Resource
from weft.api.values import Counter, DnsSubdomain, Identifier, Jurisdiction, Money, Version, Watts


class PoolKind(enum.StrEnum):
    """The kinds of pools."""

    GPU = "GPUPool"
    MEMORY = "MemoryPool"
    STORAGE = "StoragePool"


class PoolRef(Model):
    """A pool: pools of different kinds may have the same name."""

    kind: PoolKind = Field(description="Kind of the pool.")
    name: DnsSubdomain = Field(description="Name of the pool.")


class Maintenance(Model):
    """What is taken out of service."""

    devices: Annotated[tuple[Identifier, ...], Field(max_length=256)] = Field(
        default=(),
        description="Devices that are not offered; what is attached stays until it is released.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    all_devices: bool | None = Field(
        default=None, description="Whether all devices of the pool are meant. Absent: no."
    )
    drain: Drain | None = Field(
        default=None,
        description="Frees them: pods that use them are evicted, the devices detached, and their logical nodes get"
        " others. Absent: what is attached stays until it is released. The condition Drained says how far it is.",
    )

    def means(self, device: str) -> bool:
        """Whether a device of the pool is not offered."""
        return bool(self.all_devices) or device in self.devices


class DeviceCost(Model):
    """What an attached device costs."""

    per_device_hour: Money = Field(description="Cost of one device for one hour, in any one currency.")


class ByteCost(Model):
    """What attached bytes cost."""

    per_gibibyte_hour: Money = Field(description="Cost of one gibibyte for one hour, in any one currency.")


class DevicePower(Model):
    """What one device draws."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.idleWatts) || self.idleWatts <= self.busyWatts",
            "a device draws no more idle than busy: lower idleWatts or raise busyWatts",
            ".idleWatts",
        ),
    )

    idle_watts: Watts = Field(default=0, description="Watts of one device that nobody uses.")
    busy_watts: Watts = Field(
        description="Watts of one device that is attached. Energy is counted at this, as if it worked all the time."
    )


class PreemptionScope(enum.StrEnum):
    """Who may take devices from whom."""

    SAME_NAMESPACE = "SameNamespace"
    ANY_NAMESPACE = "AnyNamespace"


class Preemption(Model):
    """That a LogicalNode gives way to one of a greater priority."""

    scope: PreemptionScope = Field(
        default=PreemptionScope.SAME_NAMESPACE,
        description="SameNamespace: to one of its own namespace alone. AnyNamespace: to any; DeviceQuotas then say"
        " which PriorityClasses a namespace may name.",
    )
    drain: Drain = Field(default=Drain(), description="How pods are moved off the devices first.")


class PoolSpec(Model):
    """What all pools say about their devices."""

    fabric_ref: NameRef = Field(
        description="Fabric whose devices this pool offers. Cannot be changed.",
        json_schema_extra=immutable("delete the pool and create one with another fabricRef"),
    )
    allowed_namespaces: LabelSelector | None = Field(
        default=None,
        description="Namespaces that may use the devices, by their labels. Absent: none. Empty ({}): all."
        " How much each may hold: DeviceQuota.",
    )
    maintenance: Maintenance = Field(default=Maintenance(), description="What is taken out of service.")
    power: DevicePower | None = Field(
        default=None,
        description="What one device draws: for the energy that is counted, and for the objective Energy.",
    )
    preemption: Preemption | None = Field(
        default=None,
        description="Absent: whoever has devices of this pool keeps them until they are released. Set: while a"
        " LogicalNode of a greater PriorityClass is the head of the queue, those whose devices it needs are drained"
        " and wait again. A LogicalNode gives way only if all pools that it has devices of allow it.",
    )
    jurisdiction: Jurisdiction | None = Field(
        default=None, description="Law that the devices stand under, for example EU; requests can ask for it."
    )


class GPUPoolSpec(PoolSpec):
    """Accelerators that are offered."""

    selector: AcceleratorSelector = Field(
        default=AcceleratorSelector(),
        description="Which of the fabric's accelerators. One that two pools select belongs to the older pool.",
    )
    cost: DeviceCost | None = Field(
        default=None, description="What an attached device costs: the cheaper ones are taken first."
    )


class BytePoolSpec(PoolSpec):
    """Devices that are offered and asked for by size."""

    selector: ByteDeviceSelector = Field(
        default=ByteDeviceSelector(),
        description="Which of the fabric's devices. One that two pools select belongs to the older pool.",
    )
    cost: ByteCost | None = Field(
        default=None, description="What attached bytes cost: the cheaper devices are taken first."
    )


class DeviceCounts(Model):
    """The pool's devices by what is being done with them."""

    total: Counter = Field(default=0, description="Devices of the pool.")
    free: Counter = Field(default=0, description="Devices that a request could get now.")
    bound: Counter = Field(default=0, description="Devices attached for a request.")
    reserved: Counter = Field(default=0, description="Devices claimed and not yet, or no longer, attached.")
    quarantined: Counter = Field(
        default=0, description="Devices that failed to attach and wait for an administrator."
    )
    unavailable: Counter = Field(
        default=0,
        description="Devices that are faulty, in maintenance, or attached by somebody else.",
    )


class Stranded(Model):
    """Free devices that nobody who waits can use, for one reason."""

    reason: Annotated[
        str,
        Field(
            description="NotAskedFor: nobody who waits asks for such devices. NotGranted: only namespaces that the pool"
            " is not open to. QuotaExceeded: a DeviceQuota is in the way. ConstraintUnmet: they are not together in one"
            " domain. NoHost: no host is free for them. NotEnoughDevices: too few, or not together at one host.",
            max_length=63,
            pattern="^[A-Z][A-Za-z]*$",
        ),
    ]
    devices: Counter = Field(description="How many devices.")


class PoolStatus(Model):
    """What became of the pool's devices."""

    observed_generation: Version | None = Field(
        default=None, description="Generation of the spec that this status is about."
    )
    devices: DeviceCounts | None = Field(default=None, description="Devices by what is being done with them.")
    kept: Counter | None = Field(
        default=None,
        description="Of the free ones, devices that are kept for the head of the queue; absent: none.",
    )
    stranded: Annotated[tuple[Stranded, ...], Field(max_length=16)] = Field(
        default=(),
        description="Of the free ones, devices that nobody who waits can use, while somebody waits.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["reason"]},
    )
    conditions: Conditions = Field(
        default=(),
        description="Ready: the counts follow the fabric; while it is unreachable they stay as last known."
        " MaintenanceMatched: every device of maintenance is one of the pool's."
        " Drained: nothing of what is in maintenance is claimed or attached any more."
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

"""LogicalNode: a host with devices, all or nothing."""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from weft.api.cel import Rule, immutable_optional
from weft.api.conditions import CONDITION_LIST, Conditions
from weft.api.meta import Model, Resource
from weft.api.node_shape import BY_NAME, AcceleratorRequest, ByteRequest, NodeShape
from weft.api.pools import PoolRef
from weft.api.values import (
    Counter,
    DnsLabel,
    DnsSubdomain,
    Identifier,
    Version,
)

_NEW_ONE = "create a new LogicalNode with what you need and delete this one"
_NEW_REQUEST = (
    "add a request with another name for such devices; take this one out when the condition Resized is True"
)


class AdoptedDevice(Model):
    """A device that is attached already, though nobody here claims it."""

    fabric: DnsLabel = Field(description="Name of the Fabric; its orphanPolicy has to be Adopt.")
    device: Identifier = Field(description="The fabric's name for the device.")


_KEEPS_ITS_DEVICES = (
    immutable_optional("selector", _NEW_REQUEST),
    immutable_optional("firstAvailable", _NEW_REQUEST),
)


class ResizableAccelerators(AcceleratorRequest):
    """A number of accelerators of one sort. The number can be changed."""

    cel: ClassVar[tuple[Rule, ...]] = (*AcceleratorRequest.cel, *_KEEPS_ITS_DEVICES)


class ResizableBytes(ByteRequest):
    """An amount of memory or storage. The amount can be changed."""

    cel: ClassVar[tuple[Rule, ...]] = (*ByteRequest.cel, *_KEEPS_ITS_DEVICES)


class DeviceFailurePolicy(enum.StrEnum):
    """What becomes of a device that fails while it is attached."""

    WAIT = "Wait"
    REPLACE = "Replace"


class MaintenancePolicy(enum.StrEnum):
    """What becomes of the pods when an administrator drains what they use."""

    EVICT = "Evict"
    WAIT = "Wait"


class LogicalNodeSpec(NodeShape):
    """The host and devices asked for. How much is asked for can be changed later, and ttlSecondsAfterBound."""

    cel: ClassVar[tuple[Rule, ...]] = (
        *NodeShape.cel,
        *(
            immutable_optional(field, _NEW_ONE)
            for field in (
                "host",
                "placement",
                "adopt",
                "priorityClassName",
            )
        ),
    )

    accelerators: Annotated[tuple[ResizableAccelerators, ...], Field(max_length=16)] = Field(
        default=(),
        description="Accelerators to attach. Counts can be changed, and requests added and taken out: a bound node"
        " grows and shrinks, and what stays is not touched.",
        json_schema_extra=BY_NAME,
    )
    memory: Annotated[tuple[ResizableBytes, ...], Field(max_length=8)] = Field(
        default=(),
        description="Pooled memory to attach; can be changed like accelerators.",
        json_schema_extra=BY_NAME,
    )
    storage: Annotated[tuple[ResizableBytes, ...], Field(max_length=8)] = Field(
        default=(),
        description="Pooled storage to attach; can be changed like accelerators.",
        json_schema_extra=BY_NAME,
    )

    adopt: Annotated[tuple[AdoptedDevice, ...], Field(max_length=128)] = Field(
        default=(),
        description="Devices that are attached to one Node already, without a DeviceAttachment, and that this logical"
        " node takes over as they are, without a detach: all that it asks for, and all that is attached there. They"
        " have to be in pools open to its namespace.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["fabric", "device"],
        },
    )

    priority_class_name: DnsSubdomain | None = Field(
        default=None,
        description="PriorityClass (scheduling.k8s.io) by which it has its turn among those of its namespace: the"
        " greater value first, then the older. A DeviceQuota may allow some only. Absent: the cluster's default"
        " class, else 0.",
    )

    on_device_failure: DeviceFailurePolicy | None = Field(
        default=None,
        description="Of a device that is faulty or missing for the fabric's settleSeconds. Wait, or absent: it"
        " stays, and Ready says so. Replace: pods are evicted, it is detached and quarantined, and another takes"
        " its place; the other devices stay.",
    )
    on_maintenance: MaintenancePolicy | None = Field(
        default=None,
        description="Where an administrator drains what it has. Evict, or absent: its pods are evicted, as"
        " PodDisruptionBudgets allow. Wait: they are left to end by themselves, until the administrator's timeout"
        " where that is followed by force. Then it gets other devices, or another place.",
    )
    release_after_not_ready_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31_536_000,
        description="Given back and placed anew when its Node was not ready for so long; counted anew when another"
        " replica of the operator leads. Absent: it waits for the Node.",
    )

    ttl_seconds_after_bound: int | None = Field(
        default=None,
        ge=1,
        le=31_536_000,
        description="Released this many seconds after it was bound; the object stays with the condition"
        " Expired and does not bind again. Absent: kept until it is deleted.",
    )

    suspend: bool | None = Field(
        default=None,
        description="Takes no devices: without any it waits with the reason Suspended and no place in the queue; bound,"
        " it keeps what it has and gets nothing more, while what it gives back goes. Set and taken off by `kubectl"
        " weft pause --taking` and `resume`.",
    )


class BoundDevice(Model):
    """One device of a logical node."""

    request: DnsLabel = Field(description="Name of the request that it serves.")
    alternative: DnsLabel | None = Field(
        default=None, description="Name of the entry of firstAvailable that was taken."
    )
    pool_ref: PoolRef = Field(description="Pool that offered it.")
    device: Identifier = Field(description="The fabric's name for it.")
    attachment: DnsSubdomain = Field(description="DeviceAttachment that claims it.")


class PlannedDevice(Model):
    """One device that a logical node would get."""

    request: DnsLabel = Field(description="Name of the request that it would serve.")
    alternative: DnsLabel | None = Field(
        default=None, description="Name of the entry of firstAvailable that would be taken."
    )
    pool_ref: PoolRef = Field(description="Pool that offers it.")
    fabric: DnsLabel = Field(description="Fabric that would attach it.")
    device: Identifier = Field(description="The fabric's name for it.")


class Plan(Model):
    """What would be attached where, if the fabrics in Observe mode were managed."""

    node_name: DnsSubdomain = Field(description="Node that the devices would be attached to.")
    devices: Annotated[tuple[PlannedDevice, ...], Field(max_length=1024)] = Field(
        description="The devices.", json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )


class LogicalNodeStatus(Model):
    """What was found for the request."""

    observed_generation: Version | None = Field(
        default=None, description="Generation of the spec that this status is about."
    )
    node_name: DnsSubdomain | None = Field(default=None, description="Node that the devices are attached to.")
    host: Identifier | None = Field(
        default=None,
        description="The fabric's name for that Node's host; absent where several fabrics call it differently.",
    )
    device_count: Counter | None = Field(default=None, description="How many devices are attached.")
    devices: Annotated[tuple[BoundDevice, ...], Field(max_length=1024)] = Field(
        default=(),
        description="Devices chosen or attached. A view: the DeviceAttachments are what counts.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["attachment"]},
    )
    queue_place: Annotated[str, Field(max_length=32, pattern=r"^[1-9][0-9]*(-[1-9][0-9]*)?$")] | None = Field(
        default=None,
        description="Its place among all that wait for a release, coarser the farther: 1, 2, 3-4, 5-8 and so on, so"
        " that who leaves does not change the status of all that are behind. Absent: a release would not help.",
    )
    drain_timeout_seconds: Counter | None = Field(
        default=None,
        description="Of a replica of an InferenceGroup that leaves for maintenance: how long after Draining became True"
        " its pods are evicted, unless its group has moved it by then.",
    )
    plan: Plan | None = Field(
        default=None, description="What would be attached where, if the fabrics in Observe mode were managed."
    )
    conditions: Conditions = Field(
        default=(),
        description="Accepted: it can be met some day, as pools, grants and devices are."
        " Reserved: its devices are claimed."
        " Bound: all are attached and were seen there. Ready: bound, and its Node is ready. Resized: False while a"
        " bound node has more or fewer devices than spec asks for; absent while it never had. Draining: True while"
        " pods are to leave so that devices can be detached. Expired:"
        " released after ttlSecondsAfterBound.",
        json_schema_extra=CONDITION_LIST,
    )


class LogicalNode(Resource):
    """A host with devices, bound all or nothing."""

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["LogicalNode"] = Field(default="LogicalNode", description="Kind of the object.")
    spec: LogicalNodeSpec = Field(description="The host and devices asked for.")
    status: LogicalNodeStatus = Field(default=LogicalNodeStatus(), description="What was found.")

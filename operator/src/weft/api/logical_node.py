"""LogicalNode: a host with devices, all or nothing."""

from __future__ import annotations

import enum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from weft.api.cel import Rule, immutable_optional
from weft.api.conditions import CONDITION_LIST, Conditions
from weft.api.devices import AcceleratorSelector, ByteDeviceSelector
from weft.api.meta import LabelSelector, Model, Resource
from weft.api.pools import PoolRef
from weft.api.values import (
    AttributeName,
    ByteQuantity,
    Counter,
    DnsLabel,
    DnsSubdomain,
    Identifier,
    Jurisdiction,
    LabelKey,
    LabelValue,
    Quantity,
    Version,
)

_BY_NAME: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
_NEW_ONE = "create a new LogicalNode with what you need and delete this one"
_NEW_REQUEST = (
    "add a request with another name for such devices; take this one out when the condition Resized is True"
)


class HostResources(Model):
    """What a Node must have."""

    cpu: Quantity | None = Field(default=None, description="Allocatable CPUs, for example 16 or 500m.")
    memory: Quantity | None = Field(default=None, description="Allocatable memory, for example 64Gi.")


class TaintOperator(enum.StrEnum):
    """How a toleration compares."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(enum.StrEnum):
    """The effects of taints that keep a Node from being a place."""

    NO_SCHEDULE = "NoSchedule"
    NO_EXECUTE = "NoExecute"


class HostToleration(Model):
    """A taint that a Node may have and be a place all the same."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "operator Exists takes no value: remove it, or use Equal",
            ".value",
        ),
    )

    key: LabelKey = Field(description="Key of the taint.")
    operator: TaintOperator = Field(
        default=TaintOperator.EQUAL, description="Equal: the taint has this value. Exists: whatever it has."
    )
    value: LabelValue = Field(default="", description="Value of the taint; for Equal only.")
    effect: TaintEffect | None = Field(default=None, description="NoSchedule or NoExecute. Absent: either.")

    def matches(self, key: str, value: str, effect: str) -> bool:
        """Whether this taint is tolerated."""
        return (
            key == self.key
            and (self.operator is TaintOperator.EXISTS or value == self.value)
            and self.effect in (None, effect)
        )


class HostRequest(Model):
    """Which host: a logical node has one for itself."""

    node_selector: LabelSelector = Field(
        default=LabelSelector(), description="Nodes that come into question, by their labels. Empty: all."
    )
    requests: HostResources = Field(default=HostResources(), description="What the Node must have.")
    tolerations: Annotated[tuple[HostToleration, ...], Field(max_length=16)] = Field(
        default=(),
        description="Taints that the Node may have, for hosts that are tainted for good. The pods that use it"
        " need the same tolerations. A Node that is cordoned is no place in any case.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class AcceleratorAlternative(Model):
    """One of several sorts of accelerators that would do."""

    name: DnsLabel = Field(description="Name of the alternative, shown in status.devices.")
    selector: AcceleratorSelector = Field(
        default=AcceleratorSelector(), description="Which accelerators. Empty: any."
    )


class ByteAlternative(Model):
    """One of several sorts of devices that would do."""

    name: DnsLabel = Field(description="Name of the alternative, shown in status.devices.")
    selector: ByteDeviceSelector = Field(
        default=ByteDeviceSelector(), description="Which devices. Empty: any."
    )


_ONE_SELECTOR = Rule(
    "!has(self.selector) || !has(self.firstAvailable)",
    "set selector or firstAvailable, not both: each alternative has a selector of its own",
    ".firstAvailable",
)
_MOST_ALTERNATIVES = 4


class AcceleratorRequest(Model):
    """A number of accelerators of one sort."""

    cel: ClassVar[tuple[Rule, ...]] = (_ONE_SELECTOR,)

    name: DnsLabel = Field(description="Name of the request, not used twice in a logical node.")
    count: int = Field(ge=1, le=64, description="How many accelerators.")
    selector: AcceleratorSelector = Field(
        default=AcceleratorSelector(), description="Which accelerators. Empty: any."
    )
    first_available: Annotated[tuple[AcceleratorAlternative, ...], Field(max_length=_MOST_ALTERNATIVES)] = (
        Field(
            default=(),
            description="Instead of a selector: alternatives in the order of preference. All accelerators of the"
            " request are of one alternative, the first that can be had now together with all other requests.",
            json_schema_extra=_BY_NAME,
        )
    )


class ByteRequest(Model):
    """An amount of memory or storage."""

    cel: ClassVar[tuple[Rule, ...]] = (_ONE_SELECTOR,)

    name: DnsLabel = Field(description="Name of the request, not used twice in a logical node.")
    size: ByteQuantity = Field(description="How much at least, for example 2Ti; whole devices are attached.")
    selector: ByteDeviceSelector = Field(
        default=ByteDeviceSelector(), description="Which devices. Empty: any."
    )
    first_available: Annotated[tuple[ByteAlternative, ...], Field(max_length=_MOST_ALTERNATIVES)] = Field(
        default=(),
        description="Instead of a selector: alternatives in the order of preference. All devices of the request"
        " are of one alternative, the first that can be had now together with all other requests.",
        json_schema_extra=_BY_NAME,
    )


class ConstraintPolicy(enum.StrEnum):
    """How much a constraint matters."""

    REQUIRED = "Required"
    PREFERRED = "Preferred"


class PlacementConstraint(Model):
    """That the devices of some requests have one value of an attribute: that they share an interconnect."""

    requests: Annotated[tuple[DnsLabel, ...], Field(max_length=32)] = Field(
        default=(),
        description="Names of the requests whose devices are meant. Empty: all accelerators.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    attribute: AttributeName = Field(
        description="Device attribute that must be the same: nvlinkDomain, rdmaDomain, cxlDomain and so on."
    )
    policy: ConstraintPolicy = Field(
        default=ConstraintPolicy.REQUIRED,
        description="Required: one value or none of the devices at all. Preferred: if possible now.",
    )


class Objective(enum.StrEnum):
    """What decides between sets of devices that would all do."""

    COST = "Cost"
    PACKING = "Packing"
    ENERGY = "Energy"
    LATENCY = "Latency"


class Placement(Model):
    """Which of the possible sets of devices."""

    constraints: Annotated[tuple[PlacementConstraint, ...], Field(max_length=4)] = Field(
        default=(),
        description="Constraints over requests; those that share requests must be met together.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    jurisdictions: Annotated[tuple[Jurisdiction, ...], Field(max_length=16)] = Field(
        default=(),
        description="Only devices of pools that state one of these jurisdictions. Empty: any pool.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    objective: Objective | None = Field(
        default=None,
        description="What decides between sets of devices that would all do. Cost: the cheapest set by the pools' cost."
        " Packing: what leaves the most interconnect domains whole, whatever it costs. Energy: the set that draws the"
        " fewest watts more by the pools' power. Latency: the fewest interconnect domains for each request. Absent:"
        " cheaper devices first, within a constraint the fullest domain that suffices.",
    )


class NodeShape(Model):
    """A host with devices: what a LogicalNode, or a role's replica, consists of."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.accelerators) && size(self.accelerators) > 0)"
            " || (has(self.memory) && size(self.memory) > 0)"
            " || (has(self.storage) && size(self.storage) > 0)",
            "ask for at least one device: add an entry to accelerators, memory or storage",
        ),
        Rule(
            "!has(self.accelerators) || !has(self.memory)"
            " || !self.accelerators.exists(a, self.memory.exists(m, m.name == a.name))",
            "names of requests must differ across accelerators, memory and storage: rename the entry in"
            " memory",
            ".memory",
        ),
        Rule(
            "!has(self.accelerators) || !has(self.storage)"
            " || !self.accelerators.exists(a, self.storage.exists(s, s.name == a.name))",
            "names of requests must differ across accelerators, memory and storage: rename the entry in"
            " storage",
            ".storage",
        ),
        Rule(
            "!has(self.memory) || !has(self.storage)"
            " || !self.memory.exists(m, self.storage.exists(s, s.name == m.name))",
            "names of requests must differ across accelerators, memory and storage: rename the entry in"
            " storage",
            ".storage",
        ),
        Rule(
            "!has(self.placement) || !has(self.placement.constraints) || self.placement.constraints.all(c,"
            " !has(c.requests) || c.requests.all(name,"
            " (has(self.accelerators) && self.accelerators.exists(r, r.name == name))"
            " || (has(self.memory) && self.memory.exists(r, r.name == name))"
            " || (has(self.storage) && self.storage.exists(r, r.name == name))))",
            "a constraint names a request that is not there: use names of accelerators, memory or storage",
            ".placement",
        ),
        Rule(
            "!has(self.placement) || !has(self.placement.constraints)"
            " || (has(self.accelerators) && size(self.accelerators) > 0)"
            " || self.placement.constraints.all(c, has(c.requests) && size(c.requests) > 0)",
            "a constraint without requests is about the accelerators, and there are none: name its requests",
            ".placement",
        ),
        Rule(
            "(has(self.accelerators) ? self.accelerators.filter(r, has(r.firstAvailable)).size() : 0)"
            " + (has(self.memory) ? self.memory.filter(r, has(r.firstAvailable)).size() : 0)"
            " + (has(self.storage) ? self.storage.filter(r, has(r.firstAvailable)).size() : 0) <= 3",
            "at most three requests may have firstAvailable: use a selector in the others",
        ),
    )

    host: HostRequest = Field(default=HostRequest(), description="Which host.")
    accelerators: Annotated[tuple[AcceleratorRequest, ...], Field(max_length=16)] = Field(
        default=(), description="Accelerators to attach.", json_schema_extra=_BY_NAME
    )
    memory: Annotated[tuple[ByteRequest, ...], Field(max_length=8)] = Field(
        default=(), description="Pooled memory to attach.", json_schema_extra=_BY_NAME
    )
    storage: Annotated[tuple[ByteRequest, ...], Field(max_length=8)] = Field(
        default=(), description="Pooled storage to attach.", json_schema_extra=_BY_NAME
    )
    placement: Placement = Field(default=Placement(), description="Which of the possible sets of devices.")

    @property
    def accelerator_count(self) -> int:
        """Accelerators over all requests."""
        return sum(request.count for request in self.accelerators)


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
        json_schema_extra=_BY_NAME,
    )
    memory: Annotated[tuple[ResizableBytes, ...], Field(max_length=8)] = Field(
        default=(),
        description="Pooled memory to attach; can be changed like accelerators.",
        json_schema_extra=_BY_NAME,
    )
    storage: Annotated[tuple[ResizableBytes, ...], Field(max_length=8)] = Field(
        default=(),
        description="Pooled storage to attach; can be changed like accelerators.",
        json_schema_extra=_BY_NAME,
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

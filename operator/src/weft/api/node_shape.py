"""The shape of a logical node: a host and the devices that go with it, as a LogicalNode and a role ask for them."""

from __future__ import annotations

import enum
from typing import Annotated, Any, ClassVar

from pydantic import Field

from weft.api.cel import Rule
from weft.api.devices import AcceleratorSelector, ByteDeviceSelector
from weft.api.meta import LabelSelector, Model
from weft.api.values import (
    AttributeName,
    ByteQuantity,
    DnsLabel,
    Jurisdiction,
    LabelKey,
    LabelValue,
    Quantity,
)

BY_NAME: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


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
            json_schema_extra=BY_NAME,
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
        json_schema_extra=BY_NAME,
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
        default=(), description="Accelerators to attach.", json_schema_extra=BY_NAME
    )
    memory: Annotated[tuple[ByteRequest, ...], Field(max_length=8)] = Field(
        default=(), description="Pooled memory to attach.", json_schema_extra=BY_NAME
    )
    storage: Annotated[tuple[ByteRequest, ...], Field(max_length=8)] = Field(
        default=(), description="Pooled storage to attach.", json_schema_extra=BY_NAME
    )
    placement: Placement = Field(default=Placement(), description="Which of the possible sets of devices.")

    @property
    def accelerator_count(self) -> int:
        """Accelerators over all requests."""
        return sum(request.count for request in self.accelerators)

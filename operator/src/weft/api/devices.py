"""How devices are chosen: parts shared by pools and requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from weft.api.meta import LabelRequirement, Model
from weft.api.quantity import parse_bytes
from weft.api.values import AttributeName, AttributeValue, ByteQuantity


class AttributeRequirement(LabelRequirement):
    """One requirement on one attribute of a device, as Kubernetes has them on labels."""

    key: AttributeName = Field(description="Attribute that the requirement is about, for example model.")
    values: Annotated[tuple[AttributeValue, ...], Field(max_length=32)] = Field(
        default=(), description="Values to compare with; for In and NotIn only."
    )


class DeviceSelector(Model):
    """Which devices are meant. Empty, it selects every device."""

    match_attributes: Annotated[Mapping[str, AttributeValue], Field(max_length=16)] = Field(
        default={},
        description="Attributes that a device must have with exactly these values: type, vendor, model,"
        " medium, nvlinkDomain and whatever else the fabric reports.",
    )
    match_expressions: Annotated[tuple[AttributeRequirement, ...], Field(max_length=16)] = Field(
        default=(),
        description="Requirements on attributes that must all hold.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )

    @property
    def least_bytes(self) -> int:
        """The smallest capacity that a device may have."""
        return 0

    def matches(self, attributes: Mapping[str, str], capacity_bytes: int) -> bool:
        """Whether a device with these attributes and this capacity is meant."""
        return (
            all(attributes.get(name) == value for name, value in self.match_attributes.items())
            and all(requirement.matches(attributes) for requirement in self.match_expressions)
            and capacity_bytes >= self.least_bytes
        )


class AcceleratorMinimum(Model):
    """What each accelerator must have at least."""

    memory: ByteQuantity = Field(description="Memory of the accelerator, for example 141Gi.")


class AcceleratorSelector(DeviceSelector):
    """Which accelerators are meant. Empty, it selects every accelerator."""

    minimum: AcceleratorMinimum | None = Field(
        default=None, description="What each accelerator must have at least."
    )

    @property
    def least_bytes(self) -> int:
        return parse_bytes(self.minimum.memory) if self.minimum else 0


class ByteDeviceMinimum(Model):
    """What each memory or storage device must have at least."""

    capacity: ByteQuantity = Field(description="Capacity of the device, for example 512Gi.")


class ByteDeviceSelector(DeviceSelector):
    """Which memory or storage devices are meant. Empty, it selects every one."""

    minimum: ByteDeviceMinimum | None = Field(
        default=None, description="What each device must have at least."
    )

    @property
    def least_bytes(self) -> int:
        return parse_bytes(self.minimum.capacity) if self.minimum else 0

"""How devices are chosen and what they cost: parts shared by pools and requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from weft.api.cel import Rule
from weft.api.meta import Model
from weft.api.quantity import parse_bytes
from weft.api.values import AttributeValue, ByteQuantity


class DeviceSelector(Model):
    """Which devices are meant. Empty, it selects every device."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.minimum) || self.minimum.all(name, name == 'memory' || name == 'size')",
            "minimum knows memory (of an accelerator) and size (of a memory or storage device) only",
            ".minimum",
        ),
    )

    match_attributes: Annotated[Mapping[str, AttributeValue], Field(max_length=16)] = Field(
        default={},
        description="Attributes that a device must have with exactly these values: type, vendor, model,"
        " medium, nvlinkDomain and whatever else the fabric reports.",
    )
    minimum: Annotated[Mapping[str, ByteQuantity], Field(max_length=4)] = Field(
        default={},
        description="Smallest capacity of a device: memory (of an accelerator) or size (of a memory or"
        " storage device), for example memory: 141Gi.",
    )

    def matches(self, attributes: Mapping[str, str], capacity_bytes: int) -> bool:
        """Whether a device with these attributes and this capacity is meant."""
        return all(attributes.get(name) == value for name, value in self.match_attributes.items()) and all(
            capacity_bytes >= parse_bytes(least) for least in self.minimum.values()
        )

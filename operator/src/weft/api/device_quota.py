"""DeviceQuota: how many hosts and devices a namespace may hold. Administrators write it, tenants read it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from weft.api.cel import Rule
from weft.api.conditions import CONDITION_LIST, Conditions
from weft.api.meta import Model, Resource
from weft.api.pools import PoolKind
from weft.api.quantity import parse_bytes
from weft.api.values import ByteAmount, Counter, DnsSubdomain, Version

_BY_POOL: dict[str, Any] = {
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["kind", "name"],
}
_MOST_POOLS = 64


class PoolAmount(Model):
    """An amount of one pool's devices: a count of a GPUPool's, bytes of the others'."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.kind == 'GPUPool' ? has(self.count) && !has(self.capacity)"
            " : has(self.capacity) && !has(self.count)",
            "a GPUPool takes a count (16), a MemoryPool or StoragePool a capacity (8Ti)",
        ),
    )

    kind: PoolKind = Field(description="Kind of the pool.")
    name: DnsSubdomain = Field(description="Name of the pool.")
    count: int | None = Field(default=None, ge=0, le=100_000, description="Devices of a GPUPool.")
    capacity: ByteAmount | None = Field(
        default=None, description="Bytes of a MemoryPool or StoragePool, for example 8Ti; 0: none."
    )

    @property
    def units(self) -> int:
        """Devices, or bytes."""
        return self.count if self.count is not None else parse_bytes(self.capacity or 0)


class DeviceQuotaSpec(Model):
    """What the namespace may hold at one time."""

    hosts: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None,
        description="Hosts that the namespace's logical nodes may have at one time. Absent: no limit here; of"
        " several DeviceQuotas the lowest holds.",
    )
    weight: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="The namespace's part of what is there, beside those of others that wait: one of weight 3 has its"
        " turn until it holds three times what one of weight 1 does. Absent: 1; of several DeviceQuotas the lowest"
        " holds.",
    )
    priority_classes: Annotated[tuple[DnsSubdomain, ...], Field(max_length=_MOST_POOLS)] | None = Field(
        default=None,
        description="PriorityClasses that the namespace's logical nodes may name. Absent: any. Empty: none; of"
        " several DeviceQuotas what all of them allow.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    limits: Annotated[tuple[PoolAmount, ...], Field(max_length=_MOST_POOLS)] = Field(
        default=(),
        description="Limits by pool. A pool that no DeviceQuota of the namespace names has no limit here; of"
        " several limits the lowest holds.",
        json_schema_extra=_BY_POOL,
    )


class DeviceQuotaStatus(Model):
    """What the namespace holds."""

    observed_generation: Version | None = Field(
        default=None, description="Generation of the spec that this status is about."
    )
    hosts: Counter | None = Field(
        default=None, description="Hosts that the namespace holds; absent where they are not limited."
    )
    used: Annotated[tuple[PoolAmount, ...], Field(max_length=_MOST_POOLS)] = Field(
        default=(),
        description="What the namespace holds of each pool that is limited. Quarantined devices do not count.",
        json_schema_extra=_BY_POOL,
    )
    conditions: Conditions = Field(
        default=(),
        description="PoolsFound: every pool that is limited exists. WithinLimits: no more is held than the"
        " limits allow; what was bound before a limit was lowered stays.",
        json_schema_extra=CONDITION_LIST,
    )


class DeviceQuota(Resource):
    """How many hosts and how much of which pools the namespace's logical nodes may hold; written by administrators."""

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["DeviceQuota"] = Field(default="DeviceQuota", description="Kind of the object.")
    spec: DeviceQuotaSpec = Field(description="What the namespace may hold.")
    status: DeviceQuotaStatus = Field(default=DeviceQuotaStatus(), description="What it holds.")

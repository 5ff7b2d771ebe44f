"""DeviceAttachment: one device claimed for one host. Its existence is the claim."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from weft.api.cel import Rule, immutable
from weft.api.conditions import CONDITION_LIST, Conditions
from weft.api.meta import Model, Resource
from weft.api.pools import PoolRef
from weft.api.values import ByteQuantity, DnsLabel, DnsSubdomain, Identifier, Uid


class ClaimRef(Model):
    """The LogicalNode that a device is claimed for."""

    namespace: DnsLabel = Field(description="Its namespace.")
    name: DnsSubdomain = Field(description="Its name.")
    uid: Uid = Field(description="Its UID: a later namesake does not inherit the device.")


class DeviceAttachmentSpec(Model):
    """The intention, complete enough to be undone without any other object."""

    fabric: DnsLabel = Field(description="Fabric of the device.")
    device: Identifier = Field(description="The fabric's name for the device.")
    pool_ref: PoolRef = Field(description="Pool that offered the device.")
    capacity: ByteQuantity | None = Field(
        default=None,
        description="Bytes of a memory or storage device: what it takes of the namespace's DeviceQuota.",
    )
    host: Identifier = Field(description="The fabric's name for the host it is claimed for.")
    node_name: DnsSubdomain = Field(
        description="Node that ran on that host then: its pods may use the device until they are gone."
    )
    operation: Annotated[str, StringConstraints(min_length=1, max_length=128)] = Field(
        description="Key of the operation that attaches it, known to the fabric where it can hold one."
    )
    request: DnsLabel = Field(description="Entry of the claiming object's spec that the device serves.")
    alternative: DnsLabel | None = Field(
        default=None, description="Entry of the request's firstAvailable that the device meets."
    )
    claim_size: int = Field(
        ge=1,
        le=1024,
        description="Attachments that this operation claims together: fewer, and it was cut short.",
    )
    extends: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        default=None,
        description="Operation of the claim that the logical node was bound with first, where this device was claimed"
        " for a node that was bound already. Absent: it belongs to that first claim.",
    )
    claim_ref: ClaimRef = Field(description="The object that the device is claimed for.")


class DeviceAttachmentStatus(Model):
    """What the fabric says about it."""

    conditions: Conditions = Field(
        default=(),
        description="Quarantined: it could not be attached while the manager attached others, or the manager says"
        " that it is broken; it is not offered until an administrator deletes this object. Leaving: it is to be"
        " detached while its logical node stays bound with its other devices. Whether it is attached,"
        " the condition Bound of the LogicalNode says.",
        json_schema_extra=CONDITION_LIST,
    )


class DeviceAttachment(Resource):
    """One device claimed for one host; written by Weft only, deleted after a verified detach."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.startsWith(self.spec.fabric + '.')",
            "metadata.name must be <fabric>.<device>: the name is what makes the claim exclusive",
        ),
    )

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["DeviceAttachment"] = Field(default="DeviceAttachment", description="Kind of the object.")
    spec: DeviceAttachmentSpec = Field(
        description="The claim. Cannot be changed.",
        json_schema_extra=immutable("a claim is deleted and made anew, never rewritten"),
    )
    status: DeviceAttachmentStatus = Field(
        default=DeviceAttachmentStatus(), description="What the fabric says about it."
    )


def attachment_name(fabric: str, device: str) -> str:
    """The one name that a claim of this device has: `fabric.device`.

    A device whose own name is no DNS label gets what can be read of it and a hash: no two share a name.
    """
    if re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", device):
        return f"{fabric}.{device}"
    latin = unicodedata.normalize("NFKD", device).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9]+", "-", latin).strip("-")[:40].rstrip("-")
    digest = hashlib.sha256(device.encode()).hexdigest()[:16]
    # A name of one label more than the plain ones have: no plain device's name can be the same.
    return f"{fabric}.{readable or 'device'}.{digest}"

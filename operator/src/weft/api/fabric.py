"""Fabric: a fabric manager that reports devices and attaches them to hosts."""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from weft.api.cel import Rule, rules
from weft.api.conditions import CONDITION_LIST, Conditions
from weft.api.maintenance import Drain
from weft.api.meta import Model, NameRef, Resource
from weft.api.values import ByteQuantity, Counter, DnsSubdomain, Identifier, Message, Version
from weft.api.windows import Window

# Matched against the whole URL: of what `url(...)` returns the API server knows no length, so that its estimate of the
# cost goes beyond the limit.
_LOOPBACK_HTTP = r"^http://(localhost|127([.][0-9]{1,3}){3}|\\[::1\\])(:[0-9]*)?(/.*)?$"

_AN_ENDPOINT = (
    "endpoint must be an absolute URL that starts with https://, for example https://fm.rack-a:8443"
)

ENDPOINT_RULES = rules(
    Rule(
        "isURL(self) && (url(self).getHostname() != '' || !self.startsWith('http'))",
        _AN_ENDPOINT,
    ),
    Rule(
        "!self.contains('@')",
        "endpoint must not contain a user or password: put them in a Secret and name it in"
        " credentialsSecretRef",
    ),
    Rule(
        "!self.contains('?') && !self.contains('#')",
        "endpoint must not contain a query or fragment: remove ? and #",
    ),
    Rule(
        f"!self.startsWith('http://') || self.matches('{_LOOPBACK_HTTP}')",
        "endpoint may be http:// only on a loopback address (localhost, 127.0.0.1): use https://",
    ),
)


ShortName = Annotated[str, StringConstraints(min_length=1, max_length=63)]


class FabricMode(enum.StrEnum):
    """Whether Weft may change the fabric."""

    OBSERVE = "Observe"
    MANAGE = "Manage"


class HostMatching(enum.StrEnum):
    """How hosts and Nodes find each other."""

    LIST = "List"
    SYSTEM_UUID = "SystemUUID"


class OrphanPolicy(enum.StrEnum):
    """What becomes of attachments that have no DeviceAttachment here."""

    REPORT = "Report"
    ADOPT = "Adopt"
    DETACH = "Detach"


class FabricTls(Model):
    """How the manager's certificate is checked."""

    ca_secret_ref: NameRef | None = Field(
        default=None,
        description="Secret in the operator's own namespace whose key `ca.crt` holds the PEM certificates to"
        " trust instead of the system's.",
    )


class FabricLimits(Model):
    """How hard the manager may be worked, and how long its answers may take."""

    max_in_flight: int = Field(default=8, ge=1, le=256, description="Requests under way at one time.")
    requests_per_second: int = Field(
        default=20, ge=1, le=10_000, description="Requests started per second, at most."
    )
    request_timeout_seconds: int = Field(
        default=30,
        ge=1,
        le=600,
        description="After this time without an answer a request's outcome is unknown.",
    )
    settle_seconds: int = Field(
        default=120,
        ge=1,
        le=86_400,
        description="How far apart two readings have to be that agree a device is not attached, before one is reused"
        " that vanished or whose call had no answer; and how long a device may fail to attach, while others"
        " are attached, before it is quarantined.",
    )
    orphan_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31_536_000,
        description="How long orphanPolicy Detach leaves an attachment that has no DeviceAttachment; counted anew"
        " when another replica of the operator leads. Absent: 3600.",
    )


class FabricCarve(Model):
    """The sizes of parts into which devices are divided, on a manager that carves."""

    memory: ByteQuantity | None = Field(
        default=None,
        description="Of memory chunks, carved from memory domains. Absent: memory is given whole.",
    )
    storage: ByteQuantity | None = Field(
        default=None, description="Of volumes, carved from storage. Absent: drives are given whole."
    )


class FabricHost(Model):
    """Which Kubernetes Node runs on which of the fabric's hosts."""

    host: Identifier = Field(description="The fabric's name for the host.")
    node_name: DnsSubdomain = Field(description="Name of the Node that runs on it.")


class FabricMaintenance(Model):
    """Which hosts are taken out of service."""

    hosts: Annotated[tuple[Identifier, ...], Field(max_length=256)] = Field(
        default=(),
        description="Hosts at which nothing more is attached.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    drain: Drain | None = Field(
        default=None,
        description="Frees them: pods of their logical nodes are evicted, the devices detached, and the logical nodes"
        " placed elsewhere. Absent: what is attached stays until it is released. The condition HostsDrained says how"
        " far it is.",
    )


class FabricSpec(Model):
    """How to reach the manager and what Weft may do there."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.hostMatching == 'List' || !has(self.hosts) || size(self.hosts) == 0",
            "hosts is for hostMatching: List: remove it, the machines' UUIDs decide",
            ".hosts",
        ),
        Rule(
            # A driver of somebody else's may reach its manager in another way.
            "self.driver != 'redfish' || self.endpoint.startsWith('https://') || self.endpoint.startsWith('http://')",
            _AN_ENDPOINT,
            ".endpoint",
        ),
    )

    mode: FabricMode = Field(
        default=FabricMode.OBSERVE,
        description="Observe reads inventories, and writes nothing to the fabric: logical nodes are not placed"
        " there. Manage also attaches and detaches.",
    )
    driver: Annotated[
        str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    ] = Field(
        default="redfish",
        description="Name of an installed driver. An unknown one is answered by the condition"
        " Connected=False with reason DriverNotFound.",
    )
    endpoint: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(
        description="Base URL of the manager: https, or http on a loopback address. No user, password or"
        " query. Drivers other than redfish may take URLs of other schemes.",
        json_schema_extra=ENDPOINT_RULES,
    )
    credentials_secret_ref: NameRef | None = Field(
        default=None,
        description="Secret in the operator's own namespace with the keys `username` and `password`. Absent:"
        " the manager is used without logging in.",
    )
    tls: FabricTls = Field(default=FabricTls(), description="How the manager's certificate is checked.")
    limits: FabricLimits = Field(
        default=FabricLimits(), description="How hard the manager may be worked, and how long it may take."
    )
    carve: FabricCarve = Field(
        default=FabricCarve(),
        description="Gives memory and storage in parts of these sizes, each a device of its own, where the manager"
        " takes connections of its fabrics: a part is carved when it is attached and given back when it is detached."
        " The condition InventoryComplete says from what such parts cannot be carved, and which sizes can. To be"
        " changed only while nothing of the kind is attached.",
    )
    orphan_policy: OrphanPolicy | None = Field(
        default=None,
        description="What becomes of attachments on the fabric that have no DeviceAttachment here. Report, or"
        " absent: the condition NoOrphans names them. Adopt: a LogicalNode that names the devices in spec.adopt"
        " takes them over as they are. Detach: they are detached after limits.orphanSeconds, but for those that"
        " carry another owner's mark, or whose Node is not known or has pods.",
    )
    host_matching: HostMatching = Field(
        default=HostMatching.LIST,
        description="List: `hosts` says which Node runs on which host. SystemUUID: the host and the Node have the"
        " same machine UUID (ComputerSystem.UUID at the manager, status.nodeInfo.systemUUID of the Node, which"
        " its kubelet writes).",
    )
    hosts_with_unclaimed_devices: Annotated[tuple[Identifier, ...], Field(max_length=64)] = Field(
        default=(),
        description="Hosts that are offered although devices are attached there that no DeviceAttachment stands for:"
        " whoever gets the host gets those devices, too. Absent: none.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    suspend: bool | None = Field(
        default=None,
        description="Gives no device of the fabric that is not claimed yet: requests wait with the reason Suspended,"
        " and status.plan has what they would get. What is claimed is attached, releases and drains go on, unlike in"
        " mode Observe. Set and taken off by `kubectl weft pause --taking` and `resume`.",
    )
    windows: Annotated[tuple[Window, ...], Field(max_length=16)] = Field(
        default=(),
        description="When devices are given to logical nodes that have none yet; else they wait as with `suspend`."
        " What a bound logical node lacks, of a device that failed too, waits for no window. Absent: at any time.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    maintenance: FabricMaintenance | None = Field(
        default=None, description="Which hosts are taken out of service. Absent: none."
    )
    hosts: Annotated[tuple[FabricHost, ...], Field(max_length=8192)] = Field(
        default=(),
        description="Which Node runs on which host. A host without a Node is inventoried and never bound; a"
        " Node at two hosts is used at neither.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["host"]},
    )


class FabricManager(Model):
    """Which manager a Fabric stands for, as it was when Weft began to manage it."""

    endpoint: Annotated[str, StringConstraints(max_length=512)] = Field(
        description="Where it is reached: spec.endpoint cannot change while devices are claimed there."
    )
    driver: Annotated[str, StringConstraints(max_length=63)] = Field(description="The driver that is used.")
    service: Annotated[str, StringConstraints(max_length=128)] = Field(
        default="", description="The service's own UUID; absent where it has none."
    )


class FabricStatus(Model):
    """What was seen at the manager."""

    observed_generation: Version | None = Field(
        default=None, description="Generation of the spec that this status is about."
    )
    devices: Counter | None = Field(
        default=None,
        description="Devices at the manager, offered by a pool or not. An inventory that is not whole never lowers it.",
    )
    hosts: Counter | None = Field(
        default=None, description="Hosts at the manager. An inventory that is not whole never lowers it."
    )
    nodes: Counter | None = Field(default=None, description="Hosts whose Node is known.")
    not_used: Message | None = Field(
        default=None,
        description="What the manager reports and Weft does not use, and why; why there are no devices at all.",
    )
    writes: Annotated[tuple[ShortName, ...], Field(max_length=8)] = Field(
        default=(),
        description="How the manager takes changes, as far as reading shows, the preferred way first: ComposeByPatch,"
        " AddResourceBlock, ComposeByPost, ZoneEndpoints, Connections, or a driver's own; None: in no way that the"
        " driver knows. The condition Writable says what shows it.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    epoch: Version = Field(
        default=0,
        description="Raised by each new leader before its first call to the manager; an operation with an"
        " older epoch may still land late.",
    )
    manager: FabricManager | None = Field(
        default=None, description="The manager that this Fabric stands for, once Weft manages it."
    )
    conditions: Conditions = Field(
        default=(),
        description="Connected: the manager answers, takes Weft's credentials, and is this Fabric's own."
        " InventoryComplete: the last"
        " reading was whole; while it is not, the last known picture is kept. NoOrphans: every attachment there has"
        " a DeviceAttachment here."
        " Writable: the manager offers a way to attach devices; while it does not, nothing is placed there."
        " CallsSucceed: False with the manager's words, for ten minutes, when a call to attach, detach or read failed"
        " and was not repeated with success."
        " HostsMatched: no Node stands at two hosts, no machine UUID occurs twice, and all that `hosts` names is there."
        " UnclaimedOffered: True while hosts of hostsWithUnclaimedDevices carry such devices."
        " HostsDrained: nothing is claimed or attached at the hosts of maintenance any more."
        " Deletable: False while a deletion waits for attachments.",
        json_schema_extra=CONDITION_LIST,
    )


class Fabric(Resource):
    """A fabric manager: it reports devices and attaches them to hosts."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
            "metadata.name of a Fabric must have no dots and at most 63 characters: it begins the names of"
            " its DeviceAttachments",
        ),
    )

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["Fabric"] = Field(default="Fabric", description="Kind of the object.")
    spec: FabricSpec = Field(description="How to reach the manager and what Weft may do there.")
    status: FabricStatus = Field(default=FabricStatus(), description="What Weft saw there.")

"""The contract between Weft and a fabric manager.

A driver is found by the entry point `weft.fabric.drivers` and made with a `Connection`. Every call raises a
`weft.fabric.errors.FabricError`, keeps to the connection's timeout, and may be repeated.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


class DeviceKind(enum.StrEnum):
    """What a device is to a logical node."""

    ACCELERATOR = "Accelerator"
    MEMORY = "Memory"
    STORAGE = "Storage"


Requested = Callable[[str, int], None]
"""Told of each HTTP request that was sent: its method, and the status of the answer, 0 if there was none."""


def _untold(method: str, status: int) -> None:
    """Nobody counts."""


@dataclass(frozen=True)
class Connection:
    """How to reach a fabric manager."""

    endpoint: str
    """Base URL, for example `https://fm.rack-a:8443`."""
    username: str = ""
    password: str = field(default="", repr=False)
    ca_pem: str = ""
    """PEM certificates to trust instead of the system's; empty: the system's."""
    max_in_flight: int = 8
    requests_per_second: float = 20.0
    request_timeout_seconds: float = 30.0
    owner: str = ""
    """The mark of this cluster, 12 hexadecimal digits, for what is made on the fabric and has a place for it; empty:
    it has none."""
    requested: Requested = field(default=_untold, repr=False, compare=False)
    """For a driver to call, so that its requests are counted; one that speaks no HTTP need not."""
    part_bytes: Mapping[DeviceKind, int] = field(default_factory=dict)
    """The size of the parts into which devices of these kinds are carved, where the manager can."""


@dataclass(frozen=True)
class Device:
    """One attachable unit (in Redfish: a resource block)."""

    id: str
    kind: DeviceKind
    attributes: Mapping[str, str]
    """Facts to select by: `type` (GPU, TPU, CXL, NVMe...), `vendor`, `model`, `medium`, and one entry per
    interconnect domain (`nvlinkDomain`, `rdmaDomain`, `cxlDomain`...)."""
    capacity_bytes: int
    """Memory of an accelerator, size of a memory or storage device."""
    healthy: bool
    reachable_hosts: frozenset[str] | None = None
    """Hosts this device can be attached to; None: all hosts of the fabric."""
    reserved: bool = False
    """Whether another client of the manager says that it is going to use it: it is nobody else's then."""


@dataclass(frozen=True)
class Host:
    """A server that devices can be attached to."""

    id: str
    attributes: Mapping[str, str]
    healthy: bool
    uuid: str = ""
    """Of the machine, as its firmware has it; empty where the manager does not say."""
    made: bool = False
    """Whether there is a machine only while devices are attached: its Node need not be there before."""
    closed: str = ""
    """Why nothing can be attached to it, as far as reading shows; empty: it can be tried."""


class UnusedReason(enum.Enum):
    """Why a block or system is neither a device nor a host to Weft: in words, for one and for several."""

    OF_HOST = ("is of a host", "are of hosts")
    CPUS = ("holds CPUs", "hold CPUs")
    NETWORK = ("holds network cards only", "hold network cards only")
    EMPTY = ("names nothing that it holds", "name nothing that they hold")
    UNKNOWN = ("holds something unknown", "hold something unknown")
    UNCARVED = ("cannot be carved into parts of the size asked for",) * 2
    DIVIDED = ("is given in parts", "are given in parts")
    RESERVED = (
        "is reserved by another client of the manager",
        "are reserved by other clients of the manager",
    )
    OTHER_WAY = ("is another way to a device", "are other ways to devices")
    NAME = ("has no usable Id", "have no usable Id")
    NO_SERVER = ("is no server (a virtual machine, a DPU)", "are no servers (virtual machines, DPUs)")


@dataclass(frozen=True)
class Unused:
    """How many of the manager's things are not used for one reason."""

    thing: str
    """What they are, in the singular: `block`, `endpoint`, `system`."""
    reason: UnusedReason
    count: int


@dataclass(frozen=True)
class Unread:
    """What one reading says nothing new about. Everything else in it was read in this reading.

    An unread device or host that an earlier reading knew stands in the inventory as it was then, its attachments
    too. Where a list was not read to its end, what is missing from it may be there nevertheless.
    """

    devices: frozenset[str] = frozenset()
    """Ids of devices; of those that were never read, what is likely to be their id."""
    hosts: frozenset[str] = frozenset()
    device_list: bool = False
    host_list: bool = False
    topology: bool = False
    """Zones and domains: which hosts reach a device, and which devices are near each other."""

    def __bool__(self) -> bool:
        return bool(self.devices or self.hosts or self.device_list or self.host_list or self.topology)


@dataclass(frozen=True)
class Inventory:
    """What the manager reported in one reading, completed from earlier ones where `unread` says so."""

    devices: tuple[Device, ...]
    hosts: tuple[Host, ...]
    attachments: tuple[tuple[str, str], ...]
    """(device id, host id) pairs; a lying manager may name one device twice."""
    complete: bool
    """Whether nothing is unread. One block that cannot be read makes this False: what to believe of the other
    devices and hosts, `shows_absence` and `unread` say."""
    problems: tuple[str, ...] = ()
    """What could not be read or made sense of, for people."""
    unread: Unread = Unread()
    unused: tuple[Unused, ...] = ()
    no_devices: str = ""
    """Why there can be no devices at all, in a sentence; empty where there may be some."""
    other_owners: Mapping[str, str] = field(default_factory=dict)
    """The mark of its owner, by device, for what another cluster than ours has attached and marked as its own."""
    service: str = ""
    """The manager's own UUID, wherever it is reached: two Fabrics with the same are one. Empty: it has none."""

    def shows_absence(self, device: str, host: str) -> bool:
        """Whether this reading is evidence that the device is not attached to the host.

        Both must have been read, or be missing from a list that was read to its end.
        """
        if (device, host) in self.attachments or device in self.unread.devices or host in self.unread.hosts:
            return False
        device_read = not self.unread.device_list or any(d.id == device for d in self.devices)
        host_read = not self.unread.host_list or any(h.id == host for h in self.hosts)
        # A driver that does not say what is unread, only that something is.
        return (self.complete or bool(self.unread)) and device_read and host_read


def not_used(inventory: Inventory) -> str:
    """What the manager reports and Weft does not use, and why: "12 blocks not used: 10 are of hosts, 2 hold CPUs"."""
    parts = [inventory.no_devices] if inventory.no_devices else []
    for thing in sorted({u.thing for u in inventory.unused}):
        of_thing = sorted((u for u in inventory.unused if u.thing == thing), key=lambda u: -u.count)
        total = sum(u.count for u in of_thing)
        reasons = ", ".join(f"{u.count} {u.reason.value[u.count > 1]}" for u in of_thing)
        parts.append(f"{total} {thing}{'s' if total > 1 else ''} not used: {reasons}")
    if others := len(inventory.other_owners):
        carry = "carry" if others > 1 else "carries"
        parts.append(
            f"{others} device{'s' if others > 1 else ''} not used: {others} {carry} another owner's mark"
        )
    return "; ".join(parts)


class OperationPhase(enum.StrEnum):
    """Where an operation stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    UNKNOWN = "Unknown"

    @property
    def is_terminal(self) -> bool:
        """True when the manager will do nothing more for it."""
        return self in (OperationPhase.SUCCEEDED, OperationPhase.FAILED, OperationPhase.CANCELLED)


@dataclass(frozen=True)
class Operation:
    """An attach or detach at the manager. A claim of the manager: verify by `attached`."""

    id: str
    """The manager's name for it (a task's URI), or empty when it ended within the request."""
    phase: OperationPhase
    message: str = ""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Why, by device id, for the devices that failed."""


class WriteIdiom(enum.StrEnum):
    """How a manager takes changes. Drivers that do not speak Redfish have names of their own."""

    COMPOSE_BY_PATCH = "ComposeByPatch"
    """PATCH of the resource blocks of a system."""
    ADD_RESOURCE_BLOCK = "AddResourceBlock"
    """The actions AddResourceBlock and RemoveResourceBlock of a system."""
    COMPOSE_BY_POST = "ComposeByPost"
    """POST and DELETE of systems."""
    ZONE_ENDPOINTS = "ZoneEndpoints"
    """PATCH of the endpoints of a fabric's zone."""
    CONNECTIONS = "Connections"
    """POST and DELETE of a fabric's connections."""
    NONE = "None"
    """It takes none that the driver knows."""


@dataclass(frozen=True)
class Write:
    """A way in which a manager takes changes."""

    idiom: str
    evidence: str
    """What was read that says so, or why there is none, in a sentence."""


@dataclass(frozen=True)
class Capabilities:
    """What this manager can do beyond the required calls, as far as reading shows. Asking costs no requests."""

    asynchronous_tasks: bool
    revoke_sessions: bool
    """Whether `revoke_other_sessions` can work."""
    writes: tuple[Write, ...] = ()
    """How it takes changes, the preferred way first; empty: the driver does not say."""
    notes: tuple[str, ...] = ()
    """What an administrator should know of how changes are made, in sentences."""


class Driver(Protocol):
    """One fabric manager. Weft verifies what a driver says; a driver does not retry."""

    async def capabilities(self) -> Capabilities:
        """What is known of the manager after the last reading."""

    async def inventory(self, first: frozenset[str] = frozenset()) -> Inventory:
        """Read everything, or as much as fits into one reading; what is left, the next reading begins with.

        Hosts are read before devices, and the devices in `first` (those that are claimed) before the others. Raises
        only when nothing could be read; otherwise `complete` and `unread` tell.
        """

    async def attached(self, host: str) -> frozenset[str]:
        """The devices that the manager reports at this host now: the cheap read that verifies a write."""

    async def attach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        """Attach the devices to the host. Those already there are success; one elsewhere is `Conflict`.

        `operation` is Weft's own key for it, written on the fabric where it can hold it.
        """

    async def detach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        """Detach the devices from the host. Those not there are success."""

    async def operation(self, id: str) -> Operation:
        """Where the manager's operation stands. Raises NotFound when the manager has forgotten it."""

    async def find_operation(self, key: str) -> Operation | None:
        """The operation that was started with this key, or None. Raises Unsupported."""

    async def revoke_other_sessions(self) -> int:
        """End Weft's earlier sessions at the manager, so that an old leader's calls get 401; how many ended."""

    async def close(self) -> None:
        """End the session and the connections."""

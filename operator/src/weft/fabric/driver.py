"""The contract between Weft and a fabric manager.

A driver is found by the entry point `weft.drivers` and made with a `Connection`. Every call raises a
`weft.fabric.errors.FabricError`, keeps to the connection's timeout, and may be repeated.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Protocol


class DeviceKind(enum.StrEnum):
    """What a device is to a logical node."""

    ACCELERATOR = "Accelerator"
    MEMORY = "Memory"
    STORAGE = "Storage"


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


@dataclass(frozen=True)
class Host:
    """A server that devices can be attached to."""

    id: str
    attributes: Mapping[str, str]
    healthy: bool


@dataclass(frozen=True)
class Inventory:
    """What the manager reported in one reading."""

    devices: tuple[Device, ...]
    hosts: tuple[Host, ...]
    attachments: tuple[tuple[str, str], ...]
    """(device id, host id) pairs; a lying manager may name one device twice."""
    complete: bool
    """False when any part could not be read; such a reading never removes anything from Weft's picture."""
    problems: tuple[str, ...] = ()
    """What could not be read or made sense of, for people."""


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


@dataclass(frozen=True)
class Capabilities:
    """What this manager can do beyond the required calls."""

    asynchronous_tasks: bool
    operation_log: bool
    """Whether `find_operation` can work."""
    revoke_sessions: bool
    """Whether `revoke_other_sessions` can work."""


class Driver(Protocol):
    """One fabric manager. Weft verifies what a driver says; a driver does not retry."""

    async def capabilities(self) -> Capabilities: ...

    async def inventory(self) -> Inventory:
        """Read everything. Raises only when nothing could be read; otherwise `complete` tells."""

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


def open_driver(name: str, connection: Connection) -> Driver:
    """Make the driver installed under `name`.

    Raises LookupError, naming the installed drivers, when there is none.
    """
    installed = {point.name: point for point in entry_points(group="weft.drivers")}
    if name not in installed:
        raise LookupError(
            f"no driver {name!r} is installed; installed: {', '.join(sorted(installed)) or 'none'}"
        )
    driver: Driver = installed[name].load()(connection)
    return driver

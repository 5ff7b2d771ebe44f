"""The steps of a logical node's life, as values: `decide` returns one, `apply` carries it out.

Place, Wait, Publish, Withdraw, Expire and Finish end a pass: nothing more can be done now. What they say is written
into the status once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weft.api import DeviceAttachment
from weft.binding.plan import Assignment
from weft.binding.status import Fact

Claims = tuple[DeviceAttachment, ...]
Facts = tuple[Fact, ...]


@dataclass(frozen=True)
class Place:
    """Nothing is claimed: placement has to find a place, or has said why there is none."""

    reason: str
    facts: Facts = ()
    ask_after: float | None = None
    """Ask for a placement pass in so many seconds; None: there was one, its answer stands."""
    queue_place: str = ""
    plan: Assignment | None = None
    """What it would get if the fabrics in Observe mode were managed."""
    again: float | None = None


@dataclass(frozen=True)
class Claim:
    """Create the attachments of an assignment: the intention, stored before the first call."""

    assignment: Assignment


@dataclass(frozen=True)
class Reserve:
    """Hold the logical node by the finalizer, and taint the Node: a claim as exclusive as an attachment's name."""

    node: str
    stale: tuple[str, ...]
    """Nodes that carry the taint of an earlier attempt: freed first."""


@dataclass(frozen=True)
class Verify:
    """Read a host's devices."""

    fabric: str
    host: str
    expected: frozenset[str] = frozenset()
    """Devices that should be there after an attach."""
    operations: tuple[str, ...] = ()
    """Keys of operations that had no answer: the manager may still work on them."""


@dataclass(frozen=True)
class Attach:
    """Attach devices to their host, in these batches."""

    claims: Claims
    batches: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class MarkAttached:
    """Every device was seen at the host: remember it. It is stored by the status that says Bound, and not before."""

    claims: Claims


@dataclass(frozen=True)
class Publish:
    """The node is bound: say so, and what is the matter since."""

    claims: Claims
    node: str
    facts: Facts
    again: float | None
    failed: bool = False
    """As of `Wait`: a try to add a device, or to take one away, failed."""
    queue_place: str = ""
    """Of what it lacks."""
    ask_after: float | None = None
    """As of `Place`: what it lacks has to be looked for."""
    drain_timeout_seconds: int | None = None
    """As in the status."""


@dataclass(frozen=True)
class Leave:
    """Devices are to go while the node stays bound: store which ones, before anything is done about it."""

    claims: Claims
    reason: str
    message: str


@dataclass(frozen=True)
class Quarantine:
    """Devices are at fault: their attachments stay, so that they are not offered again."""

    claims: Claims
    failed: Mapping[str, str]
    """Why, by device."""
    reason: str = "AttachFailed"


@dataclass(frozen=True)
class TurnBack:
    """Ask for the deletion of the attachments: from now on the way leads back, also after a restart."""

    claims: Claims
    reason: str
    message: str
    avoid: str = ""
    """A host that has no capacity left, or is not as the picture has it: others are tried first."""
    read_fabric: str = ""
    """A fabric that is not as the picture has it: read it anew."""


@dataclass(frozen=True)
class Withdraw:
    """Say that the node is bound no more, before its first device goes."""

    reason: str
    facts: Facts


@dataclass(frozen=True)
class LookForPods:
    """Ask the API server which pods are on the Nodes: a watch that is silent may have missed one."""

    fabric: str
    host: str
    namespace: str
    nodes: frozenset[str]


@dataclass(frozen=True)
class LookAtNode:
    """Ask the API server for the Node: a watch that is silent may have missed that it is ready again."""

    fabric: str
    host: str
    node: str


@dataclass(frozen=True)
class CloseNode:
    """Keep new pods of the logical node's owner off its Node: what they would use is leaving."""

    node: str


@dataclass(frozen=True)
class OpenNode:
    """Nothing is leaving any more: let them in again."""

    node: str


@dataclass(frozen=True)
class Evict:
    """Ask pods to go, as their budgets allow; with `force` delete them."""

    fabric: str
    host: str
    namespace: str
    pods: tuple[str, ...]
    force: bool


@dataclass(frozen=True)
class Detach:
    """Detach the devices that the host shows."""

    claims: Claims
    devices: frozenset[str]
    reason: str = ""
    """Why they are released: for the record."""


@dataclass(frozen=True)
class GiveUp:
    """The devices are free: let their attachments go."""

    claims: Claims


@dataclass(frozen=True)
class ClearTaint:
    """A place was given up: free its Nodes."""

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Wait:
    """Something outside has to happen first: pods end, a device settles, a manager answers."""

    reason: str
    message: str
    again: float
    facts: Facts = ()
    read_fabric: str = ""
    failed: bool = False
    """Whether a try failed: the next ones come at growing intervals while nothing changes."""


@dataclass(frozen=True)
class Expire:
    """The time is up and nothing is held any more: the object stays and says so."""

    again: float | None = None


@dataclass(frozen=True)
class Finish:
    """The object goes, or is gone, and holds nothing: clean up what is left of it."""

    reason: str


Step = (
    Place
    | Claim
    | Reserve
    | Verify
    | Attach
    | MarkAttached
    | Publish
    | Leave
    | Quarantine
    | TurnBack
    | Withdraw
    | LookForPods
    | LookAtNode
    | CloseNode
    | OpenNode
    | Evict
    | Detach
    | GiveUp
    | ClearTaint
    | Wait
    | Expire
    | Finish
)

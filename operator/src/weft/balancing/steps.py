"""The steps that a pass over a group may take: what `decide` returns and `apply` carries out, one write each.

Every step may be repeated, and each says why it is taken. Replicas, roles and logical nodes are meant by name, as
they stand in the picture that was decided from.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal


class GateReason(enum.StrEnum):
    """Why a replica is in the router or out of it: the reason of the pod condition `weft.dev/serving`."""

    SERVING = "Serving"
    TRANSFER = "Transfer"
    REMOVING = "Removing"
    ROLLED_BACK = "RolledBack"


@dataclass(frozen=True)
class Subject:
    """What the API server's refusal of a step is about; until the next try no step with this subject is taken."""

    kind: Literal["role", "replica", "group", "target of role", "status of role", "status of group"]
    """role: its new replicas; target of role: the workload that a role's scaleTargetRef names."""
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class _OfGroup:
    group: str
    reason: str

    @property
    def subject(self) -> Subject:
        return Subject("group", self.group)


@dataclass(frozen=True)
class AddFinalizer(_OfGroup):
    """Keep the group from vanishing while something of it runs."""


@dataclass(frozen=True)
class DropFinalizer(_OfGroup):
    """Let the group go."""


@dataclass(frozen=True)
class _OfReplica:
    replica: str
    reason: str

    @property
    def subject(self) -> Subject:
        return Subject("replica", self.replica)


@dataclass(frozen=True)
class LeaveRouter(_OfReplica):
    """Take a replica out of the router: its pod is not Ready any more. `gate`: for what."""

    gate: GateReason
    checked_for: str = ""
    """The role whose template takes its place and is checked just before: where that is refused, the replica stays."""

    @property
    def subject(self) -> Subject:
        return Subject("role", self.checked_for) if self.checked_for else super().subject


@dataclass(frozen=True)
class EnterRouter(_OfReplica):
    """Let the router send requests to a replica."""

    gate: GateReason = GateReason.SERVING


@dataclass(frozen=True)
class ReturnToRouter(_OfReplica):
    """The same for a replica whose transfer is rolled back."""

    gate: GateReason = GateReason.ROLLED_BACK


@dataclass(frozen=True)
class Switch(_OfReplica):
    """Give a replica to another role: role, stage and the templates' own labels in one guarded write."""

    giver: str
    taker: str


@dataclass(frozen=True)
class CallEngine(_OfReplica):
    """Ask a replica's engine to serve another stage."""

    stage: str


@dataclass(frozen=True)
class DeletePod(_OfReplica):
    """End a replica's pod."""


@dataclass(frozen=True)
class DeleteNode(_OfReplica):
    """Give a replica's logical node back."""


@dataclass(frozen=True)
class Relabel(_OfReplica):
    """Let the role label of a replica's logical node follow its pod's."""

    role: str


@dataclass(frozen=True)
class _OfNewReplica:
    role: str
    replica: str
    """The new replica's name."""
    reason: str

    @property
    def subject(self) -> Subject:
        return Subject("role", self.role)


@dataclass(frozen=True)
class CheckTemplate(_OfNewReplica):
    """Ask the API server whether it would take the role's pod, before hardware is bound for it."""


@dataclass(frozen=True)
class CreateNode(_OfNewReplica):
    """Ask for a logical node for a new replica."""


@dataclass(frozen=True)
class CreatePod(_OfNewReplica):
    """Make a replica's pod; `node_name` is the Node of its logical node, empty for a plain pod."""

    node_name: str = ""


@dataclass(frozen=True)
class _OfTarget:
    role: str
    """The role whose workload it is about."""
    reason: str

    @property
    def subject(self) -> Subject:
        return Subject("target of role", self.role)


@dataclass(frozen=True)
class MarkVictim(_OfTarget):
    """Let a pod of a workload be the first to go, or (`cost` None) no longer: its deletion cost."""

    pod: str
    cost: str | None


@dataclass(frozen=True)
class ScaleTarget(_OfTarget):
    """Give a workload this many replicas through /scale, guarded by what was read of it."""

    replicas: int


Step = (
    AddFinalizer
    | DropFinalizer
    | LeaveRouter
    | EnterRouter
    | ReturnToRouter
    | Switch
    | CallEngine
    | CheckTemplate
    | CreatePod
    | CreateNode
    | DeletePod
    | DeleteNode
    | Relabel
    | MarkVictim
    | ScaleTarget
)

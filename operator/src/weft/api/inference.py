"""InferenceGroup: one model served by several roles."""

from __future__ import annotations

import enum
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from weft.api.conditions import CONDITION_LIST, Conditions
from weft.api.logical_node import DomainConstraint
from weft.api.meta import Model, Resource
from weft.api.values import Counter, DnsSubdomain, Explained, Message, Timestamp, Version

_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
_BY_ROLE: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["role"]}
_BY_NAME: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
_SHORT_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class Objectives(Model):
    """What users of the model may expect."""

    time_to_first_token_milliseconds: int = Field(
        ge=1, le=3_600_000, description="Longest time from a request's arrival to its first token."
    )
    inter_token_latency_milliseconds: int = Field(
        ge=1, le=600_000, description="Longest mean time between a request's tokens."
    )
    attainment_permille: int = Field(
        default=990, ge=1, le=999, description="Share of requests that must meet both, in thousandths."
    )


class GroupMetrics(Model):
    """Where the load and the latencies are read."""

    source: Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_SHORT_NAME)] = Field(
        default="default", description="One of the metric sources in the operator's settings."
    )
    preset: Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_SHORT_NAME)] = Field(
        default="vllm",
        description="Set of metric names: a preset of the operator's settings, or the built-in vllm.",
    )
    model_name: Annotated[
        str,
        StringConstraints(
            min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._:/@+]*[A-Za-z0-9])?$"
        ),
        Explained(
            "must be a model's name of letters, digits and - . _ : / @ +, for example meta-llama/Llama-3-70B"
        ),
    ] = Field(description="The model's name as the engines and the front end label their metrics.")


class Budget(Model):
    """What the group may hold."""

    accelerators: int = Field(
        ge=0,
        le=100_000,
        description="Accelerators that all replicas may hold together, also in the middle of a move.",
    )


class GroupPlacement(Model):
    """Where the replicas stand to each other."""

    domain: DomainConstraint | None = Field(
        default=None,
        description="Interconnect that replicas should share, for fast moves of KV caches. No effect in this version.",
    )


class RebalanceMode(enum.StrEnum):
    """Who decides the split."""

    AUTO = "Auto"
    RECOMMEND = "Recommend"
    PAUSED = "Paused"


class FlipMethod(enum.StrEnum):
    """How a running replica changes its stage."""

    NONE = "None"
    LABEL = "Label"
    HTTP = "HTTP"
    RESTART = "Restart"


class Rebalance(Model):
    """How the split between the roles is changed."""

    mode: RebalanceMode = Field(
        default=RebalanceMode.AUTO,
        description="Auto: Weft decides and moves. Recommend: it writes the decision and the roles' replicas"
        " hold. Paused: it decides nothing and the roles' replicas hold.",
    )
    flip: FlipMethod = Field(
        default=FlipMethod.LABEL,
        description="How a running replica changes its stage. None: never. Label: only its labels change,"
        " the engine serves both stages. HTTP and Restart are not in this version: answered by a condition"
        " with reason FlipUnsupported.",
    )
    cooldown_seconds: int = Field(
        default=30,
        ge=0,
        le=86_400,
        description="Least time between the end of one move and the next decision.",
    )


class InferenceGroupSpec(Model):
    """What is promised, what may be used, and who decides."""

    objectives: Objectives = Field(description="What users of the model may expect.")
    metrics: GroupMetrics = Field(description="Where the load and the latencies are read.")
    budget: Budget = Field(description="What the group may hold.")
    placement: GroupPlacement = Field(
        default=GroupPlacement(), description="Where the replicas stand to each other."
    )
    rebalance: Rebalance = Field(
        default=Rebalance(), description="How the split between the roles is changed."
    )


class RoleAllocation(Model):
    """Replicas of one role."""

    role: DnsSubdomain = Field(description="Name of the InferenceRole.")
    replicas: Counter = Field(description="Replicas it is to have.")


Allocation = Annotated[tuple[RoleAllocation, ...], Field(max_length=16)]


class TransferStep(enum.StrEnum):
    """Where a transfer stands."""

    DRAINING = "Draining"
    SWITCHING = "Switching"
    VERIFYING = "Verifying"
    ROLLING_BACK = "RollingBack"


class Transfer(Model):
    """One replica on its way from one role to another."""

    name: DnsSubdomain = Field(description="Name of the transfer.")
    from_: DnsSubdomain = Field(alias="from", description="Role that gives the replica.")
    to: DnsSubdomain = Field(description="Role that gets it.")
    replica: DnsSubdomain = Field(description="Pod of the replica.")
    step: TransferStep = Field(
        description="Draining: it gets no new requests and finishes those it has. Switching: it changes its"
        " stage. Verifying: it has yet to be seen serving the new stage. RollingBack: it returns to the old"
        " one."
    )
    started_at: Timestamp = Field(description="When the transfer was recorded.")


def _as_decimal_text(score: object) -> object:
    return f"{score:.3f}" if isinstance(score, int | float | Decimal) else score


Score = Annotated[
    str,
    BeforeValidator(_as_decimal_text),
    StringConstraints(min_length=1, max_length=32, pattern=r"^-?[0-9]+(\.[0-9]+)?$"),
]
"""A decimal number as text: the API has no floats. Numbers are taken and written with three decimals."""


class Alternative(Model):
    """One split that was considered."""

    allocation: Allocation = Field(description="Replicas per role.", json_schema_extra=_BY_ROLE)
    score: Score = Field(description="What it was judged by, as a decimal number; the smallest is chosen.")
    reason: Message = Field(default="", description="What it would cost or miss.")


class Decision(Model):
    """Why the allocation is what it is. Written when it changes."""

    reason: Message = Field(description="Why this split.")
    decided_at: Timestamp = Field(description="When it was decided.")
    alternatives: Annotated[tuple[Alternative, ...], Field(max_length=4)] = Field(
        default=(), description="The next best splits, the best of them first.", json_schema_extra=_ATOMIC
    )


class InferenceGroupStatus(Model):
    """What was decided and how far it is."""

    observed_generation: Version = Field(
        default=0, description="Generation of the spec that this status is about."
    )
    allocation: Allocation = Field(
        default=(),
        description="The whole decision in one write: replicas that each role is to have.",
        json_schema_extra=_BY_ROLE,
    )
    transfers: Annotated[tuple[Transfer, ...], Field(max_length=16)] = Field(
        default=(), description="Replicas that are changing their role now.", json_schema_extra=_BY_NAME
    )
    decision: Decision | None = Field(default=None, description="Why the allocation is what it is.")
    conditions: Conditions = Field(
        default=(),
        description="Ready: every stage has a serving replica. ObjectivesMet: the share of requests within"
        " the objectives is as promised. MetricsFresh: what is read is recent and whole; while it is not,"
        " the split holds. Balanced: the replicas are where the allocation wants them.",
        json_schema_extra=CONDITION_LIST,
    )


class InferenceGroup(Resource):
    """One model served by several roles: objectives, budget, policy."""

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["InferenceGroup"] = Field(default="InferenceGroup", description="Kind of the object.")
    spec: InferenceGroupSpec = Field(description="What is promised, what may be used, and who decides.")
    status: InferenceGroupStatus = Field(
        default=InferenceGroupStatus(), description="What was decided and how far it is."
    )

"""InferenceGroup: one model served by several roles."""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from weft.api.cel import Rule
from weft.api.conditions import CONDITION_LIST, Conditions
from weft.api.meta import Model, Resource
from weft.api.pod_template import POD_TEMPLATE
from weft.api.values import (
    AttributeName,
    AttributeValue,
    Counter,
    DnsSubdomain,
    Explained,
    Message,
    Timestamp,
    Version,
)
from weft.api.windows import Window

_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
_BY_ROLE: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["role"]}
_BY_NAME: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
_SHORT_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class Objectives(Model):
    """What users of the model may expect. One of the two is enough."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.timeToFirstTokenMilliseconds) || has(self.interTokenLatencyMicroseconds)",
            "set timeToFirstTokenMilliseconds, interTokenLatencyMicroseconds or both",
        ),
    )

    time_to_first_token_milliseconds: int | None = Field(
        default=None,
        ge=1,
        le=3_600_000,
        description="Longest time from a request's arrival to its first token. Absent: prefill only has to keep up.",
    )
    inter_token_latency_microseconds: int | None = Field(
        default=None,
        ge=1,
        le=600_000_000,
        description="Longest mean time between a request's tokens. Absent: decode only has to keep up.",
    )
    attainment_permille: int = Field(
        default=990,
        ge=1,
        le=999,
        description="Share of requests that must meet the objectives, in thousandths.",
    )


ModelName = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._:/@+]*[A-Za-z0-9])?$"
    ),
    Explained(
        "must be a model's name of letters, digits and - . _ : / @ +, for example meta-llama/Llama-3-70B"
    ),
]
"""A model's name as the engines and the front end label their metrics."""


class GroupMetrics(Model):
    """Where the load and the latencies are read."""

    source: Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_SHORT_NAME)] = Field(
        default="default", description="One of the metric sources in the operator's settings."
    )
    preset: Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_SHORT_NAME)] = Field(
        default="vllm",
        description="Set of metric names: a preset of the operator's settings, or the built-in vllm.",
    )
    models: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=16)] = Field(
        description="Names under which the front end counts the group's requests: the model, its aliases and"
        " adapters. Their traffic is added up.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class ScheduledMinimum(Window):
    """Accelerators that are held at least within some times of the week."""

    minimum: int = Field(
        ge=1,
        le=100_000,
        description="Accelerators that the group holds at least while it lasts. The largest of all that last and of"
        " `accelerators.minimum` holds.",
    )


class AcceleratorLimits(Model):
    """How many accelerators the group may hold."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.minimum) || self.minimum <= self.maximum",
            "minimum must not exceed maximum: lower minimum or raise maximum",
            ".minimum",
        ),
        Rule(
            "!has(self.schedule) || size(self.schedule) == 0 || has(self.minimum)",
            "schedule has an effect beside minimum only: set minimum, with which the size follows the traffic",
            ".schedule",
        ),
        Rule(
            "!has(self.schedule) || self.schedule.all(each, each.minimum <= self.maximum)",
            "no minimum of the schedule may exceed maximum: lower it or raise maximum",
            ".schedule",
        ),
    )

    minimum: int | None = Field(
        default=None,
        ge=0,
        le=100_000,
        description="Accelerators that the group holds at least. With it the number of replicas follows the traffic,"
        " between minimum and maximum and within each role's minReplicas and maxReplicas. Absent: the number of"
        " replicas stays what the roles ask for, and only the split follows.",
    )
    maximum: int = Field(
        ge=0,
        le=100_000,
        description="Accelerators that all replicas may hold together, also in the middle of a move.",
    )
    schedule: Annotated[tuple[ScheduledMinimum, ...], Field(max_length=16)] = Field(
        default=(),
        description="Times of the week with a larger minimum: replicas are made when one begins, whatever the traffic"
        " is, and when it ends the size follows the traffic again. Begin it as long before the traffic as replicas take"
        " to start.",
        json_schema_extra=_ATOMIC,
    )

    def minimum_at(self, moment: datetime) -> int | None:
        """Accelerators that are held at least then; None: the size is fixed. Raises ValueError for an unknown zone."""
        if self.minimum is None:
            return None
        return max([self.minimum, *(each.minimum for each in self.schedule if each.is_open(moment))])


class RebalanceMode(enum.StrEnum):
    """Who decides the split."""

    AUTO = "Auto"
    RECOMMEND = "Recommend"
    PAUSED = "Paused"


class FlipMethod(enum.StrEnum):
    """How a running replica changes its stage."""

    NONE = "None"
    LABEL = "Label"
    RESTART = "Restart"
    HTTP = "HTTP"
    RECOMPOSE = "Recompose"


class Rebalance(Model):
    """How the split between the roles is changed."""

    mode: RebalanceMode = Field(
        default=RebalanceMode.AUTO,
        description="Auto: Weft decides and moves. Recommend: it writes what it would choose into"
        " status.recommendation. Paused: it decides nothing. In both the split stays as it is, and an edit of a role's"
        " replicas is followed.",
    )
    flip: FlipMethod = Field(
        default=FlipMethod.LABEL,
        description="How a running replica changes its stage. None: never. Label: only its labels change,"
        " the engine serves both stages. Restart: it finishes its requests, and its pod is replaced by one of the other"
        " role's template on the same logical node, whose devices stay attached. HTTP: it finishes its requests, is"
        " asked to change by the HTTP call of the preset, and gets the other role's labels once it says that it has."
        " Recompose: roles with different nodes; it finishes its requests, its logical node is given back, and one of"
        " the other role is composed once its devices are free.",
    )
    drain_first: bool | None = Field(
        default=None,
        description="Whether a replica finishes its requests before it changes its stage. Else it gets requests of the"
        " new stage at once and ends the old ones beside them, as engines can that serve both stages.",
    )
    cooldown_seconds: int = Field(
        default=30,
        ge=0,
        le=86_400,
        description="Least time after a decision or the end of a move before it may be taken back. It may go"
        " further before.",
    )


class MoveReason(enum.StrEnum):
    """Why replicas are moved, made or removed without anybody having asked for it."""

    SPLIT = "Split"
    SIZE = "Size"
    ROLLOUT = "Rollout"


class MoveWindow(Window):
    """When moves may begin, which, and how many at once."""

    reasons: Annotated[tuple[MoveReason, ...], Field(max_length=3)] = Field(
        default=(),
        description="Moves that it is for. Split: replicas change their role. Size: their number follows the traffic."
        " Rollout: they are made anew from a changed template or node. Absent: all of these.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    max_concurrent: int | None = Field(
        default=None,
        ge=1,
        le=16,
        description="Replicas that may be changing their role at one time while it is open; of several open windows the"
        " largest number holds. Absent: no limit of its own.",
    )


class GroupPlacement(Model):
    """Where the replicas get their devices, beyond what each role's node asks for."""

    same_domain: AttributeName = Field(
        description="Device attribute that the accelerators of all replicas must have one value of, so that they share"
        " an interconnect: rdmaDomain, nvlinkDomain and so on. Weft chooses the value, one that has room for all"
        " replicas together, before the first gets a device; later ones go there or wait. It chooses again only while"
        " no replica serves. When this is set or changed, replicas are made anew one by one."
    )


class InferenceGroupSpec(Model):
    """What is promised, what may be used, and who decides."""

    template: dict[str, Any] | None = Field(
        default=None,
        description="Pod that the replicas of all roles are made from; a role lays its labels over it, or"
        " has a template of its own. Checked by a dry-run of a Pod; what the API server says about it is in"
        " the roles' conditions.",
        json_schema_extra=POD_TEMPLATE,
    )
    objectives: Objectives = Field(description="What users of the model may expect.")
    metrics: GroupMetrics = Field(description="Where the load and the latencies are read.")
    accelerators: AcceleratorLimits = Field(description="How many accelerators the group may hold.")
    placement: GroupPlacement | None = Field(
        default=None,
        description="Where the replicas get their devices, beyond what each role's node asks for. Absent: each replica"
        " by itself.",
    )
    rebalance: Rebalance = Field(
        default=Rebalance(), description="How the split between the roles is changed."
    )
    suspend: bool | None = Field(
        default=None,
        description="Begins no move and adds no replica; moves under way end, and what is removed or released goes on."
        " Set and taken off by `kubectl weft pause --taking` and `resume`.",
    )
    windows: Annotated[tuple[MoveWindow, ...], Field(max_length=16)] = Field(
        default=(),
        description="When moves may begin: one for which there are windows begins within one of them alone, one for"
        " which there is none at any time. What failed is replaced, and what somebody drains is moved, at any time."
        " Absent: at any time.",
        json_schema_extra=_ATOMIC,
    )


class RoleAllocation(Model):
    """Replicas of one role."""

    role: DnsSubdomain = Field(description="Name of the InferenceRole.")
    replicas: Counter = Field(description="Replicas it is to have.")


MOST_ROLES = 16
"""Roles that a group can have: as many as an allocation holds."""
Allocation = Annotated[tuple[RoleAllocation, ...], Field(max_length=MOST_ROLES)]


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
    replica: DnsSubdomain = Field(description="Replica that moves.")
    step: TransferStep = Field(
        description="Draining: it gets no new requests and finishes those it has. Switching: it changes its"
        " stage. Verifying: it has yet to be seen serving the new stage. RollingBack: it returns to the old"
        " one."
    )
    start_time: Timestamp = Field(description="When the transfer was recorded.")


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
    decision_time: Timestamp = Field(description="When it was decided.")
    previous: Allocation | None = Field(
        default=None, description="Replicas per role that held before.", json_schema_extra=_BY_ROLE
    )
    alternatives: Annotated[tuple[Alternative, ...], Field(max_length=4)] = Field(
        default=(), description="The next best splits, the best of them first.", json_schema_extra=_ATOMIC
    )
    headroom_percent: Annotated[int, Field(ge=-100, le=100)] | None = Field(
        default=None,
        description=(
            "What the promise's record of the last hours added to what the load needs, in percent; below 0: what it"
            " took off. Only where the size is free."
        ),
    )


class Recommendation(Decision):
    """The split that Weft would choose. Written in the mode Recommend, when it changes."""

    allocation: Allocation = Field(
        description="Replicas that each role would have.", json_schema_extra=_BY_ROLE
    )


class Domain(Model):
    """The interconnect domain that all replicas share."""

    attribute: AttributeName = Field(description="Device attribute that says it: rdmaDomain.")
    value: Annotated[AttributeValue, Field(min_length=1)] = Field(description="Its value: ib-0.")


class InferenceGroupStatus(Model):
    """What was decided and how far it is."""

    observed_generation: Version = Field(
        default=0, description="Generation of the spec that this status is about."
    )
    desired_replicas: Counter = Field(default=0, description="Replicas that all roles are to have.")
    replicas: Counter = Field(default=0, description="Replicas that have a pod.")
    updated_replicas: Counter = Field(
        default=0, description="Replicas whose pod is made from the present template and node."
    )
    ready_replicas: Counter = Field(default=0, description="Replicas that take requests.")
    last_scale_time: Timestamp | None = Field(
        default=None, description="When Weft last decided on another number of replicas."
    )
    last_scale_up_time: Timestamp | None = Field(
        default=None, description="When Weft last decided on more replicas."
    )
    split: Annotated[str, StringConstraints(max_length=2048)] = Field(
        default="", description="The allocation in words, for `kubectl get`."
    )
    allocation: Allocation = Field(
        default=(),
        description="The whole decision in one write: replicas that each role is to have.",
        json_schema_extra=_BY_ROLE,
    )
    left_out_replicas: Counter | None = Field(
        default=None,
        description="Replicas that the roles ask for and accelerators.maximum has no room for: they are made when it"
        " has. Absent: none.",
    )
    replicas_asked: Allocation | None = Field(
        default=None,
        description="spec.replicas of each role when the allocation last took account of them: in Recommend and Paused"
        " a role that says something else is given that. Absent: the allocation holds.",
        json_schema_extra=_BY_ROLE,
    )
    domain: Domain | None = Field(
        default=None, description="With spec.placement.sameDomain: what was chosen for all replicas."
    )
    transfers: Annotated[tuple[Transfer, ...], Field(max_length=16)] = Field(
        default=(), description="Replicas that are changing their role now.", json_schema_extra=_BY_NAME
    )
    decision: Decision | None = Field(default=None, description="Why the allocation is what it is.")
    recommendation: Recommendation | None = Field(
        default=None, description="In the mode Recommend: the split that Weft would choose, and why."
    )
    conditions: Conditions = Field(
        default=(),
        description="Ready: a request can pass, and no role is kept from running. ObjectivesMet: the share of"
        " requests within the objectives is as promised. MetricsFresh: what is read is recent and whole; while"
        " it is not, the split holds. Balanced: the replicas serve where the allocation wants them. AbleToScaleToZero:"
        " where roles have minReplicas 0, whether the last replicas go while nobody asks for anything. KVCachesRead:"
        " where engines count it, whether decode reads the KV caches that prefill computes for it in time.",
        json_schema_extra=CONDITION_LIST,
    )


class InferenceGroup(Resource):
    """One model served by several roles: pod template, objectives, limits, policy."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,55}[a-z0-9])?$')",
            "metadata.name of an InferenceGroup must have no dots and at most 57 characters: with a number"
            " after it, it is a label of its pods",
        ),
    )

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["InferenceGroup"] = Field(default="InferenceGroup", description="Kind of the object.")
    spec: InferenceGroupSpec = Field(description="What is promised, what may be used, and who decides.")
    status: InferenceGroupStatus = Field(
        default=InferenceGroupStatus(), description="What was decided and how far it is."
    )

    @property
    def domain(self) -> str:
        """The domain that was chosen for what `spec.placement` asks for; empty where none is, or for something else."""
        placement, chosen = self.spec.placement, self.status.domain
        if placement is None or chosen is None or chosen.attribute != placement.same_domain:
            return ""
        return chosen.value

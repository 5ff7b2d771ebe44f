"""InferenceRole: one stage of a model's service, with what runs it and how many times."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from weft.api.cel import Rule, immutable, immutable_optional, rules
from weft.api.conditions import CONDITION_LIST, Conditions
from weft.api.meta import Model, NameRef, Resource
from weft.api.node_shape import NodeShape
from weft.api.pod_template import POD_TEMPLATE
from weft.api.values import Counter, DnsSubdomain, LabelValue, Version


class Stage(enum.StrEnum):
    """What a role does for a request."""

    ENCODE = "Encode"
    PREFILL = "Prefill"
    DECODE = "Decode"
    AGGREGATED = "Aggregated"

    @property
    def label(self) -> str:
        """Its value in the pod label `weft.dev/stage`."""
        return self.value.lower()


class Drain(Model):
    """How a replica is taken out of service."""

    timeout_seconds: int = Field(
        default=600,
        ge=0,
        le=86_400,
        description="How long its requests, and reads of its KV caches, may take before they are cut off.",
    )


ApiVersion = Annotated[
    str, StringConstraints(min_length=1, max_length=317, pattern=r"^([a-z0-9][-a-z0-9.]*/)?v[0-9][a-z0-9]*$")
]
KindName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Z][A-Za-z0-9]*$")]


class ScaleTargetRef(Model):
    """An existing workload in the role's namespace whose replicas are the role's."""

    api_version: ApiVersion = Field(description="API version of the workload: apps/v1.")
    kind: KindName = Field(description="Its kind; one of those that the operator's settings list.")
    name: DnsSubdomain = Field(description="Its name.")


class InferenceRoleSpec(Model):
    """What the role does, with what, and how many times."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "minReplicas must not exceed maxReplicas: lower minReplicas or raise maxReplicas",
            ".minReplicas",
        ),
        Rule(
            "(self.replicas >= self.minReplicas || self.replicas == 1) && self.replicas <= self.maxReplicas",
            "replicas must lie between minReplicas and maxReplicas: change replicas or the bounds",
            ".replicas",
        ),
        Rule(
            "!has(self.node) || !has(self.acceleratorsPerReplica)",
            "with a node its accelerators are counted: remove acceleratorsPerReplica",
            ".acceleratorsPerReplica",
        ),
        Rule(
            "!has(self.scaleTargetRef) || self.minReplicas >= 1",
            "the replicas of an existing workload do not go to zero: set minReplicas to 1 or more",
            ".minReplicas",
        ),
        immutable_optional("scaleTargetRef", "create another role and delete this one"),
        Rule(
            "self.stage == 'Encode' || has(self.profileRef)",
            "set profileRef: without the measured speed of a replica the traffic cannot be divided over it",
            ".profileRef",
        ),
        Rule(
            "self.stage != 'Encode' || !has(self.profileRef)",
            "nothing of a role of stage Encode is decided by a measured speed: remove profileRef",
            ".profileRef",
        ),
        Rule(
            "self.stage != 'Encode' || !has(self.scaleTargetRef)",
            "Weft never changes how many replicas encode: remove scaleTargetRef and give the role a template, or leave"
            " that workload outside the group",
            ".scaleTargetRef",
        ),
        Rule(
            "!has(self.scaleTargetRef) || !(has(self.template) || has(self.node)"
            " || (has(self.labels) && size(self.labels) > 0))",
            "the workload makes its own pods: remove template, node and labels, or scaleTargetRef",
            ".scaleTargetRef",
        ),
    )

    group_ref: NameRef = Field(
        description="InferenceGroup in the same namespace that this role belongs to. Cannot be changed.",
        json_schema_extra=immutable("create a role in the other group and delete this one"),
    )
    stage: Stage = Field(
        description="Encode turns images, audio or video into embeddings, Prefill reads prompts, Decode writes answers,"
        " Aggregated does both of these two. Cannot be changed; a group may have several roles of one stage. A role of"
        " stage Encode has the replicas that it asks for, in every mode, and exchanges none.",
        json_schema_extra=immutable("create a role of the other stage and delete this one"),
    )
    replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Replicas that the role starts with. An edit is followed while the group's rebalance mode is"
        " Recommend or Paused, not in Auto; of stage Encode: that it has in every mode. Left at 1, minReplicas is meant"
        " where that is more. Also set through /scale. With a scaleTargetRef the workload's own number is meant.",
    )
    min_replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Fewest replicas. 0, in Auto: while requests come each role has one at least; where all roles of"
        " the group say 0, and accelerators.minimum is 0, none is left when no request has come for 20 minutes, if the"
        " front end tells which requests wait (condition AbleToScaleToZero); when one waits all roles get one again.",
    )
    max_replicas: int = Field(ge=1, le=1000, description="Most replicas.")
    node: NodeShape | None = Field(
        default=None,
        description="Logical node that each replica gets for itself. Absent: plain pods, placed by the"
        " scheduler.",
    )
    profile_ref: NameRef | None = Field(
        default=None,
        description="EngineProfile in the role's namespace: the measured speed of one replica. Of every role but those"
        " of stage Encode.",
    )
    template: dict[str, Any] | None = Field(
        default=None,
        description="Pod that each replica is made from, instead of the group's template as a whole. Checked"
        " by a dry-run of a Pod; what the API server says about it is in the role's conditions.",
        json_schema_extra=POD_TEMPLATE,
    )
    scale_target_ref: ScaleTargetRef | None = Field(
        default=None,
        description="Existing workload whose replicas are the role's, instead of a template: Weft changes its number"
        " through /scale and nothing else of it. Cannot be changed.",
    )
    labels: Annotated[Mapping[str, LabelValue], Field(max_length=16)] = Field(
        default={},
        description="Labels of the role's pods, laid over those of the template.",
        json_schema_extra=rules(
            Rule(
                "self.all(key, !key.startsWith('weft.dev/'))",
                "labels that begin with weft.dev/ are Weft's own: choose another name",
            )
        ),
    )
    accelerators_per_replica: int | None = Field(
        default=None,
        ge=0,
        le=1024,
        description="Accelerators that a replica counts for in the group's accelerators, where the role has"
        " no node; absent: 1.",
    )
    drain: Drain = Field(default=Drain(), description="How a replica is taken out of service.")

    @property
    def accelerators_counted(self) -> int:
        """Accelerators that one replica counts for in the group's limit."""
        if self.node is not None:
            return self.node.accelerator_count
        return 1 if self.accelerators_per_replica is None else self.accelerators_per_replica

    @property
    def replicas_asked(self) -> int:
        """Replicas that the role has where nothing else decides: `replicas`, at least `minReplicas`."""
        return max(self.replicas, self.min_replicas)


class ScaleTargetStatus(Model):
    """What Weft knows of the number of replicas of the role's workload, so that it notices who else changes it."""

    replicas: Counter = Field(description="Replicas that it has, or that Weft is about to give it.")
    previous: Counter | None = Field(
        default=None, description="Those that it has until Weft's write: absent where none is to come."
    )
    other_replicas: Counter | None = Field(
        default=None,
        description="Replicas that something other than Weft gave it; Weft writes nothing there since.",
    )


class InferenceRoleStatus(Model):
    """What is there."""

    observed_generation: Version = Field(
        default=0, description="Generation of the spec that this status is about."
    )
    desired_replicas: Counter = Field(
        default=0, description="Replicas that the group's allocation gives the role."
    )
    replicas: Counter = Field(default=0, description="Replicas that have a pod.")
    updated_replicas: Counter = Field(
        default=0, description="Replicas whose pod is made from the present template and node."
    )
    ready_replicas: Counter = Field(default=0, description="Replicas that take requests.")
    selector: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="Label selector of the replicas as text, for /scale: one pod of each."
    )
    scale_target: ScaleTargetStatus | None = Field(
        default=None, description="With a scaleTargetRef: the number of replicas that Weft knows or writes."
    )
    conditions: Conditions = Field(
        default=(),
        description="Ready: the role has the replicas it is to have and they take requests; the reason says what is"
        " wrong with its template, its pods or its logical nodes. ProfileValid: its EngineProfile can be used."
        " ReplicasIgnored: the group's allocation differs from spec.replicas. KeepsUp: of stage Encode, whether"
        " more waits at its replicas than they work on. AbleToScale: the workload of"
        " spec.scaleTargetRef can be read and scaled.",
        json_schema_extra=CONDITION_LIST,
    )


class InferenceRole(Resource):
    """One stage of an inference group: template, node shape, bounds."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
            "metadata.name of an InferenceRole must have no dots and at most 63 characters: it is a label of"
            " its pods",
        ),
    )

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["InferenceRole"] = Field(default="InferenceRole", description="Kind of the object.")
    spec: InferenceRoleSpec = Field(description="What the role does, with what, and how many times.")
    status: InferenceRoleStatus = Field(default=InferenceRoleStatus(), description="What is there.")

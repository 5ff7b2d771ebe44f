"""The objects that a replica consists of, as they are created. Pure."""

from __future__ import annotations

import copy
from datetime import datetime

from weft.api import InferenceGroup, InferenceRole
from weft.api.names import (
    GATE_SERVING,
    LABEL_GROUP,
    LABEL_REPLICA,
    LABEL_ROLE,
    LABEL_STAGE,
    LABEL_WORKER_INDEX,
    TAINT_LOGICAL_NODE,
)
from weft.api.pod_template import labelled
from weft.api.resources import GROUP, INFERENCE_GROUPS, LOGICAL_NODES
from weft.balancing.replicas import (
    ANNOTATION_DOMAIN,
    ANNOTATION_DRAIN,
    ANNOTATION_NODE,
    ANNOTATION_REVISION,
    ANNOTATION_ROLE_SINCE,
    ANNOTATION_SHAPE,
    revision_of,
    shape_of,
)
from weft.cluster import Object
from weft.domains import domain_words, in_domain


def with_template(group: InferenceGroup, role: InferenceRole) -> InferenceRole | None:
    """The role with the whole template that its pods are made from; None where neither has one.

    That is its own or the group's, under the role's labels. One with a scaleTargetRef needs none: it is as it is.
    """
    if role.spec.scale_target_ref is not None:
        return role
    template = group.spec.template if role.spec.template is None else role.spec.template
    if template is None:
        return None
    spec = role.spec.with_changes(template=labelled(template, role.spec.labels))
    return role.with_changes(spec=spec)


def role_labels(group_name: str, role: InferenceRole) -> dict[str, str]:
    """The labels of a pod while it serves a role: the template's, then Weft's.

    A template has no say in labels of Weft's: a flip would lay the other template's over those of the replica.
    """
    template = role.spec.template or {}
    own = (template.get("metadata") or {}).get("labels") or {}
    return {
        **{key: value for key, value in own.items() if not key.startswith(f"{GROUP}/")},
        LABEL_GROUP: group_name,
        LABEL_ROLE: role.metadata.name,
        LABEL_STAGE: role.spec.stage.label,
    }


def role_annotations(role: InferenceRole, since: datetime) -> dict[str, str]:
    """What a pod carries of the role that it serves since then."""
    return {
        ANNOTATION_ROLE_SINCE: timestamp(since),
        ANNOTATION_DRAIN: str(role.spec.drain.timeout_seconds),
    }


def selector(group_name: str, role_name: str) -> str:
    """The label selector of a role's replicas, as text for /scale: one pod of each."""
    return f"{LABEL_GROUP}={group_name},{LABEL_ROLE}={role_name},{LABEL_WORKER_INDEX}=0"


def pod_body(group: InferenceGroup, role: InferenceRole, name: str, node_name: str, now: datetime) -> Object:
    """A replica's pod. `node_name` ties it to its logical node's Node; empty: the scheduler chooses."""
    template = copy.deepcopy(role.spec.template or {})
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    gates = [gate for gate in spec.get("readinessGates") or [] if gate.get("conditionType") != GATE_SERVING]
    spec["readinessGates"] = [*gates, {"conditionType": GATE_SERVING}]
    if node_name:
        spec["affinity"] = _on_node(spec.get("affinity") or {}, node_name)
        toleration = {"key": TAINT_LOGICAL_NODE, "operator": "Exists", "effect": "NoSchedule"}
        spec["tolerations"] = [*(spec.get("tolerations") or []), toleration]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": group.metadata.namespace,
            "labels": {
                **role_labels(group.metadata.name, role),
                LABEL_REPLICA: name,
                LABEL_WORKER_INDEX: "0",
            },
            "annotations": {
                **(metadata.get("annotations") or {}),
                ANNOTATION_REVISION: revision_of(role),
                **role_annotations(role, now),
                **({ANNOTATION_NODE: node_name} if node_name else {}),
            },
            "ownerReferences": [_owner(group)],
        },
        "spec": spec,
    }


def node_body(group: InferenceGroup, role: InferenceRole, name: str) -> Object:
    """A replica's LogicalNode. Its role label says what it was made for; the pod's says what it serves."""
    assert role.spec.node is not None
    spec, made_for = role.spec.node.dump(), {ANNOTATION_SHAPE: shape_of(role)}
    if group.spec.placement is not None and group.domain:
        attribute = group.spec.placement.same_domain
        spec = in_domain(spec, attribute, group.domain)
        made_for[ANNOTATION_DOMAIN] = domain_words(attribute, group.domain)
    return {
        "apiVersion": LOGICAL_NODES.api_version,
        "kind": LOGICAL_NODES.kind,
        "metadata": {
            "name": name,
            "namespace": group.metadata.namespace,
            "labels": {
                LABEL_GROUP: group.metadata.name,
                LABEL_ROLE: role.metadata.name,
                LABEL_REPLICA: name,
            },
            "annotations": made_for,
            "ownerReferences": [_owner(group)],
        },
        "spec": spec,
    }


def timestamp(moment: datetime) -> str:
    """A time as Kubernetes writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _on_node(affinity: Object, node_name: str) -> Object:
    """The affinity with every term of the required node affinity narrowed to one node.

    Terms are alternatives: the field has to be added to each, or the others would lead elsewhere.
    """
    node_affinity = affinity.get("nodeAffinity") or {}
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    here = {"key": "metadata.name", "operator": "In", "values": [node_name]}
    terms = [
        {**term, "matchFields": [*(term.get("matchFields") or []), here]}
        for term in required.get("nodeSelectorTerms") or [{}]
    ]
    required = {**required, "nodeSelectorTerms": terms}
    node_affinity = {**node_affinity, "requiredDuringSchedulingIgnoredDuringExecution": required}
    return {**affinity, "nodeAffinity": node_affinity}


def _owner(group: InferenceGroup) -> Object:
    return {
        "apiVersion": INFERENCE_GROUPS.api_version,
        "kind": INFERENCE_GROUPS.kind,
        "name": group.metadata.name,
        "uid": group.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }

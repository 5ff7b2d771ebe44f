"""Carries out the steps of a decision. Decides nothing: what to do when a step is refused is the next pass's."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, assert_never

from weft.api.names import GATE_SERVING, LABEL_ROLE
from weft.api.resources import INFERENCE_GROUPS, LOGICAL_NODES, PODS, SCALE, ResourceType
from weft.balancing.bodies import node_body, pod_body, role_annotations, role_labels, timestamp
from weft.balancing.observe import GroupPicture
from weft.balancing.replicas import ANNOTATION_REVISION, Replica
from weft.balancing.steps import (
    AddFinalizer,
    CallEngine,
    CheckTemplate,
    CreateNode,
    CreatePod,
    DeleteNode,
    DeletePod,
    DropFinalizer,
    EnterRouter,
    LeaveRouter,
    MarkVictim,
    Relabel,
    ReturnToRouter,
    ScaleTarget,
    Step,
    Subject,
    Switch,
)
from weft.balancing.targets import DELETION_COST
from weft.cluster import (
    AlreadyExistsError,
    Cluster,
    ClusterError,
    ConflictError,
    NotFoundError,
    Object,
    add_finalizer,
    drop_finalizer,
)

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What came of a decision's steps."""

    refused: dict[Subject, tuple[Step, ClusterError]] = field(default_factory=dict)
    """The first refused step of each subject; its further steps were not tried."""
    scaled: set[str] = field(default_factory=set)
    """Roles whose workload got another number of replicas."""
    taken: list[Step] = field(default_factory=list)
    conflict: bool = False
    """An object had changed since it was read: look again at once."""


async def apply(
    cluster: Cluster,
    picture: GroupPicture,
    steps: Sequence[Step],
    now: datetime,
    call: Callable[[Replica, str], None],
) -> Outcome:
    """Carry out all steps; one that is refused keeps no other subject's from being taken.

    `call` begins to ask a replica's engine to serve a stage; what comes of it is seen in later pictures. Raises
    ClusterError when the API server does not answer: nothing else would be answered either.
    """
    outcome = Outcome()
    for step in steps:
        if step.subject in outcome.refused:
            continue
        try:
            await _take(cluster, picture, step, now, call)
        except ConflictError:
            outcome.conflict = True
        except ClusterError as error:
            if error.status == 0:
                raise
            outcome.refused[step.subject] = (step, error)
        else:
            outcome.taken.append(step)
            if isinstance(step, ScaleTarget):
                outcome.scaled.add(step.role)
            group = picture.group.metadata
            log.debug("group %s/%s: %s", group.namespace, group.name, step)
    return outcome


async def _take(
    cluster: Cluster,
    picture: GroupPicture,
    step: Step,
    now: datetime,
    call: Callable[[Replica, str], None],
) -> None:
    namespace = picture.group.metadata.namespace
    match step:
        case AddFinalizer():
            await add_finalizer(cluster, INFERENCE_GROUPS, picture.raw)
        case DropFinalizer():
            await drop_finalizer(cluster, INFERENCE_GROUPS, picture.raw)
        case LeaveRouter():
            await _set_gate(cluster, picture, step, False, now)
        case EnterRouter() | ReturnToRouter():
            await _set_gate(cluster, picture, step, True, now)
        case Switch():
            await _switch(cluster, picture, step, now)
        case CallEngine():
            call(_replica(picture, step.replica), step.stage)
        case CheckTemplate():
            await _create(cluster, PODS, _pod(picture, step, now), dry_run=True)
        case CreatePod():
            await _create(cluster, PODS, _pod(picture, step, now, step.node_name))
        case CreateNode():
            await _create(
                cluster, LOGICAL_NODES, node_body(picture.group, picture.roles[step.role], step.replica)
            )
        case DeletePod():
            await cluster.delete(PODS, step.replica, namespace, uid=_replica(picture, step.replica).pod_uid)
        case DeleteNode():
            uid = _replica(picture, step.replica).node_uid
            await cluster.delete(LOGICAL_NODES, step.replica, namespace, uid=uid)
        case Relabel():
            await _patch(
                cluster,
                LOGICAL_NODES,
                step.replica,
                namespace,
                {"metadata": {"labels": {LABEL_ROLE: step.role}}},
            )
        case MarkVictim():
            pod = next(one for one in picture.targets[step.role].pods if one.name == step.pod)
            marks = {"uid": pod.pod_uid, "annotations": {DELETION_COST: step.cost}}
            await _patch(cluster, PODS, step.pod, namespace, {"metadata": marks})
        case ScaleTarget():
            target = picture.targets[step.role]
            guard = {"resourceVersion": target.version}
            body = {"metadata": guard, "spec": {"replicas": step.replicas}}
            await cluster.patch(target.resource, target.name, namespace, body, subresource=SCALE)
        case _:
            assert_never(step)


async def _set_gate(
    cluster: Cluster,
    picture: GroupPicture,
    step: LeaveRouter | EnterRouter | ReturnToRouter,
    value: bool,
    now: datetime,
) -> None:
    """Write the pod condition that the replica's readiness gate names.

    The API server joins conditions by type, so the kubelet's stay as they are. The guard is for the decision: it was
    made about the pod as it was read.
    """
    pod = _pod_of(picture, step.replica)
    condition = {
        "type": GATE_SERVING,
        "status": str(value),
        "reason": step.gate.value,
        "message": step.reason,
        "lastTransitionTime": timestamp(now),
    }
    patch = {
        "metadata": {"resourceVersion": pod["metadata"]["resourceVersion"]},
        "status": {"conditions": [condition]},
    }
    await _patch(cluster, PODS, step.replica, pod["metadata"]["namespace"], patch, "status")


async def _switch(cluster: Cluster, picture: GroupPicture, step: Switch, now: datetime) -> None:
    pod, group_name = _pod_of(picture, step.replica), picture.group.metadata.name
    taker = picture.roles[step.taker]
    annotations = role_annotations(taker, now)
    if picture.calls_engines and _replica(picture, step.replica).revision == picture.revisions[step.giver]:
        # Its arguments are the other role's, and it is as new as that: no reason to roll it.
        annotations[ANNOTATION_REVISION] = picture.revisions[step.taker]
    labels: dict[str, str | None] = dict.fromkeys(role_labels(group_name, picture.roles[step.giver]))
    labels |= role_labels(group_name, taker)
    patch = {
        "metadata": {
            "resourceVersion": pod["metadata"]["resourceVersion"],
            "labels": labels,
            "annotations": annotations,
        }
    }
    await _patch(cluster, PODS, step.replica, pod["metadata"]["namespace"], patch)


def _pod(
    picture: GroupPicture, step: CheckTemplate | CreatePod, now: datetime, node_name: str = ""
) -> Object:
    return pod_body(picture.group, picture.roles[step.role], step.replica, node_name, now)


async def _create(cluster: Cluster, resource: ResourceType, body: Object, *, dry_run: bool = False) -> None:
    # AlreadyExists: ours from a pass before, or somebody's; the cache will tell.
    with contextlib.suppress(AlreadyExistsError):
        await cluster.create(resource, body, dry_run=dry_run)


async def _patch(
    cluster: Cluster,
    resource: ResourceType,
    name: str,
    namespace: str,
    patch: Mapping[str, object],
    subresource: str = "",
) -> None:
    # NotFound: it went away meanwhile; the next pass sees that.
    with contextlib.suppress(NotFoundError):
        await cluster.patch(resource, name, namespace, patch, subresource=subresource)


def _replica(picture: GroupPicture, name: str) -> Replica:
    found = picture.replica(name)
    assert found is not None, f"a step about {name}, which is not in the picture it was decided from"
    return found


def _pod_of(picture: GroupPicture, name: str) -> Mapping[str, Any]:
    pod = _replica(picture, name).pod
    assert pod is not None, f"a step about the pod of {name}, which has none"
    return pod

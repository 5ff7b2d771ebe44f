"""What can be done to a group's replicas, one write each. Every act may be repeated; none decides."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from weft.api import InferenceRole
from weft.api.names import GATE_SERVING, LABEL_ROLE
from weft.api.resources import LOGICAL_NODES, PODS
from weft.balancing.bodies import node_body, pod_body, role_annotations, role_labels, timestamp
from weft.balancing.observe import World
from weft.balancing.replicas import GATE_IN, GATE_ROLLED_BACK, GATE_TRANSFER, Replica
from weft.balancing.roster import NewNode, NewPod
from weft.balancing.transfers import Acts
from weft.cluster import AlreadyExistsError, Cluster, NotFoundError

_GATE_MESSAGES = {
    GATE_IN: "takes requests",
    GATE_TRANSFER: "finishes its requests before it changes its role",
    GATE_ROLLED_BACK: "takes requests again in its old role",
}


class Actions:
    """Acts on the replicas of one group, as they were seen in one pass.

    All raise ClusterError; ConflictError where the object changed since it was read.
    """

    def __init__(self, cluster: Cluster, world: World, now: datetime) -> None:
        self._cluster = cluster
        self._world = world
        self._namespace = world.group.metadata.namespace
        self._now = now

    async def set_gate(self, replica: Replica, value: bool, reason: str) -> None:
        """Take the replica into the router or out of it: the pod condition that its readiness gate names."""
        assert replica.pod is not None
        before = (replica.pod.get("status") or {}).get("conditions") or []
        condition = {
            "type": GATE_SERVING,
            "status": str(value),
            "reason": reason,
            "message": _GATE_MESSAGES.get(reason, "finishes its requests before it is removed"),
            "lastTransitionTime": timestamp(self._now),
        }
        # A merge patch replaces lists: the others' conditions go along, guarded against a newer version of them.
        others = [one for one in before if one["type"] != GATE_SERVING]
        patch = {
            "metadata": {"resourceVersion": replica.pod["metadata"]["resourceVersion"]},
            "status": {"conditions": [*others, condition]},
        }
        await self._patch_pod(replica, patch, subresource="status")

    async def switch(self, replica: Replica, giver: InferenceRole, taker: InferenceRole) -> None:
        """Give the replica to another role: role, stage and the templates' own labels in one guarded patch."""
        assert replica.pod is not None
        group_name = self._world.group.metadata.name
        labels: dict[str, str | None] = dict.fromkeys(role_labels(group_name, giver))
        labels |= role_labels(group_name, taker)
        patch = {
            "metadata": {
                "resourceVersion": replica.pod["metadata"]["resourceVersion"],
                "labels": labels,
                "annotations": role_annotations(taker, self._now),
            }
        }
        await self._patch_pod(replica, patch)

    def acts(self, replica: Replica, giver: InferenceRole | None, taker: InferenceRole | None) -> Acts:
        """The acts of a transfer, for its steps. Without both roles only the way back can be taken."""

        async def switch() -> None:
            if giver is not None and taker is not None:
                await self.switch(replica, giver, taker)

        return Acts(
            leave_router=lambda: self.set_gate(replica, False, GATE_TRANSFER),
            switch=switch,
            enter_router=lambda: self.set_gate(replica, True, GATE_IN),
            return_to_router=lambda: self.set_gate(replica, True, GATE_ROLLED_BACK),
        )

    async def validate(self, role: InferenceRole, name: str) -> None:
        """Ask the API server whether the role's template makes a valid pod. Raises InvalidError if not."""
        body = pod_body(self._world.group, role, name, "", self._now)
        try:
            await self._cluster.create(PODS, body, dry_run=True)
        except AlreadyExistsError:
            return  # the name is taken; the next pass knows it and chooses another

    async def create_pod(self, role: InferenceRole, new: NewPod) -> None:
        body = pod_body(self._world.group, role, new.name, new.node_name, self._now)
        try:
            await self._cluster.create(PODS, body)
        except AlreadyExistsError:
            return  # ours from a pass before, or somebody's: the cache will tell

    async def create_node(self, role: InferenceRole, new: NewNode) -> None:
        try:
            await self._cluster.create(LOGICAL_NODES, node_body(self._world.group, role, new.name))
        except AlreadyExistsError:
            return  # as above

    async def delete_pod(self, replica: Replica) -> None:
        await self._cluster.delete(PODS, replica.name, self._namespace, uid=replica.pod_uid)

    async def delete_node(self, replica: Replica) -> None:
        await self._cluster.delete(LOGICAL_NODES, replica.name, self._namespace, uid=replica.node_uid)

    async def relabel_node(self, name: str, role_name: str) -> None:
        """Let the logical node's label follow its pod's role."""
        patch = {"metadata": {"labels": {LABEL_ROLE: role_name}}}
        try:
            await self._cluster.patch(LOGICAL_NODES, name, self._namespace, patch)
        except NotFoundError:
            return  # it went away meanwhile

    async def _patch_pod(self, replica: Replica, patch: Mapping[str, object], subresource: str = "") -> None:
        try:
            await self._cluster.patch(PODS, replica.name, self._namespace, patch, subresource=subresource)
        except NotFoundError:
            return  # it went away meanwhile; the next pass sees that

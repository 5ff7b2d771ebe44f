"""Leads one logical node to its devices and back: observe, decide, apply, until nothing more can be done now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from weft.api.conditions import is_true
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, LOGICAL_NODES, NODES, POOLS, ResourceType
from weft.binding.ages import BoundAges, Since
from weft.binding.apply import Actions, Pass
from weft.binding.assignments import Assignments
from weft.binding.backoff import Backoff, Retaints
from weft.binding.decide import decide
from weft.binding.fabrics import Fabrics
from weft.binding.keys import LogicalNodeKey
from weft.binding.objects import fabric_of, tainted_by
from weft.binding.observe import LogicalNodePicture, observe
from weft.binding.steps import Reserve
from weft.binding.taints import carrying
from weft.cluster import Cluster, Object
from weft.controllers import Enqueue, Now, Watch

log = logging.getLogger(__name__)

MOST_STEPS = 50
"""Steps of one pass: more than any bind or release takes that does not go round in circles."""


class LogicalNodeController:
    """The only one who writes a LogicalNode's status, its attachments, and its Node's taint."""

    def __init__(
        self, cluster: Cluster, fabrics: Fabrics, assignments: Assignments, enqueue: Enqueue
    ) -> None:
        self._cluster = cluster
        self._fabrics = fabrics
        self._assignments = assignments
        self._ages = BoundAges()
        self._since = Since()
        self._backoff = Backoff()
        self._retaints = Retaints()
        self._actions = Actions(cluster, fabrics, assignments, enqueue)
        self._node_of: dict[LogicalNodeKey, str] = {}
        self._bound_to: dict[str, set[LogicalNodeKey]] = {}
        """Which logical nodes say that they are bound to a Node: Nodes change every few seconds."""
        self._maintenance: dict[tuple[ResourceType, str], Object] = {}
        self.watches: tuple[Watch[Any], ...] = (
            Watch(LOGICAL_NODES, self._itself),
            Watch(DEVICE_ATTACHMENTS, _claimant),
            Watch(NODES, self._concerned),
            Watch(FABRICS, self._in_maintenance(FABRICS)),
            *(Watch(each, self._in_maintenance(each)) for each in POOLS),
        )

    def _itself(self, cluster: Cluster, node: Object) -> Iterable[LogicalNodeKey]:
        key = LogicalNodeKey(node["metadata"]["namespace"], node["metadata"]["name"])
        name = str(node.get("status", {}).get("nodeName", ""))
        if (before := self._node_of.get(key, "")) != name:
            self._bound_to.get(before, set()).discard(key)
            self._node_of[key] = name
            if name:
                self._bound_to.setdefault(name, set()).add(key)
        if cluster.get(LOGICAL_NODES, key.name, key.namespace) is None:
            self._bound_to.get(name, set()).discard(key)
            self._node_of.pop(key, None)
        return (key,)

    def _concerned(self, cluster: Cluster, node: Object) -> Iterable[LogicalNodeKey]:
        """Those bound to the Node, and the one that its taint names: it may be left over of one that is gone."""
        keys = set(self._bound_to.get(node["metadata"]["name"], ()))
        if (key := tainted_by(node)) is not None:
            keys.add(key)
        return keys

    def _in_maintenance(
        self, resource: ResourceType
    ) -> Callable[[Cluster, Object], Iterable[LogicalNodeKey]]:
        """Who has something there, when what is taken out of service is edited."""

        def keys(cluster: Cluster, changed: Object) -> Iterable[LogicalNodeKey]:
            name, spec = changed["metadata"]["name"], changed.get("spec")
            wanted = (spec or {}).get("maintenance") or {}
            if not spec or self._maintenance.get((resource, name), {}) == wanted:
                return ()
            self._maintenance[resource, name] = wanted
            fabric = name if resource == FABRICS else spec["fabricRef"]["name"]
            refs = (raw["spec"]["claimRef"] for raw in cluster.select(DEVICE_ATTACHMENTS, fabric_of, fabric))
            return {LogicalNodeKey(ref["namespace"], ref["name"]) for ref in refs}

        return keys

    async def reconcile(self, key: LogicalNodeKey, now: Now) -> float | None:
        """Bring one logical node as far as it can come now; its status is written once."""
        run = Pass(key, now)
        began_with: LogicalNodePicture | None = None
        for _ in range(MOST_STEPS):
            if run.tainted is None:
                run.tainted = carrying(self._cluster, key.namespace, key.name)
            raw = self._cluster.get(LOGICAL_NODES, key.name, key.namespace)
            if raw is None:
                self._assignments.withdraw(key)
            outcome = self._assignments.of(key, raw["metadata"]["uid"]) if raw is not None else None
            generation = raw["metadata"].get("generation", 0) if raw is not None else 0
            if outcome is not None and outcome.waiting.generation != generation:
                # It was for another spec.
                self._assignments.withdraw(key)
                outcome = None
            picture = observe(
                self._cluster,
                self._fabrics.sessions,
                key,
                outcome,
                self._assignments.preempted(raw["metadata"]["uid"]) if raw is not None else None,
                run.attempts,
                run.tainted,
                self._ages,
                self._since,
                now,
            )
            if outcome is not None and self._assignments.is_paused(outcome.waiting.uid, now.boot):
                picture = replace(picture, unplaceable="the API server refused its claim a moment ago")
            if waits := self._retaints.left(key, now.boot):
                picture = replace(picture, taint_goes=True)
            if began_with is None:
                began_with = picture
                if left := self._backoff.left(picture, now.boot):
                    return left
            step = decide(picture, now)
            log.debug("%s/%s: %s", key.namespace, key.name, step)
            if isinstance(step, Reserve) and _is_bound(picture):
                self._retaints.wrote(key, now.boot)
            ended = await self._actions.apply(step, run)
            if ended is not None:
                await self._actions.write(run)
                if ended.failed and ended.again is not None:
                    return self._backoff.failed(began_with, now.boot, ended.again)
                self._backoff.succeeded(key)
                return min(ended.again or waits, waits) if waits else ended.again
        log.warning("%s/%s: more steps in one pass than there can be; going on", key.namespace, key.name)
        return 1.0


def _is_bound(picture: LogicalNodePicture) -> bool:
    return picture.node is not None and is_true(picture.node.status.conditions, "Bound")


def _claimant(cluster: Cluster, claim: Object) -> Iterable[LogicalNodeKey]:
    ref = claim["spec"]["claimRef"]
    return (LogicalNodeKey(ref["namespace"], ref["name"]),)

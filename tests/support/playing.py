"""Plays a sequence of operations to a cluster and says what a client sees, so that two clusters can be compared."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from support.operations import Operation
from weft.api.resources import GROUP
from weft.cluster import Cluster, ClusterError, Object


@dataclass(frozen=True)
class Outcome:
    """What a client sees of one operation."""

    error: str
    """The error's class and HTTP status, or nothing."""
    changed: bool
    """Whether the object has another resourceVersion than before."""
    left: Object | None
    """The object afterwards, without what differs from cluster to cluster."""


Read = Callable[[Operation], Awaitable[Object | None]]
"""What a GET of the operation's object answers now."""


async def play(operations: list[Operation], cluster: Cluster, read: Read) -> list[Outcome]:
    """Carry the operations out one by one."""
    seen: dict[str, list[Object]] = {}
    outcomes = []
    for operation in operations:
        known = seen.setdefault(operation.name, [])
        error = ""
        try:
            await _carry_out(operation, cluster, known)
        except ClusterError as raised:
            error = f"{type(raised).__name__} {raised.status}"
        left = await read(operation)
        before = known[-1]["metadata"] if known else {}
        now = left["metadata"] if left else {}
        outcomes.append(
            Outcome(error, before.get("resourceVersion") != now.get("resourceVersion"), comparable(left))
        )
        if left is None:
            known.clear()
        elif before.get("resourceVersion") != now["resourceVersion"]:
            known.append(left)
    return outcomes


async def _carry_out(operation: Operation, cluster: Cluster, known: list[Object]) -> None:
    resource, name, namespace = operation.resource, operation.name, operation.namespace
    guard: Object = {}
    if operation.guard and known:
        base = known[-1] if operation.guard == "current" else known[0]
        guard = {"resourceVersion": base["metadata"]["resourceVersion"]}
    if operation.verb == "create":
        await cluster.create(resource, copy.deepcopy(operation.body), dry_run=operation.dry_run)
    elif operation.verb == "delete":
        uid = {"current": known[-1]["metadata"]["uid"] if known else "", "other": "no-such-uid"}
        await cluster.delete(
            resource, name, namespace, uid=uid.get(operation.uid, ""), grace_seconds=operation.grace_seconds
        )
    elif operation.verb == "status":
        if known and resource.group == GROUP:
            base = known[-1] if operation.guard == "current" else known[0]
            await cluster.write_status(resource, base, copy.deepcopy(operation.body))
    else:
        body = copy.deepcopy(operation.body)
        if guard:
            body["metadata"] = {**body.get("metadata", {}), **guard}
        subresource = "status" if operation.verb == "patch status" else ""
        await cluster.patch(resource, name, namespace, body, subresource=subresource)


def comparable(obj: Object | None) -> Object | None:
    """An object without uid, times, versions and managed fields, and without what says nothing."""
    if obj is None:
        return None
    metadata = {
        key: value
        for key, value in obj["metadata"].items()
        if key not in ("uid", "resourceVersion", "managedFields", "creationTimestamp")
    }
    if "deletionTimestamp" in metadata:
        metadata["deletionTimestamp"] = "set"
    result: Object = _without_none({**obj, "metadata": metadata})
    if obj["kind"] == "Node" and "status" in result:
        kept = {
            key: value
            for key, value in result["status"].items()
            if key not in ("daemonEndpoints", "nodeInfo")
        }
        result.pop("status")
        if kept:
            result["status"] = kept
    return result


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value

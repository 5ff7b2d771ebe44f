"""The one thing to do first about an object: its own, or that of what it depends on. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from weft.api import Condition, RebalanceMode
from weft.api.names import ANNOTATION_MODE, LABEL_GROUP, LABEL_ROLE
from weft.api.reasons import CONDITIONS
from weft.api.reasons.declared import Reason
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    POOLS,
)
from weft.cli.look.pause import named
from weft.cli.look.reading import KINDS, Reading, Ref
from weft.cli.look.words import age, as_hoped, by_number, declared
from weft.cluster import Object

RESULTS = ("ObjectivesMet", "AbleToScaleToZero")
"""Conditions that are not as hoped for what others say."""
ORDER = {
    (kind, each.type): n
    for n, each in enumerate(CONDITIONS)
    if each.type not in RESULTS
    for kind in each.kinds
}
"""Of several conditions of an object that are not as hoped the one that is declared first is the cause."""
BY_SPEC = frozenset({"BudgetTooSmall"})
"""Reasons that stand in the object's own spec: no metric and no waiting changes them."""
MOST_NAMES = 3
DECIDED_SECONDS = 300.0
"""How long after a decision late requests say little of it: the minutes in which a move is to pay back, and a long
window more, which still counts those of before."""
PAUSED = frozenset({"Suspended", "OnlyPlanned", "Releasing", "FabricNotReady", "NoHost"})
"""Reasons of which a pause or a suspension may be the cause."""


@dataclass(frozen=True)
class First:
    """What to do first."""

    what: str
    """The object whose condition says it."""
    condition: str
    """`Type=Status Reason`."""
    message: str
    do: str
    likewise: int
    """So many other objects of the kind wait for the same reason."""


def first_step(reading: Reading, ref: Ref) -> First | None:
    """What to do first about an object; None where nothing is to be done, or nobody knows."""
    found = reading.find(ref)
    at = _worst(ref, found)
    if at is None and ref.resource == DEVICE_ATTACHMENTS:
        # It says nothing while nothing is wrong with the device: its holder does.
        at = next(
            (_worst(one, reading.find(one)) for one in _related(reading, ref, LOGICAL_NODES.kind)), None
        )
    likewise = 0
    seen = set()
    while at is not None and (at[0], at[1].type) not in seen:
        ref, condition, reason = at
        seen.add((ref, condition.type))
        kind, _, type = reason.see.rpartition(".")
        waiting = [
            (one, *said)
            for one in (_related(reading, ref, kind) if kind else (ref,))
            for said in _bad(one, reading.find(one))
            if said[0].type == type
        ]
        same = [one for one in waiting if one[1].reason == waiting[0][1].reason]
        if not reason.see or not waiting:
            break
        likewise = len(same) - 1
        at = same[0]
    if at is None:
        return None
    ref, condition, reason = at
    do = resume_of(reading, ref, condition) or _late(reading, ref, condition)
    do = do or f"{reason.action}{_users(reading, ref) if condition.reason == 'InUse' else ''}"
    word = f"{condition.type}={condition.status} {condition.reason}"
    return First(str(ref), word, condition.message, do, likewise)


def resume_of(reading: Reading, ref: Ref, condition: Condition) -> str:
    """What to do about a condition that a pause or a suspension is the reason for; empty for others."""
    if condition.reason not in PAUSED or condition.status == "True":
        return ""
    asked = [ref]
    if ref.resource == LOGICAL_NODES:
        words = set(re.findall(r"abric ([a-z0-9.-]*[a-z0-9])", condition.message))
        words |= {one.name for one in _related(reading, ref, FABRICS.kind)}
        asked += [Ref(FABRICS, name) for name in sorted(words)]
    found = ((one, reading.find(one) or {}) for one in asked)
    held = [one for one, raw in found if raw and _is_held(one, raw, condition.reason)]
    commands = " and ".join(f"`kubectl weft resume {named(one)}`" for one in held)
    return f"Take it off when it may go on: {commands}." if commands else ""


def _late(reading: Reading, ref: Ref, condition: Condition) -> str:
    """What to do about requests that are late where nothing is decided now, or was just now; empty elsewhere."""
    group = next(
        (
            one
            for one in reading.groups
            if ref == Ref(INFERENCE_GROUPS, one.metadata.name, one.metadata.namespace)
        ),
        None,
    )
    if group is None or (condition.type, condition.reason) != ("ObjectivesMet", "Missed"):
        return ""
    spec, decision = group.spec, group.status.decision
    if spec.suspend or (
        spec.rebalance.mode is RebalanceMode.PAUSED and ANNOTATION_MODE in group.metadata.annotations
    ):
        return f"The split stays as it is until `kubectl weft resume {named(ref)}`."
    if spec.rebalance.mode is not RebalanceMode.AUTO:
        return f"In {spec.rebalance.mode} the split stays as it is: set spec.rebalance.mode to Auto, then it follows."
    if decision is None or not decision.previous:
        return ""
    if (reading.now - decision.decision_time).total_seconds() >= DECIDED_SECONDS:
        return ""
    return f"Wait: the split was changed {age(decision.decision_time, reading.now)} ago, which takes minutes to show."


def _is_held(ref: Ref, found: Object, reason: str) -> bool:
    suspended = bool(found["spec"].get("suspend"))
    if reason == "Suspended":
        return suspended
    paused = ANNOTATION_MODE in found["metadata"].get("annotations", {})
    return ref.resource == FABRICS and paused and found["spec"].get("mode") != "Manage"


def _worst(ref: Ref, found: Object | None) -> tuple[Ref, Condition, Reason] | None:
    def rank(one: tuple[Condition, Reason]) -> tuple[bool, int]:
        order = ORDER.get((ref.resource.kind, one[0].type), len(CONDITIONS))
        return one[0].reason not in BY_SPEC, order

    bad = sorted(_bad(ref, found), key=rank)
    return (ref, *bad[0]) if bad else None


def _bad(ref: Ref, found: Object | None) -> Iterator[tuple[Condition, Reason]]:
    """The conditions that are not as hoped, with their declarations; those that Weft does not declare are left out."""
    for each in (found or {}).get("status", {}).get("conditions", ()):
        condition = Condition.model_validate(each)
        _, reason = declared(ref.resource.kind, condition)
        if reason is not None and not as_hoped(ref.resource.kind, condition):
            yield condition, reason


def _related(reading: Reading, ref: Ref, kind: str) -> list[Ref]:
    """The objects of a kind on which this one depends, or which depend on it, the first by name first."""
    resource = next(one for one, _ in KINDS if one.kind == kind)
    found = reading.find(ref) or {}
    names: set[tuple[str, str]] = set()
    if resource == FABRICS:
        if ref.resource in POOLS:
            names = {("", found["spec"]["fabricRef"]["name"])}
        elif ref.resource == DEVICE_ATTACHMENTS:
            names = {("", found["spec"]["fabric"])}
        else:
            # Its attachments are named FABRIC.DEVICE. Until it is bound its status names none.
            held = [each["attachment"] for each in found.get("status", {}).get("devices", ())]
            held += [each["metadata"]["name"] for each in _attachments(reading, ref)]
            names = {("", each.partition(".")[0]) for each in held}
    elif resource == INFERENCE_GROUPS and ref.resource == INFERENCE_ROLES:
        names = {(ref.namespace, found["spec"]["groupRef"]["name"])}
    elif resource == LOGICAL_NODES and ref.resource in (INFERENCE_GROUPS, INFERENCE_ROLES):
        label = LABEL_GROUP if ref.resource == INFERENCE_GROUPS else LABEL_ROLE
        names = {
            (ref.namespace, each["metadata"]["name"])
            for each in reading.objects.get(LOGICAL_NODES, ())
            if each["metadata"].get("namespace") == ref.namespace
            and each["metadata"].get("labels", {}).get(label) == ref.name
        }
    elif resource == LOGICAL_NODES:
        names = _holders(reading, ref)
    return [
        Ref(resource, name, namespace)
        for namespace, name in sorted(names, key=lambda one: (one[0], by_number(one[1])))
    ]


def _attachments(reading: Reading, ref: Ref) -> Iterator[Object]:
    """The DeviceAttachments of a Fabric, a pool, a LogicalNode, or this one."""
    for each in reading.objects.get(DEVICE_ATTACHMENTS, ()):
        spec = each["spec"]
        claim, pool = spec["claimRef"], spec["poolRef"]
        if (
            (ref.resource == FABRICS and spec["fabric"] == ref.name)
            or (pool["kind"], pool["name"]) == (ref.resource.kind, ref.name)
            or (
                ref.resource == LOGICAL_NODES
                and (claim["namespace"], claim["name"]) == (ref.namespace, ref.name)
            )
            or (ref.resource == DEVICE_ATTACHMENTS and each["metadata"]["name"] == ref.name)
        ):
            yield each


def _holders(reading: Reading, ref: Ref) -> set[tuple[str, str]]:
    claims = (each["spec"]["claimRef"] for each in _attachments(reading, ref))
    return {(claim["namespace"], claim["name"]) for claim in claims}


def _users(reading: Reading, ref: Ref) -> str:
    """The LogicalNodes that hold devices of a Fabric or pool, in words."""
    names = sorted("/".join(one) for one in _holders(reading, ref))
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f" In use by {', '.join(names[:MOST_NAMES])}{more}."

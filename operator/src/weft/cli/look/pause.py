"""`weft pause OBJECT` and `weft resume OBJECT`: the mode of an InferenceGroup or Fabric, there and back.

With `--taking` it is `spec.suspend`: nothing new is taken, and what is given back goes on.
These write the spec for the person who asks, as `kubectl edit` would; the operator itself writes no user's spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weft.api import FabricMode, RebalanceMode
from weft.api.names import ANNOTATION_MODE
from weft.api.resources import FABRICS, INFERENCE_GROUPS, LOGICAL_NODES
from weft.cli.look.reading import KINDS, AskError, Ref
from weft.cli.look.words import a
from weft.cluster import Object


class PausedInSpecError(AskError):
    """There is no pause of `weft pause` to take back: who owns the object paused it."""


@dataclass(frozen=True)
class Change:
    """A merge patch, and what it comes to. None: there is nothing to change."""

    patch: Mapping[str, Any] | None
    said: str


PAUSED_GROUP = "the split stays as it is; a role whose spec.replicas is edited from now on is given that"
SUSPENDED = {
    INFERENCE_GROUPS: "no move begins and no replica is added; what is removed goes on",
    FABRICS: "no device is given that is not claimed; releases and drains go on",
    LOGICAL_NODES: "it takes no devices; what it gives back goes",
}
"""What `spec.suspend` of each kind comes to."""


def named(ref: Ref) -> str:
    """The object as commands take it: `infg/llama-70b -n demo`."""
    short = next(short for resource, short in KINDS if resource == ref.resource)
    kind = "fabric" if ref.resource == FABRICS else short
    return f"{kind}/{ref.name}{f' -n {ref.namespace}' if ref.namespace else ''}"


def held(ref: Ref, found: Object, *, by_owner: bool = True) -> tuple[str, ...]:
    """What the spec of an object keeps Weft from, and the way back; empty for most. Pure.

    `by_owner`: also a mode that is no pause of `weft pause`.
    """
    told = []
    if ref.resource in (FABRICS, INFERENCE_GROUPS):
        mode, paused, effect = _mode(ref, found)
        before = found["metadata"].get("annotations", {}).get(ANNOTATION_MODE)
        if mode == paused and (before or by_owner):
            back = f"`weft resume {named(ref)}` goes back to {before}" if before else "its spec says so"
            told.append(f"{paused}: {effect}; {back}")
    if found["spec"].get("suspend"):
        told.append(f"suspended: {SUSPENDED[ref.resource]}; `weft resume {named(ref)}` takes that off")
    return tuple(told)


def pausing(ref: Ref, found: Object, *, taking: bool = False) -> Change:
    """What pauses an object, or its taking alone. Pure. Raises AskError for kinds that cannot be paused so."""
    if taking:
        if ref.resource not in SUSPENDED:
            kinds = ", ".join(a(each.kind) for each in SUSPENDED)
            raise AskError(f"{a(ref.resource.kind)} takes nothing: {kinds} can be paused with --taking")
        if found["spec"].get("suspend"):
            return Change(None, f"{ref} is suspended already")
        return Change(_suspend(found, True), f"{ref}: suspended: {SUSPENDED[ref.resource]}")
    mode, paused, effect = _mode(ref, found)
    if mode == paused:
        return Change(None, f"{ref} is {paused} already")
    return Change(_patch(ref, found, paused, before=mode), f"{ref}: {mode} -> {paused}: {effect}")


def resuming(ref: Ref, found: Object) -> Change:
    """What takes a pause back, and a suspension. Pure.

    Raises PausedInSpecError where it is not known what there was before.
    """
    before = found["metadata"].get("annotations", {}).get(ANNOTATION_MODE)
    if found["spec"].get("suspend"):
        patch, said = _suspend(found, None), f"{ref}: suspended no more"
        if before:
            mode, _, _ = _mode(ref, found)
            back = _patch(ref, found, before, before=None)
            patch = {"metadata": back["metadata"], "spec": {**back["spec"], **patch["spec"]}}
            said += f", {mode} -> {before}"
        return Change(patch, said)
    if ref.resource == LOGICAL_NODES:
        return Change(None, f"{ref} is not suspended")
    mode, paused, _ = _mode(ref, found)
    if mode != paused:
        return Change(None, f"{ref} is not paused: it is {mode}")
    if not before:
        raise PausedInSpecError(
            f"{ref} stays {mode}: its owner's spec says so, not `weft pause`, so there is no mode to go back to;"
            f" edit {'spec.rebalance.mode' if ref.resource == INFERENCE_GROUPS else 'spec.mode'} to end it"
        )
    return Change(_patch(ref, found, before, before=None), f"{ref}: {mode} -> {before}")


def _mode(ref: Ref, found: Object) -> tuple[str, str, str]:
    """The present mode, that of a pause, and what the pause does."""
    if ref.resource == INFERENCE_GROUPS:
        mode = found["spec"].get("rebalance", {}).get("mode", RebalanceMode.AUTO.value)
        return mode, RebalanceMode.PAUSED.value, PAUSED_GROUP
    if ref.resource == FABRICS:
        mode = found["spec"].get("mode", FabricMode.OBSERVE.value)
        return mode, FabricMode.OBSERVE.value, "it is read, and nothing is attached or detached there"
    raise AskError(
        f"{a(ref.resource.kind)} cannot be paused: an InferenceGroup and a Fabric can, and with --taking a LogicalNode"
    )


def _patch(ref: Ref, found: Object, mode: str, *, before: str | None) -> dict[str, Any]:
    spec = {"rebalance": {"mode": mode}} if ref.resource == INFERENCE_GROUPS else {"mode": mode}
    metadata = {
        "annotations": {ANNOTATION_MODE: before},
        # What somebody else changes meanwhile is not taken back.
        "resourceVersion": found["metadata"]["resourceVersion"],
    }
    return {"metadata": metadata, "spec": spec}


def _suspend(found: Object, value: bool | None) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "spec": {"suspend": value}}

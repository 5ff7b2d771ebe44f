from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from weft.api import DeviceAttachment, LogicalNode
from weft.binding.decide import decide
from weft.binding.evidence import Certainty
from weft.binding.inventory import Picture
from weft.binding.keys import LogicalNodeKey
from weft.binding.objects import NodeView
from weft.binding.observe import HostView, LogicalNodePicture
from weft.binding.release import operation_key
from weft.binding.steps import (
    Attach,
    Detach,
    Finish,
    GiveUp,
    MarkAttached,
    Place,
    Publish,
    Reserve,
    Step,
    TurnBack,
    Verify,
    Wait,
    Withdraw,
)
from weft.controllers import Now
from weft.fabric.driver import Inventory

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def node(
    *,
    uid: str = "u1",
    deleting: bool = False,
    ttl: int | None = None,
    bound_ago: int | None = None,
    held: bool = True,
) -> LogicalNode:
    metadata: dict[str, Any] = {"name": "n", "namespace": "a", "uid": uid}
    if held:
        metadata["finalizers"] = ["weft.dev/fabric"]
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = []
    if bound_ago is not None:
        since = (NOW - timedelta(seconds=bound_ago)).isoformat()
        conditions = [{"type": "Bound", "status": "True", "reason": "Bound", "lastTransitionTime": since}]
    spec: dict[str, Any] = {"accelerators": [{"name": "main", "count": 1}]}
    if ttl is not None:
        spec["ttlSecondsAfterBound"] = ttl
    return LogicalNode.model_validate(
        {"metadata": metadata, "spec": spec, "status": {"conditions": conditions}}
    )


def claim(
    device: str,
    *,
    uid: str = "u1",
    size: int = 2,
    deleting: bool = False,
    quarantined: bool = False,
    operation: str = "op",
) -> DeviceAttachment:
    metadata: dict[str, Any] = {"name": f"rack.{device}", "uid": f"claim-{device}"}
    metadata["finalizers"] = ["weft.dev/fabric"]
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    spec = {
        "fabric": "rack",
        "device": device,
        "poolRef": {"kind": "GPUPool", "name": "p"},
        "host": "h",
        "nodeName": "node-h",
        "operation": operation,
        "request": "main",
        "claimSize": size,
        "claimRef": {"namespace": "a", "name": "n", "uid": uid},
    }
    since = NOW.isoformat()
    conditions = [
        {"type": kind, "status": "True", "reason": "Because", "lastTransitionTime": since}
        for kind, holds in (("Quarantined", quarantined),)
        if holds
    ]
    return DeviceAttachment.model_validate(
        {"metadata": metadata, "spec": spec, "status": {"conditions": conditions}}
    )


HOST_VIEW = HostView(
    "rack",
    "h",
    NodeView("node-h", exists=True, ready=True, taint="a.n"),
    picture=Picture(Inventory((), (), (), True)),
)


def step(node: LogicalNode | None, claims: Iterable[DeviceAttachment], **host: Any) -> Step:
    """What is decided for a node whose claims are all at one host."""
    claims = tuple(claims)
    picture = LogicalNodePicture(
        LogicalNodeKey("a", "n"), node, claims, {("rack", "h"): replace(HOST_VIEW, **host)}
    )
    return decide(picture, Now(NOW, 0.0))


def devices(step: Any) -> list[str]:
    return [claim.spec.device for claim in step.claims]


def test_a_node_without_claims_waits_for_a_place() -> None:
    assert isinstance(step(node(), []), Place)


def test_a_node_with_all_its_claims_goes_forward() -> None:
    assert isinstance(step(node(), [claim("a"), claim("b")]), Verify)


def test_a_node_that_nothing_keeps_from_going_is_held_before_anything_is_asked_of_a_manager() -> None:
    assert isinstance(step(node(held=False), [claim("a"), claim("b")]), Reserve)
    assert isinstance(step(node(held=False), [claim("a"), claim("b")], called=True), Reserve)


@pytest.mark.shows("DeviceAttachment.spec.claimSize")
def test_claims_cut_short_by_a_crash_are_turned_back() -> None:
    assert devices(step(node(), [claim("a")])) == ["a"]
    assert isinstance(step(node(), [claim("a")]), TurnBack)


def test_one_claim_on_its_way_back_takes_all_of_them_back() -> None:
    decided = step(node(), [claim("a"), claim("b", deleting=True)])
    assert isinstance(decided, TurnBack)
    assert devices(decided) == ["a"]


def test_claims_of_a_vanished_object_are_released_from_their_own_record() -> None:
    assert isinstance(step(None, [claim("a"), claim("b")]), TurnBack)


@pytest.mark.shows("DeviceAttachment.spec.claimRef.uid")
def test_claims_of_an_earlier_namesake_are_released_before_anything_else() -> None:
    decided = step(node(uid="u2"), [claim("a"), claim("b")])
    assert isinstance(decided, TurnBack)
    assert len(decided.claims) == 2


def test_a_failed_device_stays_quarantined_while_the_others_are_released() -> None:
    decided = step(node(), [claim("bad", quarantined=True), claim("good")])
    assert isinstance(decided, TurnBack)
    assert devices(decided) == ["good"]


def test_a_node_whose_failed_device_is_set_aside_is_placed_again() -> None:
    assert isinstance(step(node(), [claim("bad", quarantined=True)]), Place)


def test_clearing_a_quarantined_device_does_not_touch_the_node_that_is_bound_to_others() -> None:
    held = [claim("a", operation="new"), claim("b", operation="new")]
    cleared = claim("bad", quarantined=True, deleting=True)
    shown = {"verified": True, "reading": frozenset({"a", "b", "bad"}), "pods_known": True}
    decided = step(node(bound_ago=1), [*held, cleared], attached=frozenset({"a", "b"}), **shown)
    assert isinstance(decided, Detach)
    assert decided.devices == {"bad"}
    cut_off = {"attached": frozenset({"a", "b"}), "trouble": "fabric rack cannot be reached"}
    waiting = step(node(bound_ago=1), [*held, cleared], **cut_off)
    assert isinstance(waiting, Publish)
    assert waiting.again == 1.0


@pytest.mark.shows("LogicalNode.spec.ttlSecondsAfterBound")
def test_a_node_is_released_when_its_time_is_up_and_not_before() -> None:
    held, seen = [claim("a"), claim("b")], frozenset({"a", "b"})
    assert isinstance(step(node(ttl=60, bound_ago=59), held, attached=seen), Publish)
    assert isinstance(step(node(ttl=60, bound_ago=60), held, attached=seen), Withdraw)


def test_a_deleted_node_without_claims_is_finished() -> None:
    assert isinstance(step(node(deleting=True), []), Finish)


@pytest.mark.shows("DeviceAttachment.spec.operation")
def test_a_claim_that_comes_to_light_after_the_next_set_was_claimed_is_released_alone() -> None:
    held = [
        claim("late", operation="old", size=1),
        claim("a", operation="new"),
        claim("b", operation="new"),
    ]
    decided = step(node(), held, attached=frozenset({"a", "b"}))
    assert isinstance(decided, TurnBack)
    assert devices(decided) == ["late"]


def test_a_node_is_not_published_before_every_device_was_seen_and_marked() -> None:
    claims = [claim("a"), claim("b")]
    assert isinstance(step(node(), claims, verified=True, reading=frozenset({"a"})), Attach)
    assert isinstance(step(node(), claims, verified=True, called=True, reading=frozenset({"a"})), Wait)
    assert isinstance(step(node(), claims, verified=True, reading=frozenset({"a", "b"})), MarkAttached)
    assert isinstance(step(node(), claims, attached=frozenset({"a", "b"})), Publish)


def test_the_first_attach_of_a_fresh_claim_reads_the_host_once_by_itself() -> None:
    claims, fresh = [claim("a"), claim("b")], dict.fromkeys("ab", Certainty.NEVER_CALLED)
    decided = step(node(), claims, certainty=fresh)
    assert isinstance(decided, Attach)
    assert decided.batches == (frozenset({"a", "b"}),)
    assert isinstance(step(node(), claims, certainty={**fresh, "b": Certainty.OPEN}), Verify)
    assert isinstance(step(node(), claims, certainty=fresh, called=True), Verify)


def test_pods_that_may_use_what_the_host_shows_hold_its_detach_although_the_status_says_nothing() -> None:
    shown = Picture(Inventory((), (), (("gpu-0", "h"),), True))
    going = [claim("gpu-0", size=1)]
    decided = step(node(deleting=True), going, picture=shown, users=("job",))
    assert isinstance(decided, Wait)
    assert decided.reason == "Drain"


def test_a_device_that_may_still_be_attached_by_a_late_call_is_not_given_up() -> None:
    going = [claim("a", deleting=True, size=1)]
    for certainty, expected in (
        (Certainty.OPEN, Wait),
        (Certainty.CLEAR, GiveUp),
        (Certainty.SETTLED, GiveUp),
    ):
        decided = step(
            node(deleting=True), going, verified=True, reading=frozenset(), certainty={"a": certainty}
        )
        assert isinstance(decided, expected), certainty


def test_attaches_of_two_devices_with_long_names_have_different_keys() -> None:
    operation, name = "0" * 63, "Chassis/A/ResourceBlocks/" + "x" * 220
    keys = {operation_key(operation, frozenset({f"{name}{n}"}), 2) for n in range(2)}
    assert len(keys) == 2
    assert max(map(len, keys)) <= 128


def test_a_detach_that_was_answered_is_not_believed_while_the_host_shows_the_device() -> None:
    deleted = [claim("gpu-0", size=1, deleting=True)]
    known: dict[str, Any] = {"called": True, "verified": True, "certainty": {"gpu-0": Certainty.CLEAR}}
    assert isinstance(step(node(deleting=True), deleted, reading=frozenset({"gpu-0"}), **known), Wait)
    assert isinstance(step(node(deleting=True), deleted, reading=frozenset(), **known), GiveUp)

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from weft.api import DeviceAttachment, LogicalNode
from weft.binding.lifecycle import Intent, decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def node(
    *, uid: str = "u1", deleting: bool = False, ttl: int | None = None, bound_ago: int | None = None
) -> LogicalNode:
    metadata: dict[str, Any] = {"name": "n", "namespace": "a", "uid": uid}
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
        "operation": operation,
        "request": "main",
        "claimSize": size,
        "claimRef": {"namespace": "a", "name": "n", "uid": uid},
    }
    since = NOW.isoformat()
    state = {"type": "Quarantined", "status": "True", "reason": "AttachFailed", "lastTransitionTime": since}
    return DeviceAttachment.model_validate(
        {"metadata": metadata, "spec": spec, "status": {"conditions": [state] if quarantined else []}}
    )


def test_a_node_without_claims_waits_for_a_place() -> None:
    assert decide(node(), [], NOW).intent is Intent.PLACE


def test_a_node_with_all_its_claims_is_bound() -> None:
    assert decide(node(), [claim("a"), claim("b")], NOW).intent is Intent.BIND


def test_claims_cut_short_by_a_crash_are_released() -> None:
    decision = decide(node(), [claim("a")], NOW)
    assert (decision.intent, decision.reason) == (Intent.RELEASE, "ClaimIncomplete")


def test_one_claim_on_its_way_back_takes_all_of_them_back() -> None:
    decision = decide(node(), [claim("a"), claim("b", deleting=True)], NOW)
    assert decision.intent is Intent.RELEASE
    assert len(decision.claims) == 2


def test_claims_of_a_vanished_object_are_released_from_their_own_record() -> None:
    assert decide(None, [claim("a"), claim("b")], NOW).intent is Intent.RELEASE


def test_claims_of_an_earlier_namesake_are_released_before_anything_else() -> None:
    decision = decide(node(uid="u2"), [claim("a"), claim("b")], NOW)
    assert (decision.intent, len(decision.claims)) == (Intent.RELEASE, 2)


def test_a_failed_device_stays_quarantined_while_the_others_are_released() -> None:
    decision = decide(node(), [claim("bad", quarantined=True), claim("good")], NOW)
    assert decision.intent is Intent.RELEASE
    assert [item.spec.device for item in decision.claims] == ["good"]


def test_a_node_whose_failed_device_is_set_aside_is_placed_again() -> None:
    assert decide(node(), [claim("bad", quarantined=True)], NOW).intent is Intent.PLACE


def test_clearing_a_quarantined_device_does_not_touch_the_node_that_is_bound_to_others() -> None:
    held = [claim("a", operation="new"), claim("b", operation="new")]
    decision = decide(node(), [*held, claim("bad", quarantined=True, deleting=True)], NOW)
    assert (decision.intent, [item.spec.device for item in decision.claims]) == (Intent.RELEASE, ["bad"])


def test_a_node_is_released_when_its_time_is_up_and_not_before() -> None:
    held = [claim("a"), claim("b")]
    assert decide(node(ttl=60, bound_ago=59), held, NOW).intent is Intent.BIND
    assert decide(node(ttl=60, bound_ago=60), held, NOW).intent is Intent.RELEASE


def test_a_deleted_node_without_claims_is_finished() -> None:
    assert decide(node(deleting=True), [], NOW).intent is Intent.FINISH


def test_a_claim_that_comes_to_light_after_the_next_set_was_claimed_is_released_alone() -> None:
    held = [claim("late", operation="old", size=1), claim("a", operation="new"), claim("b", operation="new")]
    attached = [{"type": "Attached", "status": "True", "reason": "V", "lastTransitionTime": NOW.isoformat()}]
    held[1:] = [
        DeviceAttachment.model_validate(
            {**item.model_dump(by_alias=True), "status": {"conditions": attached}}
        )
        for item in held[1:]
    ]
    decision = decide(node(), held, NOW)
    assert (decision.intent, [item.spec.device for item in decision.claims]) == (Intent.RELEASE, ["late"])

"""What the demo concludes from the pods and logical nodes it watches."""

from __future__ import annotations

from typing import Any

from weft_playground.case import Split
from weft_playground.demo.facts import GroupFacts


def pod(name: str, stage: str, *, ready: bool = True, uid: str = "") -> dict[str, Any]:
    labels = {"weft.dev/group": "g", "weft.dev/stage": stage}
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {"name": name, "uid": uid or name, "labels": labels},
        "status": {"conditions": conditions},
    }


def node(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


def facts() -> GroupFacts:
    seen = GroupFacts(budget_accelerators=4)
    seen.see_nodes(0.0, [node("g-0"), node("g-1")])
    seen.see_pods(1.0, [pod("g-0", "prefill"), pod("g-1", "decode")])
    return seen


def test_a_replica_is_counted_once_for_its_pod_and_its_logical_node() -> None:
    assert facts().most_accelerators == 4


def test_one_replica_too_many_is_seen_even_when_it_exists_for_a_moment() -> None:
    seen = facts()
    seen.see_nodes(2.0, [node("g-0"), node("g-1"), node("g-2")])
    seen.see_nodes(2.1, [node("g-0"), node("g-1")])
    assert seen.most_accelerators == 6
    assert seen.accelerators[-1][1] == 4


def test_a_flip_is_a_change_of_the_stage_of_the_same_pod() -> None:
    seen = facts()
    seen.see_pods(5.0, [pod("g-0", "prefill"), pod("g-1", "decode", ready=False)])
    assert str(seen.census) == "1:0 +1"
    seen.see_pods(6.0, [pod("g-0", "prefill"), pod("g-1", "prefill")])
    assert seen.stage_changes == [(6.0, "g-1", "decode", "prefill")]
    assert str(seen.census) == "2:0"


def test_a_new_pod_of_the_same_name_is_no_flip() -> None:
    seen = facts()
    seen.see_pods(6.0, [pod("g-0", "prefill"), pod("g-1", "prefill", uid="another")])
    assert seen.stage_changes == []


def test_a_replica_whose_pod_is_being_made_again_exists_and_does_not_serve() -> None:
    seen = facts()
    seen.see_pods(5.0, [pod("g-0", "prefill")])
    assert str(seen.census) == "1:0 +1"


def test_accelerator_seconds_are_held_over_time() -> None:
    seen = facts()
    seen.see_pods(10.0, [pod("g-0", "prefill"), pod("g-1", "decode", ready=False)])
    seen.see_pods(14.0, [pod("g-0", "prefill"), pod("g-1", "decode")])
    assert seen.accelerator_seconds(2.0, 20.0) == 4 * 18
    assert seen.idle_accelerator_seconds(2.0, 20.0) == 2 * 4


def test_a_split_is_reached_when_it_stays() -> None:
    seen = facts()
    for at, stage in ((10.0, "prefill"), (12.0, "decode"), (15.0, "prefill")):
        seen.see_pods(at, [pod("g-0", "prefill"), pod("g-1", stage)])
    assert seen.settled_at(Split(2, 0), after=0.0) == 15.0
    assert seen.settled_at(Split(1, 1), after=0.0) is None

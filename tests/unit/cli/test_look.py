"""`weft tree`, `why`, `pause`, `plan` and `report`: what they say of objects as the API server gives them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from datetime import timedelta
from typing import Any

import pytest

from support.looked_at import (
    ASKED,
    BOUND,
    CLAIM,
    EARLIER,
    EVERYTHING,
    FABRIC,
    GROUP,
    NOW,
    POOL,
    WAITS,
    Object,
    made,
    reading,
    said,
    text_of,
)
from weft.api.names import ANNOTATION_MODE, DEVICES
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    LOGICAL_NODES,
)
from weft.cli.look import device, plan, tree, why
from weft.cli.look.pause import PausedInSpecError, pausing, resuming
from weft.cli.look.reading import Asker, AskError, Ref, ref_of
from weft.cli.look.report import archive
from weft.cluster import ClusterError, UnknownAddressError


@pytest.mark.parametrize(
    ("mode", "annotations", "decided_before", "do"),
    [
        ("Auto", {}, 10, "Wait: the split was changed 10 s ago, which takes minutes to show."),
        (
            "Auto",
            {},
            600,
            "See `status.decision`; raise replicas and `accelerators.maximum` if no split is enough.",
        ),
        (
            "Paused",
            {ANNOTATION_MODE: "Auto"},
            10,
            "The split stays as it is until `kubectl weft resume infg/llama -n team-a`.",
        ),
        (
            "Paused",
            {},
            10,
            "In Paused the split stays as it is: set spec.rebalance.mode to Auto, then it follows.",
        ),
    ],
)
def test_where_requests_are_late_why_says_to_wait_for_a_move_and_to_resume_a_group_that_is_paused(
    mode: str, annotations: dict[str, str], decided_before: int, do: str
) -> None:
    decision = {
        **GROUP["status"]["decision"],
        "decisionTime": (NOW - timedelta(seconds=decided_before)).isoformat(),
    }
    group = {
        **GROUP,
        "metadata": {**GROUP["metadata"], "annotations": annotations},
        "spec": {**GROUP["spec"], "rebalance": {"mode": mode}},
        "status": {**GROUP["status"], "decision": decision},
    }
    first = why.why_of(reading(group), Ref(INFERENCE_GROUPS, "llama", "team-a"), []).first
    assert first is not None
    assert first.do == do


def test_a_tree_leads_from_the_group_to_the_replica_that_is_not_ready() -> None:
    text = text_of(tree.shown(tree.tree_of(reading(*EVERYTHING), Ref(INFERENCE_GROUPS, "llama", "team-a"))))

    assert "Prefill role prefill: 1 of 2 replicas serve  WaitingForReplicas: one" in text
    assert "Pod llama-1  Pending, not ready" in text


def test_a_tree_of_a_fabric_leads_to_who_has_each_device() -> None:
    text = text_of(tree.shown(tree.tree_of(reading(*EVERYTHING), Ref(FABRICS, "rack"))))

    assert "GPUPool a100: 4 of 8 devices bound, 3 free" in text
    assert "gpu-1 at host sled-1 (Node worker-1) for LogicalNode team-a/trainer" in text


def test_a_tree_of_a_logical_node_names_device_pool_and_fabric() -> None:
    text = text_of(tree.shown(tree.tree_of(reading(*EVERYTHING), Ref(LOGICAL_NODES, "trainer", "team-a"))))

    assert "LogicalNode team-a/trainer on Node worker-1" in text
    assert "main: gpu-1 of GPUPool a100 at Fabric rack" in text


def test_why_says_what_a_waiting_node_waits_for_what_it_means_and_what_to_do() -> None:
    events = [
        {
            "metadata": {"creationTimestamp": EARLIER},
            "type": "Warning",
            "reason": "NotEnoughDevices",
            "note": "too few",
            "series": {"count": 3, "lastObservedTime": "2026-01-01T11:59:00Z"},
        }
    ]
    answer = why.why_of(reading(*EVERYTHING), Ref(LOGICAL_NODES, "greedy", "team-a"), events)
    text = text_of(why.shown(answer, NOW))

    assert "LogicalNode team-a/greedy, made 5 min ago" in text
    assert "Bound=False NotEnoughDevices, False for 5 min" in text
    assert "main: 4 asked for, too few are free" in text
    assert "do first: Wait for a release, ask for less" in text
    assert "1 min ago  Warning NotEnoughDevices: too few (3 times)" in text


def test_why_tells_a_groups_last_decision_with_what_else_was_looked_at() -> None:
    answer = why.why_of(reading(*EVERYTHING), Ref(INFERENCE_GROUPS, "llama", "team-a"), [])
    text = text_of(why.shown(answer, NOW))

    assert "decided 5 min ago: from decode 2, prefill 1 to decode 1, prefill 2" in text
    assert "because decode 1, prefill 2 is better than decode 2, prefill 1" in text
    assert "instead of decode 2, prefill 1: stay; expected violations 0.20" in text
    assert "Pod llama-1: Pending, not ready" in text


def test_why_says_that_a_condition_is_older_than_the_spec() -> None:
    changed = {**WAITS, "metadata": {**WAITS["metadata"], "generation": 2}}
    answer = why.why_of(reading(changed), Ref(LOGICAL_NODES, "greedy", "team-a"), [])

    assert "said before the last change of the spec" in text_of(why.shown(answer, NOW))


def test_a_deletion_is_no_change_of_the_spec_that_a_condition_would_be_older_than() -> None:
    gone = {**WAITS["metadata"], "generation": 2, "deletionTimestamp": EARLIER}
    answer = why.why_of(reading({**WAITS, "metadata": gone}), Ref(LOGICAL_NODES, "greedy", "team-a"), [])

    assert "said before the last change" not in text_of(why.shown(answer, NOW))


def test_why_names_the_finalizers_of_others_that_keep_what_is_deleted() -> None:
    ref = Ref(LOGICAL_NODES, "greedy", "team-a")
    kept = {
        **WAITS["metadata"],
        "finalizers": ["weft.dev/fabric", "example.com/backup", "foregroundDeletion"],
    }
    text = "kept by finalizers that are not Weft's: example.com/backup; whoever set them takes them off"

    there = why.why_of(reading({**WAITS, "metadata": kept}), ref, [])
    going = why.why_of(reading({**WAITS, "metadata": {**kept, "deletionTimestamp": EARLIER}}), ref, [])

    assert text not in text_of(why.shown(there, NOW))
    assert text in text_of(why.shown(going, NOW))


def test_why_leaves_out_the_events_of_an_earlier_object_of_the_name() -> None:
    node = {**WAITS, "metadata": {**WAITS["metadata"], "uid": "second"}}
    events = [
        {"metadata": {"creationTimestamp": EARLIER}, "regarding": {"uid": uid}, "reason": uid.capitalize()}
        for uid in ("first", "second")
    ]

    answer = why.why_of(reading(node), Ref(LOGICAL_NODES, "greedy", "team-a"), events)

    assert [one.reason for one in answer.events] == ["Second"]


def event(reason: str, note: str, devices: list[str], kind: str = "LogicalNode", **more: Any) -> Object:
    metadata = {"name": note, "creationTimestamp": EARLIER, "annotations": {DEVICES: json.dumps(devices)}}
    about = {"kind": kind, "namespace": "team-b", "name": "past"}
    head = {"metadata": metadata, "regarding": about, "type": "Normal", "reason": reason, "note": note}
    return {**head, **more}


PRICED = {**POOL, "spec": {**POOL["spec"], "cost": {"perDeviceHour": "2.10"}}}
ENDS = made(
    LOGICAL_NODES, "trainer", ASKED, {"conditions": [said("Draining", "True", "Preempted", "pod x is left")]}
)


def test_why_of_a_device_says_who_holds_it_what_it_costs_what_it_waits_for_and_what_happened_before() -> None:
    past = [
        event("Bound", "attached to sled-2: gpu-1, gpu-2", ["rack.gpu-1", "rack.gpu-2"]),
        event("Detached", "gpu-2 from host sled-2", ["rack.gpu-2"]),
        event("Detached", "gpu-1 from host sled-2", ["rack.gpu-1"], series={"count": 3}),
    ]
    held = reading(FABRIC, PRICED, CLAIM, ENDS)
    text = text_of(device.shown(device.device_of(held, "gpu-1", past), held))

    assert text.startswith("device rack.gpu-1\n  held by LogicalNode team-a/trainer, for 5 min\n")
    assert "GPUPool a100, host sled-1, Node worker-1" in text
    assert "2.1 an hour, 0.175 so far at that price" in text
    assert "Draining=True Preempted" in text
    past_lines = text.split("what happened")[1].splitlines()
    happened = [line.split("Normal ")[1].strip() for line in past_lines if line.strip()]
    assert happened == [
        "Bound: LogicalNode team-b/past: attached to sled-2: gpu-1, gpu-2",
        "Detached: LogicalNode team-b/past: gpu-1 from host sled-2 (3 times)",
    ]


def test_a_device_that_nobody_holds_is_known_by_its_history_in_each_fabric_that_has_one_of_the_name() -> None:
    past = [event("Detached", "a", ["rack.gpu-9"]), event("Detached", "b", ["other.gpu-9"])]

    found = device.device_of(reading(FABRIC), "gpu-9", past)

    assert [(one.name, one.holder, len(one.events)) for one in found] == [
        ("other.gpu-9", "", 1),
        ("rack.gpu-9", "", 1),
    ]
    (exact,) = device.device_of(reading(FABRIC), "rack.gpu-9", past)
    assert exact.name == "rack.gpu-9"
    with pytest.raises(AskError, match=r"nothing is known of a device gpu-8 \(there is gpu-9"):
        device.device_of(reading(FABRIC), "gpu-8", past)


def test_a_tenant_sees_of_a_device_that_their_own_logical_node_has_it() -> None:
    (one,) = device.device_of(reading(BOUND, denied=("deviceattachments",)), "gpu-1", [])

    assert (one.name, one.holder, one.cost_per_hour) == ("rack.gpu-1", "team-a/trainer", "")


def test_events_that_somebody_else_annotated_oddly_are_passed_over() -> None:
    odd = [event("Bound", "x", []), event("Bound", "y", [])]
    odd[0]["metadata"]["annotations"] = {DEVICES: "{"}
    odd[1]["metadata"]["annotations"] = {DEVICES: '{"rack.gpu-1": [7]}'}

    (one,) = device.device_of(reading(CLAIM), "gpu-1", odd)

    assert one.events == ()


@pytest.mark.parametrize(
    ("words", "ref"),
    [
        (["lnode/trainer"], Ref(LOGICAL_NODES, "trainer", "team-a")),
        (["LogicalNode", "trainer"], Ref(LOGICAL_NODES, "trainer", "team-a")),
        (["gpupools.weft.dev/a100"], Ref(GPU_POOLS, "a100")),
        (["deviceattachment/rack.gpu-1"], Ref(DEVICE_ATTACHMENTS, "rack.gpu-1")),
    ],
)
def test_objects_are_named_as_kubectl_names_them(words: list[str], ref: Ref) -> None:
    assert ref_of(words, "team-a") == ref


@pytest.mark.parametrize("words", [["trainer"], ["pod/x"], ["lnode"], ["lnode/"], ["lnode/a", "b"]])
def test_what_names_no_object_is_answered_by_what_would(words: list[str]) -> None:
    with pytest.raises(AskError, match=r"There are: fabric \(fab\)|name one LogicalNode: logicalnode/NAME"):
        ref_of(words, "team-a")


def test_an_object_that_is_not_there_is_said_not_to_be_there() -> None:
    with pytest.raises(AskError, match=r"there is no LogicalNode team-a/nobody, or no right to see it"):
        tree.tree_of(reading(), Ref(LOGICAL_NODES, "nobody", "team-a"))


def test_a_pause_remembers_the_mode_and_resume_brings_it_back() -> None:
    ref = Ref(INFERENCE_GROUPS, "llama", "team-a")

    paused = pausing(ref, GROUP)
    assert paused.patch is not None
    assert paused.patch["spec"] == {"rebalance": {"mode": "Paused"}}
    assert paused.patch["metadata"]["resourceVersion"] == "7"
    after = {**GROUP, "spec": {**GROUP["spec"], "rebalance": {"mode": "Paused"}}}
    after = {
        **after,
        "metadata": {**GROUP["metadata"], "annotations": paused.patch["metadata"]["annotations"]},
    }
    resumed = resuming(ref, after)
    assert resumed.patch is not None
    assert resumed.patch["spec"] == {"rebalance": {"mode": "Recommend"}}
    assert resumed.patch["metadata"]["annotations"] == {ANNOTATION_MODE: None}


def test_what_is_paused_already_is_not_written_again_and_keeps_the_mode_that_it_goes_back_to() -> None:
    observed = {**FABRIC, "spec": {**FABRIC["spec"], "mode": "Observe"}}

    assert pausing(Ref(FABRICS, "rack"), observed).patch is None
    with pytest.raises(
        PausedInSpecError, match=r"stays Observe: its owner's spec says so.*edit spec\.mode to"
    ):
        resuming(Ref(FABRICS, "rack"), observed)


def test_a_report_holds_the_objects_and_nothing_that_may_be_secret() -> None:
    packed = archive(reading(*EVERYTHING), [], "overview")

    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        files = {member.name: tar.extractfile(member).read().decode() for member in tar}  # type: ignore[union-attr]
    assert files["weft-report/status.txt"] == "overview"
    whole = "\n".join(files.values())
    assert "canary" not in whole
    assert "weft.dev/kept: kept" in whole
    assert "NotEnoughDevices" in files["weft-report/logicalnodes.yaml"]
    assert "removed; equal templates have equal hashes" in files["weft-report/inferencegroups.yaml"]


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (
            UnknownAddressError(404, "", "404 page not found"),
            r"this cluster does not know Weft's kinds: is Weft installed there\?",
        ),
        (ClusterError(403, "Forbidden", ""), r"no right to list deviceattachments,.*: Kubernetes' role view"),
        (ClusterError(0, "NoAnswer", "GET"), r"the API server does not answer"),
    ],
)
async def test_a_cluster_that_shows_nothing_is_answered_by_why(refusal: ClusterError, words: str) -> None:
    class Refusing:
        async def list(self, *_: object) -> tuple[list[Object], int]:
            raise refusal

    with pytest.raises(AskError, match=words):
        await Asker(Refusing(), "team-a", everywhere=True).read()  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", ["why", "ui"])
def test_help_imports_none_of_the_heavy_libraries(verb: str) -> None:
    code = (
        "import sys; from weft.cli.main import main\n"
        f"try: main(['{verb}', '--help'])\n"
        "except SystemExit: pass\n"
        "print(*({name.split('.')[0] for name in sys.modules} & {'kopf', 'kubernetes', 'pydantic', 'rich', 'aiohttp'}))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == ""


async def test_a_plan_for_what_is_being_deleted_says_to_apply_it_once_it_is_gone() -> None:
    going = {**BOUND, "metadata": {**BOUND["metadata"], "deletionTimestamp": "2026-01-01T11:59:50Z"}}

    class Going:
        async def get(self, *_: object) -> Object:
            return going

        async def server_side_apply(self, *_: object, **__: object) -> Object:
            return going

    wanted = {"apiVersion": LOGICAL_NODES.api_version, **BOUND}
    answer = await plan.plan(Going(), [wanted], "weft-system", "weft:http", "")  # type: ignore[arg-type]

    assert answer.refused
    line = text_of(plan.shown(answer)).splitlines()[0]
    assert line == "! LogicalNode team-a/trainer: is being deleted: apply it again once it is gone"


def test_a_file_of_lists_and_documents_is_read_with_the_namespace_that_is_meant() -> None:
    text = """
kind: List
items: [{kind: LogicalNode, metadata: {name: one}}, {kind: Fabric, metadata: {name: rack}}]
---
---
{"kind": "LogicalNode", "metadata": {"name": "two", "namespace": "b"}}
"""
    found = [
        (one["metadata"]["name"], one["metadata"].get("namespace")) for one in plan.objects_of(text, "a")
    ]

    assert found == [("one", "a"), ("rack", None), ("two", "b")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{a: [", "not YAML"),
        ("", "no objects"),
        ("just words", "without kind"),
        ("kind: LogicalNode\nmetadata: {generateName: x-}", "generateName"),
    ],
)
def test_a_file_that_holds_no_objects_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(AskError, match=words):
        plan.objects_of(text, "a")


def test_a_plan_says_what_comes_what_it_costs_who_waits_and_why() -> None:
    device = {
        "request": "main",
        "device": "gpu-1",
        "model": "H200",
        "pool": "GPUPool h200",
        "fabric": "rack",
        "domains": ["nv-0"],
        "cost_per_hour": "2.1",
    }
    none = {"reason": "", "message": "", "place": "", "devices": [], "gives_back": [], "preempts": []}
    binds = {
        **none,
        "namespace": "a",
        "name": "new",
        "outcome": "binds",
        "node_name": "worker-1",
        "host": "sled-1",
        "devices": [device],
    }
    waits = {
        **none,
        "namespace": "a",
        "name": "late",
        "outcome": "waits",
        "reason": "NotEnoughDevices",
        "message": "too few",
        "place": "3-4",
        "preempts": ["a/low"],
    }
    objects = (
        plan.Applied("LogicalNode a/new", "create"),
        plan.Applied("LogicalNode a/odd", "refused", "no such field"),
    )
    answer = plan.Plan(objects, (binds, waits), cost_per_hour="2.1")
    text = text_of(plan.shown(answer))

    assert "! LogicalNode a/odd: refused: no such field" in text
    assert "+ LogicalNode a/new would be bound on Node worker-1 (host sled-1)" in text
    assert "main: gpu-1 H200 of GPUPool h200 at Fabric rack, nv-0, 2.1 an hour" in text
    assert "NotEnoughDevices, place 3-4 in the queue: too few" in text
    assert "would ask to give way: a/low" in text
    assert "cost per hour of what would be attached at once: 2.1" in text
    assert answer.refused


def test_a_plan_of_what_could_not_be_read_says_what_is_missing_and_ends_as_refused() -> None:
    fabric = {"name": "new", "lacks": ["no driver 'redfsh' is installed"]}
    pool = {
        "kind": "GPUPool",
        "name": "g",
        "devices": 0,
        "models": [],
        "message": "no Fabric x",
        "refused": True,
    }
    for answer, line in (
        (plan.Plan((), fabrics=(fabric,)), "! Fabric new could not be read: no driver 'redfsh' is installed"),
        (plan.Plan((), pools=(pool,)), "! GPUPool g: no Fabric x"),
    ):
        assert answer.refused
        assert line in text_of(plan.shown(answer))


@pytest.mark.parametrize(
    ("resource", "name"), [(FABRICS, "rack"), (LOGICAL_NODES, "trainer"), (INFERENCE_GROUPS, "llama")]
)
def test_what_takes_nothing_new_is_suspended_and_resume_takes_that_off(resource: Any, name: str) -> None:
    found = made(resource, name, {"mode": "Manage"})
    found["metadata"]["resourceVersion"] = "7"
    ref = Ref(resource, name, "team-a" if resource.namespaced else "")
    change = pausing(ref, found, taking=True)
    assert change.patch == {"metadata": {"resourceVersion": "7"}, "spec": {"suspend": True}}
    found["spec"]["suspend"] = True
    assert pausing(ref, found, taking=True).patch is None
    assert resuming(ref, found).patch == {"metadata": {"resourceVersion": "7"}, "spec": {"suspend": None}}


def test_what_was_paused_both_ways_goes_back_as_a_whole() -> None:
    found = made(FABRICS, "rack", {"mode": "Observe", "suspend": True})
    found["metadata"] |= {"resourceVersion": "7", "annotations": {ANNOTATION_MODE: "Manage"}}
    change = resuming(Ref(FABRICS, "rack"), found)
    assert change.patch is not None
    assert change.patch["spec"] == {"mode": "Manage", "suspend": None}
    assert change.patch["metadata"]["annotations"] == {ANNOTATION_MODE: None}


def test_a_kind_that_takes_nothing_is_not_suspended() -> None:
    pool = made(GPU_POOLS, "h200", {})
    with pytest.raises(AskError, match="a GPUPool takes nothing"):
        pausing(Ref(GPU_POOLS, "h200"), pool, taking=True)


def test_why_says_what_the_spec_keeps_an_object_from_and_the_way_back() -> None:
    paused = {**FABRIC, "spec": {**FABRIC["spec"], "mode": "Observe"}}
    paused["metadata"] = {**FABRIC["metadata"], "annotations": {ANNOTATION_MODE: "Manage"}}
    ref = Ref(FABRICS, "rack")

    text = text_of(why.shown(why.why_of(reading(paused), ref, []), NOW))
    assert (
        "Observe: it is read, and nothing is attached or detached there; `weft resume fabric/rack` goes back to Manage"
        in text
    )
    own = {**FABRIC, "spec": {**FABRIC["spec"], "mode": "Observe", "suspend": True}}
    assert why.why_of(reading(own), ref, []).held == (
        "Observe: it is read, and nothing is attached or detached there; its spec says so",
        "suspended: no device is given that is not claimed; releases and drains go on;"
        " `weft resume fabric/rack` takes that off",
    )
    assert why.why_of(reading(FABRIC), ref, []).held == ()


def test_why_tells_what_several_conditions_say_once_and_leaves_no_blanks_at_the_ends_of_lines() -> None:
    message = "main: 4 asked for"
    said_twice = [said(kind, "False", "NotEnoughDevices", message) for kind in ("Reserved", "Bound")]
    node = made(LOGICAL_NODES, "greedy", ASKED, {"conditions": said_twice})

    text = text_of(why.shown(why.why_of(reading(node), Ref(LOGICAL_NODES, "greedy", "team-a"), []), NOW))
    assert [text.count(each) for each in ("NotEnoughDevices", message, "Wait for")] == [3, 1, 1]
    assert [line for line in text.splitlines() if line != line.rstrip()] == []

"""`weft status`, `tree`, `why`, `pause` and `report`: what they say of objects as the API server gives them."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import tarfile
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

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
    ROLE,
    WAITS,
    Object,
    made,
    reading,
    said,
)
from weft.api.names import ANNOTATION_MODE, DEVICES
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    DEVICE_QUOTAS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    LOGICAL_NODES,
)
from weft.cli.look import device, plan, status, tree, why
from weft.cli.look.leader import nobody_leads
from weft.cli.look.pause import PausedInSpecError, pausing, resuming
from weft.cli.look.reading import Asker, AskError, Ref, ref_of
from weft.cli.look.report import archive
from weft.cluster import ClusterError, NotFoundError


def text_of(view: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200, highlight=False, markup=False).print(view)
    return out.getvalue()


def test_status_shows_fabrics_pools_groups_and_what_each_waiting_node_waits_for() -> None:
    text = text_of(status.shown(status.status_of(reading(*EVERYTHING))))

    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["rack"] == ["rack", "Manage", "Connected", "8", "2", "2"]
    assert lines["a100"] == ["a100", "GPUPool", "rack", "##########!!........", "4", "3", "8"]
    assert lines["team-a/llama"][1:] == [
        "Recommend",
        "decode",
        "1,",
        "prefill",
        "2",
        "2",
        "of",
        "3",
        "missed",
    ]
    assert "logical nodes: 1 of 2 bound and ready" in text
    assert lines["team-a/greedy"][1:5] == ["5", "min", "NotEnoughDevices", "main:"]
    assert "InferenceGroup team-a/llama: ObjectivesMet=False Missed: too late" in text


def test_the_age_of_a_node_that_is_being_deleted_is_that_of_its_deletion() -> None:
    going = {**WAITS, "metadata": {**WAITS["metadata"], "deletionTimestamp": "2026-01-01T11:59:50Z"}}

    (line,) = (each for each in status_text(going).splitlines() if each.startswith("team-a/greedy"))
    assert line.split()[1:3] == ["10", "s"]


def test_a_wide_status_says_where_the_devices_are_that_are_not_free_to_be_taken() -> None:
    pool = {**POOL, "status": {**POOL["status"], "kept": 2, "stranded": [{"reason": "NoHost", "devices": 1}]}}

    text = text_of(status.shown(status.status_of(reading(FABRIC, pool)), wide=True))

    heads, cells = (line.split() for line in text.splitlines()[3:5])
    assert " ".join(heads[3:]) == "BOUND RESERVED QUARANTINED UNAVAILABLE FREE TOTAL KEPT STRANDED"
    assert cells[4:] == ["4", "0", "1", "0", "3", "8", "2", "1", "NoHost"]


def status_text(*objects: Object, **more: Any) -> str:
    return text_of(status.shown(status.status_of(reading(*objects, **more))))


def test_status_says_what_is_suspended_in_its_mode_and_how_to_take_that_off() -> None:
    fabric, group = ({**one, "spec": {**one["spec"], "suspend": True}} for one in (FABRIC, GROUP))

    text = status_text(fabric, group)

    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "Manage, suspended" in lines["rack"]
    assert "Recommend, suspended" in lines["team-a/llama"]
    looked_at = text.split("to be looked at")[1]
    assert "Fabric rack: suspended: no device is given" in looked_at
    assert "`weft resume infg/llama -n team-a` takes that off" in looked_at


def test_status_names_what_weft_pause_paused_and_not_what_its_owner_only_observes() -> None:
    own = {**FABRIC, "spec": {**FABRIC["spec"], "mode": "Observe"}}
    paused = {**own, "metadata": {**own["metadata"], "annotations": {ANNOTATION_MODE: "Manage"}}}

    assert "`weft resume fabric/rack` goes back to Manage" in status_text(paused)
    assert "to be looked at" not in status_text(own)


def test_status_names_a_quota_that_is_broken_a_role_without_a_profile_and_a_device_in_quarantine() -> None:
    over = said("WithinLimits", "False", "LimitLowered", "hosts: 4 allowed, 9 held")
    quota = made(DEVICE_QUOTAS, "gpus", {"hosts": 4}, {"conditions": [over]})
    within = made(DEVICE_QUOTAS, "more", {}, {"conditions": [said("WithinLimits", "True", "WithinLimits")]})
    role = {**ROLE, "status": {"conditions": [said("ProfileValid", "False", "ProfileNotFound", "p")]}}
    failed = {**CLAIM, "status": {"conditions": [said("Quarantined", "True", "AttachFailed", "no answer")]}}

    assert status_text(quota, within, role, failed).split("to be looked at\n")[1].splitlines() == [
        "DeviceQuota team-a/gpus: WithinLimits=False LimitLowered: hosts: 4 allowed, 9 held",
        "InferenceRole team-a/prefill: ProfileValid=False ProfileNotFound: p",
        "DeviceAttachment rack.gpu-1: Quarantined=True AttachFailed: no answer",
    ]


def test_status_says_a_cause_once_and_not_what_follows_from_it() -> None:
    conditions = [
        said("ObjectivesMet", "Unknown", "MetricsNotFresh"),
        said("MetricsFresh", "False", "SeriesMissing", "pod a has no series"),
        said("DemandEstimated", "Unknown", "MetricsNotFresh"),
    ]
    text = status_text({**GROUP, "status": {"conditions": conditions}})

    assert text.split("to be looked at\n")[1].splitlines() == [
        "InferenceGroup team-a/llama: MetricsFresh=False SeriesMissing: pod a has no series"
    ]


LEASE = {
    "spec": {"holderIdentity": "weft-1", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T11:59:40.5Z"}
}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([LEASE], ""),
        # Who may not list Leases is told what they are told without one.
        (None, ""),
        ([], "nobody leads: none has run here yet; "),
        # The chart makes it before an operator runs.
        ([{"spec": {}}], "nobody leads: none has run here yet; "),
        (
            [{"spec": {**LEASE["spec"], "holderIdentity": ""}}],
            "nobody leads: the last one ended 19 s ago; ",
        ),
        (
            [{"spec": {**LEASE["spec"], "renewTime": "2026-01-01T11:57:00Z"}}],
            "nobody leads: the last one, weft-1, has not been heard of for 3 min; ",
        ),
        ([{"spec": {**LEASE["spec"], "holderIdentity": ""}}, LEASE], ""),
    ],
)
def test_an_operator_that_is_gone_is_known_by_its_lease(found: list[Object] | None, words: str) -> None:
    told = nobody_leads(found, NOW)

    assert told.startswith(words) if words else told == ""


def test_status_and_why_say_first_that_nobody_leads() -> None:
    seen = reading(FABRIC, nobody_leads="nobody leads: the last one ended 5 min ago")

    assert text_of(status.shown(status.status_of(seen))).startswith("nobody leads: the last one ended")
    told = text_of(why.shown(why.why_of(seen, Ref(FABRICS, "rack"), []), NOW)).splitlines()
    assert told[1].strip().startswith("nobody leads")


async def test_whoever_may_not_see_the_lease_sees_the_rest() -> None:
    class Tenants:
        async def list(self, *_: object) -> tuple[list[Object], int]:
            return [WAITS], 1

        async def find(self, *_: object) -> tuple[Object, ...]:
            raise ClusterError(403, "Forbidden", "leases")

    seen = await Asker(Tenants(), "team-a").read([LOGICAL_NODES])  # type: ignore[arg-type]

    assert (seen.nobody_leads, len(seen.nodes)) == ("", 1)


def test_status_says_what_the_rights_of_whoever_asks_hide() -> None:
    text = text_of(status.shown(status.status_of(reading(WAITS, denied=("fabrics", "gpupools")))))

    assert "not shown, for want of the right to list them: fabrics, gpupools" in text


def test_of_what_may_not_be_listed_status_gives_no_count() -> None:
    seen = status.status_of(reading(denied=("logicalnodes",)))

    assert "logical nodes:" not in text_of(status.shown(seen))
    assert seen.nodes is None


class TenantOfTeamA:
    """As the API server answers whoever may list namespaced kinds, of namespace team-a alone."""

    async def list(self, resource: Any, namespace: str = "", *_: object) -> tuple[list[Object], int]:
        # As over a network: all of them are asked before the first answers.
        await asyncio.sleep(0)
        if namespace != "team-a":
            raise ClusterError(403, "Forbidden", "")
        return ([BOUND] if resource == LOGICAL_NODES else [GROUP] if resource == INFERENCE_GROUPS else []), 1

    async def find(self, *_: object) -> tuple[Object, ...]:
        raise ClusterError(403, "Forbidden", "leases")


async def test_a_tenant_who_names_no_namespace_is_shown_their_own_and_that_it_is_only_that() -> None:
    seen = await Asker(TenantOfTeamA(), "team-a", everywhere=True).read()  # type: ignore[arg-type]

    text = text_of(status.shown(status.status_of(seen)))
    assert "logical nodes: 1 of 1 bound and ready" in text
    assert "team-a/llama" in text
    told = " ".join(text.split("shown of namespace team-a alone (-n names another), for want of")[1].split())
    alone, denied = told.split("not shown, for want of the right to list them: ")
    assert "devicequotas, engineprofiles, inferencegroups, inferenceroles, logicalnodes" in alone
    assert denied == "deviceattachments, fabrics, gpupools, memorypools, storagepools"


async def test_kinds_that_the_cluster_does_not_know_are_named() -> None:
    class HalfRemoved(TenantOfTeamA):
        async def list(self, resource: Any, *_: object) -> tuple[list[Object], int]:
            if resource in (FABRICS, GPU_POOLS):
                raise NotFoundError(404, "", "404 page not found")
            return [], 1

    with pytest.raises(
        AskError, match=r"does not know Fabric and GPUPool, but 8 of Weft's kinds: .*and-back"
    ):
        await Asker(HalfRemoved(), "team-a").read()  # type: ignore[arg-type]


def test_an_object_that_this_version_cannot_read_costs_no_more_than_itself() -> None:
    odd = made(LOGICAL_NODES, "odd", {"accelerators": "four"})

    seen = reading(odd, WAITS)

    assert [node.metadata.name for node in seen.nodes] == ["greedy"]
    assert "LogicalNode team-a/odd (spec.accelerators: " in text_of(status.shown(status.status_of(seen)))
    ref = Ref(LOGICAL_NODES, "odd", "team-a")
    assert "LogicalNode team-a/odd (spec.accelerators: " in text_of(why.shown(why.why_of(seen, ref, []), NOW))
    with pytest.raises(AskError, match="LogicalNode team-a/odd: not shown, since weft"):
        tree.tree_of(seen, ref)


@pytest.mark.parametrize(
    ("counts", "bar"),
    [
        ({}, "not read yet"),
        ({"total": 0}, "no devices"),
        ({"total": 1000, "bound": 1, "quarantined": 1}, "#!.................."),
        ({"total": 3, "bound": 1, "reserved": 1, "unavailable": 1}, "#######+++++++xxxxxx"),
    ],
)
def test_a_bar_shows_every_state_that_a_device_is_in_and_is_never_longer(
    counts: dict[str, int], bar: str
) -> None:
    assert status.bar(counts).plain == bar


@pytest.mark.parametrize(
    ("condition", "looked_at"),
    [
        (said("DemandEstimated", "False", "Counted"), False),
        (said("DemandEstimated", "True", "FrontEndNotTrusted"), True),
        (said("ObjectivesMet", "Unknown", "NoRequests"), False),
        (said("MetricsFresh", "True", "PartlyFresh"), True),
        # Of a later version: what is usual for the type counts.
        (said("MetricsFresh", "False", "NeverHeardOf"), True),
        (said("Overlapping", "False", "NeverHeardOf"), False),
    ],
)
def test_a_condition_is_trouble_where_its_reason_says_that_there_is_something_to_do(
    condition: Object, looked_at: bool
) -> None:
    (line,) = status.status_of(reading({**GROUP, "status": {"conditions": [condition]}})).groups

    assert bool(line.trouble) == looked_at


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
            NotFoundError(404, "", "404 page not found"),
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

"""`weft status`: what it says of objects as the API server gives them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.looked_at import (
    BOUND,
    CLAIM,
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
    text_of,
)
from weft.api.names import ANNOTATION_MODE
from weft.api.resources import (
    DEVICE_QUOTAS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    LOGICAL_NODES,
)
from weft.cli.look import status, tree, why
from weft.cli.look.leader import nobody_leads
from weft.cli.look.reading import Asker, AskError, Ref
from weft.cluster import ClusterError, UnknownAddressError


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


@pytest.mark.parametrize(
    "refusal", [ClusterError(403, "Forbidden", "leases"), ClusterError(503, "", "later")]
)
async def test_whoever_cannot_see_the_lease_sees_the_rest(refusal: ClusterError) -> None:
    class Tenants:
        async def list(self, *_: object) -> tuple[list[Object], int]:
            return [WAITS], 1

        async def find(self, *_: object) -> tuple[Object, ...]:
            raise refusal

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
                raise UnknownAddressError(404, "", "404 page not found")
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

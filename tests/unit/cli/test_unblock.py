"""`weft why` begins with the one thing to do, for every reason that an object can wait for."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from support.looked_at import ASKED, CLAIM, FABRIC, GROUP, NOW, POOL, ROLE, Object, made, reading, said
from weft.api.names import ANNOTATION_MODE
from weft.api.reasons import CONDITIONS
from weft.api.reasons.declared import NOTHING, Reason
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
)
from weft.cli.look import why
from weft.cli.look.reading import KINDS, Ref

RESOURCES = {resource.kind: resource for resource, _ in KINDS}
WAITING = [
    pytest.param(kind, each.type, reason, id=f"{kind}-{each.type}-{reason.word}")
    for each in CONDITIONS
    for kind in each.kinds
    if kind in RESOURCES
    for reason in each.reasons
    if reason.action != NOTHING
]


def told(ref: Ref, *objects: Object) -> list[str]:
    out = io.StringIO()
    answer = why.why_of(reading(*objects), ref, [])
    Console(file=out, width=400, highlight=False, markup=False).print(why.shown(answer, NOW))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("kind", "type", "reason"), WAITING)
def test_why_begins_with_what_to_do_for_every_reason_that_there_is_something_to_do_about(
    kind: str, type: str, reason: Reason
) -> None:
    resource = RESOURCES[kind]
    specs = {each["kind"]: each["spec"] for each in (FABRIC, CLAIM, GROUP, ROLE)} | {"LogicalNode": ASKED}
    spec = specs.get(kind, POOL["spec"] | {"limits": []})
    if kind == "InferenceGroup":
        # In the other modes the split is its owner's to change.
        spec = spec | {"rebalance": {"mode": "Auto"}}
    state = {"conditions": [said(type, reason.status, reason.word, "as the operator says it")]}
    found = made(resource, "one", spec, state)

    lines = told(Ref(resource, "one", found["metadata"].get("namespace", "")), found)

    assert lines[1] == f"  do first: {reason.action}"
    assert lines[2].strip() == f"{type}={reason.status} {reason.word}: as the operator says it"
    assert lines[3] == f"  {type}={reason.status} {reason.word}, {reason.status} for 5 min"


def test_an_action_that_names_another_condition_leads_there() -> None:
    for each in CONDITIONS:
        for reason in each.reasons:
            named = re.search(r"\bcondition ([A-Z]\w+)", reason.action)
            kind, _, type = reason.see.rpartition(".")
            assert type == (named[1] if named else ""), reason.action
            owners = (kind,) if kind else each.kinds
            assert not named or any(
                set(owners) <= set(one.kinds) and one.type == type for one in CONDITIONS
            ), reason.see


def unwell(found: Object, *conditions: Object, **more: Any) -> Object:
    return {**found, "status": {**found["status"], "conditions": list(conditions)}, **more}


LOGIN = unwell(FABRIC, said("Connected", "False", "AuthFailed", "the manager answers 401"))
HELD = made(
    LOGICAL_NODES, "trainer", ASKED, {"conditions": [said("Bound", "False", "FabricNotReady", "fabric rack")]}
)
REPLICAS = [
    made(
        LOGICAL_NODES,
        f"llama-{n}",
        ASKED,
        {"conditions": [said("Bound", "False", "NotEnoughDevices", f"too few for {n}")]},
        labels={"weft.dev/group": "llama", "weft.dev/role": "prefill"},
    )
    for n in (2, 10)
]
NOT_SERVED = unwell(
    GROUP,
    said("ObjectivesMet", "Unknown", "MetricsNotFresh"),
    said("MetricsFresh", "False", "NoReplicas"),
    said("Ready", "False", "NoServingReplica"),
)
NO_ROOM = unwell(
    NOT_SERVED, *NOT_SERVED["status"]["conditions"], said("Balanced", "False", "BudgetTooSmall", "no room")
)
AUTH = "do first: Correct the Secret, or the account at the manager; the Secret is read again by itself."


@pytest.mark.parametrize(
    ("ref", "objects", "first", "whose"),
    [
        (
            Ref(LOGICAL_NODES, "trainer", "team-a"),
            (HELD, CLAIM, LOGIN),
            AUTH,
            "Fabric rack: Connected=False AuthFailed: the manager answers 401",
        ),
        (
            Ref(DEVICE_ATTACHMENTS, "rack.gpu-1"),
            (HELD, CLAIM, LOGIN),
            AUTH,
            "Fabric rack: Connected=False AuthFailed: the manager answers 401",
        ),
        (
            Ref(GPU_POOLS, "a100"),
            (unwell(POOL, said("Ready", "False", "FabricUnreachable")), LOGIN),
            AUTH,
            "Fabric rack: Connected=False AuthFailed: the manager answers 401",
        ),
        (
            Ref(INFERENCE_GROUPS, "llama", "team-a"),
            (NOT_SERVED, *REPLICAS),
            "do first: Wait for a release, ask for less,",
            "LogicalNode team-a/llama-2 (and 1 like it): Bound=False NotEnoughDevices: too few for 2",
        ),
        (
            Ref(INFERENCE_ROLES, "prefill", "team-a"),
            (unwell(ROLE, said("Ready", "False", "Progressing")), *REPLICAS),
            "do first: Wait for a release, ask for less,",
            "LogicalNode team-a/llama-2 (and 1 like it): Bound=False NotEnoughDevices: too few for 2",
        ),
        (
            Ref(INFERENCE_ROLES, "prefill", "team-a"),
            (unwell(ROLE, said("Ready", "False", "NoReplicaGiven")), NO_ROOM),
            "do first: Raise `spec.accelerators.maximum`",
            "InferenceGroup team-a/llama: Balanced=False BudgetTooSmall: no room",
        ),
        (
            Ref(INFERENCE_GROUPS, "llama", "team-a"),
            (NO_ROOM,),
            "do first: Raise `spec.accelerators.maximum`",
            "Balanced=False BudgetTooSmall: no room",
        ),
        (
            Ref(INFERENCE_GROUPS, "llama", "team-a"),
            (NOT_SERVED,),
            "do first: Wait; if it lasts, look at the group's pods",
            "Ready=False NoServingReplica",
        ),
        (
            Ref(FABRICS, "rack"),
            (unwell(FABRIC, said("Deletable", "False", "InUse")), CLAIM),
            "do first: Delete the LogicalNodes that are bound there. In use by team-a/trainer.",
            "Deletable=False InUse",
        ),
    ],
)
def test_what_is_to_be_done_is_looked_for_at_the_object_that_it_depends_on(
    ref: Ref, objects: tuple[Object, ...], first: str, whose: str
) -> None:
    lines = [line.strip() for line in told(ref, *objects)]

    assert lines[1].startswith(first)
    assert lines[2] == whose


PAUSED = unwell(FABRIC)
PAUSED["spec"] = {**FABRIC["spec"], "mode": "Observe"}
PAUSED["metadata"] = {**FABRIC["metadata"], "annotations": {ANNOTATION_MODE: "Manage"}}
SUSPENDED = {**FABRIC, "spec": {**FABRIC["spec"], "suspend": True}}
RELEASING = [
    said(type, "False", "Releasing", "fabric rack is in Observe mode: resume it")
    for type in ("Bound", "Ready")
]


@pytest.mark.parametrize(
    ("ref", "objects", "command"),
    [
        (
            Ref(LOGICAL_NODES, "trainer", "team-a"),
            (made(LOGICAL_NODES, "trainer", ASKED, {"conditions": RELEASING}), CLAIM, PAUSED),
            "fabric/rack",
        ),
        (
            Ref(LOGICAL_NODES, "trainer", "team-a"),
            (
                made(
                    LOGICAL_NODES,
                    "trainer",
                    ASKED,
                    {"conditions": [said("Bound", "False", "Suspended", "Fabric rack is suspended")]},
                ),
                SUSPENDED,
            ),
            "fabric/rack",
        ),
        (
            Ref(LOGICAL_NODES, "trainer", "team-a"),
            (
                made(
                    LOGICAL_NODES,
                    "trainer",
                    {**ASKED, "suspend": True},
                    {"conditions": [said("Bound", "False", "Suspended", "spec.suspend is set")]},
                ),
            ),
            "lnode/trainer -n team-a",
        ),
        (
            Ref(INFERENCE_GROUPS, "llama", "team-a"),
            (
                {
                    **unwell(GROUP, said("Balanced", "False", "Suspended")),
                    "spec": {**GROUP["spec"], "suspend": True},
                },
            ),
            "infg/llama -n team-a",
        ),
    ],
)
def test_what_a_pause_holds_is_answered_by_the_one_command_that_ends_it(
    ref: Ref, objects: tuple[Object, ...], command: str
) -> None:
    lines = "\n".join(told(ref, *objects))

    assert f"do first: Take it off when it may go on: `kubectl weft resume {command}`." in lines
    # Neither the ways that a reason has in general, nor the command without an object.
    assert not re.search(r"\n +do: ", lines)
    kind_name, *_ = command.split()
    assert set(re.findall(r"weft resume ([^` ]+)", lines)) == {kind_name}


def test_a_fabric_that_its_owner_only_observes_is_not_said_to_be_paused() -> None:
    own = {**PAUSED, "metadata": FABRIC["metadata"]}
    node = made(LOGICAL_NODES, "trainer", ASKED, {"conditions": RELEASING})

    lines = told(Ref(LOGICAL_NODES, "trainer", "team-a"), node, CLAIM, own)

    assert "kubectl weft resume" not in lines[1]


def test_every_command_that_an_action_names_can_be_typed() -> None:
    actions = {reason.action for each in CONDITIONS for reason in each.reasons}
    commands = [one for action in actions for one in re.findall(r"`kubectl weft ([^`]*)`", action)]

    assert commands
    assert [one for one in commands if "/" not in one] == []


def test_of_a_group_whose_metrics_are_bad_the_bad_series_is_named_before_what_follows_from_it() -> None:
    series = "pod llama-70b-0 has no series for running (vllm:num_requests_running): is it scraped?"
    held = unwell(
        GROUP,
        said("Ready", "True", "Serving"),
        said("ObjectivesMet", "Unknown", "MetricsNotFresh"),
        said("MetricsFresh", "False", "SeriesMissing", series),
        said("DemandEstimated", "Unknown", "MetricsNotFresh"),
    )
    answer = why.why_of(reading(held), Ref(INFERENCE_GROUPS, "llama", "team-a"), [])

    assert answer.first is not None
    assert (answer.first.condition, answer.first.message) == ("MetricsFresh=False SeriesMissing", series)
    assert answer.first.do.startswith("Have it scraped")


def test_what_is_well_has_nothing_to_be_done_first_and_what_is_being_deleted_says_so() -> None:
    ref = Ref(LOGICAL_NODES, "trainer", "team-a")
    well = made(LOGICAL_NODES, "trainer", ASKED, {"conditions": [said("Bound", "True", "Bound")]})
    assert "do first" not in "\n".join(told(ref, well))
    leaving = {**well, "metadata": {**well["metadata"], "deletionTimestamp": "2026-01-01T11:59:00Z"}}
    assert (
        told(ref, leaving)[0]
        == "LogicalNode team-a/trainer, made 5 min ago, deleted 1 min ago and not gone yet"
    )

"""Every word that the operator says of an object is declared, with what it means and what to do about it."""

from __future__ import annotations

import pytest

from support.reasons import PAGE, facts, page, words
from weft.api.reasons import CONDITIONS, EVENTS, hardware, inference, logical_node

HALVES = {"binding": (hardware, logical_node), "balancing": (inference,)}

NOT_SAID = {
    # Kubernetes' words, and those of our API that stand in specs.
    *(
        "ContainersReady",
        "DaemonSet",
        "Exists",
        "Failed",
        "False",
        "In",
        "LogicalNode",
        "Manage",
        "Never",
        "NoExecute",
        "NoSchedule",
        "Node",
        "PodScheduled",
        "Replace",
        "SchedulingGated",
        "Unschedulable",
    ),
    # A header of HTTP.
    "Authorization",
    # Of a pool's stranded and unavailable devices, not of a condition.
    *("NotAskedFor", "AttachedByOthers", "ReservedByOthers", "Unhealthy"),
    *("Nodes", "Normal", "Pod", "Running", "Succeeded", "True", "Warning", "Domain"),
    # Why a step of a logical node is taken, and the stages of a removal: for logs and diagrams.
    *(
        "ClaimIncomplete",
        "Claimed",
        "Deleted",
        "GrowthFailed",
        "Lost",
        "Namesake",
        "Released",
        "Superseded",
    ),
    *("TurnedBack", "Waiting", "Bare", "Draining", "Ending"),
    # A group's objectives, as metrics name them.
    *("InterTokenLatency", "TimeToFirstToken"),
}
"""Words in the code that are never the type or reason of a condition or an event."""


def _declared(half: str) -> set[str]:
    conditions = [each for part in HALVES[half] for each in part.CONDITIONS]
    reasons = {one.word for each in conditions for one in each.reasons}
    return (
        {each.type for each in conditions}
        | reasons
        | {e.reason for part in HALVES[half] for e in part.EVENTS}
    )


@pytest.mark.parametrize("half", HALVES)
def test_every_reason_in_the_code_is_declared(half: str) -> None:
    known = _declared("binding") | _declared("balancing") | NOT_SAID
    unknown = {word: where for word, where in words(half).items() if word not in known}

    assert unknown == {}, "declare it in weft.api.reasons; what no object ever says goes into NOT_SAID"


@pytest.mark.parametrize("half", HALVES)
def test_every_declared_reason_is_in_the_code(half: str) -> None:
    assert {word for word in _declared(half) - words(half).keys() if "/" not in word} == set()


@pytest.mark.parametrize("half", HALVES)
def test_a_reason_goes_with_the_type_and_status_that_it_is_declared_for(half: str) -> None:
    declared = {
        (type, one.status, one.word)
        for part in HALVES[half]
        for each in part.CONDITIONS
        for one in each.reasons
        for type in ("", each.type)
    }
    said = list(facts(half))

    assert len(said) > 20, "facts are written in another way now: read them anew"
    assert [fact for fact in said if fact[1:] not in declared] == []


def test_no_word_of_other_meanings_is_left_over() -> None:
    assert NOT_SAID - words("binding").keys() - words("balancing").keys() == set()


def test_each_condition_is_declared_once_and_in_sentences() -> None:
    keys = [
        (kind, each.type, one.word, one.status)
        for each in CONDITIONS
        for kind in each.kinds
        for one in each.reasons
    ]
    texts = [each.meaning for each in (*CONDITIONS, *EVENTS)]
    texts += [text for each in CONDITIONS for one in each.reasons for text in (one.meaning, one.action)]
    texts += [each.action for each in EVENTS]

    assert sorted(keys) == sorted(set(keys))
    assert [text for text in texts if not text.endswith(".") or "|" in text or "\n" in text] == []


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run `make generate`, or: PYTHONPATH=tests python -m support.reasons"

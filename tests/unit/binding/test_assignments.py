"""What passes between placement and the controller of one logical node."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from weft.binding.asked import Shape, Waiting
from weft.binding.assignments import Assignments
from weft.binding.keys import LogicalNodeKey, PlacementKey
from weft.binding.plan import Assignment, Refusal
from weft.binding.stock import HostOffer

KEY = LogicalNodeKey("a", "n")
HOST = HostOffer("rack", "sled-0", "node-0", {}, cpu=0, memory_bytes=0)  # type: ignore[arg-type]


def waiting(uid: str = "u1") -> Waiting:
    return Waiting(uid, "a", "n", "2026", Shape((), frozenset()))


@pytest.fixture
def asked() -> list[Hashable]:
    return []


@pytest.fixture
def assignments(asked: list[Hashable]) -> Assignments:
    return Assignments(lambda key, seconds: asked.append(key))


def test_a_node_that_is_refused_again_in_the_same_words_is_not_asked_for_again(
    assignments: Assignments, asked: list[Hashable]
) -> None:
    for _ in range(3):
        assignments.record(Refusal(waiting(), "NoHost", "no host"))
    assert asked == [KEY]
    assignments.record(Refusal(waiting(), "NotEnoughDevices", "no device"))
    assert asked == [KEY, KEY]


def test_an_assignment_withholds_until_it_is_forgotten(assignments: Assignments) -> None:
    assignment = Assignment(waiting(), HOST, ())
    assignments.record(assignment)
    assert assignments.outcomes() == (assignment,)
    assignments.forget(KEY)
    assert assignments.outcomes() == ()


def test_a_namesake_does_not_inherit_an_assignment(assignments: Assignments) -> None:
    assignments.record(Assignment(waiting("old"), HOST, ()))
    assert assignments.of(KEY, "new") is None
    assert assignments.outcomes() == ()


def test_a_host_without_capacity_is_avoided_until_nothing_else_is_left(
    assignments: Assignments, asked: list[Hashable]
) -> None:
    assignments.avoid("u1", "sled-0")
    assert assignments.avoided("u1") == {"sled-0"}
    assignments.record(Refusal(waiting(), "NoHost", "no host"))
    assert assignments.avoided("u1") == frozenset()
    assert asked == [PlacementKey(), KEY]

"""A large cache does not stop the operator for collections that find nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from weft.runtime.memory import collect_everything_rarely


@pytest.fixture(autouse=True)
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def full_collections_of_passes() -> int:
    """How often everything is looked at while passes make objects and let them go."""
    before = gc.get_stats()[2]["collections"]
    for _ in range(8):
        kept = [{"needs": [{}, {}], "labels": {}} for _ in range(20_000)]
        del kept
    return int(gc.get_stats()[2]["collections"]) - before


def test_passes_beside_a_small_cache_cause_full_collections_by_default_and_none_as_the_operator_sets_it() -> (
    None
):
    gc.collect()
    gc.set_threshold(700, 10, 10)
    by_default = full_collections_of_passes()
    gc.collect()
    collect_everything_rarely()

    assert full_collections_of_passes() == 0
    assert by_default > 0


def test_young_cycles_are_still_freed_without_being_asked_for() -> None:
    gc.collect()
    collect_everything_rarely()
    cycles: list[object] = []
    for _ in range(30_000):
        cycle: list[object] = []
        cycle.append(cycle)
    del cycles, cycle
    # What is left to free is less than what was made: the youngest were looked at on the way.
    assert gc.collect() < 30_000

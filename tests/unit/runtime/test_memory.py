"""A large cache does not stop the operator for collections that find nothing."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from weft.runtime import memory
from weft.runtime.memory import collect_everything_rarely, give_freed_memory_back


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


LISTS = """
import threading
from weft.runtime.memory import give_freed_memory_back

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4

def pages():
    # A page frees one twice as large as the one before; something small is made and kept meanwhile.
    for size in (1, 2, 4, 8):
        kept.append((bytearray(size << 20), bytearray(20_000))[1])
        together = [bytearray(size << 20) for _ in range(4)]
        kept.append(bytearray(20_000))

if {0}:
    give_freed_memory_back()
kept, before = [], resident()
for _ in range(4):
    thread = threading.Thread(target=pages)
    thread.start()
    thread.join()
print(resident() - before)
"""


def kibibytes_left(*, as_the_operator: bool) -> int:
    program = LISTS.format(as_the_operator)
    return int(subprocess.check_output([sys.executable, "-c", program], text=True))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_lists_took_is_given_back_to_the_system() -> None:
    assert kibibytes_left(as_the_operator=True) < 2_000


def test_an_allocator_that_is_not_glibc_s_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace())
    give_freed_memory_back()

"""A large cache does not stop the operator for collections that find nothing."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from weft.api.resources import DEVICE_ATTACHMENTS, LOGICAL_NODES
from weft.runtime import memory
from weft.runtime.cache import ObjectCache
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


def metadata(name: str, number: int, **more: Any) -> dict[str, Any]:
    managed = [{"manager": "weft", "operation": "Update", "fieldsV1": {f"f:field{n}": {} for n in range(30)}}]
    return {
        "name": name,
        "uid": f"0b9c6f0e-1234-4abc-9def-{number:012x}",
        "resourceVersion": str(number),
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "finalizers": ["weft.dev/fabric"],
        "managedFields": managed,
        **more,
    }


def bound(number: int) -> tuple[str, list[str]]:
    """A logical node with two devices and its claims, as a watch brings them: each a text of its own."""
    names = [f"rack-12345678.gpu-{2 * number + each}" for each in range(2)]
    pool = {"kind": "GPUPool", "name": "rack-12345678"}
    conditions = [
        {
            "type": kind,
            "status": "True",
            "reason": kind,
            "message": "every device was seen at the host",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind in ("Accepted", "Reserved", "Bound", "Ready")
    ]
    node = {
        "apiVersion": LOGICAL_NODES.api_version,
        "kind": LOGICAL_NODES.kind,
        "metadata": metadata(f"burst{number}", 3 * number, namespace="bench"),
        "spec": {"accelerators": [{"name": "main", "count": 2}], "host": {}, "placement": {}},
        "status": {
            "observedGeneration": 1,
            "host": f"sled-{number}",
            "nodeName": f"rack-12345678-sled-{number}",
            "deviceCount": 2,
            "devices": [
                {"request": "main", "poolRef": pool, "device": name.partition(".")[2], "attachment": name}
                for name in names
            ],
            "conditions": conditions,
        },
    }
    claims = [
        {
            "apiVersion": DEVICE_ATTACHMENTS.api_version,
            "kind": DEVICE_ATTACHMENTS.kind,
            "metadata": metadata(name, 3 * number + 1 + place),
            "spec": {
                "fabric": "rack-12345678",
                "device": name.partition(".")[2],
                "poolRef": pool,
                "host": f"sled-{number}",
                "nodeName": f"rack-12345678-sled-{number}",
                "operation": f"{number:020}",
                "request": "main",
                "claimSize": 2,
                "claimRef": {"namespace": "bench", "name": f"burst{number}", "uid": f"u-{number}"},
            },
        }
        for place, name in enumerate(names)
    ]
    return json.dumps(node), [json.dumps(claim) for claim in claims]


def test_a_bound_logical_node_and_its_two_claims_take_nine_kibibytes_of_the_cache() -> None:
    """Beside what is kept of texts that objects share, which does not grow with their number."""
    texts = [bound(number) for number in range(1, 401)]
    cache, count = ObjectCache(), len(texts) - 100
    for done, (node, claims) in enumerate(texts):
        if done == len(texts) - count:
            tracemalloc.start()
        cache.put(LOGICAL_NODES, json.loads(node))
        for claim in claims:
            cache.put(DEVICE_ATTACHMENTS, json.loads(claim))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / count / 1024 < 9

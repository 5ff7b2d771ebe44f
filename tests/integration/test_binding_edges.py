"""Binding when nothing happens, and when administrators change what it stands on."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from support.world import World, condition, eventually, reason
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, LOGICAL_NODES, NODES
from weft_dev.controlplane import ControlPlane
from weft_dev.kube import Kube

REQUESTS = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
IDLE_SECONDS = 5.0


pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=3, gpus=6, memories=3)
    try:
        world.start_emulator("--permissive")
        yield world
    finally:
        world.close()


def writes(kube: Kube) -> Counter[str]:
    """Writes of single Weft objects that the API server has answered, by `verb resource`.

    Not of collections: the namespaces of earlier tests are being emptied. Not of Nodes: they have other writers.
    """
    _, text = kube.raw("GET", "/metrics")
    count: Counter[str] = Counter()
    for labels, value in REQUESTS.findall(text.decode()):
        label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        ours = label["group"] == "weft.dev" and label["scope"] == "resource"
        if ours and label["verb"] not in ("GET", "LIST", "WATCH"):
            count[f"{label['verb']} {label['resource']}/{label['subresource']}"] += int(float(value))
    return count


def test_bound_nodes_to_which_nothing_happens_cost_no_writes(world: World) -> None:
    world.create()
    names = ["one", "two", "three"]
    for name in names:
        world.logical_node(name)
    eventually(lambda: all(condition(world.get(name), "Ready") == "True" for name in names), what="all Ready")
    # Counts in the pools follow half a second later.
    time.sleep(2.0)
    reads, before = world.stats()["requests"]["byMethod"]["GET"], writes(world.kube)
    time.sleep(IDLE_SECONDS)
    assert writes(world.kube) - before == Counter()
    assert world.stats()["requests"]["byMethod"]["GET"] > reads, "the fabric was polled meanwhile"


def has_seen_its_spec(node: dict[str, Any] | None) -> bool:
    assert node is not None
    ready = next(each for each in node["status"]["conditions"] if each["type"] == "Ready")
    return bool(ready["observedGeneration"] == node["metadata"]["generation"])


def test_a_node_that_registers_anew_is_reserved_again_and_one_that_stays_away_is_released_if_its_owner_says_so(
    world: World,
) -> None:
    world.create()
    world.logical_node("trainer")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    name = world.get("trainer")["status"]["nodeName"]  # type: ignore[index]
    world.kube.delete(NODES, name)
    eventually(lambda: reason(world.get("trainer"), "Ready") == "NodeNotReady", what="NodeNotReady")
    world._create_node(name)
    eventually(lambda: condition(world.get("trainer"), "Ready") == "True", what="Ready again")
    node = world.kube.get(NODES, name) or {}
    assert [t["value"] for t in node["spec"]["taints"] if t["key"] == "weft.dev/logical-node"] == [
        f"{world.namespace}.trainer"
    ]
    # Away it keeps its devices, unless its owner says for how long.
    down = {"type": "Ready", "status": "False", "reason": "Test", "message": ""}
    world.kube.patch(NODES, name, {"status": {"conditions": [down]}}, subresource="status")
    eventually(lambda: reason(world.get("trainer"), "Ready") == "NodeNotReady", what="NodeNotReady")
    before = world.attached()
    patient = {"spec": {"releaseAfterNotReadySeconds": 3600}}
    world.kube.patch(LOGICAL_NODES, "trainer", patient, world.namespace)
    eventually(lambda: has_seen_its_spec(world.get("trainer")), what="the operator has seen the new spec")
    assert world.attached() == before
    world.kube.patch(LOGICAL_NODES, "trainer", {"spec": {"releaseAfterNotReadySeconds": 1}}, world.namespace)
    eventually(
        lambda: world.is_bound("trainer") and world.get("trainer")["status"]["nodeName"] != name,  # type: ignore[index]
        what="trainer is Bound elsewhere",
    )
    assert len(world.attached()) == len(before)


def test_a_rack_with_one_free_host_binds_after_a_device_failed_there(world: World) -> None:
    world.create(hosts=[{"host": "sled-0", "nodeName": f"{world.name}-sled-0"}])
    world.faults({"match": {"block": "gpu-0", "verb": "attach"}, "times": -1, "kind": "fail"})
    world.logical_node("trainer", gpus=1)
    eventually(
        lambda: condition(world.kube.get(DEVICE_ATTACHMENTS, f"{world.name}.gpu-0"), "Quarantined") == "True"
    )
    world.clear_faults()
    world.kube.delete(DEVICE_ATTACHMENTS, f"{world.name}.gpu-0")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    assert len(world.attached()) == 2


def test_a_host_taken_out_of_the_fabric_is_not_lost_by_the_node_bound_to_it(world: World) -> None:
    world.create()
    world.logical_node("trainer")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    before = world.get("trainer")["status"]["nodeName"]  # type: ignore[index]
    world.kube.patch(FABRICS, world.name, {"spec": {"hosts": []}})
    world.delete("trainer")
    eventually(lambda: world.get("trainer") is None, what="trainer is gone")
    assert world.attached() == set()
    assert "taints" not in (world.kube.get(NODES, before) or {"spec": {}})["spec"]

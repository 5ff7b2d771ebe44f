"""Odd specs against the API server and the running operator: each is refused in words, or answered by a status.

`make fuzz SEEDS=n SEED_START=k`; the same seed is the same spec.
"""

from __future__ import annotations

import contextlib
import os
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from support.mutated import RESOURCES, mutated
from support.world import World, eventually
from weft.api.resources import ENGINE_PROFILES
from weft.cluster import ClusterError
from weft_dev.controlplane import ControlPlane

Object = dict[str, Any]

SEEDS = int(os.environ.get("FUZZ_SEEDS") or 200)
START = int(os.environ.get("FUZZ_SEED_START") or 0)
AT_ONCE = 50
ANSWERED_SECONDS = 60.0
REFUSED = (400, 403, 422)


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=2, gpus=4, memories=1)
    try:
        world.start_emulator()
        world.create()
        world.start_operator(log_level="INFO")
        yield world
    finally:
        world.close()


def name_of(body: Object) -> str:
    return f"{body['kind']} {body['metadata']['name']}"


def create(world: World, body: Object) -> str:
    """Empty where the object was taken, else the words in which it was refused."""
    resource = RESOURCES[body["kind"]]
    path = resource.path(world.namespace if resource.namespaced else "")
    refusal: ClusterError | None = None
    try:
        world.kube.request("POST", path, body, query={"fieldValidation": "Strict"})
    except ClusterError as error:
        refusal = error
    if refusal is None:
        return ""
    assert refusal.status in REFUSED, f"{name_of(body)}: {refusal}"
    assert refusal.message.strip(), name_of(body)
    return refusal.message


def read(world: World, body: Object) -> Object | None:
    resource = RESOURCES[body["kind"]]
    return world.kube.get(resource, body["metadata"]["name"], world.namespace if resource.namespaced else "")


def unanswered(world: World, bodies: list[Object]) -> list[str]:
    """Those about which the operator has said nothing yet. An EngineProfile is judged where it is used."""
    silent = []
    for body in bodies:
        if body["kind"] == ENGINE_PROFILES.kind:
            continue
        status = (read(world, body) or {}).get("status", {})
        if not status.get("conditions") and not status.get("observedGeneration"):
            silent.append(name_of(body))
    return silent


def left(world: World, bodies: list[Object]) -> list[str]:
    return [name_of(body) for body in bodies if read(world, body)]


def failing(world: World) -> list[str]:
    """What the operator says of keys that it fails on, and that it is alive."""
    with urllib.request.urlopen(f"http://127.0.0.1:{world.ports['operator-1']}/readyz", timeout=10) as answer:
        return [line for line in answer.read().decode().splitlines() if line.startswith("failing")]


def test_every_odd_spec_is_refused_in_words_or_answered_by_a_status_and_goes_again(world: World) -> None:
    taken_in_all, refusals = 0, 0
    for first in range(START, START + SEEDS, AT_ONCE):
        bodies = [mutated(seed, world.name) for seed in range(first, min(first + AT_ONCE, START + SEEDS))]
        taken = []
        for body in bodies:
            if create(world, body):
                refusals += 1
            else:
                taken.append(body)
        taken_in_all += len(taken)
        with contextlib.suppress(AssertionError):
            eventually(lambda: not unanswered(world, taken), ANSWERED_SECONDS, 0.2)  # noqa: B023
        assert unanswered(world, taken) == [], "taken, and nothing was said about it"
        assert failing(world) == []
        for body in taken:
            resource = RESOURCES[body["kind"]]
            world.kube.delete(
                resource, body["metadata"]["name"], world.namespace if resource.namespaced else ""
            )
        with contextlib.suppress(AssertionError):
            eventually(lambda: not left(world, taken), ANSWERED_SECONDS, 0.2)  # noqa: B023
        assert left(world, taken) == [], "deleted, and does not go"
    sys.stderr.write(f"{SEEDS} specs: {refusals} refused, {taken_in_all} taken and answered\n")
    assert refusals > 0
    assert taken_in_all > 0

    world.logical_node("trainer", gpus=2, memory="")
    eventually(lambda: world.is_bound("trainer"), what="an ordinary logical node is bound as ever")
    log = world.processes.log("operator-1").read_text()
    assert "Traceback" not in log
